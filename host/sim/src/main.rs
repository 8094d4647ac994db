//! `moult-sim --first 0 --seeds 3000`: runs seeds and says which promise broke, if one did.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use moult_sim::{Plan, Report, native_engines, run, run_seed};

const HELP: &str = "moult-sim [--first SEED] [--seeds COUNT] [--plan short|long|aborts|switch|quiet] [--threads N] [--keep-going] [--trace]";

fn main() -> ExitCode {
    match options() {
        Ok(options) => simulate(&options),
        Err(what) => {
            eprintln!("{what}\n{HELP}");
            ExitCode::from(2)
        }
    }
}

struct Options {
    first: u64,
    seeds: u64,
    plan: Plan,
    threads: u64,
    keep_going: bool,
    trace: bool,
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { first: 0, seeds: 100, plan: Plan::short(), threads: 2, keep_going: false, trace: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} takes a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number"));
        match name.as_str() {
            "--first" => options.first = number(value()?)?,
            "--seeds" => options.seeds = number(value()?)?,
            "--threads" => options.threads = number(value()?)?.max(1),
            "--keep-going" => options.keep_going = true,
            "--trace" => options.trace = true,
            "--plan" => {
                options.plan = match value()?.as_str() {
                    "short" => Plan::short(),
                    "long" => Plan::long(),
                    "aborts" => Plan::aborts(),
                    "switch" => Plan::switch(),
                    "quiet" => Plan::quiet(),
                    other => return Err(format!("there is no plan `{other}`")),
                }
            }
            other => return Err(format!("unknown option `{other}`")),
        }
    }
    Ok(options)
}

fn simulate(options: &Options) -> ExitCode {
    if options.trace {
        let result = run(options.first, &options.plan, native_engines(), true);
        return match result {
            Ok(report) => {
                println!("{report}");
                ExitCode::SUCCESS
            }
            Err(violation) => {
                println!("{violation}");
                ExitCode::FAILURE
            }
        };
    }
    let (next, failures, total) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Report::default()));
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    let stopped = failures.load(Ordering::Relaxed) > 0 && !options.keep_going;
                    if offset >= options.seeds || stopped {
                        return;
                    }
                    match run_seed(options.first + offset, &options.plan) {
                        Ok(report) => {
                            if let Ok(mut total) = total.lock() {
                                total.add(&report);
                            }
                        }
                        Err(violation) => {
                            failures.fetch_add(1, Ordering::Relaxed);
                            println!("{violation}");
                        }
                    }
                }
            });
        }
    });
    if let Ok(total) = total.lock() {
        println!("{total}\nunused: {:?}", total.unused());
    }
    let failures = failures.load(Ordering::Relaxed);
    println!("{} seeds, {failures} failed", options.seeds);
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
