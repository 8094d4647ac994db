//! Stops that outlive a start, and what a node makes of signatures of its key that its guard does
//! not know.

use moult_core::Recovery;
use moult_core::guard::GuardState;
use moult_core::io::{Effect, Event, GuardUpdate, Input, Persist, Refusal, Step};
use moult_core::stop::{Stop, StopCause};
use moult_crypto::Signer as _;
use moult_sdk::Statement;
use moult_types::block::vote_statement;
use moult_types::phase::Abort;
use moult_types::*;

use crate::phases::sent;
use crate::replica::{Node, recovery, votes};
use crate::roots::recovered;
use crate::support::*;

fn node() -> Node {
    let manifest = manifest(&[1, 1, 1, 1]);
    Node::recovered(recovery(&manifest), manifest, |_| {})
}

/// Started once more, with what its guard knew in the end.
fn again(guard: &GuardState) -> Node {
    let manifest = manifest(&[1, 1, 1, 1]);
    let found = Recovery { guard: guard.clone(), ..recovery(&manifest) };
    Node::recovered(found, manifest, |_| {})
}

fn stopped(step: &Step) -> Option<&Stop> {
    step.durable.iter().find_map(|persist| match persist {
        Persist::Guard(GuardUpdate::Stopped(stop)) => Some(stop),
        _ => None,
    })
}

fn signs(node: &mut Node) -> bool {
    let step = node.submit(9);
    let is_refused = |effect: &Effect| matches!(effect, Effect::Refused { reason: Refusal::Observer, .. });
    !step.release.iter().any(is_refused)
}

/// It stops at this step, and signs nothing after the next start either.
fn assert_stops(node: &mut Node, step: &Step, word: &str) {
    let stop = stopped(step).expect("it stops");
    assert_eq!((stop.cause, stop.reason.contains(word)), (StopCause::Key, true), "{stop:?}");
    assert!(step.durable.iter().any(|persist| !persist.is_lazy()), "it is synced");
    let is_told = |effect: &Effect| matches!(effect, Effect::Event(Event::KeyElsewhere(_)));
    assert!(step.release.iter().any(is_told));
    assert!(!signs(node));
    let mut again = again(node.replica.guard_state());
    assert!(!signs(&mut again));
    assert!(again.replica.guard_state().stopped.as_ref().is_some_and(|stop| !stop.may_be_lifted()));
}

/// What this node's authority signs elsewhere.
fn elsewhere(scope: Scope, statement: &Statement) -> Signature {
    keys(0).sign_statement(CHAIN, scope, statement)
}

#[test]
fn a_batch_of_its_own_that_it_did_not_make_stops_a_node() {
    let mut node = node();
    let own = node.submit(1);
    let known = crate::replica::batches(&own).remove(0);
    assert!(stopped(&node.hear(1, Message::Batches(vec![known.signed.clone()]))).is_none());
    let unknown = batch(&node.manifest, 0, 7, 1, Vec::new());
    let step = node.hear(1, Message::Batches(vec![unknown.signed.clone()]));
    assert_stops(&mut node, &step, "batch 7 of start 1");
    // Of a start before: it may have been lost and come back.
    let mut later = again(&GuardState { start_count: 4, ..node_guard() });
    assert!(stopped(&later.hear(1, Message::Batches(vec![unknown.signed.clone()]))).is_none());
    assert!(signs(&mut later));
}

fn node_guard() -> GuardState {
    recovery(&manifest(&[1, 1, 1, 1])).guard
}

#[test]
fn a_vote_of_its_own_that_its_guard_does_not_know_stops_a_node() {
    // As a peer sends it again, and in a certificate.
    let mut node = node();
    let vote = votes(&node.manifest, 0, 3, Digest([3; 32]));
    let step = node.hear(1, vote);
    assert_stops(&mut node, &step, "a vote (Prepare) for block 3");

    let mut node = self::node();
    let identity = node.manifest.identity();
    let hash = Digest([4; 32]);
    let vote = |author: u32| {
        let statement = vote_statement(Round::Prepare, AuthorityIndex(author), CommitIndex(4), hash);
        let signature = keys(author as u8).sign_statement(CHAIN, Scope::Epoch(identity), &statement);
        CertificateVote { author: AuthorityIndex(author), index: CommitIndex(4), signature }
    };
    let certificate = |authors: [u32; 3]| Certificate {
        round: Round::Prepare,
        identity,
        index: CommitIndex(4),
        hash,
        votes: authors.map(vote).into(),
        bodies: Vec::new(),
    };
    let shown = |authors| {
        let certificate = Some(Box::new(certificate(authors)));
        Message::Votes { identity, votes: Vec::new(), certificate }
    };
    assert!(stopped(&node.hear(1, shown([1, 2, 3]))).is_none());
    let step = node.hear(1, shown([0, 1, 2]));
    assert_stops(&mut node, &step, "a vote (Prepare) for block 4");

    // What its guard knows is no trace.
    let mut known = again(&GuardState { prepared: (CommitIndex(4), hash), ..node_guard() });
    assert!(stopped(&known.hear(1, shown([0, 1, 2]))).is_none());
}

#[test]
fn an_abort_and_an_engines_statement_of_its_own_stop_a_node_too() {
    let mut manifest = manifest(&[1, 1, 1, 1]);
    manifest.fallbacks = vec![ModulePin { hash: ModuleHash([8; 32]), config: Vec::new() }];
    let mut node = Node::recovered(recovery(&manifest), manifest.clone(), |_| {});
    let identity = manifest.identity();
    let claim = (CommitIndex(0), identity.digest());
    let mut abort = Abort { author: AuthorityIndex(0), claim, signature: Signature([0; 64]) };
    abort.signature = elsewhere(Scope::Epoch(identity), &abort.statement());
    let step = node.hear(1, Message::Abort { identity, abort, claim: None });
    assert_stops(&mut node, &step, "an abort");

    let slot = Slot { kind: 1, a: 4, b: 0 };
    let statement = Statement { author: AuthorityIndex(0), slot, digest: Digest([1; 32]) };
    let signature = elsewhere(Scope::Epoch(identity), &statement);
    let message = Message::Engine {
        identity,
        payload: Some(vec![1]),
        statements: vec![Signed { statement, signature }],
    };
    let start = |change: &dyn Fn(&mut GuardState)| {
        let mut found = recovery(&manifest);
        change(&mut found.guard);
        Node::recovered(found, manifest.clone(), |_| {})
    };
    let scope = Scope::Epoch(identity);
    for change in [
        &(|guard: &mut GuardState| {
            guard.slots.insert((scope, 1, 4, 0), statement.digest);
        }) as &dyn Fn(&mut GuardState),
        &|guard: &mut GuardState| {
            guard.released.insert(1, (4, 0));
        },
    ] {
        assert!(stopped(&start(change).hear(1, message.clone())).is_none(), "its guard knows it");
    }
    let mut node = start(&|_| {});
    let step = node.hear(1, message);
    assert_stops(&mut node, &step, "engine slot");
}

#[test]
fn a_wrong_state_stops_over_starts_until_an_operator_lifts_it() {
    let mut guard = node_guard();
    guard.stated = (GlobalIndex(100), Digest([2; 32]));
    let stop = Stop { cause: StopCause::State, reason: "its state root is wrong".into() };
    guard.apply(&GuardUpdate::Stopped(stop));
    let start = |guard: &GuardState| recovered(&[1, 1, 1, 1], 120, |found| found.guard = guard.clone());
    let mut node = start(&guard);
    assert!(!signs(&mut node));
    let is_told = |stop: &Stop| stop.to_string().contains("moult guard resume");
    assert!(node.replica.guard_state().stopped.as_ref().is_some_and(is_told));
    guard.apply(&GuardUpdate::Resumed);
    let mut node = start(&guard);
    assert!(signs(&mut node));
    // What was stated was wrong: the right root of that block is not said, and is no contradiction.
    let step = node.give(Input::Executed { global: GlobalIndex(100), state_root: Digest([1; 32]) });
    assert!(stopped(&step).is_none() && sent(&step).all(|m| !matches!(m, Message::StateRoot(_))));
}
