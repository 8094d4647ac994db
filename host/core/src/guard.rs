//! The signer guard: never two digests for one slot, over crashes and restarts.
//!
//! Here lives the decision, in memory. Each decision comes with a [`GuardUpdate`] that the
//! shell syncs to the guard's own file before the signature leaves; the file is outside the
//! store and outside every backup. Kinds of the host's own numbering are asked for only by
//! the host; [`Guard::engine_slot`] refuses them to engines.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{CommitIndex, Digest, Slot};
use moult_types::phase::{Claim, Phase};
use moult_types::{Certificate, ChainId, EpochIdentity, GlobalIndex, PublicKey, Round, Scope, SlotKind};

use crate::io::{GuardUpdate, PhaseProof};
use crate::stop::Stop;

/// Everything the guard remembers; the content of its file.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct GuardState {
    /// The chain it belongs to.
    pub chain: ChainId,
    /// The key it guards.
    pub key: PublicKey,
    /// The epoch it is in, with its phase and the identity of that.
    pub epoch: u64,
    /// See `epoch`.
    pub phase: Phase,
    /// See `epoch`.
    pub identity: EpochIdentity,
    /// What opened the phase; none for phase 0, which the final block before it opens.
    pub opened: Option<PhaseProof>,
    /// How often the node has started.
    pub start_count: u64,
    /// Last prepare of the epoch: (index, hash); index 0 before the first.
    pub prepared: (CommitIndex, Digest),
    /// What the last commit of the phase was signed with: a certificate of the first round, of
    /// its index and hash.
    pub certified: Option<Claim>,
    /// The block that this node's abort of the phase claims; once there is one, nothing more is
    /// signed in the phase.
    pub aborted: Option<(CommitIndex, Digest)>,
    /// High-water mark of the final chain: (global index, hash); 0 before the first block.
    pub final_mark: (GlobalIndex, Digest),
    /// The last state root that was stated: (global index, root); 0 before the first.
    pub stated: (GlobalIndex, Digest),
    /// Why nothing more is signed, over all starts.
    pub stopped: Option<Stop>,
    /// By engine kind: slots at or below are closed.
    pub released: BTreeMap<u16, (u64, u64)>,
    /// Signed slots: scope, kind, a, b.
    pub slots: BTreeMap<(Scope, u16, u64, u64), Digest>,
}

impl GuardState {
    /// A guard that has never signed, for a node that starts its chain at genesis.
    pub fn new(chain: ChainId, key: PublicKey, identity: EpochIdentity) -> Self {
        Self {
            chain,
            key,
            epoch: 0,
            phase: 0,
            identity,
            opened: None,
            start_count: 0,
            prepared: (CommitIndex(0), identity.digest()),
            certified: None,
            aborted: None,
            final_mark: (GlobalIndex(0), Digest::ZERO),
            stated: (GlobalIndex(0), Digest::ZERO),
            stopped: None,
            released: BTreeMap::new(),
            slots: BTreeMap::new(),
        }
    }

    /// Replays one update; the file is a snapshot and the updates after it.
    pub fn apply(&mut self, update: &GuardUpdate) {
        match update {
            &GuardUpdate::Signed { scope, slot, digest } => {
                self.slots.insert((scope, slot.kind, slot.a, slot.b), digest);
            }
            &GuardUpdate::Prepared { index, hash } => self.prepared = (index, hash),
            GuardUpdate::Committed(claim) => self.certified = Some(claim.as_ref().clone()),
            &GuardUpdate::Aborted { index, hash } => self.aborted = Some((index, hash)),
            &GuardUpdate::Released(slot) => {
                let mark = self.released.entry(slot.kind).or_default();
                *mark = (*mark).max((slot.a, slot.b));
                let (scope, mark) = (Scope::Epoch(self.identity), *mark);
                let first = (scope, slot.kind, 0, 0);
                let closed: Vec<_> = self
                    .slots
                    .range(first..=(scope, slot.kind, mark.0, mark.1))
                    .map(|(key, _)| *key)
                    .collect();
                for key in closed {
                    self.slots.remove(&key);
                }
            }
            &GuardUpdate::Epoch { number, identity } => {
                self.epoch = number;
                self.enter(0, identity, None);
                // Votes and readiness of the epoch just closed may still be asked for again.
                self.slots.retain(|(scope, ..), _| match scope {
                    Scope::Epoch(of) => *of == identity,
                    Scope::Number(of) => of.0 + 1 >= number,
                });
            }
            GuardUpdate::Phase { phase, identity, proof } => {
                self.enter(*phase, *identity, Some(proof.as_ref().clone()));
                let closed = |scope: &Scope| matches!(scope, Scope::Epoch(of) if of != identity);
                self.slots.retain(|(scope, ..), _| !closed(scope));
            }
            &GuardUpdate::Started { count } => self.start_count = count,
            // A node that gets its chain back from peers makes old blocks final once more.
            &GuardUpdate::FinalMark { global, hash } if global > self.final_mark.0 => {
                self.final_mark = (global, hash);
            }
            GuardUpdate::FinalMark { .. } => {}
            &GuardUpdate::Stated { global, root } => self.stated = (global, root),
            GuardUpdate::Stopped(stop) => self.stopped = Some(stop.clone()),
            GuardUpdate::Resumed => {
                self.stopped = None;
                self.stated = (self.stated.0.next(), Digest::ZERO);
            }
        }
    }
}

impl GuardState {
    fn enter(&mut self, phase: Phase, identity: EpochIdentity, opened: Option<PhaseProof>) {
        self.phase = phase;
        self.identity = identity;
        self.opened = opened;
        self.prepared = (CommitIndex(0), identity.digest());
        self.certified = None;
        self.aborted = None;
        self.released.clear();
    }
}

/// Most slots that are signed and not released: what an engine has in flight, many times
/// over. The guard's memory and file grow with it.
pub const OPEN_SLOTS_MAX: usize = 65_536;

/// Why the guard does not let something be signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GuardRefusal {
    /// Another digest was signed for this slot.
    #[error("another digest was signed for this slot before")]
    Conflict,
    /// The slot was released, or lies below one that closed it.
    #[error("the slot is closed")]
    Closed,
    /// This node aborted the phase.
    #[error("this node has aborted the phase")]
    Aborted,
    /// An engine asked for a slot of the host's.
    #[error("the slot kind {0:#x} is the host's own")]
    HostKind(u16),
    /// This node signs nothing (see the reason given at start).
    #[error("this node signs nothing")]
    Disabled,
    /// An engine signs slot after slot and releases none.
    #[error("{OPEN_SLOTS_MAX} slots are signed and not released")]
    Full,
}

/// Decides what may be signed.
#[derive(Debug)]
pub struct Guard {
    state: GuardState,
    enabled: bool,
    /// A bug planted for the simulator.
    #[cfg(feature = "planted")]
    pub signs_after_abort: bool,
}

impl Guard {
    /// Takes up a state. A disabled guard refuses everything: for a node whose guard is
    /// missing, restored, cloned or older than its chain.
    pub fn new(state: GuardState, enabled: bool) -> Self {
        Self {
            state,
            enabled,
            #[cfg(feature = "planted")]
            signs_after_abort: false,
        }
    }

    /// What it remembers.
    pub fn state(&self) -> &GuardState {
        &self.state
    }

    /// Whether anything may be signed.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Signs nothing from now on.
    pub fn disable(&mut self) {
        self.enabled = false;
    }

    /// Records an update that decides nothing (epoch, start, marks).
    pub fn note(&mut self, update: GuardUpdate) -> GuardUpdate {
        self.state.apply(&update);
        update
    }

    /// Whether an engine may sign. `Ok(None)`: the very same digest was signed before.
    ///
    /// # Errors
    /// The slot is taken, closed, or not an engine's.
    pub fn engine_slot(&mut self, slot: Slot, digest: Digest) -> Result<Option<GuardUpdate>, GuardRefusal> {
        if slot.kind >= SlotKind::HOST_FIRST {
            return Err(GuardRefusal::HostKind(slot.kind));
        }
        if self.state.released.get(&slot.kind).is_some_and(|&mark| (slot.a, slot.b) <= mark) {
            return Err(GuardRefusal::Closed);
        }
        self.not_aborted()?;
        let scope = Scope::Epoch(self.state.identity);
        let is_known = self.state.slots.contains_key(&(scope, slot.kind, slot.a, slot.b));
        if !is_known && self.state.slots.len() >= OPEN_SLOTS_MAX {
            return Err(GuardRefusal::Full);
        }
        self.slot(scope, slot, digest)
    }

    /// Whether the host may sign a slot that is kept one by one (votes, readiness,
    /// proposals). `Ok(None)`: the very same digest was signed before.
    ///
    /// # Errors
    /// The slot is taken.
    pub fn slot(
        &mut self,
        scope: Scope,
        slot: Slot,
        digest: Digest,
    ) -> Result<Option<GuardUpdate>, GuardRefusal> {
        if !self.enabled {
            return Err(GuardRefusal::Disabled);
        }
        match self.state.slots.get(&(scope, slot.kind, slot.a, slot.b)) {
            Some(signed) if *signed == digest => Ok(None),
            Some(_) => Err(GuardRefusal::Conflict),
            None => Ok(Some(self.note(GuardUpdate::Signed { scope, slot, digest }))),
        }
    }

    /// Whether a batch of this start may be signed: sequence numbers of a start are given
    /// out once, and the count was raised durably when the node started.
    ///
    /// # Errors
    /// The guard is disabled.
    pub fn batch(&self) -> Result<(), GuardRefusal> {
        if self.enabled { Ok(()) } else { Err(GuardRefusal::Disabled) }
    }

    /// Whether a state root may be stated: above the last one, over all epochs. `Ok(None)`: the
    /// very same was stated before.
    ///
    /// # Errors
    /// The block lies below the last one, or another root was stated for it.
    pub fn state_root(
        &mut self,
        global: GlobalIndex,
        root: Digest,
    ) -> Result<Option<GuardUpdate>, GuardRefusal> {
        if !self.enabled {
            return Err(GuardRefusal::Disabled);
        }
        let (last, last_root) = self.state.stated;
        match global.cmp(&last) {
            std::cmp::Ordering::Less => Err(GuardRefusal::Closed),
            std::cmp::Ordering::Equal if root == last_root => Ok(None),
            std::cmp::Ordering::Equal => Err(GuardRefusal::Conflict),
            std::cmp::Ordering::Greater => Ok(Some(self.note(GuardUpdate::Stated { global, root }))),
        }
    }

    /// Whether a prepare may be signed: above the last one, in the present epoch. That the
    /// chain passes through every block prepared before is the caller's to show
    /// (`extends_prepared`: the hash of the caller's chain at the last prepared index).
    /// `Ok(None)`: the very same prepare was signed before.
    ///
    /// # Errors
    /// The index is closed, or the chain is another one than what was prepared.
    pub fn prepare(
        &mut self,
        identity: EpochIdentity,
        index: CommitIndex,
        hash: Digest,
        extends_prepared: Option<Digest>,
    ) -> Result<Option<GuardUpdate>, GuardRefusal> {
        if !self.enabled {
            return Err(GuardRefusal::Disabled);
        }
        let (last, last_hash) = self.state.prepared;
        if identity != self.state.identity || index < last {
            return Err(GuardRefusal::Closed);
        }
        self.not_aborted()?;
        if index == last {
            return if hash == last_hash { Ok(None) } else { Err(GuardRefusal::Conflict) };
        }
        if extends_prepared != Some(last_hash) {
            return Err(GuardRefusal::Conflict);
        }
        Ok(Some(self.note(GuardUpdate::Prepared { index, hash })))
    }

    /// Whether a phase was aborted by this node.
    pub fn has_aborted(&self, identity: EpochIdentity) -> bool {
        self.state.identity == identity && self.state.aborted.is_some()
    }

    fn not_aborted(&self) -> Result<(), GuardRefusal> {
        #[cfg(feature = "planted")]
        if self.signs_after_abort {
            return Ok(());
        }
        if self.state.aborted.is_some() { Err(GuardRefusal::Aborted) } else { Ok(()) }
    }

    /// What the last commit in a phase was signed with: the highest claim that this node can
    /// prove.
    pub fn claim(&self, identity: EpochIdentity) -> Option<&Claim> {
        self.state.certified.as_ref().filter(|claim| claim.certificate.identity == identity)
    }

    /// The certificate in it.
    pub fn certified(&self, identity: EpochIdentity) -> Option<&Certificate> {
        self.claim(identity).map(|claim| &claim.certificate)
    }

    /// K8: aborts a phase and answers with the block that the abort claims: that of the last
    /// commit, so that none is hidden. Nothing more is signed in the phase. The very same abort
    /// may be asked for again.
    ///
    /// # Errors
    /// The phase is not the present one, or the guard is disabled.
    pub fn abort(
        &mut self,
        identity: EpochIdentity,
    ) -> Result<((CommitIndex, Digest), Option<GuardUpdate>), GuardRefusal> {
        if !self.enabled {
            return Err(GuardRefusal::Disabled);
        }
        if identity != self.state.identity {
            return Err(GuardRefusal::Closed);
        }
        if let Some(claim) = self.state.aborted {
            return Ok((claim, None));
        }
        let claim =
            self.certified(identity).map_or((CommitIndex(0), identity.digest()), |c| (c.index, c.hash));
        let (index, hash) = claim;
        Ok((claim, Some(self.note(GuardUpdate::Aborted { index, hash }))))
    }

    /// K17: phases only go up; a phase is entered with what opened it, and closes all before it.
    ///
    /// # Errors
    /// It is not above the present one.
    pub fn enter(
        &mut self,
        number: u64,
        phase: Phase,
        identity: EpochIdentity,
        proof: PhaseProof,
    ) -> Result<GuardUpdate, GuardRefusal> {
        if number != self.state.epoch || phase <= self.state.phase {
            return Err(GuardRefusal::Closed);
        }
        Ok(self.note(GuardUpdate::Phase { phase, identity, proof: Box::new(proof) }))
    }

    /// K4: whether a commit may be signed for the block of a certificate of the first round,
    /// which becomes durable with it: in the present epoch, above the last one. That the
    /// certificate holds is the caller's to show. `Ok(None)`: the very same commit was signed
    /// before, with that certificate or another one for the block.
    ///
    /// # Errors
    /// The index is closed, or the certificate is for something else.
    pub fn commit(
        &mut self,
        identity: EpochIdentity,
        claim: Claim,
    ) -> Result<Option<GuardUpdate>, GuardRefusal> {
        if !self.enabled {
            return Err(GuardRefusal::Disabled);
        }
        let certificate = &claim.certificate;
        let is_present = identity == self.state.identity && certificate.identity == identity;
        if !is_present || certificate.round != Round::Prepare {
            return Err(GuardRefusal::Closed);
        }
        self.not_aborted()?;
        if let Some(last) = self.certified(identity) {
            if certificate.index < last.index {
                return Err(GuardRefusal::Closed);
            }
            if certificate.index == last.index {
                return if certificate.hash == last.hash { Ok(None) } else { Err(GuardRefusal::Conflict) };
            }
        }
        Ok(Some(self.note(GuardUpdate::Committed(Box::new(claim)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let identity = EpochIdentity([1; 32]);
        Guard::new(GuardState::new(ChainId([2; 32]), PublicKey([3; 32]), identity), true)
    }

    fn slot(kind: u16, a: u64, b: u64) -> Slot {
        Slot { kind, a, b }
    }

    #[test]
    fn one_digest_a_slot_and_none_below_what_was_released() {
        let mut guard = guard();
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        assert!(matches!(guard.engine_slot(slot(1, 1, 1), one), Ok(Some(_))));
        assert_eq!(guard.engine_slot(slot(1, 1, 1), one), Ok(None));
        assert_eq!(guard.engine_slot(slot(1, 1, 1), two), Err(GuardRefusal::Conflict));
        guard.note(GuardUpdate::Released(slot(1, 1, 5)));
        assert!(guard.state().slots.is_empty());
        assert_eq!(guard.engine_slot(slot(1, 1, 1), one), Err(GuardRefusal::Closed));
        assert!(matches!(guard.engine_slot(slot(1, 1, 6), two), Ok(Some(_))));
        assert!(matches!(guard.engine_slot(slot(2, 1, 1), two), Ok(Some(_))));
        assert_eq!(guard.engine_slot(slot(0x8001, 9, 0), two), Err(GuardRefusal::HostKind(0x8001)));
    }

    #[test]
    fn an_engine_that_releases_nothing_is_stopped_and_the_host_is_not() {
        let mut guard = guard();
        let digest = Digest([1; 32]);
        for a in 0..OPEN_SLOTS_MAX as u64 {
            assert!(matches!(guard.engine_slot(slot(1, 1, a), digest), Ok(Some(_))));
        }
        assert_eq!(guard.engine_slot(slot(1, 2, 0), digest), Err(GuardRefusal::Full));
        assert_eq!(guard.engine_slot(slot(1, 1, 7), digest), Ok(None), "what is signed stays so");
        let own = Scope::Number(moult_types::EpochNumber(0));
        assert!(matches!(guard.slot(own, slot(0x8005, 1, 0), digest), Ok(Some(_))));
        guard.note(GuardUpdate::Released(slot(1, 1, 9)));
        assert!(matches!(guard.engine_slot(slot(1, 2, 0), digest), Ok(Some(_))));
    }

    #[test]
    fn prepares_rise_on_one_chain() {
        let mut guard = guard();
        let identity = guard.state().identity;
        let h = |n: u8| Digest([n; 32]);
        let start = identity.digest();
        assert!(matches!(guard.prepare(identity, CommitIndex(2), h(2), Some(start)), Ok(Some(_))));
        assert_eq!(guard.prepare(identity, CommitIndex(2), h(2), None), Ok(None));
        assert_eq!(guard.prepare(identity, CommitIndex(2), h(9), None), Err(GuardRefusal::Conflict));
        assert_eq!(guard.prepare(identity, CommitIndex(1), h(1), None), Err(GuardRefusal::Closed));
        assert_eq!(guard.prepare(identity, CommitIndex(3), h(3), Some(h(8))), Err(GuardRefusal::Conflict));
        assert!(matches!(guard.prepare(identity, CommitIndex(3), h(3), Some(h(2))), Ok(Some(_))));
        guard.note(GuardUpdate::Epoch { number: 1, identity: EpochIdentity([7; 32]) });
        assert_eq!(guard.prepare(identity, CommitIndex(4), h(4), Some(h(3))), Err(GuardRefusal::Closed));
    }

    #[test]
    fn commits_rise_and_leave_their_certificate_behind() {
        let mut guard = guard();
        let identity = guard.state().identity;
        let certificate = |round, index, hash| Claim {
            certificate: Certificate {
                round,
                identity,
                index: CommitIndex(index),
                hash: Digest([hash; 32]),
                votes: Vec::new(),
                bodies: Vec::new(),
            },
            block: None,
        };
        let prepared = |index, hash| certificate(Round::Prepare, index, hash);
        assert_eq!(
            guard.commit(identity, certificate(Round::Commit, 2, 2)),
            Err(GuardRefusal::Closed),
            "no certificate of the first round"
        );
        assert!(matches!(guard.commit(identity, prepared(2, 2)), Ok(Some(_))));
        assert_eq!(guard.commit(identity, prepared(2, 2)), Ok(None));
        assert_eq!(guard.commit(identity, prepared(2, 3)), Err(GuardRefusal::Conflict));
        assert_eq!(guard.commit(identity, prepared(1, 1)), Err(GuardRefusal::Closed));
        assert!(matches!(guard.commit(identity, prepared(5, 5)), Ok(Some(_))));
        assert_eq!(guard.claim(identity), Some(&prepared(5, 5)));
        let next = EpochIdentity([7; 32]);
        guard.note(GuardUpdate::Epoch { number: 1, identity: next });
        assert_eq!((guard.certified(identity), guard.certified(next)), (None, None));
        assert_eq!(guard.commit(identity, prepared(6, 6)), Err(GuardRefusal::Closed));
        assert_eq!(guard.commit(next, prepared(6, 6)), Err(GuardRefusal::Closed));
    }

    #[test]
    fn after_an_abort_nothing_is_signed_in_the_phase_and_phases_only_go_up() {
        let mut guard = guard();
        let identity = guard.state().identity;
        let certificate = Certificate {
            round: Round::Prepare,
            identity,
            index: CommitIndex(3),
            hash: Digest([3; 32]),
            votes: Vec::new(),
            bodies: Vec::new(),
        };
        let claim = Claim { certificate: certificate.clone(), block: None };
        assert!(matches!(guard.commit(identity, claim.clone()), Ok(Some(_))));
        let (claimed, update) = guard.abort(identity).expect("it may");
        assert_eq!((claimed, update.is_some()), ((CommitIndex(3), Digest([3; 32])), true));
        assert_eq!(guard.abort(identity), Ok((claimed, None)), "the same again");
        let refused = Err(GuardRefusal::Aborted);
        assert_eq!(guard.commit(identity, claim.clone()), refused, "not even what was signed before");
        assert_eq!(guard.prepare(identity, CommitIndex(4), Digest([4; 32]), None), refused);
        assert_eq!(guard.engine_slot(slot(1, 1, 1), Digest([1; 32])), refused);
        let number = Scope::Number(moult_types::EpochNumber(0));
        assert!(matches!(guard.slot(number, slot(0x8005, 1, 0), Digest([1; 32])), Ok(Some(_))));
        let next = moult_types::phase::fallback_identity(identity, 0);
        let proof = PhaseProof::Aborted(moult_types::phase::Bundle { aborted: Vec::new() });
        assert_eq!(guard.enter(0, 0, identity, proof.clone()), Err(GuardRefusal::Closed));
        assert_eq!(guard.enter(1, 1, next, proof.clone()), Err(GuardRefusal::Closed));
        assert!(guard.enter(0, 1, next, proof.clone()).is_ok());
        assert_eq!(guard.enter(0, 1, next, proof), Err(GuardRefusal::Closed));
        assert_eq!(guard.abort(identity), Err(GuardRefusal::Closed));
        assert_eq!((guard.claim(identity), guard.state().aborted), (None, None));
        assert!(matches!(guard.engine_slot(slot(1, 1, 1), Digest([1; 32])), Ok(Some(_))));
        let start = next.digest();
        assert!(matches!(guard.prepare(next, CommitIndex(1), Digest([4; 32]), Some(start)), Ok(Some(_))));
    }
}
