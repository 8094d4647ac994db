//! Bugs planted on purpose are caught, each by a promise that it breaks. The table that this
//! prints stands in `docs/TESTING.md`. `MOULT_SIM_BUG` chooses those with that word in their
//! names, `MOULT_SIM_SEEDS` another limit.
#![cfg(feature = "planted")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use moult_pbft::planted::Broken;
use moult_sim::{Bug, CrashPoint, EngineModule, Modules, Phase, Plan, Planted, ReplicaBug, Violation, run};

/// A bug, and the checks of which one must catch it.
type Case = (Planted, &'static [&'static str]);

/// None needs more than two thirds of it.
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

/// Runs seeds until one fails: how many it took, and how it failed.
fn caught(planted: Planted, seeds: u64) -> Option<(u64, Violation)> {
    use ReplicaBug::{
        AbortBelowCommit, CommitAfterAbort, DropsPrepared, FailedForgotten, NoRecursion, RootsUncompared,
    };
    let plan = match planted {
        Planted::Replica(
            AbortBelowCommit | CommitAfterAbort | DropsPrepared | FailedForgotten | NoRecursion,
        ) => Plan::aborts(),
        Planted::Replica(RootsUncompared) => Plan::with_spoilt(1),
        _ => Plan::short(),
    };
    let (plan, modules) = (Plan { planted: Some(planted), ..plan }, modules(planted));
    (0..seeds).find_map(|seed| run(seed, &plan, &modules, false).err().map(|violation| (seed + 1, violation)))
}

/// Crashes one node behind each single write that votes on a change or switches the epoch, until
/// a run fails.
fn caught_at_a_crash(planted: Planted) -> Option<(u64, Violation)> {
    let (plan, modules) = (Plan { planted: Some(planted), ..Plan::switch() }, modules(planted));
    let calm = run(0, &plan, &modules, false).unwrap();
    let groups = (0_u64..).zip(&calm.groups[1]).filter(|(_, size)| size.is_change);
    let points = groups.flat_map(|(group, size)| {
        (0..=size.store).map(move |kept| CrashPoint {
            node: Some(1),
            group,
            phase: Phase::Torn,
            kept: Some((kept, 0)),
        })
    });
    (1..).zip(points).find_map(|(count, point)| {
        let plan = Plan { crash_point: Some(point), ..plan.clone() };
        run(0, &plan, &modules, false).err().map(|violation| (count, violation))
    })
}

fn all_are_caught(cases: &[Case]) {
    let seeds = std::env::var("MOULT_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS_MAX);
    let word = std::env::var("MOULT_SIM_BUG").unwrap_or_default();
    let cases: Vec<_> = cases.iter().filter(|(bug, _)| format!("{bug:?}").contains(&word)).collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some((bug, checks)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let at_a_crash = *bug == Planted::Shell(Bug::EpochInTwoRecords);
                    match if at_a_crash { caught_at_a_crash(*bug) } else { caught(*bug, seeds) } {
                        None => failures.lock().unwrap().push(format!("{bug:?}: not in {seeds} seeds")),
                        Some((after, Violation { property, detail, .. })) => {
                            let of = if at_a_crash { " crash points" } else { "" };
                            rows.lock().unwrap().push(format!("| `{bug:?}` | {property} | {after}{of} |"));
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
        (BarrierFromGossip, &["barrier", "quorum of votes", "one successor", "one ledger"]),
        (LocalClock, &["barrier", "one successor", "one ledger"]),
        (ClockInBlocks, &["liveness", "honest messages verify"]),
        (PendingDropped, &["liveness"]),
        (ReadsUnasked, &["linearizable reads", "linearizable"]),
        (StartCountKept, &["one digest a slot", "one place a key"]),
        (CommitWithoutCertificate, &["durable certificate"]),
        (AbortBelowCommit, &["no hidden commit"]),
        (CommitAfterAbort, &["no hidden commit"]),
        // Nobody prepares a resume block that goes on from below what is final here: no fork, a stop.
        (NoRecursion, &["liveness"]),
        (DropsPrepared, &["liveness"]),
        (FailedForgotten, &["failed engines stay out"]),
        (RootsUncompared, &["a wrong state is noticed"]),
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
        (
            Bug::StoreUnsynced,
            &["durable certificate", "recovery", "guard behind the store", "one digest a slot", "density"],
        ),
        (Bug::ReleasedBeforeSync, &["durable certificate", "one digest a slot"]),
        (Bug::WriteErrorIgnored, &["store", "durable certificate", "one digest a slot"]),
        (Bug::ReplayFromApplied, &["store", "exactly once"]),
        (Bug::PositionFallsToZero, &["application", "state root", "store", "exactly once"]),
        (Bug::PositionOfEpoch, &["application", "state root", "store", "exactly once"]),
        (Bug::GuardRestored, &["one digest a slot", "one place a key"]),
        (Bug::GuardForgotten, &["one digest a slot", "one place a key"]),
        (Bug::ReadsServedEarly, &["linearizable"]),
        (Bug::SignaturesUnchecked, &["certificates", "agreement", "integrity", "one place a key"]),
        (Bug::BlockSkipped, &["store"]),
        (Bug::StateOfNode, &["state root"]),
        (Bug::EpochInTwoRecords, &["one successor", "recovery", "barrier"]),
        (Bug::ToldBeforeExecuted, &["one receipt", "durability"]),
        (Bug::ReplacedStoreSigns, &["a replaced store signs nothing"]),
        (Bug::LostFolderSigns, &["a lost folder signs nothing", "one place a key"]),
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
        "nondeterminism",
    ];
    let cases: Vec<Case> = names.map(|name| (Planted::Pbft(name), BY_AN_ENGINE)).into();
    all_are_caught(&cases);
}

#[test]
fn bugs_of_raft() {
    let names = [
        "quorum-minus-one",
        "skip-log-check",
        "ack-volatile",
        "cut-always",
        "compact-loses-entries",
        "commit-final-again",
    ];
    let cases: Vec<Case> = names.map(|name| (Planted::Raft(name), BY_AN_ENGINE)).into();
    all_are_caught(&cases);
}
