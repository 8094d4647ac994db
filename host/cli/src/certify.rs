//! `moult certify`: puts a module through the conformance suite and the simulator and signs what
//! came of it; and checks such a report, by its signature and by running seeds of it again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use moult_conformance::{Plan as SuitePlan, PortFactory, Report as SuiteReport, Seeds, conform};
use moult_crypto::{KeyPair, Signer as _, check_report, sign_report};
use moult_keys::{read_key, write_key};
use moult_sim::{EngineModule, INVARIANTS, Meter, Modules, Plan, Report, run as run_seed};
use moult_types::certification::{FAILURES_LISTED_MAX, REPORT_BYTES_MAX, stretch_hash, stretches};
use moult_types::{CertificationReport, ModuleHash, SignedReport, TraceHash, World, decode, encode};

use crate::builtin::builtin;
use crate::conform::Teller;
use crate::failure::{Told, negative};
use crate::module::{fit, read};
use crate::output::{self, Progress, grouped, say};
use crate::sim::{host, log, own, plan_of, prepare, with_the_rest};

/// Most seeds of a report: what came of each is kept while it is made or checked.
const SEEDS_MAX: u64 = 10_000_000;
/// At most this often a line about how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["key", "check", "make_key"]))]
pub(crate) struct Args {
    /// The component: a file, or the name of one that came with this program. With --check it is
    /// compared with the report, and seeds are run again.
    #[arg(value_name = "MODULE", required_unless_present_any = ["check", "make_key"])]
    module: Option<String>,
    /// What it is certified as; engines alone can be.
    #[arg(long, default_value = "engine")]
    world: World,
    /// Seeds of the simulator.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=SEEDS_MAX))]
    seeds: u64,
    /// The seed to begin with.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    first: u64,
    /// Seeds of the conformance suite.
    #[arg(long, value_name = "N", default_value_t = 300)]
    suite_seeds: u64,
    /// Sizes of the runs, as `moult sim --plan`.
    #[arg(long, default_value = "short")]
    plan: String,
    /// The certifier's key; --make-key makes one.
    #[arg(long, value_name = "FILE", requires = "out")]
    key: Option<PathBuf>,
    /// Where the report goes; never over another file.
    #[arg(long, value_name = "FILE", requires = "key")]
    out: Option<PathBuf>,
    /// Runs at once [default: one a processor].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Check this report: its signature, and with MODULE, that its seeds come to the same.
    #[arg(long, value_name = "REPORT")]
    check: Option<PathBuf>,
    /// With --check: how many of its stretches of seeds are run again, drawn at random.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "check")]
    sample: usize,
    /// With --check: run all of its seeds again, and the conformance suite.
    #[arg(long, requires = "check", conflicts_with = "sample")]
    all: bool,
    /// Make a certifier's key and show its public half.
    #[arg(long, value_name = "FILE")]
    make_key: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    if let Some(file) = &args.make_key {
        return make_key(file, json);
    }
    if let Some(file) = &args.check {
        return check(args, file, json);
    }
    let (module, key) = args.module.as_ref().zip(args.key.as_ref()).context("MODULE and --key")?;
    let out = args.out.as_ref().context("--out FILE")?;
    let keys = read_key(key)?;
    ensure!(!out.exists(), "{} exists already: a report is never overwritten", out.display());
    args.first.checked_add(args.seeds).context("the seeds end beyond 2^64")?;
    let report = certify(args, &bytes_of(module)?)?;
    let signed = sign_report(&keys, report);
    let bytes = encode(&signed);
    ensure!(bytes.len() <= REPORT_BYTES_MAX, "the report has {} bytes", bytes.len());
    std::fs::write(out, bytes).with_context(|| format!("cannot write {}", out.display()))?;
    if json {
        output::json(&signed)?;
    } else {
        tell(&signed);
        say!("report      {}", out.display());
        for seed in &signed.report.failures {
            say!("repeat it: moult sim --engine {module} --plan {} --seed {seed} --trace", args.plan);
        }
    }
    if signed.report.all_failures() == 0 { Ok(()) } else { Err(Told.into()) }
}

fn make_key(file: &Path, json: bool) -> anyhow::Result<()> {
    let keys = KeyPair::generate().map_err(|e| anyhow::anyhow!("the system has no randomness: {e}"))?;
    write_key(file, &keys)?;
    let certifier = keys.public_key();
    if json {
        return output::json(&serde_json::json!({ "certifier": certifier }));
    }
    say!("certifier {certifier}");
    say!("Secret: {}. The policy require-certified takes `certifier={certifier}`.", file.display());
    Ok(())
}

fn bytes_of(module: &str) -> anyhow::Result<Vec<u8>> {
    let path = Path::new(module);
    match builtin(module).filter(|_| !path.exists()) {
        Some(own) => Ok(own.bytes.to_vec()),
        None => read(path),
    }
}

/// A module with everything that runs of it take.
struct Bench {
    hash: ModuleHash,
    plan: Plan,
    modules: Modules,
    meter: std::sync::Arc<Meter>,
    threads: usize,
    out: Progress,
}

impl Bench {
    fn new(bytes: &[u8], plan: &str, threads: Option<usize>) -> anyhow::Result<Self> {
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, Into::into));
        let threads = threads.max(1);
        let host = host(threads)?;
        let candidate = EngineModule::metered("certified", prepare(&host, bytes, World::Engine)?);
        let (candidate, meter) = candidate.context("it is no engine")?;
        let pbft = EngineModule::component("pbft", own(&host, "pbft", World::Engine)?);
        let mut engines = vec![candidate];
        // One that is known by its hash once.
        engines.extend(pbft.filter(|pbft| pbft.hash != ModuleHash::of(bytes)));
        let modules = with_the_rest(&host, engines)?;
        // On standard error: the report comes to standard output.
        let (plan, out) = (plan_of(plan)?, Progress { json: true });
        Ok(Self { hash: ModuleHash::of(bytes), plan, modules, meter, threads, out })
    }

    /// Runs stretches of seeds on all processors; what came of each seed.
    fn run(&self, due: &[std::ops::Range<u64>]) -> (Runs, Report) {
        let seeds: Vec<u64> = due.iter().cloned().flatten().collect();
        let next = AtomicUsize::new(0);
        let shared = Mutex::new((Runs::new(), Report::default(), Instant::now()));
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = run_seed(*seed, &self.plan, &self.modules, false);
                        let Ok(mut shared) = shared.lock() else { return };
                        let (runs, total, last) = &mut *shared;
                        match result {
                            Ok(report) => {
                                total.add(&report);
                                runs.insert(*seed, (report.trace, false));
                            }
                            Err(violation) => {
                                self.out.line(format_args!("FAILED: {violation}"));
                                runs.insert(*seed, (violation.trace, true));
                            }
                        }
                        if last.elapsed() >= BETWEEN_LINES {
                            *last = Instant::now();
                            self.out.line(format_args!("{} of {} seeds", runs.len(), seeds.len()));
                        }
                    }
                });
            }
        });
        shared
            .into_inner()
            .map_or_else(|_| (Runs::new(), Report::default()), |(runs, total, _)| (runs, total))
    }
}

/// By seed: the hash of everything that happened, and whether a promise was broken.
type Runs = BTreeMap<u64, (u64, bool)>;

fn trace_of(runs: &Runs, stretch: &std::ops::Range<u64>) -> TraceHash {
    let of: Vec<_> =
        runs.range(stretch.clone()).map(|(seed, (trace, failed))| (*seed, *trace, *failed)).collect();
    stretch_hash(&of)
}

fn setting(bench: &Bench) -> TraceHash {
    TraceHash(log::setting(&bench.plan, &bench.modules).0)
}

fn certify(args: &Args, bytes: &[u8]) -> anyhow::Result<CertificationReport> {
    ensure!(args.world == World::Engine, "engines alone can be certified, not the world `{}`", args.world);
    fit(bytes, Some(World::Engine))?;
    let bench = Bench::new(bytes, &args.plan, args.threads)?;
    let suite = suite(bytes, args.first, args.suite_seeds, bench.out)?;
    let due = stretches(args.first, args.seeds);
    let (runs, total) = bench.run(&due);
    ensure!(runs.len() as u64 == args.seeds, "a run ended in a panic");
    let failures: Vec<u64> = runs.iter().filter(|(_, (_, failed))| *failed).map(|(seed, _)| *seed).collect();
    let commits = bench.meter.commits.load(Ordering::Relaxed);
    let (cases, failed_cases, case_failures) = counts(&suite);
    Ok(CertificationReport {
        module: bench.hash,
        world: World::Engine,
        name: suite.engine.chars().take(100).collect(),
        host_version: env!("CARGO_PKG_VERSION").into(),
        plan: args.plan.clone(),
        setting: setting(&bench),
        faults: total.faults.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        invariants: INVARIANTS.iter().map(|name| (*name).to_owned()).collect(),
        first_seed: args.first,
        seeds: args.seeds,
        failed_seeds: failures.len() as u64,
        failures: failures.into_iter().take(FAILURES_LISTED_MAX).collect(),
        suite_seeds: args.suite_seeds,
        cases,
        failed_cases,
        case_failures,
        worst_stall_ms: total.worst_stall_ms,
        commits,
        fuel_per_commit: bench.meter.fuel.load(Ordering::Relaxed) / commits.max(1),
        traces: due.iter().map(|stretch| trace_of(&runs, stretch)).collect(),
    })
}

/// The conformance suite, as `moult module conform` runs it.
fn suite(bytes: &[u8], first: u64, seeds: u64, out: Progress) -> anyhow::Result<SuiteReport> {
    let host = crate::pins::host_for(crate::conform::INSTANCES)?;
    let prepared = prepare(&host, bytes, World::Engine)?;
    let seeds = Some(Seeds::new(first, seeds)).filter(|seeds| seeds.count > 0);
    let plan = SuitePlan { seeds, ..SuitePlan::default() };
    let mut told = Teller::new(out);
    Ok(conform(&PortFactory(|| prepared.engine()), &plan, &mut |ended| told.tell(&ended)))
}

/// Cases, failures, and the first of these by name.
fn counts(suite: &SuiteReport) -> (u64, u64, Vec<String>) {
    let items = || suite.probes.iter().chain(&suite.scenarios);
    let seeds = suite.seeds.as_ref();
    let cases = items().map(|item| item.cases).sum::<u64>() + seeds.map_or(0, |seeds| seeds.count);
    let failed = items().map(|item| item.failures.len()).sum::<usize>()
        + seeds.map_or(0, |seeds| seeds.failures.len());
    let names = suite.failed().into_iter().take(FAILURES_LISTED_MAX);
    (cases, failed as u64, names.map(|name| name.chars().take(48).collect()).collect())
}

/// A report as a file has it.
pub(crate) fn read_report(file: &Path) -> anyhow::Result<SignedReport> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(bytes.len() <= REPORT_BYTES_MAX, "{} is too large for a report", file.display());
    decode(&bytes).map_err(|e| negative(format!("{} is no report of a certifier: {e}", file.display())))
}

fn check(args: &Args, file: &Path, json: bool) -> anyhow::Result<()> {
    let signed = read_report(file)?;
    check_report(&signed).map_err(|problem| negative(format!("{}: {problem}", file.display())))?;
    let again = match &args.module {
        Some(module) => Some(run_again(args, &signed.report, &bytes_of(module)?)?),
        None => None,
    };
    let differences = again.as_ref().map_or(0, |again| again.differences.len());
    if json {
        output::json(&serde_json::json!({
            "report": signed,
            "signature_holds": true,
            "seeds_run_again": again.as_ref().map_or(0, |again| again.seeds),
            "differences": again.as_ref().map_or(&[][..], |again| &again.differences),
        }))?;
    } else {
        tell(&signed);
        say!("signature   holds");
        match &again {
            Some(again) => say!("run again   {} seeds, {differences} differences", grouped(again.seeds)),
            None => say!("run again   nothing: name the module"),
        }
        for difference in again.iter().flat_map(|again| &again.differences) {
            say!("DIFFERENT: {difference}");
        }
    }
    if differences == 0 { Ok(()) } else { Err(Told.into()) }
}

/// What came of running seeds again.
struct Again {
    seeds: u64,
    differences: Vec<String>,
}

fn run_again(args: &Args, report: &CertificationReport, bytes: &[u8]) -> anyhow::Result<Again> {
    let found = ModuleHash::of(bytes);
    if found != report.module {
        return Err(negative(format!("the report is on module {}, this one is {found}", report.module)));
    }
    let here = env!("CARGO_PKG_VERSION");
    ensure!(
        report.host_version == here,
        "the report was made by version {}, which alone can repeat it; this is {here}",
        report.host_version
    );
    let end = report.first_seed.checked_add(report.seeds).filter(|_| report.seeds <= SEEDS_MAX);
    let due = end.map(|_| stretches(report.first_seed, report.seeds)).unwrap_or_default();
    if due.is_empty() || due.len() != report.traces.len() {
        return Err(negative("its hashes are not those of its seeds"));
    }
    let bench = Bench::new(bytes, &report.plan, args.threads)?;
    if setting(&bench) != report.setting {
        return Err(negative(
            "it was made in another setting: the plan or the modules beside it are not those of this program",
        ));
    }
    let chosen = if args.all { (0..due.len()).collect() } else { drawn(due.len(), args.sample)? };
    let stretches: Vec<_> = chosen.iter().map(|place| due[*place].clone()).collect();
    let (runs, _) = bench.run(&stretches);
    let mut again = Again { seeds: runs.len() as u64, differences: Vec::new() };
    for (place, stretch) in chosen.into_iter().zip(&stretches) {
        if trace_of(&runs, stretch) != report.traces[place] {
            let last = stretch.end - 1;
            again.differences.push(format!("seeds {} to {last} come to something else", stretch.start));
        }
    }
    if args.all {
        let suite = suite(bytes, report.first_seed, report.suite_seeds, bench.out)?;
        if counts(&suite) != (report.cases, report.failed_cases, report.case_failures.clone()) {
            again.differences.push("the conformance suite comes to something else".to_owned());
        }
        let failed = runs.values().filter(|(_, failed)| *failed).count() as u64;
        if failed != report.failed_seeds {
            let told = report.failed_seeds;
            again.differences.push(format!("{failed} seeds fail, the report tells of {told}"));
        }
    }
    Ok(again)
}

/// Places of stretches, drawn anew each time: who made the report cannot know which.
fn drawn(of: usize, count: usize) -> anyhow::Result<Vec<usize>> {
    let mut places: Vec<usize> = (0..of).collect();
    let mut chosen = Vec::new();
    while chosen.len() < count && !places.is_empty() {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("the system has no randomness: {e}"))?;
        let place = u64::from_le_bytes(bytes) % places.len() as u64;
        chosen.push(places.swap_remove(place as usize));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

fn tell(signed: &SignedReport) {
    let report = &signed.report;
    let last = report.first_seed.saturating_add(report.seeds.saturating_sub(1));
    let mut failed = String::new();
    if report.failed_seeds > 0 {
        // Writing into a String cannot fail.
        let _ = write!(failed, ": {:?}", report.failures);
    }
    say!("module      {} ({}, {})", report.module, report.world, report.name);
    say!("certifier   {}", signed.certifier);
    say!("host        {}, plan `{}`, setting {}", report.host_version, report.plan, report.setting);
    say!("seeds       {} to {last}, {} failed{failed}", report.first_seed, report.failed_seeds);
    say!(
        "conformance {} cases, {} failed{}{}",
        grouped(report.cases),
        report.failed_cases,
        if report.case_failures.is_empty() { "" } else { ": " },
        report.case_failures.join(", ")
    );
    let faults: u64 = report.faults.iter().map(|(_, count)| count).sum();
    say!("faults      {} of {} kinds", grouped(faults), report.faults.len());
    say!("invariants  {}", report.invariants.len());
    say!("worst stall {} ms", grouped(report.worst_stall_ms));
    say!("fuel        {} a commit, {} commits", grouped(report.fuel_per_commit), grouped(report.commits));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_drawn_without_repetition() {
        for (of, count) in [(1, 1), (32, 5), (4, 9)] {
            let places = drawn(of, count).expect("randomness");
            assert_eq!(places.len(), count.min(of));
            assert!(places.windows(2).all(|pair| pair[0] < pair[1]) && places.iter().all(|at| *at < of));
        }
    }

    #[test]
    fn the_trace_of_a_stretch_is_that_of_its_seeds_alone() {
        let mut runs: Runs = (0..10).map(|seed| (seed, (seed * 7, false))).collect();
        let before = (trace_of(&runs, &(2..5)), trace_of(&runs, &(5..8)));
        runs.insert(4, (28, true));
        assert_ne!(trace_of(&runs, &(2..5)), before.0);
        assert_eq!(trace_of(&runs, &(5..8)), before.1);
    }
}
