//! A node whose store was lost or replaced, behind an intact guard: while peers give it the
//! chain back, the guard forgets nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use moult_core::guard::GuardState;
use moult_core::io::{Effect, GuardUpdate, Input, Persist, Target};
use moult_crypto::Signer;
use moult_sdk::engine::{Action, Commit};
use moult_types::message::{Blocks, Status};
use moult_types::phase::FinalityProof;
use moult_types::*;

use crate::replica::{Node, recovery, votes};
use crate::support::*;

/// A node in epoch 0 whose guard is in epoch 3, and that guard.
fn behind_its_guard(manifest: &Manifest) -> (Node, GuardState) {
    let mut found = recovery(manifest);
    let later = EpochIdentity([7; 32]);
    found.guard.epoch = 3;
    found.guard.identity = later;
    found.guard.prepared = (CommitIndex(9), Digest([9; 32]));
    found.guard.final_mark = (GlobalIndex(50), Digest([5; 32]));
    found.guard.slots.insert((Scope::Epoch(later), 1, 4, 0), Digest([1; 32]));
    found.signing_stopped = Some("the store was replaced".into());
    let guard = found.guard.clone();
    (Node::recovered(found, manifest.clone(), |_| {}), guard)
}

#[test]
fn a_guard_ahead_of_its_store_never_goes_back() {
    let manifest = manifest(&[1, 1, 1, 1]);
    let (mut node, before) = behind_its_guard(&manifest);
    // A block becomes final here once more.
    let commit = Commit { index: CommitIndex(1), batches: Vec::new(), round: 0, leader: None };
    node.engine.will(vec![Action::Commit(commit)]);
    let step = node.give(Input::Peer { key: keys(1).public_key(), up: true, rtt_us: 0 });
    let hash = step.durable.iter().find_map(|persist| match persist {
        Persist::Block(record) => Some(record.hash),
        _ => None,
    });
    for author in [1, 2, 3] {
        node.hear(author, votes(&manifest, author, 1, hash.unwrap()));
    }
    assert_eq!(node.executed.len(), 1);
    let after = node.replica.guard_state();
    assert_eq!((after.epoch, after.identity, after.prepared), (3, before.identity, before.prepared));
    assert_eq!((&after.slots, after.final_mark), (&before.slots, before.final_mark));
}

/// The engine of an epoch that the guard has left goes through that epoch once more: slots that
/// it releases are not those that the guard holds.
#[test]
fn an_old_epochs_engine_releases_none_of_a_later_epochs_slots() {
    let (mut node, before) = behind_its_guard(&manifest(&[1, 1, 1, 1]));
    node.engine.will(vec![Action::ReleaseSlots(Slot { kind: 1, a: 4, b: 0 })]);
    let step = node.give(Input::Peer { key: keys(1).public_key(), up: true, rtt_us: 0 });
    let is_released = |persist: &Persist| matches!(persist, Persist::Guard(GuardUpdate::Released(_)));
    assert!(!step.durable.iter().any(is_released));
    let after = node.replica.guard_state();
    assert_eq!((&after.slots, &after.released), (&before.slots, &before.released));
}

/// A crash kept a batch of this node's in the store and not the count of the start that made it:
/// the next start gives that number to no other batch.
#[test]
fn a_start_counts_above_the_batches_on_disk() {
    let manifest = manifest(&[1, 1, 1, 1]);
    let mut found = recovery(&manifest);
    let left = HeldBatch::new(SignedBatch {
        batch: Batch { start: 6, ..batch(&manifest, 0, 1, 1, Vec::new()).signed.batch.clone() },
        signature: Signature([0; 64]),
    });
    found.guard.start_count = 5;
    found.batches = vec![Arc::new(left)];
    let node = Node::recovered(found, manifest, |_| {});
    assert_eq!(node.replica.guard_state().start_count, 7);
}

/// Peers 1 to 3 are ahead; returns whom the node asks for blocks in six rounds.
fn asked_for_blocks(answer: impl Fn(u8) -> Option<Message>) -> BTreeSet<u8> {
    let manifest = manifest(&[1, 1, 1, 1]);
    let mut node = Node::recovered(recovery(&manifest), manifest.clone(), |_| {});
    let status = Status {
        epoch: EpochNumber(0),
        phase: 0,
        last_final: GlobalIndex(500),
        hash: Digest([1; 32]),
        executed: GlobalIndex(0),
        state_root: Digest::ZERO,
    };
    for peer in [1, 2, 3] {
        node.give(Input::Peer { key: keys(peer).public_key(), up: true, rtt_us: 0 });
        node.hear(peer, Message::Status(status.clone()));
    }
    let mut asked = BTreeSet::new();
    for _ in 0..6 {
        node.now_ms += 1_100;
        let step = node.give(Input::Wake);
        for effect in &step.release {
            let Effect::Send { to: Target::Keys(to), message } = effect else { continue };
            if !matches!(message.as_ref(), Message::FetchBlocks { .. }) {
                continue;
            }
            let peer = [1, 2, 3].into_iter().find(|peer| to.contains(&keys(*peer).public_key())).unwrap();
            asked.insert(peer);
            if let Some(message) = answer(peer) {
                node.hear(peer, message);
            }
        }
    }
    asked
}

/// Two peers that never answer do not keep a node from the one that would.
#[test]
fn every_peer_that_is_ahead_is_asked_in_turn() {
    assert_eq!(asked_for_blocks(|_| None).len(), 3);
}

/// Nor does a peer that answers at once, with blocks that do not hold.
#[test]
fn a_peer_that_answers_with_nonsense_is_not_asked_for_ever() {
    let certificate = Certificate {
        round: Round::Commit,
        identity: manifest(&[1, 1, 1, 1]).identity(),
        index: CommitIndex(1),
        hash: Digest([1; 32]),
        votes: Vec::new(),
        bodies: Vec::new(),
    };
    let proof = FinalityProof::Committed(certificate);
    let nonsense = Blocks { blocks: Vec::new(), batches: Vec::new(), proof };
    let asked = asked_for_blocks(|_| Some(Message::Blocks(Box::new(nonsense.clone()))));
    assert_eq!(asked.len(), 3);
}
