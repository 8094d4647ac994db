//! This node's votes in the two rounds of the kernel, and what others' votes make of blocks.
//!
//! A prepare says that the chain to a block was ordered and is held here; a commit that a
//! quorum said so, with the certificate durable in the guard's file. Votes are cumulative, and
//! leave once a step: a commit travels with the next prepare where both are due.

use moult_sdk::{AuthorityIndex, CommitIndex, Digest};
use moult_types::block::vote_statement;
use moult_types::phase::{Claim, FinalityProof};
use moult_types::{BlockRecord, Certificate, EpochIdentity, Message, Round, Scope, Signed};

use super::Replica;
use crate::io::{Event, Persist, Target};

/// Votes that did not lead to a final block are sent again after this time, with the highest
/// certificate.
const RESEND_VOTES_MS: u64 = 300;
/// In a graduated epoch nothing waits for certificates: a prepare is signed for so much of the
/// window at once,
const PREPARES_A_WINDOW: u64 = 4;
/// or after this time.
const PREPARE_LATER_MS: u64 = 100;

/// What this node voted last in the present epoch, since it started.
#[derive(Default)]
pub(super) struct Voting {
    prepare: Option<Signed>,
    commit: Option<Signed>,
    prepared_ms: u64,
    sent_ms: u64,
    /// Not sent yet: the latest of each round.
    unsent: Vec<Signed>,
    /// The highest certificate of the first round that a peer showed; it waits for this node's
    /// commit.
    shown: Option<Certificate>,
    /// Hash of this node's chain at the last index it prepared.
    pub(super) prepared_on_chain: Option<Digest>,
    /// A certificate was at odds with the chain held here: no more prepares in this epoch (K6).
    pub(super) diverged: bool,
}

impl Voting {
    /// For an epoch in which nothing was signed yet.
    pub(super) fn begin(identity: EpochIdentity) -> Self {
        Self { prepared_on_chain: Some(identity.digest()), ..Self::default() }
    }

    /// After a start, with the hash of this node's chain at the guard's last prepared index.
    pub(super) fn recovered(prepared_on_chain: Option<Digest>) -> Self {
        Self { prepared_on_chain, ..Self::default() }
    }

    fn sign(&mut self, round: Round, vote: Signed) {
        self.unsent.retain(|unsent| Round::of(&unsent.statement) != Some(round));
        self.unsent.push(vote);
        match round {
            Round::Prepare => self.prepare = Some(vote),
            Round::Commit => self.commit = Some(vote),
        }
    }

    fn latest(&self) -> impl Iterator<Item = &Signed> {
        self.prepare.iter().chain(&self.commit)
    }
}

impl Replica {
    /// K3: at most a window past the last final block, never past the barrier or a resume block,
    /// above the last prepare and on a chain through it. All payloads and blocks are in this
    /// step's durable part or were durable before.
    pub(super) fn sign_prepare(&mut self) {
        let Some(author) = self.epoch.me else { return };
        let top = self.preparable();
        let (last, _) = self.guard.state().prepared;
        let window = self.epoch.start.manifest.limits.window_blocks;
        let index = top.min(CommitIndex(self.voted().last_final().0 + window));
        // After a start: what was signed before is signed again.
        let index = if self.voting.prepare.is_none() { index.max(last.min(top)) } else { index };
        let Some(hash) = self.voted().hash_at(index) else { return };
        if index.0 == 0 || self.voting.diverged || (index <= last && self.voting.prepare.is_some()) {
            return;
        }
        if self.next_prepare_ms().is_some_and(|at| at > self.now.mono_ms) {
            return;
        }
        let on_chain = self.voting.prepared_on_chain;
        let Ok(update) = self.guard.prepare(self.epoch.identity, index, hash, on_chain) else { return };
        self.out.durable.extend(update.map(Persist::Guard));
        self.voting.prepared_on_chain = Some(hash);
        self.voting.prepared_ms = self.now.mono_ms;
        self.vote(Round::Prepare, author, index, hash);
    }

    /// K4: only with a certificate of the first round, which is durable in the guard's file
    /// before the vote leaves; above the last commit. Neither an own prepare nor the payload is
    /// needed.
    pub(super) fn sign_commit(&mut self) {
        let Some(author) = self.epoch.me.filter(|_| self.guard.is_enabled()) else { return };
        let (last, last_final) = (self.guard.certified(self.epoch.identity), self.voted().last_final());
        let last = last.map_or(CommitIndex(0), |certificate| certificate.index);
        let is_useful = |shown: &Certificate| shown.index > last.max(last_final);
        let shown = self.voting.shown.clone().filter(is_useful).filter(|shown| self.can_claim(shown));
        let above = shown.as_ref().map_or(last, |shown| shown.index);
        let formed = self.voted().certifiable(Round::Prepare, above, &self.epoch.committee);
        let certificate = match formed.or(shown) {
            Some(certificate) => certificate,
            // After a start: what was signed before is signed again.
            None if self.voting.commit.is_none() && last > last_final => {
                let Some(last) = self.guard.certified(self.epoch.identity) else { return };
                last.clone()
            }
            None => return,
        };
        let (index, hash) = (certificate.index, certificate.hash);
        let block = self.claimed_block(&certificate);
        let Ok(update) = self.guard.commit(self.epoch.identity, Claim { certificate, block }) else { return };
        #[cfg(feature = "planted")]
        let update =
            update.filter(|_| self.settings.planted != Some(super::Planted::CommitWithoutCertificate));
        self.out.durable.extend(update.map(Persist::Guard));
        self.vote(Round::Commit, author, index, hash);
    }

    /// In a fallback a claim shows its block, so nothing is committed to that is not held.
    fn can_claim(&self, certificate: &Certificate) -> bool {
        self.fallback.phase == 0 || self.voted().hash_at(certificate.index) == Some(certificate.hash)
    }

    fn claimed_block(&self, certificate: &Certificate) -> Option<Box<BlockRecord>> {
        let held = self.voted().block(certificate.index).filter(|_| self.fallback.phase > 0)?;
        Some(Box::new((*held.record).clone()))
    }

    /// The guard agreed.
    fn vote(&mut self, round: Round, author: AuthorityIndex, index: CommitIndex, hash: Digest) {
        let statement = vote_statement(round, author, index, hash);
        let signature = self.signer.sign_statement(self.chain, Scope::Epoch(self.epoch.identity), &statement);
        self.voted_mut().add_vote(round, author, index, hash, signature);
        self.voting.sign(round, Signed { statement, signature });
    }

    /// When the next prepare is signed at the latest, if there is something to sign that may wait
    /// for more blocks: one of a graduated epoch in which no proposal is open.
    pub(super) fn next_prepare_ms(&self) -> Option<u64> {
        let signed = self.voting.prepare.filter(|_| self.guard.is_enabled() && !self.voting.diverged)?;
        let window = self.epoch.start.manifest.limits.window_blocks;
        let unsigned = self.finality.executed().0.saturating_sub(signed.statement.slot.a);
        let is_changing = self.barrier().is_some() || !self.ledger.open.is_empty();
        let may_wait = self.is_graduated() && !is_changing;
        (may_wait && (1..window.div_ceil(PREPARES_A_WINDOW)).contains(&unsigned))
            .then_some(self.voting.prepared_ms + PREPARE_LATER_MS)
    }

    /// The votes of this step, in one message.
    pub(super) fn send_votes_signed(&mut self) {
        let votes = std::mem::take(&mut self.voting.unsent);
        if !votes.is_empty() {
            self.voting.sent_ms = self.now.mono_ms;
            self.send(
                self.members(),
                Message::Votes { identity: self.epoch.identity, votes, certificate: None },
            );
        }
    }

    pub(super) fn resend_votes(&mut self) {
        let last_final = self.voted().last_final().0;
        let is_outstanding = self.voting.latest().any(|vote| vote.statement.slot.a > last_final);
        if is_outstanding && self.voting.sent_ms + RESEND_VOTES_MS <= self.now.mono_ms {
            self.voting.sent_ms = self.now.mono_ms;
            self.tell_votes(self.members());
        }
    }

    /// The last votes, with the highest certificate: whoever lacks it can commit.
    pub(super) fn tell_votes(&mut self, to: Target) {
        let votes: Vec<_> = self.voting.latest().copied().collect();
        let certificate = self.guard.certified(self.epoch.identity);
        let certificate = certificate.filter(|c| c.index > self.voted().last_final()).cloned().map(Box::new);
        if !votes.is_empty() {
            self.send(to, Message::Votes { identity: self.epoch.identity, votes, certificate });
        }
    }

    pub(super) fn on_votes(
        &mut self,
        identity: EpochIdentity,
        votes: Vec<Signed>,
        certificate: Option<Box<Certificate>>,
    ) {
        if identity != self.epoch.identity {
            return;
        }
        for Signed { statement, signature } in votes {
            let Some(round) = Round::of(&statement) else { continue };
            let index = CommitIndex(statement.slot.a);
            if Some(statement.author) == self.epoch.me {
                self.mind_vote(identity, round, index);
            }
            self.voted_mut().add_vote(round, statement.author, index, statement.digest, signature);
        }
        if let Some(certificate) = certificate {
            self.on_certificate(*certificate);
        }
    }

    /// A verified certificate of the first round: a reason to commit; and where this node's
    /// chain is another one, to prepare nothing more on it.
    fn on_certificate(&mut self, certificate: Certificate) {
        self.mind_certificate(&certificate);
        let index = certificate.index;
        if index <= self.voted().last_final() {
            return;
        }
        if self.voted().hash_at(index).is_some_and(|own| own != certificate.hash) {
            if self.is_graduated() && index <= self.finality.executed() {
                return self.halt_executed_otherwise(index);
            }
            self.diverge(index);
        }
        if self.voting.shown.as_ref().is_none_or(|shown| shown.index < index) {
            self.voting.shown = Some(certificate);
        }
    }

    /// K6: the chain held here is not the certified one.
    pub(super) fn diverge(&mut self, index: CommitIndex) {
        if !self.voting.diverged {
            self.voting.diverged = true;
            self.event(Event::Diverged { index });
        }
    }

    /// K16: the engine was wrong, here or elsewhere, and what was executed cannot be undone.
    pub(super) fn halt_executed_otherwise(&mut self, index: CommitIndex) {
        self.halt_forked(format!(
            "a quorum certified another block {} of this epoch than the one that was executed here on \
             the engine's word (the epoch is graduated): this node's state is not that of the chain",
            index.0
        ));
    }

    /// Makes final what a quorum committed; whether there was anything.
    pub(super) fn certify(&mut self) -> bool {
        if self.closing() {
            return false;
        }
        let last_final = self.voted().last_final();
        let found = self.voted().certifiable(Round::Commit, last_final, &self.epoch.committee);
        let Some(certificate) = found else { return false };
        if self.fallback.is_resuming() {
            self.finalize_side(certificate);
        } else {
            self.finalize(certificate.index, FinalityProof::Committed(certificate));
        }
        true
    }
}
