//! Bugs planted on purpose are caught, each by a promise that it breaks. The table that this
//! prints stands in `docs/TESTING.md`.
#![cfg(feature = "planted")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use moult_pbft::planted::Broken;
use moult_sim::{Bug, EngineModule, Modules, Plan, Planted, ReplicaBug, Violation, run};

/// A bug, and the checks of which one must catch it.
type Case = (Planted, &'static [&'static str]);

/// None needs more; `MOULT_SIM_SEEDS` sets another limit.
const SEEDS_MAX: u64 = 1_000;

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
    use ReplicaBug::{AbortBelowCommit, CommitAfterAbort};
    let plan = match planted {
        Planted::Replica(AbortBelowCommit | CommitAfterAbort) => Plan::aborts(),
        _ => Plan::short(),
    };
    let (plan, modules) = (Plan { planted: Some(planted), ..plan }, modules(planted));
    (0..seeds).find_map(|seed| {
        let once = run(seed, &plan, &modules, false);
        let violation = match once {
            Err(violation) => violation,
            Ok(report) if planted == Planted::Pbft("nondeterminism") => {
                let again = run(seed, &plan, &modules, false);
                if again.as_ref() == Ok(&report) {
                    return None;
                }
                let property = "one run a seed";
                again.err().map_or(
                    Violation {
                        property,
                        detail: String::new(),
                        at_us: 0,
                        seed,
                        trace: 0,
                        modules: Vec::new(),
                    },
                    |violation| Violation { property, ..violation },
                )
            }
            Ok(_) => return None,
        };
        Some((seed + 1, violation))
    })
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
    use ReplicaBug::*;
    let cases: Vec<Case> = [
        (QuorumMinusOne, &["certificates"][..]),
        (QuorumOfHeads, &["certificates"]),
        (CertificateUnchecked, &["certificates", "agreement"]),
        (WithoutCertificates, &["store"]),
        (PastBarrier, &["barrier"]),
        (VoteCountedTwice, &["quorum of votes"]),
        (WithoutReadiness, &["quorum of votes"]),
        (BarrierFromGossip, &["barrier", "quorum of votes", "one successor"]),
        (LocalClock, &["barrier", "one successor"]),
        (RivalsSurvive, &["barrier", "one successor"]),
        (ClockInBlocks, &["liveness", "honest messages verify"]),
        (PendingDropped, &["liveness"]),
        (ReadsUnasked, &["linearizable reads", "linearizable"]),
        (StartCountKept, &["one digest a slot"]),
        (GuardGoesBack, &["one digest a slot", "guard behind the store"]),
        (CommitWithoutCertificate, &["durable certificate"]),
        (AbortBelowCommit, &["no hidden commit"]),
        (CommitAfterAbort, &["no hidden commit"]),
    ]
    .map(|(bug, checks)| (Planted::Replica(bug), checks))
    .into();
    all_are_caught(&cases);
}

#[test]
fn bugs_of_the_shell() {
    let cases: Vec<Case> = [
        // Before it signs anything twice it shows a commit that rests on nothing durable.
        (Bug::GuardUnsynced, &["durable certificate", "one digest a slot", "no fork"][..]),
        (Bug::StoreUnsynced, &["recovery", "guard behind the store", "one digest a slot", "density"]),
        (Bug::ReleasedBeforeSync, &["one digest a slot"]),
        (Bug::WriteErrorIgnored, &["one digest a slot"]),
        (Bug::ReplayFromApplied, &["store", "exactly once"]),
        (Bug::PositionFallsToZero, &["state root", "store", "exactly once"]),
        (Bug::PositionOfEpoch, &["state root", "store", "exactly once"]),
        (Bug::GuardRestored, &["one digest a slot"]),
        (Bug::GuardForgotten, &["one digest a slot"]),
        (Bug::ReadsServedEarly, &["linearizable"]),
        (Bug::SignaturesUnchecked, &["certificates", "agreement", "integrity"]),
        (Bug::BlockSkipped, &["store"]),
        (Bug::StateOfNode, &["state root"]),
        (Bug::EpochInTwoRecords, &["recovery", "no panic", "store", "density"]),
        (Bug::ToldBeforeExecuted, &["durability"]),
        (Bug::ReplacedStoreSigns, &["one digest a slot", "guard behind the store"]),
    ]
    .map(|(bug, checks)| (Planted::Shell(bug), checks))
    .into();
    all_are_caught(&cases);
}

/// The kernel keeps the chain one whatever an engine does in a certified epoch; what an engine's
/// bug breaks is its own contract, progress, or a graduated epoch.
const BY_AN_ENGINE: &[&str] =
    &["engines run", "liveness", "no halt", "agreement", "no fork", "store", "no panic"];

#[test]
fn bugs_of_pbft() {
    let names = [
        "quorum-minus-one",
        "lose-prepared",
        "no-records",
        "commit-on-prepare",
        "renumber-commits",
        "ignore-final",
        "split-blocks",
        "no-retransmission",
        "no-view-change",
        "reuse-record-ids",
        "timer-of-zero",
        "trap-on-noise",
    ];
    let mut cases: Vec<Case> = names.map(|name| (Planted::Pbft(name), BY_AN_ENGINE)).into();
    cases.push((Planted::Pbft("nondeterminism"), &["one run a seed"]));
    all_are_caught(&cases);
}

#[test]
fn bugs_of_raft() {
    let names = [
        "vote-twice",
        "quorum-minus-one",
        "count-old-terms",
        "forget-vote",
        "skip-log-check",
        "ack-volatile",
        "cut-always",
        "compact-loses-entries",
        "commit-final-again",
    ];
    let cases: Vec<Case> = names.map(|name| (Planted::Raft(name), BY_AN_ENGINE)).into();
    all_are_caught(&cases);
}
