//! Mistakes that are put in are found, each by the property that says what goes wrong.

use moult_model::mistakes::Planted;
use moult_model::model::Kernel;
use stateright::{Checker, HasDiscoveries, Model};

use crate::worlds::{BARRIER, CLOSING, FALLBACKS, PAST_BARRIER};

/// Searches until a property is violated, and prints the steps that lead there.
fn find(kernel: Kernel, property: &'static str) {
    let wanted = HasDiscoveries::AllOf([property].into());
    let checker = kernel.checker().finish_when(wanted).spawn_bfs().join();
    let path = checker.discovery(property).unwrap_or_else(|| panic!("`{property}` was not violated"));
    println!("`{property}` is violated after {} states by", checker.unique_state_count());
    for action in path.into_actions() {
        println!("  {action:?}");
    }
}

#[test]
fn quorum_of_two_of_four() {
    find(Kernel::byzantine(BARRIER, Planted::Nothing).with_quorum(2), "agreement");
}

#[test]
fn abort_below_the_last_commit() {
    find(Kernel::byzantine(BARRIER, Planted::AbortBelowCommit), "agreement");
    find(Kernel::crash(BARRIER, Planted::AbortBelowCommit), "agreement");
}

#[test]
fn certificate_lost_with_the_store() {
    find(Kernel::byzantine(BARRIER, Planted::CertificateLostWithStore), "agreement");
}

#[test]
fn commit_after_abort() {
    find(Kernel::byzantine(BARRIER, Planted::CommitAfterAbort), "agreement");
    find(Kernel::crash(BARRIER, Planted::CommitAfterAbort), "agreement");
}

#[test]
fn unproven_claims() {
    find(Kernel::byzantine(BARRIER, Planted::UnprovenClaims), "agreement");
}

#[test]
fn no_recursion() {
    find(Kernel::byzantine(FALLBACKS, Planted::NoRecursion), "agreement");
}

#[test]
fn guard_by_slot() {
    find(Kernel::byzantine(BARRIER, Planted::GuardBySlot), "agreement");
}

#[test]
fn prepare_past_the_barrier() {
    find(Kernel::byzantine(PAST_BARRIER, Planted::PreparePastBarrier), "agreement");
}

#[test]
fn closing_fallback_that_goes_on() {
    find(Kernel::byzantine(CLOSING, Planted::ClosingGoesOn), "agreement");
}

#[test]
fn successor_named_by_the_fallback() {
    find(Kernel::byzantine(CLOSING, Planted::SuccessorOfFallback), "one successor");
}
