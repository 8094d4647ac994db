//! Many seeds, and the same seed twice. `MOULT_SIM_SEEDS` and `MOULT_SIM_FIRST` choose which;
//! `moult sim` runs more of them, with a log, and makes a failing one smaller.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use moult_sim::{Modules, Plan, Report, minimise, run, run_seed};

/// Fewer seeds than this need not have used every kind of fault.
const ENOUGH_SEEDS: u64 = 300;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn hold(modules: &Modules, first: u64, seeds: u64) -> Report {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let (next, total, failures) = (AtomicU64::new(0), Mutex::new(Report::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    if offset >= seeds {
                        return;
                    }
                    match run(first + offset, &Plan::short(), modules, false) {
                        Ok(report) => total.lock().unwrap().add(&report),
                        Err(violation) => failures.lock().unwrap().push(violation.to_string()),
                    }
                }
            });
        }
    });
    let total = total.into_inner().unwrap();
    println!("{seeds} seeds: {total}");
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(total.blocks >= 50 * seeds, "the runs are too small: {} blocks in {seeds} runs", total.blocks);
    if seeds >= ENOUGH_SEEDS {
        let unused = total.unused(&Plan::short(), modules);
        assert!(unused.is_empty(), "never happened: {unused:?}");
    }
    total
}

#[test]
fn every_promise_holds_in_every_run_of_pbft() {
    // The test command runs hundreds with the program; here are enough to see that it works.
    let seeds = number("MOULT_SIM_SEEDS", 60);
    let total = hold(&Modules::pbft(), number("MOULT_SIM_FIRST", 0), seeds);
    let ahead = total.notes.get("executed on the engine's word").copied().unwrap_or(0);
    assert!(ahead > 0, "no graduated epoch executed anything before its certificate");
}

#[test]
fn every_promise_holds_in_every_run_of_raft() {
    hold(&Modules::raft(), number("MOULT_SIM_FIRST", 0), number("MOULT_SIM_SEEDS", 60));
}

#[test]
fn one_seed_is_one_run() {
    for (seed, modules) in
        [(7, Modules::pbft()), (8, Modules::pbft()), (9, Modules::raft()), (10, Modules::pbft())]
    {
        let once = run(seed, &Plan::short(), &modules, false).unwrap();
        assert_eq!(once, run(seed, &Plan::short(), &modules, false).unwrap());
        assert!(once.faults.len() >= 3, "seed {seed} has only these faults: {:?}", once.faults);
    }
    // The tenth signs for real.
    let real = Plan { real_signatures: Some(true), ..Plan::short() };
    assert_eq!(run_seed(10, &real), run_seed(10, &Plan::short()));
    assert_ne!(run_seed(9, &real).unwrap().trace, run_seed(9, &Plan::short()).unwrap().trace);
}

/// A run that cannot come to rest in time is made small: nothing of it is needed.
#[test]
fn a_failing_run_is_made_small() {
    let hurried = Plan { calm_ms: 0, ..Plan::short() };
    let (seed, violation) =
        (0..20).find_map(|seed| run_seed(seed, &hurried).err().map(|v| (seed, v))).unwrap();
    assert_eq!(violation.property, "liveness");
    let minimal = minimise(&hurried, &Modules::pbft(), &violation);
    assert_eq!(minimal.violation.property, "liveness");
    assert!(minimal.without.len() >= 4, "left out: {:?}", minimal.without);
    let again = run(seed, &minimal.plan, &Modules::pbft(), false).unwrap_err();
    assert_eq!(again, minimal.violation);
}

#[test]
fn engines_that_stall_or_trap_are_rolled_back() {
    let (first, seeds) = (number("MOULT_SIM_FIRST", 0), number("MOULT_SIM_SEEDS", 60) / 3);
    let mut total = Report::default();
    for seed in first..first + seeds {
        match run_seed(seed, &Plan::aborts()) {
            Ok(report) => total.add(&report),
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{seeds} seeds: {total}");
    let resumed = total.notes.get("phase resumed").copied().unwrap_or(0);
    assert!(resumed >= seeds, "only {resumed} nodes went on with a fallback");
}

/// Signed for real, the chain that is left holds for who has nothing but its genesis, also where
/// engines were given up.
#[test]
fn every_chain_is_auditable_across_aborts() {
    let plan = Plan { real_signatures: Some(true), ..Plan::aborts() };
    let mut total = Report::default();
    for seed in 0..12 {
        total.add(&run_seed(seed, &plan).unwrap_or_else(|violation| panic!("{violation}")));
    }
    assert_eq!(total.notes.get("chain audited"), Some(&12));
    assert!(total.notes.get("chain audited across aborts") >= Some(&3), "{total}");
}

/// One node computes another state: the others go on, and it stops signing, tells why, and is the
/// only one that does.
#[test]
fn a_node_whose_state_goes_wrong_finds_out() {
    for seed in 0..8 {
        let report =
            run(seed, &Plan::with_spoilt(1), &Modules::pbft(), false).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(report.notes.get("wrong state noticed"), Some(&1), "seed {seed}: {:?}", report.notes);
    }
}

/// Rotten batches lie unnoticed on the disk with the longest chain.
#[test]
fn a_damaged_disk_is_not_asked_for_an_audit() {
    let plan = Plan { real_signatures: Some(true), ..Plan::short() };
    for seed in [6_000_380, 6_000_670] {
        run(seed, &plan, &Modules::raft(), false).unwrap_or_else(|violation| panic!("{violation}"));
    }
}

/// A node that followed a resumption lost its end in a crash, and enters the phase anew: its disk
/// took that for a mistake.
#[test]
fn a_phase_whose_opening_was_torn_off_is_entered_anew() {
    run_seed(5_000_056, &Plan::short()).unwrap_or_else(|violation| panic!("{violation}"));
}
