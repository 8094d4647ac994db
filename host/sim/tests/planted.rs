//! Bugs planted on purpose are caught, each by a promise that it breaks.
#![cfg(feature = "planted")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use moult_pbft::planted::Broken;
use moult_sim::{Bug, EngineModule, Modules, Plan, Planted, ReplicaBug, Violation, run};

/// A bug, and the checks of which one must catch it.
type Case = (Planted, &'static [&'static str]);

/// None needs more; `MOULT_SIM_SEEDS` sets another limit.
const SEEDS_MAX: u64 = 300;

fn modules(bug: Planted) -> Modules {
    match bug {
        Planted::Raft(_) => Modules::raft(),
        Planted::Pbft(_) => Modules::native(vec![
            EngineModule::native::<Broken>("pbft"),
            EngineModule::native::<moult_pbft_reverse::PbftReverse>("pbft-reverse"),
        ]),
        Planted::Replica(_) | Planted::Shell(_) => Modules::pbft(),
    }
}

/// Runs seeds until one fails.
fn caught(planted: Planted, seeds: u64) -> Option<(u64, Violation)> {
    let (plan, modules) = (Plan { planted: Some(planted), ..Plan::short() }, modules(planted));
    (0..seeds).find_map(|seed| run(seed, &plan, &modules, false).err().map(|violation| (seed + 1, violation)))
}

fn all_are_caught(cases: &[Case]) {
    let seeds = std::env::var("MOULT_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS_MAX);
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some((bug, checks)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match caught(*bug, seeds) {
                        None => failures.lock().unwrap().push(format!("{bug:?}: not in {seeds} seeds")),
                        Some((after, Violation { property, detail, .. })) => {
                            rows.lock().unwrap().push(format!("| `{bug:?}` | {property} | {after} |"));
                            if !checks.contains(&property) {
                                failures.lock().unwrap().push(format!("{bug:?}: by {property}: {detail}"));
                            }
                        }
                    }
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort();
    println!("{}", rows.join("\n"));
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn bugs_of_the_replica() {
    let cases: Vec<Case> = [
        (ReplicaBug::QuorumMinusOne, &["certificates"][..]),
        (ReplicaBug::WithoutCertificates, &["store"]),
        (ReplicaBug::PastBarrier, &["barrier"]),
        (ReplicaBug::VoteCountedTwice, &["quorum of votes"]),
    ]
    .map(|(bug, checks)| (Planted::Replica(bug), checks))
    .into();
    all_are_caught(&cases);
}

#[test]
fn bugs_of_the_shell() {
    all_are_caught(&[(Planted::Shell(Bug::GuardUnsynced), &["one digest a slot"])]);
}

/// The host's certificates keep the chain one; the engines contradict themselves.
#[test]
fn bugs_of_pbft() {
    all_are_caught(&[(Planted::Pbft("quorum-minus-one"), &["engines run", "liveness"])]);
}
