//! Bugs planted on purpose are caught, each by the promise that it breaks.
#![cfg(feature = "planted")]

use moult_sim::{Plan, Planted, run_seed};

/// Runs seeds until one fails, and answers with the broken promise.
fn caught(planted: Planted, seeds: u64) -> &'static str {
    caught_in(planted, seeds, Plan::short())
}

fn caught_in(planted: Planted, seeds: u64, plan: Plan) -> &'static str {
    let plan = Plan { planted: Some(planted), ..plan };
    let violation = (0..seeds).find_map(|seed| run_seed(seed, &plan).err());
    let violation = violation.unwrap_or_else(|| panic!("{planted:?} was not caught in {seeds} seeds"));
    println!("{planted:?}: {violation}");
    violation.property
}

#[test]
fn certificates_short_of_a_quorum() {
    assert_eq!(caught(Planted::CertificateQuorumMinusOne, 20), "certificates");
}

#[test]
fn an_engine_short_of_a_quorum() {
    // The host's certificates keep the chain one; the engines contradict themselves.
    let property = caught(Planted::EngineQuorumMinusOne, 300);
    assert!(["engines run", "liveness"].contains(&property), "{property}");
}

#[test]
fn a_node_that_goes_on_past_the_barrier() {
    assert_eq!(caught(Planted::PastBarrier, 20), "barrier");
}

#[test]
fn a_guard_that_is_not_synced() {
    // Before it signs anything twice it shows a commit that rests on nothing durable.
    assert_eq!(caught(Planted::UnsyncedGuard, 50), "durable certificate");
}

#[test]
fn execution_that_does_not_wait_for_certificates() {
    assert_eq!(caught(Planted::WithoutCertificates, 20), "store");
}

#[test]
fn votes_that_count_twice() {
    assert_eq!(caught(Planted::VoteCountedTwice, 50), "quorum of votes");
}

#[test]
fn a_commit_whose_certificate_is_not_durable() {
    assert_eq!(caught(Planted::CommitWithoutCertificate, 20), "durable certificate");
}

#[test]
fn an_abort_that_hides_a_commit() {
    assert_eq!(caught_in(Planted::AbortBelowCommit, 50, Plan::aborts()), "no hidden commit");
}

#[test]
fn a_commit_after_an_abort() {
    assert_eq!(caught_in(Planted::CommitAfterAbort, 300, Plan::aborts()), "no hidden commit");
}

#[test]
fn a_fallback_aborted_before_it_resumed_decides_alone() {
    // Nobody prepares a resume block that goes on from below what is final here: no fork, a stop.
    assert_eq!(caught_in(Planted::NoRecursion, 300, Plan::aborts()), "liveness");
}

#[test]
fn prepared_blocks_that_are_dropped_with_their_phase() {
    let property = caught_in(Planted::DropsPrepared, 300, Plan::aborts());
    assert_eq!(property, "liveness");
}
