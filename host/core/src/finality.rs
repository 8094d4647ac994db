//! The chain of an epoch above its last final block, and what makes blocks final.
//!
//! Here live the host's own votes: a *prepare* for block i says that its author holds the
//! chain to i durably, and counts for every block below i on that chain. A quorum of them is
//! a certificate; in a certified epoch only certified blocks are executed. No engine takes
//! part in this, so none can fork the chain. In a graduated epoch blocks are executed as the
//! engine orders them, a window ahead of their certificates at most. Nothing here signs or sends.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_crypto::Keyring;
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Stake};
use moult_types::block::{link, prepare_statement};
use moult_types::{
    BlockRecord, Certificate, CertificateVote, Committee, EpochIdentity, HeldBatch, Scope, Signature,
};
use thiserror::Error;

/// A block above the last final one, with its payloads.
#[derive(Clone, Debug)]
pub struct HeldBlock {
    /// The block.
    pub record: Arc<BlockRecord>,
    /// Its batches in order.
    pub batches: Vec<Arc<HeldBatch>>,
    /// When it was ordered here (monotonic); `None` where it came from a peer or the disk.
    pub ordered_at_ms: Option<u64>,
}

/// Why a certificate proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CertificateError {
    #[error("it is of another epoch")]
    OtherEpoch,
    #[error("its authors do not rise strictly")]
    Authors,
    #[error("a vote lies below the certified index or above its bodies")]
    Index,
    #[error("a signature of authority {} does not verify", .0.0)]
    Signature(AuthorityIndex),
    #[error("its votes hold stake {have}, a quorum is {need}")]
    Quorum { have: Stake, need: Stake },
    #[error("it carries {0} bodies, more than the window allows")]
    Bodies(usize),
}

/// Checks a certificate: votes of a quorum, each on a chain through the certified block.
/// It proves nothing above its index.
///
/// # Errors
/// Why it proves nothing.
pub fn check_certificate(
    certificate: &Certificate,
    identity: EpochIdentity,
    committee: &Committee,
    keyring: &Keyring,
    window_blocks: u64,
) -> Result<(), CertificateError> {
    if certificate.identity != identity {
        return Err(CertificateError::OtherEpoch);
    }
    if certificate.bodies.len() as u64 > window_blocks {
        return Err(CertificateError::Bodies(certificate.bodies.len()));
    }
    let mut hashes = vec![certificate.hash];
    for body in &certificate.bodies {
        hashes.push(link(hashes[hashes.len() - 1], *body));
    }
    let mut have: Stake = 0;
    let mut last: Option<AuthorityIndex> = None;
    for vote in &certificate.votes {
        if last.is_some_and(|last| last >= vote.author) {
            return Err(CertificateError::Authors);
        }
        last = Some(vote.author);
        let above = vote.index.0.checked_sub(certificate.index.0).ok_or(CertificateError::Index)?;
        let hash =
            usize::try_from(above).ok().and_then(|above| hashes.get(above)).ok_or(CertificateError::Index)?;
        keyring
            .verify(
                Scope::Epoch(identity),
                &prepare_statement(vote.author, vote.index, *hash),
                &vote.signature,
            )
            .map_err(|_| CertificateError::Signature(vote.author))?;
        have += committee.stake(vote.author);
    }
    let need = committee.quorum();
    if have < need { Err(CertificateError::Quorum { have, need }) } else { Ok(()) }
}

/// Blocks above the last final one and the votes on them.
#[derive(Debug)]
pub struct Finality {
    identity: EpochIdentity,
    window_blocks: u64,
    last_final: CommitIndex,
    last_hash: Digest,
    /// The last block handed to execution: the last final one, or one above it.
    executed: CommitIndex,
    blocks: BTreeMap<CommitIndex, HeldBlock>,
    votes: BTreeMap<AuthorityIndex, BTreeMap<CommitIndex, (Digest, Signature)>>,
    /// A bug planted for the simulator.
    #[cfg(feature = "planted")]
    pub is_short_of_quorum: bool,
    /// Another one.
    #[cfg(feature = "planted")]
    pub is_counting_heads: bool,
}

impl Finality {
    /// After a final block (or the beginning of the epoch).
    pub fn new(
        identity: EpochIdentity,
        window_blocks: u64,
        last_final: CommitIndex,
        last_hash: Digest,
    ) -> Self {
        Self {
            identity,
            window_blocks,
            last_final,
            last_hash,
            executed: last_final,
            blocks: BTreeMap::new(),
            votes: BTreeMap::new(),
            #[cfg(feature = "planted")]
            is_short_of_quorum: false,
            #[cfg(feature = "planted")]
            is_counting_heads: false,
        }
    }

    /// The last final index.
    pub fn last_final(&self) -> CommitIndex {
        self.last_final
    }

    /// The last block handed to execution: the last final one, or one above it.
    pub fn executed(&self) -> CommitIndex {
        self.executed
    }

    /// The next block, if it may be executed on the engine's word: at most a window ahead of
    /// the last final one and not past `barrier`. It counts as handed over from now on.
    pub fn execute_ahead(&mut self, barrier: Option<CommitIndex>) -> Option<&HeldBlock> {
        let next = self.executed.next();
        let is_near = next.0 <= self.last_final.0 + self.window_blocks;
        if !is_near || barrier.is_some_and(|barrier| next > barrier) {
            return None;
        }
        let held = self.blocks.get(&next)?;
        self.executed = next;
        Some(held)
    }

    /// The highest block held here with all payloads: (index, hash).
    pub fn top(&self) -> (CommitIndex, Digest) {
        self.blocks
            .last_key_value()
            .map_or((self.last_final, self.last_hash), |(index, held)| (*index, held.record.hash))
    }

    /// The hash of this node's chain at an index from the last final one up.
    pub fn hash_at(&self, index: CommitIndex) -> Option<Digest> {
        if index == self.last_final {
            return Some(self.last_hash);
        }
        self.blocks.get(&index).map(|held| held.record.hash)
    }

    /// A block above the last final one.
    pub fn block(&self, index: CommitIndex) -> Option<&HeldBlock> {
        self.blocks.get(&index)
    }

    /// Appends the next block.
    pub fn push(&mut self, held: HeldBlock) {
        debug_assert_eq!(held.record.block.index, self.top().0.next());
        self.blocks.insert(held.record.block.index, held);
    }

    /// Drops blocks above an index (they were never final here) and returns whether there
    /// were any.
    pub fn drop_above(&mut self, index: CommitIndex) -> bool {
        !self.blocks.split_off(&index.next()).is_empty()
    }

    /// Takes a verified prepare. Votes on blocks not held yet are kept and count once their
    /// block is there; at most a window of them an author.
    pub fn add_vote(
        &mut self,
        author: AuthorityIndex,
        index: CommitIndex,
        hash: Digest,
        signature: Signature,
    ) {
        if index <= self.last_final {
            return;
        }
        let votes = self.votes.entry(author).or_default();
        votes.insert(index, (hash, signature));
        while votes.len() as u64 > self.window_blocks {
            votes.pop_first();
        }
    }

    /// The highest block above the last final one that a quorum's votes lie on, with its
    /// certificate.
    pub fn certifiable(&self, committee: &Committee) -> Option<Certificate> {
        let linked = |votes: &BTreeMap<CommitIndex, (Digest, Signature)>| {
            votes
                .iter()
                .rev()
                .find(|(index, (hash, _))| self.block_hash(**index) == Some(*hash))
                .map(|(index, _)| *index)
        };
        let mut tops: Vec<CommitIndex> = self.votes.values().filter_map(linked).collect();
        tops.sort_unstable_by(|a, b| b.cmp(a));
        tops.dedup();
        tops.into_iter().find_map(|index| self.certificate(index, committee))
    }

    /// For each author its lowest linked vote from `index` on: the fewest bodies. A vote
    /// further up than a window cannot be shown with so few bodies; it counts for a block
    /// that is nearer to it.
    fn certificate(&self, index: CommitIndex, committee: &Committee) -> Option<Certificate> {
        let window = index..=CommitIndex(index.0 + self.window_blocks);
        let lowest = |(author, votes): (&AuthorityIndex, &BTreeMap<CommitIndex, (Digest, Signature)>)| {
            let mut linked =
                votes.range(window.clone()).filter(|(at, (hash, _))| self.block_hash(**at) == Some(*hash));
            let (at, (_, signature)) = linked.next()?;
            Some(CertificateVote { author: *author, index: *at, signature: *signature })
        };
        let votes: Vec<CertificateVote> = self.votes.iter().filter_map(lowest).collect();
        let stake: Stake = votes.iter().map(|vote| committee.stake(vote.author)).sum();
        #[cfg(feature = "planted")]
        let stake = if self.is_counting_heads {
            committee.total() * votes.len() as Stake / committee.members().len() as Stake
        } else {
            stake
        };
        if stake < self.quorum(committee) {
            return None;
        }
        let highest = votes.iter().map(|vote| vote.index).max().unwrap_or(index);
        let above = (std::ops::Bound::Excluded(index), std::ops::Bound::Included(highest));
        let bodies = self.blocks.range(above).map(|(_, held)| held.record.block.body()).collect();
        let hash = self.block_hash(index).unwrap_or(self.last_hash);
        Some(Certificate { identity: self.identity, index, hash, votes, bodies })
    }

    fn quorum(&self, committee: &Committee) -> Stake {
        #[cfg(feature = "planted")]
        if self.is_short_of_quorum {
            return committee.quorum() - 1;
        }
        committee.quorum()
    }

    /// Everything up to `index` is final: takes the blocks out, in order. Those above
    /// [`Finality::executed`], as it was before, are still to be executed.
    pub fn finalize(&mut self, index: CommitIndex) -> Vec<HeldBlock> {
        let above = self.blocks.split_off(&index.next());
        let done: Vec<_> = std::mem::replace(&mut self.blocks, above).into_values().collect();
        if let Some(last) = done.last() {
            self.last_final = last.record.block.index;
            self.last_hash = last.record.hash;
        }
        self.executed = self.executed.max(self.last_final);
        for votes in self.votes.values_mut() {
            *votes = votes.split_off(&self.last_final.next());
        }
        done
    }

    fn block_hash(&self, index: CommitIndex) -> Option<Digest> {
        self.blocks.get(&index).map(|held| held.record.hash)
    }
}
