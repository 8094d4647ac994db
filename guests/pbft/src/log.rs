//! What is known of each sequence number: proposals, votes and certificates.

use moult_sdk::{AuthorityIndex, Digest, NowMs, Stake, Statement};

use crate::codec::{Batches, COMMIT, PREPARE, slot};

/// One sequence number.
///
/// # Invariants
/// - `prepares.stake` and `commits.stake` are the stake of the votes for
///   `accepted.digest`, 0 without one: [`Entry::accept`] counts anew and
///   [`Votes::insert`] adds;
/// - `prepared` is of the highest view in which this node saw a certificate: views are
///   entered in rising order and one view makes at most one.
pub(crate) struct Entry {
    /// The proposal of the view last entered.
    pub(crate) accepted: Option<Accepted>,
    /// Prepares of that view.
    pub(crate) prepares: Votes,
    /// Commits of that view.
    pub(crate) commits: Votes,
    /// The certificate of the highest view; outlives its view, since a view-change must
    /// carry it.
    pub(crate) prepared: Option<Certificate>,
    /// What a quorum has committed, in whichever view.
    pub(crate) committed: Option<Committed>,
    /// The host refused the prepare, or the commit, of this view.
    pub(crate) refused: (bool, bool),
    /// When this node last sent its part.
    pub(crate) sent_at: NowMs,
}

/// A proposal that this node follows.
pub(crate) struct Accepted {
    pub(crate) digest: Digest,
    pub(crate) batches: Batches,
    /// Batches not held yet.
    pub(crate) missing: Vec<Digest>,
    /// Whether there is a certificate of this view.
    pub(crate) prepared: bool,
}

/// A pre-prepare and prepares, together of quorum stake.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) view: u64,
    pub(crate) digest: Digest,
    pub(crate) batches: Batches,
    pub(crate) statements: Vec<Statement>,
}

/// What is final between the engines.
pub(crate) struct Committed {
    pub(crate) view: u64,
    pub(crate) digest: Digest,
    pub(crate) batches: Batches,
    /// Commits of quorum stake.
    pub(crate) commits: Vec<Statement>,
}

/// One vote an author; the first one stands, since a second is no honest author's.
pub(crate) struct Votes {
    by: Vec<Option<Digest>>,
    pub(crate) stake: Stake,
}

impl Entry {
    pub(crate) fn new(authorities: usize) -> Self {
        Self {
            accepted: None,
            prepares: Votes::new(authorities),
            commits: Votes::new(authorities),
            prepared: None,
            committed: None,
            refused: (false, false),
            sent_at: 0,
        }
    }

    /// Drops what belongs to the view that ended.
    pub(crate) fn reset(&mut self) {
        self.accepted = None;
        self.prepares.clear();
        self.commits.clear();
        self.refused = (false, false);
    }

    /// Follows a proposal and counts the votes that came before it.
    pub(crate) fn accept(&mut self, accepted: Accepted, leader: AuthorityIndex, stakes: &[Stake]) {
        self.prepares.count(accepted.digest, stakes, Some(leader));
        self.commits.count(accepted.digest, stakes, None);
        self.accepted = Some(accepted);
    }

    /// The digest that votes count for.
    pub(crate) fn digest(&self) -> Option<Digest> {
        self.accepted.as_ref().map(|a| a.digest)
    }

    /// The commits of this view.
    pub(crate) fn commit_statements(&self, view: u64, seq: u64, digest: Digest) -> Vec<Statement> {
        let slot = slot(COMMIT, view, seq);
        self.commits.authors(digest).map(|author| Statement { author, slot, digest }).collect()
    }

    /// The statements of the certificate of this view: the pre-prepare and all prepares.
    pub(crate) fn certificate(
        &self,
        view: u64,
        seq: u64,
        leader: AuthorityIndex,
        digest: Digest,
    ) -> Vec<Statement> {
        let pre_prepare = pre_prepare(view, seq, leader, digest);
        let prepares = self
            .prepares
            .authors(digest)
            .filter(|author| *author != leader)
            .map(|author| Statement { author, slot: slot(PREPARE, view, seq), digest });
        std::iter::once(pre_prepare).chain(prepares).collect()
    }
}

/// The leader's statement on a proposal.
pub(crate) fn pre_prepare(view: u64, seq: u64, leader: AuthorityIndex, digest: Digest) -> Statement {
    Statement { author: leader, slot: slot(crate::codec::PRE_PREPARE, view, seq), digest }
}

impl Votes {
    fn new(authorities: usize) -> Self {
        Self { by: vec![None; authorities], stake: 0 }
    }

    /// Takes a vote in; whether it was the author's first.
    pub(crate) fn insert(&mut self, author: AuthorityIndex, digest: Digest) -> bool {
        match self.by.get_mut(author.as_usize()) {
            Some(vote @ None) => {
                *vote = Some(digest);
                true
            }
            _ => false,
        }
    }

    /// Takes a vote back; what it was for.
    pub(crate) fn remove(&mut self, author: AuthorityIndex) -> Option<Digest> {
        self.by.get_mut(author.as_usize())?.take()
    }

    pub(crate) fn of(&self, author: AuthorityIndex) -> Option<Digest> {
        self.by.get(author.as_usize()).copied().flatten()
    }

    /// Sets the stake to that of the votes for `digest`; the author in `also` counts
    /// whether or not it voted, and once.
    pub(crate) fn count(&mut self, digest: Digest, stakes: &[Stake], also: Option<AuthorityIndex>) {
        self.stake = (self.by.iter().zip(stakes).zip(0..))
            .filter(|((vote, _), i)| **vote == Some(digest) || also == Some(AuthorityIndex(*i)))
            .fold(0, |sum: Stake, ((_, stake), _)| sum.saturating_add(*stake));
    }

    /// Largest stake behind one digest, whichever; to see that something goes on at a
    /// sequence number whose proposal is unknown.
    pub(crate) fn heaviest(&self, stakes: &[Stake]) -> Stake {
        let votes =
            || self.by.iter().zip(stakes).filter_map(|(vote, stake)| vote.map(|digest| (digest, *stake)));
        let of = |digest| {
            votes().filter(|(d, _)| *d == digest).fold(0, |sum: Stake, (_, stake)| sum.saturating_add(stake))
        };
        votes().map(|(digest, _)| of(digest)).max().unwrap_or(0)
    }

    fn authors(&self, digest: Digest) -> impl Iterator<Item = AuthorityIndex> {
        self.by
            .iter()
            .zip(0..)
            .filter(move |(vote, _)| **vote == Some(digest))
            .map(|(_, i)| AuthorityIndex(i))
    }

    fn clear(&mut self) {
        self.by.fill(None);
        self.stake = 0;
    }
}
