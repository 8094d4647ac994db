//! When a phase is given up (K8, K9): suspicion, aborts, and the bundle that they make.
//!
//! A node suspects the engine where it is beyond recovery, or where a batch that a quorum holds
//! does not become final in time although a quorum is heard. Suspicion is unsigned, said again
//! and again, and gone when it is not. A quorum of it, or the abort of one honest node, makes a
//! node sign its abort. Clocks decide only when to give up, never what is final.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moult_sdk::{AuthorityIndex, Digest, Stake};
use moult_types::phase::{Abort, AbortedPhase, Bundle, Claim, PHASES_MAX};
use moult_types::{EpochIdentity, Message, PublicKey, Scope, Signature};

use super::Replica;
use crate::io::{Event, Persist, Target};

/// Whoever said nothing for this time is not heard.
const HEARD_MS: u64 = 3000;
/// Suspicion is said again after this time, and holds for so long.
const RESAY_SUSPICION_MS: u64 = 300;
const SUSPICION_MS: u64 = 1500;
/// An abort, and the question whether a batch waits, are sent again after this time.
const RESAY_MS: u64 = 500;
/// So early in the stall timeout others are asked about the oldest batch.
const ASK_AFTER: u64 = 4;
/// The stall timeout does not grow further than this by doubling.
const DOUBLINGS_MAX: u32 = 16;

/// What this node knows of the progress of the present phase.
#[derive(Default)]
pub(super) struct Stall {
    heard_ms: BTreeMap<AuthorityIndex, u64>,
    /// Since when a quorum is heard.
    quorum_since_ms: Option<u64>,
    began_ms: u64,
    /// Batches that the engine was told of, with the time, oldest first but for those that were
    /// passed over; some are final since the last housekeeping.
    told: VecDeque<(Digest, u64)>,
    known: BTreeSet<Digest>,
    /// The first of them, who holds it too, and when they were asked last.
    oldest: Option<(Digest, BTreeSet<AuthorityIndex>, u64)>,
    suspects: BTreeMap<AuthorityIndex, u64>,
    suspected_ms: Option<u64>,
    reason: String,
    aborts: BTreeMap<AuthorityIndex, (Abort, Option<Claim>)>,
    aborted_ms: Option<u64>,
}

impl Stall {
    /// A phase begins. Who is heard stays known.
    pub(super) fn begin(&mut self, now_ms: u64) {
        let (heard_ms, quorum_since_ms) = (std::mem::take(&mut self.heard_ms), self.quorum_since_ms);
        *self = Self { heard_ms, quorum_since_ms, began_ms: now_ms, ..Self::default() };
    }

    pub(super) fn take_reason(&mut self) -> String {
        std::mem::take(&mut self.reason)
    }

    /// Forgets the batches that wait no longer: there are as many as are pending at most.
    fn forget_final(&mut self, is_pending: impl Fn(&Digest) -> bool) {
        self.told.retain(|(digest, _)| is_pending(digest));
        self.known.retain(is_pending);
    }

    /// A quorum does not wait for the batch that was asked about, or did not say so: the next one
    /// is asked about. It may be final elsewhere, or never reach a quorum, and must not hide those
    /// that everybody waits for.
    fn pass_over(&mut self) {
        self.oldest = None;
        if !self.told.is_empty() {
            self.told.rotate_left(1);
        }
    }

    /// The engine was told of a batch.
    pub(super) fn note_told(&mut self, digest: Digest, now_ms: u64) {
        if self.known.insert(digest) {
            self.told.push_back((digest, now_ms));
        }
    }
}

impl Replica {
    /// Whether the present phase can be aborted at all: not without a fallback, and not where
    /// the engine's word counts (K16).
    pub(super) fn may_abort(&self) -> bool {
        let has_fallback = !self.epoch.start.manifest.fallbacks.is_empty();
        has_fallback && !self.is_graduated() && self.fallback.phase + 1 < PHASES_MAX
    }

    pub(super) fn note_heard(&mut self, from: &PublicKey) {
        if let Some(author) = self.epoch.committee.index_of_key(from) {
            self.stall.heard_ms.insert(author, self.now.mono_ms);
        }
    }

    pub(super) fn housekeep_stall(&mut self) {
        self.note_quorum();
        // Also where nothing can be aborted, or they would pile up.
        let pending = &self.pending;
        self.stall.forget_final(|digest| pending.contains_key(digest));
        if !self.may_abort() || self.closing() || self.epoch.me.is_none() {
            return;
        }
        self.suspect();
        self.abort_if_due();
        self.resay_abort();
        self.open_next();
    }

    fn note_quorum(&mut self) {
        let (now_ms, me) = (self.now.mono_ms, self.epoch.me);
        let heard = self.stall.heard_ms.iter().filter(|(_, at)| **at + HEARD_MS > now_ms);
        let heard: BTreeSet<_> = heard.map(|(author, _)| *author).chain(me).collect();
        if !self.epoch.committee.is_quorum(&heard) {
            self.stall.quorum_since_ms = None;
        } else if self.stall.quorum_since_ms.is_none() {
            self.stall.quorum_since_ms = Some(now_ms);
        }
    }

    /// T_p: doubles with each phase, so that it outgrows whatever delays there are.
    fn stall_timeout_ms(&self) -> u64 {
        let timeout_ms = self.epoch.start.manifest.limits.stall_timeout_ms;
        timeout_ms.saturating_mul(1 << self.fallback.phase.min(DOUBLINGS_MAX))
    }

    /// K8: says that this node suspects the engine, as long as it does.
    fn suspect(&mut self) {
        let (Some(me), now_ms) = (self.epoch.me, self.now.mono_ms) else { return };
        self.stall.suspects.retain(|_, at| *at + SUSPICION_MS > now_ms);
        let Some(reason) = self.suspicion() else {
            self.stall.suspects.remove(&me);
            self.stall.suspected_ms = None;
            return;
        };
        if self.stall.reason != reason {
            self.stall.reason.clone_from(&reason);
            self.event(Event::Suspects { reason });
        }
        self.stall.suspects.insert(me, now_ms);
        if self.stall.suspected_ms.is_none_or(|at| at + RESAY_SUSPICION_MS <= now_ms) {
            self.stall.suspected_ms = Some(now_ms);
            self.send(self.members(), Message::Suspect { identity: self.epoch.identity });
        }
    }

    fn suspicion(&mut self) -> Option<String> {
        if let Some(fault) = self.ordering.beyond_recovery() {
            return Some(format!("the engine is beyond recovery: {fault}"));
        }
        let since_ms = self.stall.quorum_since_ms?;
        let timeout_ms = self.stall_timeout_ms();
        if self.fallback.is_resuming() {
            let age_ms = self.now.mono_ms - since_ms.max(self.stall.began_ms);
            return (age_ms >= timeout_ms)
                .then(|| format!("the chain did not resume within {timeout_ms} ms"));
        }
        let (batch, told_ms) = *self.stall.told.front()?;
        let age_ms = self.now.mono_ms - since_ms.max(told_ms);
        let held_by = self.ask_about(batch, age_ms >= timeout_ms / ASK_AFTER);
        (age_ms >= timeout_ms && held_by)
            .then(|| format!("a batch that a quorum holds was not final within {timeout_ms} ms"))
    }

    /// Sees to it that everybody holds a batch, and asks whether it waits there, too. Whether a
    /// quorum said so.
    fn ask_about(&mut self, batch: Digest, is_due: bool) -> bool {
        if self.stall.oldest.as_ref().is_none_or(|(asked, ..)| *asked != batch) {
            self.stall.oldest = None;
            if !is_due {
                return false;
            }
            self.stall.oldest = Some((batch, self.epoch.me.into_iter().collect(), 0));
        }
        let now_ms = self.now.mono_ms;
        let Some((_, held_by, asked_ms)) = &mut self.stall.oldest else { return false };
        if self.epoch.committee.is_quorum(held_by) {
            return true;
        }
        if *asked_ms != 0 && *asked_ms + RESAY_MS <= now_ms {
            self.stall.pass_over();
            return false;
        }
        if *asked_ms == 0 {
            *asked_ms = now_ms;
            if let Some(held) = self.pending.get(&batch).cloned() {
                self.tell_engine(&held);
                self.send(self.members(), Message::Batches(vec![held.signed.clone()]));
            }
            let identity = self.epoch.identity;
            self.send(self.members(), Message::Waiting { identity, batch, is_question: true });
        }
        false
    }

    pub(super) fn on_waiting(
        &mut self,
        from: PublicKey,
        identity: EpochIdentity,
        batch: Digest,
        is_question: bool,
    ) {
        let Some(author) = self.epoch.committee.index_of_key(&from) else { return };
        if identity != self.epoch.identity {
            return;
        }
        if is_question {
            if self.pending.contains_key(&batch) && self.epoch.me.is_some() {
                let answer = Message::Waiting { identity, batch, is_question: false };
                self.send(Target::Keys(vec![from]), answer);
            }
        } else if let Some((asked, held_by, _)) = &mut self.stall.oldest
            && *asked == batch
        {
            held_by.insert(author);
        }
    }

    pub(super) fn on_suspect(&mut self, from: PublicKey, identity: EpochIdentity) {
        if let Some(author) = self.epoch.committee.index_of_key(&from)
            && identity == self.epoch.identity
        {
            self.stall.suspects.insert(author, self.now.mono_ms);
        }
    }

    /// A verified abort.
    pub(super) fn on_abort(&mut self, identity: EpochIdentity, abort: Abort, claim: Option<Claim>) {
        self.mind_abort(identity, &abort);
        if identity == self.epoch.identity && self.may_abort() {
            self.stall.aborts.entry(abort.author).or_insert((abort, claim));
        }
    }

    /// K8: a quorum suspects or has aborted, or one honest node has aborted.
    fn abort_if_due(&mut self) {
        let aborts: BTreeSet<_> = self.stall.aborts.keys().copied().collect();
        let both: BTreeSet<_> = aborts.iter().chain(self.stall.suspects.keys()).copied().collect();
        let committee = &self.epoch.committee;
        let validity: Stake = committee.validity();
        let is_due = committee.is_quorum(&both) || committee.stake_of(&aborts) >= validity;
        let is_present = self.guard.state().identity == self.epoch.identity;
        if !is_due || !is_present || self.guard.state().aborted.is_some() {
            return;
        }
        let Ok((_, update)) = self.guard.abort(self.epoch.identity) else { return };
        self.out.durable.extend(update.map(Persist::Guard));
        self.stop_engine();
    }

    /// This node's abort of the present phase, with its proof; the same bytes every time.
    fn own_abort(&self) -> Option<(Abort, Option<Claim>)> {
        let author = self.epoch.me.filter(|_| self.guard.is_enabled())?;
        let identity = self.epoch.identity;
        let claim = self.guard.state().aborted.filter(|_| self.guard.state().identity == identity)?;
        let proof = self.guard.claim(identity).cloned();
        #[cfg(feature = "planted")]
        let (claim, proof) = match self.settings.planted {
            Some(super::Planted::AbortBelowCommit) => ((moult_sdk::CommitIndex(0), identity.digest()), None),
            _ => (claim, proof),
        };
        let mut abort = Abort { author, claim, signature: Signature([0; 64]) };
        abort.signature = self.signer.sign_statement(self.chain, Scope::Epoch(identity), &abort.statement());
        Some((abort, proof))
    }

    fn resay_abort(&mut self) {
        let now_ms = self.now.mono_ms;
        if self.stall.aborted_ms.is_some_and(|at| at + RESAY_MS > now_ms) {
            return;
        }
        let Some((abort, claim)) = self.own_abort() else { return };
        self.stall.aborted_ms = Some(now_ms);
        self.stall.aborts.insert(abort.author, (abort, claim.clone()));
        let identity = self.epoch.identity;
        self.send(self.members(), Message::Abort { identity, abort, claim: claim.map(Box::new) });
    }

    /// K9: the aborts of a quorum open the next phase.
    fn open_next(&mut self) {
        let authors: BTreeSet<_> = self.stall.aborts.keys().copied().collect();
        if !self.epoch.committee.is_quorum(&authors) {
            return;
        }
        let highest = self.stall.aborts.values().max_by_key(|(abort, _)| abort.claim.0);
        let claim = highest.and_then(|(_, claim)| claim.clone());
        let leaves_open = self.phases().leaves_open(self.fallback.phase, claim.as_ref());
        let aborts = self.stall.aborts.values().map(|(abort, _)| *abort).collect();
        let mut bundle =
            Bundle { aborted: vec![AbortedPhase { identity: self.epoch.identity, aborts, claim }] };
        if leaves_open {
            bundle.aborted.extend(self.fallback.opened().into_iter().flat_map(|b| b.aborted.iter().cloned()));
        }
        let (epoch, phase) = (self.epoch.start.manifest.number, self.fallback.phase + 1);
        if self.phases().check_bundle(phase, &bundle).is_ok() {
            self.send(self.members(), Message::Opening { epoch, phase, bundle: bundle.clone() });
            self.on_opening(epoch, phase, bundle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waits_is_remembered() {
        let mut stall = Stall::default();
        let [first, second, third] = [1, 2, 3].map(|n| Digest([n; 32]));
        for (at_ms, digest) in [(1, first), (2, second), (3, third), (4, second)] {
            stall.note_told(digest, at_ms);
        }
        stall.forget_final(|digest| *digest != first);
        assert_eq!(stall.told, [(second, 2), (third, 3)], "since it was told of first");
        stall.pass_over();
        assert_eq!(stall.told, [(third, 3), (second, 2)], "asked about next");
        stall.forget_final(|_| false);
        assert!(stall.told.is_empty() && stall.known.is_empty());
    }
}
