//! Bugs on purpose: what a right engine passes must catch each wrong one, by name.

use moult_conformance::{Check, Factory, Fault, Instance, Native, Plan, Seeds, Tuning, conform};
use moult_pbft::Pbft;
use moult_pbft::planted::{BUGS, Broken};

/// The engine with a bug.
struct With(&'static str);

impl Factory for With {
    fn instance(&self) -> Result<Box<dyn Instance>, Fault> {
        Native::<Broken>::new().instance()
    }

    fn tuning(&self) -> Tuning {
        Tuning::of("pbft").with_line(&format!("broken={}", self.0))
    }
}

/// A node whose chain went another way says so in one of these forms, whichever comes first.
const FORKED: &[Check] = &[Check::Agreement, Check::Repeat, Check::Twice];

/// Each bug with a scenario or a probe that catches it, and the property that it breaks.
const CAUGHT: [(&str, &str, &[Check]); 16] = [
    ("quorum-minus-one", "follower-of-an-old-leader", FORKED),
    ("lose-prepared", "restart-storm", FORKED),
    ("no-records", "committed-on-one-then-blackout", &[Check::DoubleSign]),
    ("commit-on-prepare", "restart-storm", FORKED),
    ("commit-unheld", "batches-late", &[Check::Untold]),
    ("follow-two", "twins-and-loss", &[Check::DoubleSign]),
    ("renumber-commits", "rolling-restarts", &[Check::BelowFinal]),
    ("ignore-final", "lagging-replica", &[Check::Expectation]),
    ("assume-final", "alone-and-crashing", &[Check::Liveness]),
    ("split-blocks", "calm-unequal-stakes", FORKED),
    ("no-retransmission", "batches-at-one-node", &[Check::Expectation]),
    ("no-view-change", "leader-crashes", &[Check::Expectation]),
    ("nondeterminism", "same-calls-same-outcomes", &[Check::Determinism]),
    ("trap-on-noise", "garble-leader", &[Check::Fault]),
    ("reuse-record-ids", "leader-crashes", &[Check::Records]),
    ("timer-of-zero", "leader-crashes", &[Check::Timers]),
];

/// Runs the scenario or probe of a name; what it broke.
fn breaks(factory: &dyn Factory, name: &str) -> Option<Check> {
    let mut plan = Plan::of_scenarios(&[name]).unwrap_or_else(|_| Plan { probes: true, ..Plan::empty() });
    plan.failures_max = 1;
    let report = conform(factory, &plan, &mut |_| {});
    let item = report.probes.iter().chain(&report.scenarios).find(|item| item.name == name);
    item.expect("there is a probe or a scenario of that name").failures.first().map(|failure| failure.check)
}

#[test]
fn every_bug_is_caught_by_name() {
    let named: Vec<&str> = CAUGHT.iter().map(|(bug, ..)| *bug).collect();
    assert_eq!(named, BUGS.map(|(bug, _)| bug), "each bug has its scenario");
    let mut wrong = Vec::new();
    for (bug, name, checks) in CAUGHT {
        assert_eq!(breaks(&Native::<Pbft>::new(), name), None, "{name} without a bug");
        let broken = breaks(&With(bug), name);
        if broken.is_none_or(|check| !checks.contains(&check)) {
            wrong.push(format!("{name} with {bug} breaks {broken:?}, not {checks:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The seeds find by chance what the scenarios find by design; not every bug within 300.
#[test]
fn seeds_catch_the_unsafe_ones_too() {
    for (bug, checks) in [
        ("quorum-minus-one", &[Check::Agreement, Check::Repeat][..]),
        // What is lost is proposed once more.
        ("lose-prepared", &[Check::Agreement, Check::Repeat, Check::Twice]),
        ("no-records", &[Check::DoubleSign]),
        // Nodes that left the others mostly get stuck first.
        ("commit-on-prepare", &[Check::Agreement, Check::Repeat, Check::Liveness]),
        ("commit-unheld", &[Check::Untold]),
    ] {
        let plan = Plan { failures_max: 1, ..Plan::of_seeds(Seeds::new(0, 300)) };
        let report = conform(&With(bug), &plan, &mut |_| {});
        let failures = report.seeds.map(|seeds| seeds.failures).unwrap_or_default();
        assert!(
            failures.first().is_some_and(|failure| checks.contains(&failure.check)),
            "{bug}: {failures:?}"
        );
    }
}
