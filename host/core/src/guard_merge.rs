//! Two memories of what one key has signed, put together into one.
//!
//! For a node that moves between machines: what is brought along may only raise what is there.
//! Where the two contradict each other, the key has signed on two machines, and no memory makes
//! that good: the merge is refused.

use moult_sdk::{CommitIndex, Slot};
use moult_types::phase::Phase;
use moult_types::{ChainId, GlobalIndex, PublicKey, Scope};
use thiserror::Error;

use crate::guard::GuardState;

/// Why two memories do not go together.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum GuardConflict {
    /// Of two chains.
    #[error("one belongs to chain {0}, the other to chain {1}")]
    OtherChain(ChainId, ChainId),
    /// Of two keys.
    #[error("one guards key {0}, the other key {1}")]
    OtherKey(PublicKey, PublicKey),
    /// One identity in two places, or two identities in one.
    #[error("they do not agree about which epoch is number {epoch}, phase {phase}")]
    Epoch {
        /// Number of the epoch.
        epoch: u64,
        /// Its phase.
        phase: Phase,
    },
    /// Two prepares for one index.
    #[error("the key prepared two blocks at index {}", .0.0)]
    Prepared(CommitIndex),
    /// Two commits for one index.
    #[error("the key committed to two blocks at index {}", .0.0)]
    Committed(CommitIndex),
    /// Two aborts of one phase.
    #[error("the key aborted the phase twice, with the claims {} and {}", .0.0, .1.0)]
    Aborted(CommitIndex, CommitIndex),
    /// Two digests for one slot.
    #[error("the key signed two digests for slot {1:?} of {0:?}")]
    Slot(Scope, Slot),
    /// Two final blocks at one index.
    #[error("they saw two blocks final at index {0}")]
    Final(GlobalIndex),
    /// Two state roots for one block.
    #[error("the key stated two state roots after block {0}")]
    Stated(GlobalIndex),
}

impl GuardState {
    /// What this memory and another one of the same key know together. Whatever either of them
    /// refuses to sign, the result refuses too.
    ///
    /// # Errors
    /// They are not of one chain and key, or show that the key signed on two machines.
    pub fn raised_by(&self, other: &Self) -> Result<Self, GuardConflict> {
        if self.chain != other.chain {
            return Err(GuardConflict::OtherChain(self.chain, other.chain));
        }
        if self.key != other.key {
            return Err(GuardConflict::OtherKey(self.key, other.key));
        }
        let (here, there) = ((self.epoch, self.phase), (other.epoch, other.phase));
        if (here == there) != (self.identity == other.identity) {
            return Err(GuardConflict::Epoch { epoch: here.0.max(there.0), phase: self.phase });
        }
        let mut merged = if here >= there { self.clone() } else { other.clone() };
        if here == there {
            merged.raise_phase(other)?;
        }
        merged.start_count = self.start_count.max(other.start_count);
        merged.final_mark = higher(self.final_mark, other.final_mark).map_err(GuardConflict::Final)?;
        merged.stated = higher(self.stated, other.stated).map_err(GuardConflict::Stated)?;
        merged.stopped = self.stopped.clone().or_else(|| other.stopped.clone());
        merged.slots.clear();
        let both = self.slots.iter().chain(&other.slots);
        for (&(scope, kind, a, b), digest) in both {
            let is_closed = match scope {
                // Phases only go up: nothing is asked for in a former one again.
                Scope::Epoch(of) if of != merged.identity => true,
                Scope::Epoch(_) => merged.released.get(&kind).is_some_and(|&mark| (a, b) <= mark),
                Scope::Number(_) => false,
            };
            if is_closed {
                continue;
            }
            if merged.slots.insert((scope, kind, a, b), *digest).is_some_and(|before| before != *digest) {
                return Err(GuardConflict::Slot(scope, Slot { kind, a, b }));
            }
        }
        Ok(merged)
    }

    /// The other one is in the same phase.
    fn raise_phase(&mut self, other: &Self) -> Result<(), GuardConflict> {
        if self.opened.is_none() {
            self.opened.clone_from(&other.opened);
        }
        self.prepared = higher(self.prepared, other.prepared).map_err(GuardConflict::Prepared)?;
        let mark = |state: &Self| state.certified.as_ref().map(|c| (c.certificate.index, c.certificate.hash));
        if let Some(theirs) = mark(other) {
            let highest = match mark(self) {
                Some(ours) => higher(ours, theirs).map_err(GuardConflict::Committed)?,
                None => theirs,
            };
            if mark(self) != Some(highest) {
                self.certified.clone_from(&other.certified);
            }
        }
        match (self.aborted, other.aborted) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                return Err(GuardConflict::Aborted(ours.0, theirs.0));
            }
            (ours, theirs) => self.aborted = ours.or(theirs),
        }
        for (kind, mark) in &other.released {
            let ours = self.released.entry(*kind).or_default();
            *ours = (*ours).max(*mark);
        }
        Ok(())
    }
}

/// The one with the higher index; the index, where two contents have one.
fn higher<I: Ord + Copy, H: PartialEq + Copy>(one: (I, H), other: (I, H)) -> Result<(I, H), I> {
    match one.0.cmp(&other.0) {
        std::cmp::Ordering::Less => Ok(other),
        std::cmp::Ordering::Equal if one.1 != other.1 => Err(one.0),
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Ok(one),
    }
}

#[cfg(test)]
mod tests {
    use moult_sdk::Digest;
    use moult_types::phase::{Bundle, Claim};
    use moult_types::{Certificate, EpochIdentity, EpochNumber, Round};
    use proptest::prelude::*;

    use super::*;
    use crate::guard::Guard;
    use crate::io::{GuardUpdate, PhaseProof};

    fn fresh() -> GuardState {
        GuardState::new(ChainId([1; 32]), PublicKey([2; 32]), identity(0, 0))
    }

    /// One for each epoch and phase, as on one chain.
    fn identity(epoch: u64, phase: Phase) -> EpochIdentity {
        EpochIdentity([10 * epoch as u8 + phase as u8 + 1; 32])
    }

    /// What an honest chain has at an index: two memories of it do not contradict each other.
    fn hash(index: u64) -> Digest {
        Digest([index as u8; 32])
    }

    fn claim(identity: EpochIdentity, index: u64, hash: Digest) -> Claim {
        let (votes, bodies) = (Vec::new(), Vec::new());
        let certificate =
            Certificate { round: Round::Prepare, identity, index: CommitIndex(index), hash, votes, bodies };
        Claim { certificate, block: None }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Prepare(u64),
        Commit(u64),
        Abort,
        Engine(u16, u64),
        Own(u64, u64),
        Release(u16, u64),
        Epoch,
        Phase,
        Start,
        Final(u64),
        State(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (1..9_u64).prop_map(Act::Prepare),
            3 => (1..9_u64).prop_map(Act::Commit),
            1 => Just(Act::Abort),
            4 => (1..3_u16, 1..6_u64).prop_map(|(kind, a)| Act::Engine(kind, a)),
            3 => (0..3_u64, 1..4_u64).prop_map(|(number, a)| Act::Own(number, a)),
            2 => (1..3_u16, 1..6_u64).prop_map(|(kind, a)| Act::Release(kind, a)),
            1 => Just(Act::Epoch),
            1 => Just(Act::Phase),
            1 => Just(Act::Start),
            2 => (1..9_u64).prop_map(Act::Final),
            2 => (1..9_u64).prop_map(Act::State),
        ]
    }

    /// A guard after what a node did with it; `twist`: whose digests differ.
    fn lived(acts: &[Act], twist: u8) -> GuardState {
        let mut guard = Guard::new(fresh(), true);
        for act in acts {
            let state = guard.state();
            let (epoch, phase, present) = (state.epoch, state.phase, state.identity);
            let prepared = state.prepared.1;
            let twisted = |index: u64| Digest([index as u8 ^ twist; 32]);
            match *act {
                Act::Prepare(i) => {
                    drop(guard.prepare(present, CommitIndex(i), twisted(i), Some(prepared)));
                }
                Act::Commit(i) => drop(guard.commit(present, claim(present, i, twisted(i)))),
                Act::Abort => drop(guard.abort(present)),
                Act::Engine(kind, a) => drop(guard.engine_slot(Slot { kind, a, b: 0 }, twisted(a))),
                Act::Own(number, a) => {
                    let scope = Scope::Number(EpochNumber(number));
                    drop(guard.slot(scope, Slot { kind: 0x8004, a, b: 0 }, twisted(a)));
                }
                Act::Release(kind, a) => drop(guard.note(GuardUpdate::Released(Slot { kind, a, b: 0 }))),
                Act::Epoch => {
                    let (number, identity) = (epoch + 1, identity(epoch + 1, 0));
                    drop(guard.note(GuardUpdate::Epoch { number, identity }));
                }
                Act::Phase => {
                    let proof = PhaseProof::Aborted(Bundle { aborted: Vec::new() });
                    drop(guard.enter(epoch, phase + 1, identity(epoch, phase + 1), proof));
                }
                Act::Start => {
                    let count = guard.state().start_count + 1;
                    drop(guard.note(GuardUpdate::Started { count }));
                }
                Act::Final(i) => {
                    drop(guard.note(GuardUpdate::FinalMark { global: GlobalIndex(i), hash: hash(i) }));
                }
                Act::State(i) => drop(guard.state_root(GlobalIndex(i), twisted(i))),
            }
        }
        guard.state().clone()
    }

    /// Whether `after` refuses whatever `before` refuses.
    fn is_at_least(after: &GuardState, before: &GuardState) -> Result<(), String> {
        let place = |state: &GuardState| (state.epoch, state.phase);
        let same_phase = place(after) == place(before);
        let marks = |state: &GuardState| {
            (state.prepared.0, state.certified.as_ref().map(|c| c.certificate.index), state.aborted.is_some())
        };
        let (high, low) = (marks(after), marks(before));
        let is_lower = place(after) < place(before)
            || after.start_count < before.start_count
            || after.final_mark.0 < before.final_mark.0
            || after.stated.0 < before.stated.0
            || same_phase && (high.0 < low.0 || high.1 < low.1 || !high.2 && low.2);
        if is_lower {
            return Err(format!("{after:?} is lower than {before:?}"));
        }
        // Whatever was signed for a slot: another digest is refused as before.
        let other = Digest([0xee; 32]);
        for kind in 1..3 {
            for a in 1..7 {
                let slot = Slot { kind, a, b: 0 };
                let refuses =
                    |state: &GuardState| Guard::new(state.clone(), true).engine_slot(slot, other).is_err();
                if same_phase && refuses(before) && !refuses(after) {
                    return Err(format!("{slot:?} is open in {after:?} and not in {before:?}"));
                }
            }
        }
        for number in 0..3 {
            for a in 1..4 {
                let (scope, slot) = (Scope::Number(EpochNumber(number)), Slot { kind: 0x8004, a, b: 0 });
                let refuses =
                    |state: &GuardState| Guard::new(state.clone(), true).slot(scope, slot, other).is_err();
                if refuses(before) && !refuses(after) {
                    return Err(format!("{slot:?} of {scope:?} is open in {after:?} and not in {before:?}"));
                }
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_merge_never_lowers_anything(
            one in proptest::collection::vec(act(), 0..30),
            other in proptest::collection::vec(act(), 0..30),
        ) {
            let (one, other) = (lived(&one, 0), lived(&other, 0));
            match one.raised_by(&other) {
                Ok(merged) => {
                    prop_assert_eq!(is_at_least(&merged, &one), Ok(()));
                    prop_assert_eq!(is_at_least(&merged, &other), Ok(()));
                    prop_assert_eq!(merged.raised_by(&one), Ok(merged.clone()));
                    prop_assert_eq!(merged.raised_by(&other), Ok(merged));
                }
                // All blocks and digests are those of one chain; claims are as high as the commits.
                Err(GuardConflict::Aborted(..)) => {}
                Err(e) => prop_assert!(false, "{e}"),
            }
        }

        #[test]
        fn a_merge_with_what_is_there_already_changes_nothing(acts in proptest::collection::vec(act(), 0..40)) {
            let state = lived(&acts, 0);
            prop_assert_eq!(state.raised_by(&state), Ok(state.clone()));
        }

        /// Signed differently on two machines, in one phase: refused as soon as one slot shows it.
        #[test]
        fn two_digests_for_one_slot_are_refused(
            kind in 1..3_u16,
            a in 1..6_u64,
            before in proptest::collection::vec(act(), 0..20),
        ) {
            let signed = |twist| {
                let mut state = lived(&before, 0);
                let (scope, slot) = (Scope::Number(EpochNumber(7)), Slot { kind, a, b: 0 });
                state.apply(&GuardUpdate::Signed { scope, slot, digest: Digest([twist; 32]) });
                state
            };
            let (scope, slot) = (Scope::Number(EpochNumber(7)), Slot { kind, a, b: 0 });
            prop_assert_eq!(signed(1).raised_by(&signed(2)), Err(GuardConflict::Slot(scope, slot)));
        }
    }

    #[test]
    fn what_contradicts_is_refused_by_name() {
        let prepared = |twist| lived(&[Act::Prepare(3)], twist);
        let index = CommitIndex(3);
        assert_eq!(prepared(0).raised_by(&prepared(8)), Err(GuardConflict::Prepared(index)));
        let committed = |twist| lived(&[Act::Commit(3)], twist);
        assert_eq!(committed(0).raised_by(&committed(8)), Err(GuardConflict::Committed(index)));
        let stated = |twist| lived(&[Act::State(3)], twist);
        assert_eq!(stated(0).raised_by(&stated(8)), Err(GuardConflict::Stated(GlobalIndex(3))));
        let (none, some) = (lived(&[Act::Abort], 0), lived(&[Act::Commit(3), Act::Abort], 0));
        assert_eq!(none.raised_by(&some), Err(GuardConflict::Aborted(CommitIndex(0), index)));
        let other = GuardState { key: PublicKey([9; 32]), ..fresh() };
        assert!(matches!(fresh().raised_by(&other), Err(GuardConflict::OtherKey(..))));
        let other = GuardState { chain: ChainId([9; 32]), ..fresh() };
        assert!(matches!(fresh().raised_by(&other), Err(GuardConflict::OtherChain(..))));
        let other = GuardState { identity: identity(1, 0), ..fresh() };
        assert_eq!(fresh().raised_by(&other), Err(GuardConflict::Epoch { epoch: 0, phase: 0 }));
        let other = GuardState { final_mark: (GlobalIndex(4), hash(5)), ..fresh() };
        let seen = GuardState { final_mark: (GlobalIndex(4), hash(4)), ..fresh() };
        assert_eq!(seen.raised_by(&other), Err(GuardConflict::Final(GlobalIndex(4))));
    }
}
