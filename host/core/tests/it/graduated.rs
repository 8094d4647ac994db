//! Graduated epochs: how one comes about, and what is executed on an engine's word.

use moult_core::Recovery;
use moult_core::governance::ProposalError;
use moult_core::io::{Effect, GuardUpdate, Input, Persist, Step};
use moult_core::stop::StopCause;
use moult_crypto::Signer;
use moult_sdk::engine::{self, Action};
use moult_types::message::Blocks;
use moult_types::*;

use crate::replica::{Node, asked_for_a_read, batches, recovery, votes};
use crate::support::*;

fn graduates_after(blocks: u64) -> Chain {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    chain.manifest.limits.graduate_after_blocks = Some(blocks);
    chain.ledger =
        moult_core::governance::Ledger::at_start(&chain.manifest, GlobalIndex(0), 1000, ProposalId(1));
    chain
}

#[test]
fn an_epoch_graduates_to_the_same_modules_and_committee() {
    let mut chain = graduates_after(3);
    chain.idle(2);
    assert_eq!(chain.ledger.barrier(), None);
    chain.idle(1);
    let barrier = CommitIndex(3 + chain.manifest.limits.barrier_distance_blocks);
    assert_eq!(chain.ledger.barrier(), Some(barrier));
    let refused = chain.ledger.check_unsigned(chain.present(), &chain.proposal(2, |_| {}).proposal);
    assert_eq!(refused, Err(ProposalError::Graduates(barrier.0)));
    assert_eq!(chain.ledger.next_manifest(&chain.manifest), None);
    chain.idle(chain.manifest.limits.barrier_distance_blocks);
    let next = chain.ledger.next_manifest(&chain.manifest).expect("it is at the barrier");
    let expected = Manifest {
        number: EpochNumber(1),
        finality: Finality::Graduated,
        follows: Some(Follows {
            identity: chain.manifest.identity(),
            index: barrier,
            hash: chain.ledger.hash,
        }),
        ..chain.manifest.clone()
    };
    assert_eq!(next, expected);
    assert!(chain.ledger.close().is_empty());
    // It stays so.
    chain.manifest = next;
    chain.ledger =
        moult_core::governance::Ledger::at_start(&chain.manifest, GlobalIndex(8), 2000, ProposalId(1));
    chain.idle(20);
    assert_eq!(chain.ledger.barrier(), None);
}

#[test]
fn what_is_proposed_comes_to_its_end_before_an_epoch_graduates() {
    let mut chain = graduates_after(2);
    let proposal = chain.propose(0, |_| {});
    chain.idle(5);
    assert_eq!(chain.ledger.barrier(), None);
    chain.block(vec![withdraw(&proposal, 0)]);
    assert!(chain.ledger.barrier().is_some());

    let mut chain = graduates_after(2);
    let proposal = chain.propose(0, |_| {});
    chain.block((0..3).map(|voter| approve(&proposal, voter)).collect());
    let window = chain.ledger.index.next().0 / 10;
    chain.block((0..3).map(|place| ready(&proposal, place, place, window)).collect());
    chain.idle(5);
    let next = chain.ledger.next_manifest(&chain.manifest).expect("it is at the barrier");
    assert_eq!(next.finality, Finality::Certified, "what is new has to be seen at work first");
}

fn graduated() -> Manifest {
    Manifest { finality: Finality::Graduated, ..manifest(&[1, 1, 1, 1]) }
}

fn node() -> Node {
    let manifest = graduated();
    Node::recovered(recovery(&manifest), manifest, |_| {})
}

/// The engine orders these blocks, each of one batch.
fn order(node: &mut Node, from: u64, digests: &[Digest]) -> Step {
    let commit = |(index, digest): (u64, &Digest)| {
        let batches = vec![*digest];
        Action::Commit(engine::Commit { index: CommitIndex(index), batches, round: 0, leader: None })
    };
    node.engine.will((from..).zip(digests).map(commit).collect());
    node.give(Input::Peer { key: keys(1).public_key(), up: true, rtt_us: 0 })
}

/// Batches of authority 1 that the node holds.
fn held(node: &mut Node, count: u64) -> Vec<Digest> {
    let batch = |seq| batch(&node.manifest, 1, seq, seq, Vec::new());
    let made: Vec<_> = (0..count).map(batch).collect();
    for batch in &made {
        node.hear(1, Message::Batches(vec![batch.signed.clone()]));
    }
    made.iter().map(|batch| batch.digest).collect()
}

fn executed(node: &Node) -> Vec<u64> {
    node.executed.iter().map(|record| record.block.index.0).collect()
}

/// The indices for which the step signs.
fn prepared(step: &Step) -> Vec<u64> {
    let prepares = step.release.iter().filter_map(|effect| match effect {
        Effect::Send { message, .. } => match &**message {
            Message::Votes { votes, .. } => Some(votes),
            _ => None,
        },
        _ => None,
    });
    let prepares = prepares.flatten().filter(|vote| Round::of(&vote.statement) == Some(Round::Prepare));
    prepares.map(|vote| vote.statement.slot.a).collect()
}

fn votes_of(node: &Node, author: u8, index: u64) -> Message {
    votes(&node.manifest, author, index, node.executed[index as usize - 1].hash)
}

#[test]
fn blocks_are_executed_as_they_are_ordered_a_window_ahead_of_their_certificates() {
    let mut node = node();
    let digests = held(&mut node, 8);
    let window = node.manifest.limits.window_blocks;
    let step = order(&mut node, 1, &digests);
    assert_eq!(executed(&node), (1..=window).collect::<Vec<_>>());
    assert_eq!(prepared(&step), [window], "one signature for all of them");
    assert!(!step.durable.iter().any(|persist| matches!(persist, Persist::Final { .. })));
    // Certificates come: the next may follow, and nothing is executed twice.
    let (one, two) = (votes_of(&node, 1, 3), votes_of(&node, 2, 3));
    node.hear(1, one);
    let step = node.hear(2, two);
    assert!(
        step.durable.iter().any(|persist| matches!(persist, Persist::Final { global, .. } if global.0 == 3))
    );
    assert_eq!(executed(&node), (1..=3 + window).collect::<Vec<_>>());
}

#[test]
fn what_was_ordered_before_a_start_is_executed_again() {
    let mut node = node();
    let made = batch(&node.manifest, 1, 1, 1, Vec::new());
    node.hear(1, Message::Batches(vec![made.signed.clone()]));
    order(&mut node, 1, &[made.digest]);
    let manifest = node.manifest.clone();
    let found =
        Recovery { fresh: false, tail: node.executed.clone(), batches: vec![made], ..recovery(&manifest) };
    let again = Node::recovered(found, manifest, |_| {});
    assert_eq!(executed(&again), [1]);
}

#[test]
fn a_certificate_against_an_executed_block_stops_the_node() {
    let mut node = node();
    let digests = held(&mut node, 2);
    order(&mut node, 1, &digests[..1]);
    let identity = node.manifest.identity();
    let other = Block {
        index: CommitIndex(1),
        time_ms: 1,
        batches: vec![digests[1]],
        state_root: None,
        resumed: None,
    };
    let other = record(&node.manifest, identity.digest(), other);
    let vote = |author: u8| {
        let statement =
            block::vote_statement(Round::Commit, AuthorityIndex(author.into()), CommitIndex(1), other.hash);
        let signature = keys(author).sign_statement(CHAIN, Scope::Epoch(identity), &statement);
        CertificateVote { author: AuthorityIndex(author.into()), index: CommitIndex(1), signature }
    };
    let certificate = Certificate {
        round: Round::Commit,
        identity,
        index: CommitIndex(1),
        hash: other.hash,
        votes: [1, 2, 3].map(vote).into(),
        bodies: Vec::new(),
    };
    let proof = phase::FinalityProof::Committed(certificate);
    let batches = vec![batch(&node.manifest, 1, 1, 1, Vec::new()).signed.clone()];
    let step = node.hear(2, Message::Blocks(Box::new(Blocks { blocks: vec![other], batches, proof })));
    let halts = |effect: &Effect| matches!(effect, Effect::Halt(reason) if reason.contains("block 1 "));
    assert!(step.release.iter().any(halts), "{step:?}");
    let is_stop = |persist: &Persist| matches!(persist, Persist::Guard(GuardUpdate::Stopped(stop)) if stop.cause == StopCause::Chain);
    assert!(step.durable.iter().all(is_stop), "nothing else of it is written");
    assert!(node.replica.guard_state().stopped.is_some(), "and it outlives the next start");
}

#[test]
fn a_read_waits_for_a_batch_that_was_made_after_it_began() {
    let mut node = node();
    let placed = |step: &Step| {
        step.release.iter().find_map(|effect| match effect {
            Effect::ReadAt { ids, global } => Some((ids.clone(), global.0)),
            _ => None,
        })
    };
    let before = held(&mut node, 1);
    let step = node.give(Input::Read { id: 7 });
    assert_eq!(placed(&step), None);
    let marker = batches(&step).remove(0).digest;
    // A second read has to wait for a marker of its own.
    let step = node.give(Input::Read { id: 8 });
    assert!(placed(&step).is_none() && batches(&step).is_empty());
    assert_eq!(placed(&order(&mut node, 1, &before)), None);
    let step = order(&mut node, 2, &[marker]);
    assert_eq!(placed(&step), Some((vec![7], 2)));
    let marker = batches(&step).remove(0).digest;
    // A peer that orders nothing itself is told an index in the same way.
    let step = node.hear(2, Message::ReadQuery { nonce: 5 });
    let reply = |step: &Step| {
        step.release.iter().find_map(|effect| match effect {
            Effect::Send { message, .. } => match **message {
                Message::ReadReply { nonce, index, .. } => Some((nonce, index.0)),
                _ => None,
            },
            _ => None,
        })
    };
    assert_eq!(reply(&step), None);
    let step = order(&mut node, 3, &[marker]);
    assert_eq!((placed(&step), reply(&step)), (Some((vec![8], 3)), None));
    let marker = batches(&step).remove(0).digest;
    let step = order(&mut node, 4, &[marker]);
    assert_eq!(reply(&step), Some((5, 4)));
}

/// Who orders nothing waits for two markers of each member, which may take longer than it waits
/// until it asks again.
#[test]
fn an_answer_counts_that_comes_after_the_question_was_asked_again() {
    let manifest = graduated();
    let lost = Recovery { signing_stopped: Some("the guard's file is gone".into()), ..recovery(&manifest) };
    let mut node = Node::recovered(lost, manifest, |_| {});
    let first = asked_for_a_read(&node.give(Input::Read { id: 1 })).expect("it asks");
    let reply = |nonce| Message::ReadReply { nonce, epoch: EpochNumber(0), phase: 0, index: CommitIndex(0) };
    let is_placed = |effect: &Effect| matches!(effect, Effect::ReadAt { ids, .. } if *ids == [1]);
    for author in [1, 2, 3] {
        node.now_ms += 600;
        assert!(asked_for_a_read(&node.give(Input::Wake)).is_some(), "an answer may be lost");
        let step = node.hear(author, reply(first));
        assert_eq!(step.release.iter().any(is_placed), author == 3);
    }
    // A read that began meanwhile is not answered by it.
    let second = asked_for_a_read(&node.give(Input::Read { id: 2 })).expect("it asks");
    assert_ne!(first, second);
}

/// A node that was started anew asks under other names, and gets no answer to what it asked before.
#[test]
fn a_question_of_an_earlier_start_is_not_answered() {
    let mut node = node();
    let marker = batches(&node.hear(2, Message::ReadQuery { nonce: 5 })).remove(0).digest;
    node.give(Input::Peer { key: keys(2).public_key(), up: true, rtt_us: 0 });
    let is_reply = |effect: &Effect| matches!(effect, Effect::Send { message, .. } if matches!(**message, Message::ReadReply { .. }));
    let step = order(&mut node, 1, &[marker]);
    assert_eq!((executed(&node), step.release.iter().any(is_reply)), (vec![1], false));
    let asked = |starts| {
        let manifest = graduated();
        let mut found = Recovery { signing_stopped: Some("lost".into()), ..recovery(&manifest) };
        found.guard.start_count = starts;
        asked_for_a_read(&Node::recovered(found, manifest, |_| {}).give(Input::Read { id: 1 }))
    };
    assert!(asked(3).is_some());
    assert_ne!(asked(3), asked(4));
}
