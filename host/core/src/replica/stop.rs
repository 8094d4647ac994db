//! Stops that outlive a start, and traces of this node's key that its guard knows nothing of.
//!
//! A signature leaves only once the guard's file has it. So what carries this node's signature
//! and is unknown to its guard was signed by another process with the key, or by this one before
//! its folder was replaced by an old copy: it may sign a second digest for a slot any time.
//! Where such a trace is met, in a batch, a certificate, an abort, or beside a message of an
//! engine, the key is not used here any more.

use moult_sdk::Statement;
use moult_types::phase::Abort;
use moult_types::{Batch, Certificate, CommitIndex, EpochIdentity, Round, Scope};

use super::Replica;
use super::duties::shorten;
use crate::io::{Event, GuardUpdate};
use crate::stop::{Stop, StopCause};

impl Replica {
    /// Signs nothing more, in this life and in later ones.
    pub(super) fn stop_signing(&mut self, cause: StopCause, reason: &str) {
        self.guard.disable();
        self.note_guard(GuardUpdate::Stopped(Stop { cause, reason: shorten(reason.to_owned()) }));
    }

    /// K16, K18: what was executed here is not the chain's.
    pub(super) fn halt_forked(&mut self, reason: String) {
        self.stop_signing(StopCause::Chain, &reason);
        self.halt(reason);
    }

    /// A verified batch, from a peer.
    pub(super) fn mind_batch(&mut self, batch: &Batch) {
        let count = self.guard.state().start_count;
        let is_known = batch.start < count || batch.start == count && batch.seq < self.batching.next_seq;
        let is_own = Some(batch.author) == self.epoch.me && batch.number == self.epoch.start.manifest.number;
        if is_own && !is_known {
            self.on_trace(&format!("batch {} of start {} in epoch {}", batch.seq, batch.start, batch.number));
        }
    }

    /// A verified certificate, or votes; whose they are is told by the statements.
    pub(super) fn mind_certificate(&mut self, certificate: &Certificate) {
        let own = certificate.votes.iter().filter(|vote| Some(vote.author) == self.epoch.me);
        if let Some(index) = own.map(|vote| vote.index).max() {
            self.mind_vote(certificate.identity, certificate.round, index);
        }
    }

    /// A verified vote of this node's.
    pub(super) fn mind_vote(&mut self, identity: EpochIdentity, round: Round, index: CommitIndex) {
        let known = match round {
            Round::Prepare => self.guard.state().prepared.0,
            Round::Commit => self.guard.certified(identity).map_or(CommitIndex(0), |claim| claim.index),
        };
        if self.is_present(identity) && index > known {
            self.on_trace(&format!("a vote ({round:?}) for block {} of {identity:?}", index.0));
        }
    }

    /// A verified abort, from a peer.
    pub(super) fn mind_abort(&mut self, identity: EpochIdentity, abort: &Abort) {
        let is_own = Some(abort.author) == self.epoch.me;
        if is_own && self.is_present(identity) && self.guard.state().aborted.is_none() {
            self.on_trace(&format!("an abort of {identity:?}"));
        }
    }

    /// A verified statement of an engine, from a peer.
    pub(super) fn mind_statement(&mut self, identity: EpochIdentity, statement: &Statement) {
        if Some(statement.author) != self.epoch.me || !self.is_present(identity) {
            return;
        }
        let (slot, state) = (statement.slot, self.guard.state());
        let is_released = state.released.get(&slot.kind).is_some_and(|&mark| (slot.a, slot.b) <= mark);
        let signed = state.slots.get(&(Scope::Epoch(identity), slot.kind, slot.a, slot.b));
        if !is_released && signed != Some(&statement.digest) {
            self.on_trace(&format!("engine slot {slot:?} of {identity:?}"));
        }
    }

    /// Whether this is the phase that the guard signs in: what it knows of others is closed.
    fn is_present(&self, identity: EpochIdentity) -> bool {
        identity == self.epoch.identity && identity == self.guard.state().identity
    }

    fn on_trace(&mut self, what: &str) {
        if !self.guard.is_enabled() || !self.settings.minds_traces {
            return;
        }
        let reason = format!("this node's key has signed what its signer guard does not know: {what}");
        self.stop_signing(StopCause::Key, &reason);
        self.event(Event::KeyElsewhere(reason));
    }
}
