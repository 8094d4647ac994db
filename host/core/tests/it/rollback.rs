//! Aborts that race with something else: the end of an epoch, certificates that come late, engines
//! that cut the same order into other blocks.

use std::sync::Arc;

use moult_core::io::{Effect, EpochStart, Event, Input, Persist, Step};
use moult_core::verify::Unverified;
use moult_types::message::Blocks;
use moult_types::phase::{FinalityProof, Point, Resumed};
use moult_types::*;

use crate::phases::*;
use crate::replica::{Node, recovery, votes};
use crate::support::*;

/// The epoch graduates behind block 6, and blocks 1 to 5 are final; block 6 is ordered.
fn before_graduation() -> (Node, Arc<BlockRecord>) {
    let mut manifest = with_fallback();
    manifest.limits.graduate_after_blocks = Some(1);
    let mut node = Node::recovered(recovery(&manifest), manifest, |_| {});
    let digests = batches_of(&mut node, 6);
    for (index, digest) in (1..=5).zip(&digests) {
        node.commit(index, vec![*digest]);
    }
    assert_eq!(node.replica.ledger().barrier(), Some(CommitIndex(6)));
    let step = order(&mut node, 6, vec![digests[5]]);
    assert_eq!(prepares(&step), [6]);
    let last = blocks(&step).next().expect("block 6");
    (node, last)
}

/// Batches of authority 1 that the node holds.
fn batches_of(node: &mut Node, count: u64) -> Vec<Digest> {
    let made: Vec<_> = (1..=count).map(|seq| batch(&node.manifest, 1, seq, seq, Vec::new())).collect();
    node.hear(1, Message::Batches(made.iter().map(|batch| batch.signed.clone()).collect()));
    made.iter().map(|batch| batch.digest).collect()
}

fn blocks(step: &Step) -> impl Iterator<Item = Arc<BlockRecord>> {
    step.durable.iter().filter_map(|write| match write {
        Persist::Block(record) => Some(record.clone()),
        _ => None,
    })
}

fn prepare_of(node: &Node, author: u8, record: &BlockRecord) -> Message {
    let message = votes(&node.manifest, author, record.block.index.0, record.hash);
    let Message::Votes { identity, mut votes, certificate } = message else { panic!("votes") };
    votes.retain(|vote| Round::of(&vote.statement) == Some(Round::Prepare));
    Message::Votes { identity, votes, certificate }
}

/// The fallback orders the bundle as its first block, and two others vote for that.
fn resume(node: &mut Node, identity: EpochIdentity, bundle: Digest) -> (Arc<BlockRecord>, Vec<Step>) {
    let step = order(node, 1, vec![bundle]);
    let block = side_block(&step);
    assert_eq!(prepares(&step), [1]);
    let votes = |peer| votes_in(identity, peer, 1, block.hash);
    let steps = [1, 2].map(|peer| node.hear(peer, votes(peer)));
    (block, steps.into())
}

fn point(node: &Node, record: &BlockRecord) -> Point {
    let BlockRecord { hash, global, block, .. } = record;
    Point { identity: node.manifest.identity(), index: block.index, hash: *hash, global: *global }
}

fn next_epoch(step: &Step) -> Option<EpochStart> {
    step.durable.iter().find_map(|write| match write {
        Persist::Epoch { start, .. } => Some((**start).clone()),
        _ => None,
    })
}

/// K12: the epoch's last block was certified and this node alone committed to it. The fallback
/// closes the epoch; the next one follows the block in the phase that it lies in.
#[test]
fn an_abort_at_the_last_block_ends_the_epoch() {
    let (mut node, last) = before_graduation();
    for peer in [1, 2] {
        let message = prepare_of(&node, peer, &last);
        node.hear(peer, message);
    }
    assert_eq!(node.executed.len(), 5, "certified, and not final");
    let (opened, bundle) = abort_with_others(&mut node);
    let (block, _) = resume(&mut node, opened.identity, bundle);
    assert_eq!(block.block.resumed, Some(Resumed { at: CommitIndex(1), point: point(&node, &last) }));
    assert_eq!(node.executed.last().map(|record| record.hash), Some(last.hash));
    // The fallback is over with that: whatever its engine orders is nothing.
    let digests = batches_of(&mut node, 7);
    assert!(prepares(&order(&mut node, 2, vec![digests[6]])).is_empty());
    let root = Digest([8; 32]);
    let step = node.give(Input::Executed { global: GlobalIndex(6), state_root: root });
    let start = next_epoch(&step).expect("the next epoch");
    let follows = Follows { identity: node.manifest.identity(), index: last.block.index, hash: last.hash };
    assert_eq!((start.base, start.state_root), (GlobalIndex(6), Some(root)));
    assert_eq!((start.manifest.finality, start.manifest.follows), (Finality::Graduated, Some(follows)));
    assert_eq!((node.replica.phase(), node.replica.identity()), ((0, 0), start.manifest.identity()));
}

/// The abort was faster than the certificate: the epoch does not graduate, and goes on without
/// the block. What certifies it afterwards is of a phase that is over.
#[test]
fn an_abort_before_the_last_block_cancels_the_graduation() {
    let (mut node, last) = before_graduation();
    let fifth = node.executed[4].clone();
    let (opened, bundle) = abort_with_others(&mut node);
    let (block, steps) = resume(&mut node, opened.identity, bundle);
    assert_eq!(block.block.resumed, Some(Resumed { at: CommitIndex(1), point: point(&node, &fifth) }));
    assert!(steps.iter().all(|step| next_epoch(step).is_none()));
    assert_eq!((node.replica.phase(), node.replica.ledger().barrier()), ((1, 1), None));
    // A quorum's prepares for the dropped block may exist; they prove nothing here.
    let epoch = Epoch::of(node.manifest.clone());
    let late = epoch.certificate(Round::Prepare, 0, &[1, 2, 3], 6, last.hash);
    let Message::Votes { identity, votes, .. } = votes(&node.manifest, 3, 6, last.hash) else {
        panic!("votes")
    };
    let replayed = Message::Votes { identity, votes, certificate: Some(Box::new(late.clone())) };
    assert!(matches!(node.context.check(replayed), Err(Unverified::Stale)));
    let sixth = batch(&node.manifest, 1, 6, 6, Vec::new());
    for certificate in [late, epoch.certificate(Round::Commit, 0, &[1, 2], 6, last.hash)] {
        let proof = FinalityProof::Committed(certificate);
        let (blocks, batches) = (vec![(*last).clone()], vec![sixth.signed.clone()]);
        node.hear(3, Message::Blocks(Box::new(Blocks { blocks, batches, proof })));
    }
    assert_eq!(node.executed.len(), 5);
    // Its batch was never final, and is ordered again.
    let step = order(&mut node, 2, vec![sixth.digest]);
    let again = blocks(&step).next().expect("a block of the fallback");
    assert_eq!(
        (again.global, again.block.index, again.identity),
        (last.global, CommitIndex(2), opened.identity)
    );
    for peer in [1, 2] {
        node.hear(peer, votes_in(opened.identity, peer, 2, again.hash));
    }
    assert_eq!(node.executed.last().map(|record| record.hash), Some(again.hash));
}

/// K2, K6: an engine here that puts two batches into one block, where the others have two blocks.
/// The node follows the certified cut, executes each batch once, and signs none of its own.
#[test]
fn engines_that_group_batches_differently_do_not_fork() {
    let node = || Node::recovered(recovery(&with_fallback()), with_fallback(), |_| {});
    let (mut here, mut there) = (node(), node());
    let digests = batches_of(&mut here, 2);
    assert_eq!(batches_of(&mut there, 2), digests);
    assert_eq!(prepares(&order(&mut here, 1, digests.clone())), [1]);
    let theirs: Vec<_> = (1..=2)
        .map(|index| {
            let step = order(&mut there, index, vec![digests[index as usize - 1]]);
            (*blocks(&step).next().expect("a block")).clone()
        })
        .collect();
    let epoch = Epoch::of(here.manifest.clone());
    let certificate = epoch.certificate(Round::Commit, 0, &[1, 2, 3], 2, theirs[1].hash);
    let batches = [1, 2].map(|seq| batch(&here.manifest, 1, seq, seq, Vec::new()).signed.clone());
    let proof = FinalityProof::Committed(certificate);
    let message = Blocks { blocks: theirs.clone(), batches: batches.into(), proof };
    let step = here.hear(2, Message::Blocks(Box::new(message)));
    let diverged = |effect: &Effect| matches!(effect, Effect::Event(Event::Diverged { .. }));
    assert!(step.release.iter().any(diverged));
    let executed: Vec<_> = here.executed.iter().map(|record| record.hash).collect();
    assert_eq!(executed, [theirs[0].hash, theirs[1].hash]);
    let third = batch(&here.manifest, 1, 3, 3, Vec::new());
    here.hear(1, Message::Batches(vec![third.signed.clone()]));
    assert!(prepares(&order(&mut here, 2, vec![third.digest])).is_empty());
    assert!(prepares(&order(&mut here, 3, vec![third.digest])).is_empty());
}
