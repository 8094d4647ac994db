//! Many seeds, and the same seed twice. `MOULT_SIM_SEEDS` and `MOULT_SIM_FIRST` choose
//! which; a failure prints the seed and the command that runs it again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use moult_sim::{Plan, Report, run_seed};

/// Fewer seeds than this need not have used every kind of fault.
const ENOUGH_SEEDS: u64 = 300;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_promise_holds_in_every_run() {
    // The test command runs hundreds with the program; here are enough to see that it works.
    let (first, seeds) = (number("MOULT_SIM_FIRST", 0), number("MOULT_SIM_SEEDS", 60));
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
                    match run_seed(first + offset, &Plan::short()) {
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
        assert!(total.unused().is_empty(), "never happened: {:?}", total.unused());
        let ahead = total.notes.get("executed on the engine's word").copied().unwrap_or(0);
        assert!(ahead > 0, "no graduated epoch executed anything before its certificate");
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 7..10 {
        let once = run_seed(seed, &Plan::short()).unwrap();
        assert_eq!(once, run_seed(seed, &Plan::short()).unwrap());
        assert!(once.faults.len() >= 3, "seed {seed} has only these faults: {:?}", once.faults);
    }
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
