//! Bugs on purpose: the same runs that a right engine passes must catch a wrong one.

use crate::attack::Attack;
use crate::runs::{calm, storm};
use crate::sim::{Options, run};

fn caught(seeds: u64, options: impl Fn(u64) -> Options) -> Vec<String> {
    let unsafe_ =
        |error: &String| ["agreement", "repeat", "double sign"].iter().any(|what| error.starts_with(what));
    (0..seeds).filter_map(|seed| run(options(seed)).err()).filter(unsafe_).collect()
}

/// Four nodes, one of which proposes different things to different halves.
fn equivocation(seed: u64, config: &str) -> Options {
    Options {
        config: format!("pipeline=1\nview_timeout_ms=200\nretransmit_ms=60\n{config}"),
        batches: 600,
        byzantine: Some((0, Attack::equivocator())),
        ..calm(seed, 4)
    }
}

/// Four nodes that fall apart, lose messages and change views often.
fn fragile(seed: u64, config: &str) -> Options {
    Options {
        stakes: vec![1; 4],
        fault_model: moult_sdk::FaultModel::Byzantine,
        config: format!("view_timeout_ms=200\nretransmit_ms=60\n{config}"),
        byzantine: None,
        loss: 25,
        partitions: 6,
        ..storm(seed)
    }
}

#[test]
fn a_quorum_that_is_one_short_is_caught() {
    assert_eq!(caught(50, |seed| equivocation(seed, "")), [""; 0]);
    let errors = caught(50, |seed| equivocation(seed, "planted=quorum-minus-one\n"));
    assert!(!errors.is_empty());
}

#[test]
fn a_view_change_that_loses_what_was_prepared_is_caught() {
    assert_eq!(caught(100, |seed| fragile(seed, "")), [""; 0]);
    let errors = caught(100, |seed| fragile(seed, "planted=lose-prepared\n"));
    assert!(!errors.is_empty());
}
