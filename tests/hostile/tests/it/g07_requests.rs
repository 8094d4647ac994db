//! G7, and G5 in a cluster: what an engine asks of its host. One node of a simulated cluster
//! runs it in an unmodified host: the cluster goes on, that node signs nothing contradictory
//! and follows the chain, and what the engine did wrong has a name.

use std::sync::Arc;

use moult_core::ports::Fault;
use moult_hostile::{guest, guest_with};
use moult_sdk::engine::{Action, Commit, Envelope, Event, Outcome, Recipients};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Slot, Statement};
use moult_sim::Replace;
use moult_types::World;

use crate::common::*;
use crate::doubles::*;

// ---- held against the contract before core sees it ----

#[test]
fn requests_that_break_the_contract() {
    let host = host();
    for (name, words) in [
        ("timer-of-zero", "timer 1 after 0 ms"),
        ("action-storm", "100000 actions; the limit is 16384"),
        ("host-kind", "a slot of kind 0x8002; kinds from 0x8000 are the host's"),
        ("release-host-kind", "a slot of kind 0x8002; kinds from 0x8000 are the host's"),
        ("long-message", "1048577 bytes in a message; the limit is 1048576"),
    ] {
        let mut engine = started(&host, name);
        let fault = timed(|| engine.step(1, vec![Event::Draining])).expect_err("it breaks its contract");
        assert_eq!(fault, Fault::Output(words.into()), "{name}");
        assert!(engine.describe().is_err(), "{name}: the instance is gone");
        lives(&host);
    }
}

// ---- in a cluster, as components ----

/// A hostile component in the place of the node's engine.
fn component(bytes: Vec<u8>) -> Replace {
    let host = host();
    let prepared = prepare(&host, &bytes, World::Engine).expect("it comes up");
    Arc::new(move |_| prepared.engine().expect("an engine"))
}

#[test]
fn components_that_trap_loop_or_flood() {
    for (name, bytes, words) in [
        ("trap-in-init", guest("trap-in-init"), "trapped"),
        ("trap-in-step", guest("trap-in-step"), "trapped"),
        ("trap-later", guest_with("trap-later", &[("$STEPS", "20")]), "trapped"),
        ("loop-in-init", guest("loop-in-init"), "budget of 50000000 fuel"),
        ("timer-of-zero", guest("timer-of-zero"), "timer 1 after 0 ms"),
        ("action-storm", guest("action-storm"), "100000 actions"),
        ("release-host-kind", guest("release-host-kind"), "kind 0x8002"),
    ] {
        let report = cluster_with(name, &component(bytes));
        assert!(noted(&report, words), "{name}: {:?}", report.notes);
    }
}

/// A time beyond all numbers is a timer that never fires, not the end of the host.
#[test]
fn a_timer_of_ages() {
    cluster_with("timer-of-ages", &component(guest("timer-of-ages")));
}

// ---- in a cluster, as native doubles of the good engine ----

fn one(name: &str, tamper: Tamper, words: &str) {
    let report = cluster_with(name, &tampered(tamper));
    assert!(noted(&report, words), "{name}: {:?}", report.notes);
}

#[test]
fn contradictory_signing_requests() {
    let refused = "} was not";
    one("contradict", contradict, refused);
    one("contradict first", contradict_first, refused);
    let report = cluster_with("forgets its records", &forgetful());
    assert!(noted(&report, "does not rise above"), "{report}");
}

#[test]
fn slots_of_the_hosts_own() {
    one("host kinds", |_, _, out| push(out, (0..40).map(|a| vote(0x8002, a, 0, 1))), "was not");
    one(
        "releases host kinds",
        |_, _, out| push(out, [Action::ReleaseSlots(Slot { kind: 0x8002, a: u64::MAX, b: u64::MAX })]),
        "0x8002 are the host's own",
    );
}

/// Sixteen thousand contradictions in every answer, each of which comes back as an event.
#[test]
fn a_storm_of_refused_requests() {
    one(
        "refused storm",
        |_, _, out| push(out, (0..16_000).map(|n| vote(9, 1, 1, n as u8))),
        "requests were refused in",
    );
}

#[test]
fn storms_of_timers_messages_and_questions() {
    one(
        "timers",
        |_, _, out| push(out, (0..2_000).map(|id| Action::SetTimer { id: 1_000 + id, after_ms: 9 })),
        "timers are set",
    );
    cluster_with(
        "a timer each millisecond",
        &tampered(|_, _, out| push(out, [Action::SetTimer { id: 999, after_ms: 0 }])),
    );
    cluster_with(
        "timers at the end of time",
        &tampered(|_, _, out| push(out, [Action::SetTimer { id: 999, after_ms: u64::MAX }])),
    );
    one("accusations", |_, _, out| push(out, (0..300).map(|_| Action::Accuse(vec![1]))), "an accusation");
    cluster_with(
        "messages",
        &tampered(|step, _, out| {
            let envelope = |_| Action::Send(Envelope { payload: vec![step as u8; 200], ..to_all() });
            push(out, (0..50).map(envelope))
        }),
    );
    one(
        "questions for what nobody has",
        |step, _, out| {
            let digests = |n: u64| (0..256).map(|m| digest(step, n * 256 + m)).collect();
            push(out, (0..64).map(|n| Action::Fetch { batches: digests(n), likely_holder: None }))
        },
        "batches are missing",
    );
    one(
        "statements never seen",
        |_, _, out| {
            let statement = |a| Statement {
                author: AuthorityIndex(1),
                slot: Slot { kind: 3, a, b: 9 },
                digest: Digest([9; 32]),
            };
            push(out, [Action::Send(Envelope { attach: (0..2_000).map(statement).collect(), ..to_all() })])
        },
        "it attached",
    );
}

#[test]
fn recipients_that_are_not_there() {
    let words = "a message to authority 99";
    one(
        "votes",
        |step, _, out| {
            let choice =
                moult_sdk::engine::Choice { slot: Slot { kind: 9, a: step, b: 0 }, digest: Digest([1; 32]) };
            push(out, [Action::Vote { to: Recipients::One(AuthorityIndex(99)), choice }])
        },
        words,
    );
    one(
        "messages",
        |_, _, out| {
            let to = Recipients::Some(vec![AuthorityIndex(0), AuthorityIndex(99)]);
            push(out, [Action::Send(Envelope { to, ..to_all() })])
        },
        words,
    );
}

// ---- lies about the order ----

fn commits(outcome: &mut Outcome) -> impl Iterator<Item = &mut Commit> {
    outcome.release.iter_mut().filter_map(|action| match action {
        Action::Commit(commit) => Some(commit),
        _ => None,
    })
}

/// It commits another block than the rest: its host signs for what it holds and finds out
/// when the others' certificate comes.
#[test]
fn commits_of_other_content() {
    cluster_with(
        "commits nothing",
        &tampered(|step, _, out| {
            commits(out).filter(|_| step > 40).for_each(|commit| commit.batches.clear());
            Ok(())
        }),
    );
    cluster_with(
        "commits twice over",
        &tampered(|_, _, out| {
            commits(out).for_each(|commit| {
                let again = commit.batches.clone();
                commit.batches.extend(again);
            });
            Ok(())
        }),
    );
}

#[test]
fn commits_of_what_nobody_has() {
    cluster_with(
        "unheld",
        &tampered(|step, _, out| {
            commits(out).filter(|_| step > 40).for_each(|commit| commit.batches = vec![digest(step, 7)]);
            Ok(())
        }),
    );
}

#[test]
fn commits_out_of_order() {
    one("a gap", |_, _, out| push(out, [commit_of(u64::MAX - 1, 1)]), "after commit");
    one("the end of numbers", |_, _, out| push(out, [commit_of(u64::MAX, 1)]), "after commit");
    one(
        "ahead of everybody",
        |_, _, out| {
            let Some(last) = commits(out).map(|commit| commit.index.0).max() else { return Ok(()) };
            push(out, [commit_of(last + 1, 1), commit_of(last + 1, 2)])
        },
        "came again with other content",
    );
}

fn commit_of(index: u64, fill: u8) -> Action {
    let batches = vec![Digest([fill; 32])];
    Action::Commit(Commit { index: CommitIndex(index), batches, round: 0, leader: None })
}

// ---- traps at chosen moments ----

#[test]
fn traps_at_chosen_moments() {
    for (name, tamper) in [
        (
            "upon a message",
            (|_, events, _| trap_if(events.iter().any(|e| matches!(e, Event::Message(_))))) as Tamper,
        ),
        ("upon a vote", |_, events, _| trap_if(events.iter().any(|e| matches!(e, Event::Vote(_))))),
        ("upon a timer", |_, events, _| trap_if(events.iter().any(|e| matches!(e, Event::Timer(_))))),
        ("upon batches", |_, events, _| trap_if(events.iter().any(|e| matches!(e, Event::Batches(_))))),
        ("upon a final block", |_, events, _| {
            trap_if(events.iter().any(|e| matches!(e, Event::Final { .. })))
        }),
        ("when it commits", |_, _, out| trap_if(commits(out).next().is_some())),
        ("when it writes a record", |_, _, out| trap_if(!out.durable.is_empty())),
        ("every seventh step", |step, _, _| trap_if(step % 7 == 6)),
        ("when it starts", |step, _, _| trap_if(step == 0)),
    ] {
        let report = cluster_with(name, &tampered(tamper));
        assert!(noted(&report, "hostile engine: the module trapped: chosen"), "{name}: {:?}", report.notes);
    }
}

#[test]
fn an_engine_that_says_nothing() {
    cluster_with(
        "silence",
        &tampered(|_, _, out| {
            *out = Outcome::default();
            Ok(())
        }),
    );
}

fn trap_if(holds: bool) -> Result<(), Fault> {
    if holds { Err(Fault::Trap("chosen".into())) } else { Ok(()) }
}

fn push(outcome: &mut Outcome, actions: impl IntoIterator<Item = Action>) -> Result<(), Fault> {
    outcome.release.extend(actions);
    Ok(())
}

fn to_all() -> Envelope {
    Envelope { to: Recipients::All, payload: vec![1], sign: Vec::new(), attach: Vec::new() }
}

fn digest(a: u64, b: u64) -> Digest {
    let mut bytes = [0xee; 32];
    bytes[..8].copy_from_slice(&a.to_be_bytes());
    bytes[8..16].copy_from_slice(&b.to_be_bytes());
    Digest(bytes)
}
