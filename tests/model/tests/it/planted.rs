//! Mistakes that are put in are found, each by the property that says what goes wrong.

use moult_model::mistakes::Planted;
use moult_model::model::Kernel;
use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::worlds::{BARRIER, CLOSING, FALLBACKS, PAST_BARRIER};

const AGREEMENT: &str = "agreement";
const SURVIVES: &str = "final survives an abort";

/// Searches until a property is violated, and prints the steps that lead there.
fn find(kernel: Kernel, property: &'static str) {
    let checker = kernel.checker().finish_when(HasDiscoveries::AllOf([property].into())).spawn_bfs().join();
    let path = checker.discovery(property).map(Path::into_actions);
    let path = path.unwrap_or_else(|| panic!("`{property}` was not violated"));
    println!("`{property}` is violated after {} states by {path:?}", checker.unique_state_count());
}

#[test]
fn quorum_of_two_of_four() {
    find(Kernel::byzantine(BARRIER, Planted::Nothing).with_quorum(2), AGREEMENT);
}

#[test]
fn abort_below_the_last_commit() {
    find(Kernel::byzantine(BARRIER, Planted::AbortBelowCommit), SURVIVES);
    find(Kernel::crash(BARRIER, Planted::AbortBelowCommit), SURVIVES);
}

#[test]
fn certificate_lost_with_the_store() {
    find(Kernel::byzantine(BARRIER, Planted::CertificateLostWithStore), SURVIVES);
    find(Kernel::crash(BARRIER, Planted::CertificateLostWithStore), SURVIVES);
}

#[test]
fn commit_after_abort() {
    find(Kernel::byzantine(BARRIER, Planted::CommitAfterAbort), SURVIVES);
    find(Kernel::crash(BARRIER, Planted::CommitAfterAbort), SURVIVES);
}

#[test]
fn unproven_claims() {
    find(Kernel::byzantine(BARRIER, Planted::UnprovenClaims), SURVIVES);
}

#[test]
fn no_recursion() {
    find(Kernel::byzantine(FALLBACKS, Planted::NoRecursion), SURVIVES);
    find(Kernel::crash(FALLBACKS, Planted::NoRecursion), SURVIVES);
}

#[test]
fn guard_by_slot() {
    find(Kernel::byzantine(BARRIER, Planted::GuardBySlot), AGREEMENT);
}

#[test]
fn prepare_past_the_barrier() {
    find(Kernel::byzantine(PAST_BARRIER, Planted::PreparePastBarrier), AGREEMENT);
}

#[test]
fn closing_fallback_that_goes_on() {
    find(Kernel::byzantine(CLOSING, Planted::ClosingGoesOn), AGREEMENT);
}

#[test]
fn successor_named_by_the_fallback() {
    find(Kernel::byzantine(CLOSING, Planted::SuccessorOfFallback), "one successor");
}
