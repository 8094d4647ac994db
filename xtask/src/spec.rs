//! `cargo xtask spec`: runs the specification in tests/spec with Quint, as it is and with mistakes put in.
//!
//! Quint comes from npm, pinned by tests/spec/package-lock.json, into target/tools. Its simulator in TypeScript is
//! used: the other one is downloaded by Quint itself and not pinned.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::toolchain::{self, output};

/// Steps of a trace; a step may be one of several nodes.
const STEPS: u64 = 20;
/// A planted mistake is looked for in so many traces at most; the slowest takes a few hundred.
const PLANTED_TRACES: u64 = 10_000;
const PLANTED_SEED: u64 = 1;
/// The rules as they are, each process with its share of the traces in percent.
const SOUND: [(&str, u64); 3] = [("sound_byzantine", 40), ("sound_byzantine", 40), ("sound_crash", 20)];

const INVARIANTS: [&str; 9] = [
    "agreement",
    "certifiedUnique",
    "finalSurvivesAbort",
    "oneSuccessor",
    "decidedByQuorum",
    "barrierRespected",
    "guardHolds",
    "phasesOnlyRise",
    "payloadsHeld",
];

/// What some traces must have reached for all of them to mean anything.
const REACHED: [&str; 5] = [
    "reachedAbort",
    "reachedResume",
    "reachedSecondFallback",
    "reachedClosingFallback",
    "reachedSecondEpoch",
];

/// Mistakes, each with the invariant that finds it: a fork where a few hundred traces show one.
const PLANTED: [(&str, &str); 13] = [
    ("quorum_of_two", "agreement"),
    ("commit_without_durable_certificate", "agreement"),
    ("certificate_lost_with_store", "finalSurvivesAbort"),
    ("abort_below_commit", "agreement"),
    ("commit_after_abort", "agreement"),
    ("unproven_claims", "agreement"),
    ("no_recursion", "finalSurvivesAbort"),
    ("guard_by_slot", "agreement"),
    ("prepare_past_barrier", "agreement"),
    ("barrier_within_window", "barrierRespected"),
    ("closing_goes_on", "barrierRespected"),
    ("votes_counted_twice", "decidedByQuorum"),
    ("prepared_payload_dropped", "payloadsHeld"),
];

/// One call of the simulator.
struct Job {
    module: &'static str,
    /// In tests/spec.
    file: String,
    invariants: Vec<&'static str>,
    traces: u64,
    seed: Option<u64>,
    planted: bool,
}

/// What came out of it.
struct Report {
    violated: Option<String>,
    traces: u64,
    /// In the order of [`REACHED`].
    reached: [u64; REACHED.len()],
    seconds: f64,
}

pub(crate) fn run(root: &Path, traces: u64, seed: Option<u64>) -> Result<()> {
    let quint = install(root)?;
    let folder = root.join("tests/spec");
    output(Command::new(&quint).current_dir(&folder).args(["typecheck", "kernel.qnt"]))?;
    let jobs = jobs(traces, seed);
    let started = Instant::now();
    let reports = simulate(&quint, &folder, &jobs)?;
    println!("{}", table(&jobs, &reports));
    println!("{:.0} s in all", started.elapsed().as_secs_f64());
    verdict(&jobs, &reports)
}

/// Installs Quint unless it is there as pinned.
fn install(root: &Path) -> Result<PathBuf> {
    toolchain::npm()?;
    let pinned = root.join("tests/spec");
    let tools = root.join("target/tools/quint");
    let quint = tools.join("node_modules/.bin/quint");
    let lock = std::fs::read(pinned.join("package-lock.json")).context("tests/spec/package-lock.json")?;
    let stamp = tools.join("installed-lock.json");
    if quint.exists() && std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(quint);
    }
    println!("installing Quint into {}", tools.display());
    std::fs::create_dir_all(&tools)?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(pinned.join(file), tools.join(file)).with_context(|| format!("tests/spec/{file}"))?;
    }
    let mut npm = Command::new("npm");
    npm.current_dir(&tools).args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
    output(&mut npm).context("npm could not install Quint; it needs the npm registry")?;
    std::fs::write(stamp, lock)?;
    Ok(quint)
}

/// The longest first.
fn jobs(traces: u64, seed: Option<u64>) -> Vec<Job> {
    let sound = SOUND.iter().zip(0..).map(|((module, percent), number)| Job {
        module,
        file: format!("{module}.qnt"),
        invariants: INVARIANTS.to_vec(),
        traces: (traces * percent).div_ceil(100).max(1),
        seed: seed.map(|seed| seed.wrapping_add(number)),
        planted: false,
    });
    let planted = PLANTED.iter().map(|(module, invariant)| Job {
        module,
        file: format!("planted/{module}.qnt"),
        invariants: vec![invariant],
        traces: PLANTED_TRACES,
        seed: Some(PLANTED_SEED),
        planted: true,
    });
    sound.chain(planted).collect()
}

/// Runs all jobs, as many at once as there are processors.
fn simulate(quint: &Path, folder: &Path, jobs: &[Job]) -> Result<Vec<Report>> {
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let waiting = Mutex::new(jobs.iter().enumerate());
    let done = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let taken = waiting.lock().ok().and_then(|mut waiting| waiting.next());
            let Some((number, job)) = taken else { break };
            let report = job.run(quint, folder);
            if let Ok(mut done) = done.lock() {
                done.insert(number, report);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.min(jobs.len()) {
            scope.spawn(work);
        }
    });
    let done = done.into_inner().ok().context("a simulation was cut short")?;
    done.into_values().collect()
}

impl Job {
    fn run(&self, quint: &Path, folder: &Path) -> Result<Report> {
        let mut command = Command::new(quint);
        command.current_dir(folder).arg("run").arg(&self.file);
        command.args(["--backend", "typescript", "--max-steps", &STEPS.to_string()]);
        command.args(["--max-samples", &self.traces.to_string()]);
        if let Some(seed) = self.seed {
            command.args(["--seed", &seed.to_string()]);
        }
        command.arg("--invariants").args(&self.invariants).arg("--witnesses").args(REACHED);
        // An action that draws a choice which is not allowed is given up for another one; Quint would try all its
        // other choices first, which costs three times the time and takes rare actions as often as others.
        command.env("QUINT_RETRY_NONDET_SMALLER_THAN", "1").env("NO_COLOR", "1");
        // States are short-lived: a larger nursery saves a tenth of the time.
        command.env("NODE_OPTIONS", "--max-semi-space-size=64");
        let started = Instant::now();
        let ran = command.output().context("Quint cannot be run")?;
        let text = String::from_utf8_lossy(&ran.stdout);
        let report = Report::read(&text, started.elapsed().as_secs_f64(), &self.invariants);
        let report = report
            .with_context(|| format!("{}: {text}\n{}", self.file, String::from_utf8_lossy(&ran.stderr)))?;
        println!("{:32} {}", self.module, report.outcome());
        if report.violated.is_some() && !self.planted {
            println!("{text}\nto repeat it, with the seed above and one sample: {command:?}");
        }
        Ok(report)
    }
}

impl Report {
    /// Reads what the simulator prints.
    fn read(text: &str, seconds: f64, invariants: &[&str]) -> Result<Self> {
        let holds = text.contains("[ok] No violation found");
        let violated = text.contains("[violation] Found an issue");
        ensure!(holds != violated, "Quint printed no result");
        let named = text.lines().find_map(|line| line.trim().strip_prefix("❌ "));
        let only = (invariants.len() == 1).then(|| invariants.concat());
        let violated = violated.then(|| named.map_or_else(|| only.unwrap_or_default(), str::to_owned));
        let mut traces = 0;
        let mut reached = [0; REACHED.len()];
        for (name, count) in REACHED.into_iter().zip(&mut reached) {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" was witnessed in "));
            let line = line.with_context(|| format!("Quint printed no count of {name}"))?;
            let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
            *count = numbers.next().context("a count")?;
            traces = numbers.next().context("the number of traces")?;
        }
        Ok(Self { violated, traces, reached, seconds })
    }

    fn outcome(&self) -> String {
        match &self.violated {
            Some(invariant) => {
                format!("{invariant} violated after {} traces, {:.0} s", self.traces, self.seconds)
            }
            None => format!("no violation in {} traces, {:.0} s", self.traces, self.seconds),
        }
    }
}

fn table(jobs: &[Job], reports: &[Report]) -> String {
    let mut table = String::from("\nspecification                       traces  result\n");
    for module in ["sound_byzantine", "sound_crash"] {
        let (traces, reached) = totals(of_module(module, jobs, reports));
        let violated = of_module(module, jobs, reports).find_map(|report| report.violated.as_deref());
        let result =
            violated.map_or_else(|| "all invariants hold".to_owned(), |name| format!("VIOLATED: {name}"));
        let _ = writeln!(table, "{module:34} {traces:7}  {result}");
        for (name, count) in REACHED.iter().zip(reached) {
            let _ = writeln!(table, "    {name:30} {count:7}");
        }
    }
    for (module, invariant) in PLANTED {
        for report in of_module(module, jobs, reports) {
            let found = report.violated.is_some();
            let result =
                if found { format!("found: {invariant}") } else { format!("NOT FOUND by {invariant}") };
            let _ = writeln!(table, "{module:34} {:7}  {result}", report.traces);
        }
    }
    table
}

fn of_module<'a>(
    module: &'a str,
    jobs: &'a [Job],
    reports: &'a [Report],
) -> impl Iterator<Item = &'a Report> {
    jobs.iter().zip(reports).filter(move |(job, _)| job.module == module).map(|(_, report)| report)
}

fn totals<'a>(reports: impl Iterator<Item = &'a Report>) -> (u64, [u64; REACHED.len()]) {
    let mut traces = 0;
    let mut reached = [0; REACHED.len()];
    for report in reports {
        traces += report.traces;
        for (sum, count) in reached.iter_mut().zip(report.reached) {
            *sum += count;
        }
    }
    (traces, reached)
}

fn verdict(jobs: &[Job], reports: &[Report]) -> Result<()> {
    for (job, report) in jobs.iter().zip(reports) {
        if job.planted {
            ensure!(report.violated.is_some(), "{} was not found: the invariants are blind", job.module);
        } else {
            ensure!(report.violated.is_none(), "{}: the rules are violated, see above", job.module);
        }
    }
    let sound = jobs.iter().zip(reports).filter(|(job, _)| !job.planted).map(|(_, report)| report);
    let (traces, reached) = totals(sound);
    for (name, count) in REACHED.iter().zip(reached) {
        ensure!(count > 0, "no trace of {traces} satisfied {name}: they mean little");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(result: &str) -> String {
        let counts =
            REACHED.map(|name| format!("{name} was witnessed in 3 trace(s) out of 20 explored (15.00%)\n"));
        format!("{result}\nWitnesses:\n{}", counts.concat())
    }

    #[test]
    fn results_are_read() {
        let holds =
            Report::read(&printed("[ok] No violation found (1ms)."), 1.0, &INVARIANTS).expect("a result");
        assert!(holds.violated.is_none());
        assert_eq!((holds.traces, holds.reached[0]), (20, 3));
        let text = printed("[violation] Found an issue (1ms).\n  ❌ oneSuccessor");
        let violated = Report::read(&text, 1.0, &INVARIANTS).expect("a result");
        assert_eq!(violated.violated.as_deref(), Some("oneSuccessor"));
    }

    #[test]
    fn what_is_no_result_is_refused() {
        assert!(Report::read("error: Runtime error", 1.0, &INVARIANTS).is_err());
        assert!(Report::read("[ok] No violation found (1ms).", 1.0, &INVARIANTS).is_err());
    }
}
