//! The rules as they are: every state is visited, and no property is violated.

use moult_model::mistakes::Planted;
use moult_model::model::Kernel;
use stateright::{Checker, Model};

use crate::worlds::{BARRIER, CLOSING, FALLBACKS, WHOLE};

const RESUMES: &str = "a fallback resumes";
const CLOSES: &str = "a fallback closes the epoch";
const SECOND_FALLBACK: &str = "a second fallback resumes";
const SECOND_EPOCH: &str = "the second epoch has a final block";

/// Visits all states of a world, in which all of `reached` must come about.
fn search(name: &str, kernel: Kernel, reached: &[&'static str]) {
    let checker = kernel.checker().spawn_bfs().join();
    println!("{name}: {} states, {} steps at most", checker.unique_state_count(), checker.max_depth());
    assert!(checker.is_done());
    for property in checker.model().properties() {
        let found = checker.discovery(property.name);
        let wanted = reached.contains(&property.name);
        let path = found.clone().map(stateright::Path::into_actions);
        assert_eq!(found.is_some(), wanted, "{name}: `{}`: {path:#?}", property.name);
    }
}

#[test]
fn one_fallback_and_a_barrier_with_a_byzantine_node() {
    let kernel = Kernel::byzantine(BARRIER, Planted::Nothing);
    search("barrier, byzantine", kernel, &[RESUMES, CLOSES, SECOND_EPOCH]);
}

#[test]
fn one_fallback_and_a_barrier_with_crashes() {
    let kernel = Kernel::crash(BARRIER, Planted::Nothing);
    search("barrier, crash", kernel, &[RESUMES, CLOSES, SECOND_EPOCH]);
}

#[test]
fn two_fallbacks_with_a_byzantine_node() {
    let kernel = Kernel::byzantine(FALLBACKS, Planted::Nothing);
    search("fallbacks, byzantine", kernel, &[RESUMES, SECOND_FALLBACK]);
}

#[test]
fn two_fallbacks_with_crashes() {
    let kernel = Kernel::crash(FALLBACKS, Planted::Nothing);
    search("fallbacks, crash", kernel, &[RESUMES, SECOND_FALLBACK]);
}

#[test]
fn fallbacks_that_close_with_a_byzantine_node() {
    let kernel = Kernel::byzantine(CLOSING, Planted::Nothing);
    search("closing, byzantine", kernel, &[RESUMES, CLOSES, SECOND_FALLBACK, SECOND_EPOCH]);
}

#[test]
fn fallbacks_that_close_with_crashes() {
    let kernel = Kernel::crash(CLOSING, Planted::Nothing);
    search("closing, crash", kernel, &[RESUMES, CLOSES, SECOND_FALLBACK, SECOND_EPOCH]);
}

#[test]
fn two_fallbacks_and_a_barrier_with_a_byzantine_node() {
    let kernel = Kernel::byzantine(WHOLE, Planted::Nothing);
    search("whole, byzantine", kernel, &[RESUMES, CLOSES, SECOND_FALLBACK, SECOND_EPOCH]);
}
