//! The scenarios that come with this crate.

use super::{Scenario, parse};

macro_rules! files {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../scenarios/", $name, ".scn")))),*]
    };
}

/// Every file of `scenarios/`, by name; a test compares the two.
#[rustfmt::skip]
pub(crate) const FILES: &[(&str, &str)] = files! {
    "all-crash-at-each-step"
    "alone-and-crashing"
    "amnesia"
    "batches-at-one-node"
    "batches-late"
    "blackout"
    "calm"
    "calm-unequal-stakes"
    "change-at-a-checkpoint"
    "change-of-leader-at-each-moment"
    "committed-on-one-then-blackout"
    "conflicting-logs"
    "first-two-leaders-dead"
    "flapping-links"
    "flipped-votes"
    "follower-crashes-at-each-step"
    "follower-is-not-heard"
    "follower-of-an-old-leader"
    "follower-stands-still"
    "garble-follower"
    "garble-leader"
    "idle-then-work"
    "isolated-follower-returns"
    "just-a-quorum"
    "lagging-after-a-crash"
    "lagging-into-a-change"
    "lagging-replica"
    "leader-after-leader"
    "leader-crashes"
    "leader-crashes-at-each-step"
    "leader-drains"
    "leader-hears-nothing"
    "leader-is-jailed"
    "leader-is-lost-at-each-step"
    "leader-is-not-heard"
    "leader-stands-still"
    "logs-of-figure-7"
    "lossy-links"
    "messages-lost"
    "minority-stalls"
    "no-quorum-no-commit"
    "one-by-one"
    "overwrite-of-figure-8"
    "replay-follower"
    "replay-leader"
    "restart-storm"
    "ring-of-links"
    "rolling-restarts"
    "silent-follower"
    "silent-in-each-phase"
    "silent-leader"
    "silent-new-leader"
    "slow-links"
    "stale-leader"
    "three-nodes-and-their-leaders"
    "timers-late"
    "twins-and-a-partition"
    "twins-and-crashes"
    "twins-and-loss"
    "twins-follower"
    "twins-leader"
    "two-changes-in-a-row"
    "unequal-stakes-and-crashes"
    "votes-lost"
    "window-is-full"
    "written-and-not-acknowledged"
};

/// All scenarios of this crate.
///
/// # Panics
/// If one of them does not parse; a test shows that all do.
pub fn builtin() -> Vec<Scenario> {
    let read =
        |(name, text): &(&str, &str)| parse(text).unwrap_or_else(|error| panic!("{name}.scn: {error}"));
    FILES.iter().map(read).collect()
}
