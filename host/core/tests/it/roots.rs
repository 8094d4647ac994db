//! State roots that nodes state: what one signs, and when it finds that its own state is wrong.

use moult_core::Recovery;
use moult_core::io::{Effect, Event, GuardUpdate, Input, Persist, Refusal, Step};
use moult_core::verify::Unverified;
use moult_crypto::Signer as _;
use moult_types::{
    AuthorityIndex, Digest, EpochNumber, GlobalIndex, Manifest, Message, Signature, StateRoot,
};

use crate::phases::sent;
use crate::replica::{Node, recovery};
use crate::support::*;

const RIGHT: Digest = Digest([1; 32]);
const WRONG: Digest = Digest([2; 32]);
const AT: GlobalIndex = GlobalIndex(100);

/// A node whose last final block is this one.
fn node_at(stakes: &[u64], blocks: u64) -> Node {
    recovered(stakes, blocks, |_| {})
}

pub(crate) fn recovered(stakes: &[u64], blocks: u64, change: impl FnOnce(&mut Recovery)) -> Node {
    let mut chain = Chain::new(stakes);
    chain.idle(blocks);
    let manifest: Manifest = chain.manifest.clone();
    let mut found = Recovery { fresh: false, ledger: Some(chain.ledger.clone()), ..recovery(&manifest) };
    change(&mut found);
    Node::recovered(found, manifest, |_| {})
}

fn executed(node: &mut Node, global: u64, state_root: Digest) -> Step {
    node.give(Input::Executed { global: GlobalIndex(global), state_root })
}

fn root_of(author: u8, global: GlobalIndex, root: Digest) -> StateRoot {
    let (epoch, author_index) = (EpochNumber(0), AuthorityIndex(author.into()));
    let mut said = StateRoot { epoch, global, root, author: author_index, signature: Signature([0; 64]) };
    said.signature = keys(author).sign_statement(CHAIN, said.scope(), &said.statement());
    said
}

fn hear(node: &mut Node, author: u8, global: GlobalIndex, root: Digest) -> Step {
    node.hear(author, Message::StateRoot(root_of(author, global, root)))
}

fn stated(step: &Step) -> Vec<(u64, Digest)> {
    let roots = sent(step).filter_map(|message| match message {
        Message::StateRoot(said) => Some((said.global.0, said.root)),
        _ => None,
    });
    roots.collect()
}

fn forks(step: &Step) -> Vec<u64> {
    let forks = step.release.iter().filter_map(|effect| match effect {
        Effect::Event(Event::StateForked { global, .. }) => Some(global.0),
        _ => None,
    });
    forks.collect()
}

fn guarded(step: &Step) -> Vec<(u64, Digest)> {
    let updates = step.durable.iter().filter_map(|persist| match persist {
        Persist::Guard(GuardUpdate::Stated { global, root }) => Some((global.0, *root)),
        _ => None,
    });
    updates.collect()
}

#[test]
fn every_hundredth_final_block_is_stated_once_it_is_executed() {
    let mut node = node_at(&[1, 1, 1, 1], 120);
    assert_eq!(stated(&executed(&mut node, 99, RIGHT)), []);
    let step = executed(&mut node, 100, RIGHT);
    assert_eq!((stated(&step), guarded(&step)), (vec![(100, RIGHT)], vec![(100, RIGHT)]));
    assert!(step.durable.iter().all(|persist| guarded(&step).is_empty() || !persist.is_lazy()));
    // The very same statement once more, for who may have missed it.
    let peer = keys(2).public_key();
    let step = node.give(Input::Peer { key: peer, up: true, rtt_us: 0 });
    assert_eq!((stated(&step), guarded(&step)), (vec![(100, RIGHT)], vec![]));
    node.now_ms += 10_000;
    assert_eq!(stated(&node.steps(vec![Input::Wake])), [(100, RIGHT)]);
    assert_eq!(stated(&executed(&mut node, 101, WRONG)), []);
    // On an engine's word a block may be executed before it is final: its root is nobody's yet.
    assert_eq!(stated(&executed(&mut node, 200, RIGHT)), []);
}

#[test]
fn who_differs_from_a_quorum_signs_nothing_more() {
    let mut node = node_at(&[1, 1, 1, 1], 120);
    executed(&mut node, 100, WRONG);
    // One more than the liars that are borne is no quorum, however often they say it.
    for (author, root) in [(1, RIGHT), (2, RIGHT), (1, RIGHT), (2, Digest([3; 32])), (3, Digest([4; 32]))] {
        assert_eq!(forks(&hear(&mut node, author, AT, root)), []);
    }
    // Three have said something, and two the same: the first word of each counts.
    assert_eq!(forks(&hear(&mut node, 3, AT, RIGHT)), []);
    let client = |step: &Step| {
        step.release.iter().any(|effect| matches!(effect, Effect::Refused { reason: Refusal::Observer, .. }))
    };
    assert!(!client(&node.submit(1)));

    let mut node = node_at(&[1, 1, 1, 1], 120);
    executed(&mut node, 100, WRONG);
    assert_eq!(forks(&hear(&mut node, 1, AT, RIGHT)), []);
    assert_eq!(forks(&hear(&mut node, 2, AT, RIGHT)), []);
    let step = hear(&mut node, 3, AT, RIGHT);
    assert_eq!(forks(&step), [100]);
    let is_stop = |persist: &Persist| matches!(persist, Persist::Guard(GuardUpdate::Stopped(_)));
    assert!(step.durable.iter().any(is_stop), "no start makes it sign again");
    assert!(client(&node.submit(1)), "it signs no batch");
    node.now_ms += 10_000;
    let step = node.steps(vec![Input::Wake]);
    assert_eq!((stated(&step), forks(&step)), (vec![], vec![]), "told once, and its root no more");
    assert!(sent(&step).any(|message| matches!(message, Message::Status(_))), "it goes on following");
    // It does not come to sign by itself.
    let step = executed(&mut node, 100, RIGHT);
    assert_eq!((stated(&step), forks(&step)), (vec![], vec![]));
}

#[test]
fn who_comes_late_finds_out_before_it_states_anything() {
    let mut node = node_at(&[1, 1, 1, 1], 120);
    for author in 1..4 {
        assert_eq!(forks(&hear(&mut node, author, AT, RIGHT)), []);
    }
    let step = executed(&mut node, 100, WRONG);
    assert_eq!((forks(&step), stated(&step), guarded(&step)), (vec![100], vec![], vec![]));
    // And a right one agrees.
    let mut node = node_at(&[1, 1, 1, 1], 120);
    for author in 1..4 {
        hear(&mut node, author, AT, RIGHT);
    }
    let step = executed(&mut node, 100, RIGHT);
    assert_eq!((forks(&step), stated(&step)), (vec![], vec![(100, RIGHT)]));
}

#[test]
fn a_quorum_is_of_stake_and_a_liar_crowds_nobody_out() {
    let mut node = node_at(&[1, 1, 1, 1, 5], 120);
    executed(&mut node, 100, WRONG);
    for author in 1..4 {
        assert_eq!(forks(&hear(&mut node, author, AT, RIGHT)), [], "three of nine");
    }
    assert_eq!(forks(&hear(&mut node, 4, AT, RIGHT)), [100]);

    let mut node = node_at(&[1; 7], 120);
    for far in 2..100 {
        hear(&mut node, 1, GlobalIndex(100 * far), RIGHT);
    }
    for author in 2..7 {
        hear(&mut node, author, AT, RIGHT);
    }
    assert_eq!(forks(&executed(&mut node, 100, WRONG)), [100]);
}

#[test]
fn never_two_roots_for_a_block_whatever_is_computed_after_a_start() {
    let mut node = recovered(&[1, 1, 1, 1], 220, |found| found.guard.stated = (GlobalIndex(200), RIGHT));
    assert_eq!(stated(&executed(&mut node, 100, RIGHT)), [], "below what was stated");
    let step = executed(&mut node, 200, WRONG);
    assert_eq!((stated(&step), guarded(&step), forks(&step)), (vec![], vec![], vec![200]));

    let mut node = recovered(&[1, 1, 1, 1], 220, |found| found.guard.stated = (GlobalIndex(200), RIGHT));
    let step = executed(&mut node, 200, RIGHT);
    assert_eq!((stated(&step), guarded(&step)), (vec![(200, RIGHT)], vec![]), "the same may be said again");

    let mut node = recovered(&[1, 1, 1, 1], 120, |found| found.signing_stopped = Some("lost".into()));
    assert_eq!(stated(&executed(&mut node, 100, RIGHT)), []);
}

#[test]
fn statements_of_other_epochs_and_of_nobody_do_not_count() {
    let node = node_at(&[1, 1, 1, 1], 120);
    let check = |said: StateRoot| node.context.check(Message::StateRoot(said)).map(|_| ());
    assert_eq!(check(root_of(1, AT, RIGHT)), Ok(()));
    let mut later = root_of(1, AT, RIGHT);
    later.epoch = EpochNumber(1);
    assert!(matches!(check(later), Err(Unverified::Early(_))));
    let mut other = root_of(1, AT, RIGHT);
    other.author = AuthorityIndex(2);
    assert!(matches!(check(other), Err(Unverified::Bad(_))));
    other.author = AuthorityIndex(9);
    assert!(matches!(check(other), Err(Unverified::Bad(_))));
    let mut forged = root_of(1, AT, RIGHT);
    forged.root = WRONG;
    assert!(matches!(check(forged), Err(Unverified::Bad(_))));
}

/// The barrier is stated by the authorities of the epoch that follows it.
#[test]
fn the_barrier_is_stated_in_the_epoch_after_it() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let proposal = chain.propose(1, |_| {});
    chain.block((0..3).map(|voter| approve(&proposal, voter)).collect());
    chain.block((0..3).map(|place| ready(&proposal, place, place, 0)).collect());
    while !chain.ledger.is_at_barrier() {
        chain.idle(1);
    }
    let (manifest, base) = (chain.manifest.clone(), chain.ledger.global);
    let at_barrier = Recovery { fresh: false, ledger: Some(chain.ledger.clone()), ..recovery(&manifest) };
    let mut node = Node::recovered(at_barrier, manifest, |_| {});
    let stale = root_of(1, base, RIGHT);
    let step = executed(&mut node, base.0, WRONG);
    assert_eq!((stated(&step), guarded(&step)), (vec![(base.0, WRONG)], vec![(base.0, WRONG)]));
    assert!(matches!(node.context.check(Message::StateRoot(stale)), Err(Unverified::Stale)));
    let in_next = |author| {
        let mut said = root_of(author, base, RIGHT);
        said.epoch = EpochNumber(1);
        said.signature = keys(author).sign_statement(CHAIN, said.scope(), &said.statement());
        Message::StateRoot(said)
    };
    assert_eq!(forks(&node.hear(1, in_next(1))), []);
    assert_eq!(forks(&node.hear(2, in_next(2))), []);
    assert_eq!(forks(&node.hear(3, in_next(3))), [base.0]);
}
