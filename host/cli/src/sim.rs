//! `moult sim`: whole clusters in one process, driven by seeds.
//!
//! The simulator is the library `moult-sim`; here it is given modules as a node would load
//! them, many seeds on all processors, a log to go on from, and a summary.

pub(crate) mod log;
mod summary;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use moult_module::{ModuleHost, Prepared};
use moult_sim::{EngineModule, Minimal, Modules, Plan, Violation, WHOLE_GROUPS, minimise, run};
use moult_types::{ModuleHash, World};

use self::log::{Line, Log};
use self::summary::Summary;
use crate::builtin::builtin;
use crate::failure::{Told, negative};
use crate::module::read;
use crate::output::{self, Progress, grouped, say};
use crate::pins::host_for;

/// Instances for one thread: engines take half of them, and a run has at most 21 at once.
const INSTANCES_A_THREAD: u32 = 64;
/// One seed of so many is run twice: the two must not differ in anything.
const TWICE_EVERY: u64 = 20;
/// Fewer seeds need not have used every kind of fault.
const ENOUGH_SEEDS: u64 = 300;
/// At most this often a line about how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many seeds.
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "seed")]
    seeds: u64,
    /// The seed to begin with.
    #[arg(long, value_name = "SEED", default_value_t = 0, conflicts_with = "seed")]
    first: u64,
    /// Only this seed.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// The engine that chains begin with: `pbft`, `raft`, or a component's file.
    #[arg(long, value_name = "ENGINE", default_value = "pbft")]
    engine: String,
    /// Run modules as native code: several times faster, and not what votes.
    #[arg(long)]
    native: bool,
    /// Sizes of the runs: `short`, `long` (larger committees), `aborts` (engines that fail and are
    /// given up by a quorum, always), `switch` (epoch changes without faults), `quiet` (nothing
    /// happens).
    #[arg(long, default_value = "short")]
    plan: String,
    /// Leave out a kind of fault or change, or `byzantine`, `bad-links`, `changes`, `faults`.
    #[arg(long, value_name = "KIND")]
    without: Vec<String>,
    /// Of the faults that come one by one, only the first so many.
    #[arg(long, value_name = "N")]
    faults_max: Option<u64>,
    /// Virtual time within which everything must have come to rest after the faults [default:
    /// the plan's].
    #[arg(long, value_name = "MS")]
    calm_ms: Option<u64>,
    /// Show everything that happens, on standard error; with `--seed`.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Append a line of JSON a seed to this file, and go on where it ends.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    log: Option<PathBuf>,
    /// Do not stop at the first seed that fails.
    #[arg(long)]
    keep_going: bool,
    /// Runs at once [default: one a processor].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

pub(crate) fn run_command(args: &Args, json: bool) -> anyhow::Result<()> {
    let plan = plan(args)?;
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, Into::into));
    let modules = modules(args, threads.max(1))?;
    if args.trace {
        return trace(args, &plan, &modules, json);
    }
    let (first, seeds) = args.seed.map_or((args.first, args.seeds), |seed| (seed, 1));
    let config = log::config_digest(&plan, &modules);
    let (log, known) = match &args.log {
        Some(file) => {
            let (log, known) = Log::open(file, &config)?;
            (Some(log), known)
        }
        None => (None, Vec::new()),
    };
    let due = first..first.checked_add(seeds).context("the seeds end beyond 2^64")?;
    let mut summary = Summary::default();
    for line in known.iter().filter(|line| due.contains(&line.seed)) {
        summary.add(line);
    }
    let done: std::collections::BTreeSet<u64> = known.iter().map(|line| line.seed).collect();
    let campaign = Campaign {
        args,
        plan: &plan,
        modules: &modules,
        config,
        out: Progress { json },
        next: AtomicU64::new(due.start),
        stopped: AtomicU64::new(0),
        started: Instant::now(),
        shared: Mutex::new(Shared { summary, log, ran: 0, last_line: Instant::now(), problem: None }),
    };
    let of = seeds;
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| campaign.work(&due, &done, of));
        }
    });
    campaign.finish(seeds, json)
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let mut plan = plan_of(&args.plan)?;
    let known = |name: &String| {
        let kinds = moult_sim::FAULT_KINDS.iter().chain(&moult_sim::CHANGE_KINDS).chain(&WHOLE_GROUPS);
        kinds.copied().any(|kind| kind == name)
    };
    if let Some(unknown) = args.without.iter().find(|name| !known(name)) {
        let kinds = WHOLE_GROUPS.iter().chain(&moult_sim::FAULT_KINDS).chain(&moult_sim::CHANGE_KINDS);
        let kinds = kinds.copied().collect::<Vec<_>>().join(", ");
        anyhow::bail!("there is no `{unknown}` to leave out; kinds: {kinds}");
    }
    for name in &args.without {
        plan.leave_out(name);
    }
    plan.faults_max = args.faults_max;
    plan.calm_ms = args.calm_ms.unwrap_or(plan.calm_ms);
    Ok(plan)
}

/// The plan of a name.
pub(crate) fn plan_of(name: &str) -> anyhow::Result<Plan> {
    Ok(match name {
        "short" => Plan::short(),
        "long" => Plan::long(),
        "aborts" => Plan::aborts(),
        "switch" => Plan::switch(),
        "quiet" => Plan::quiet(),
        other => anyhow::bail!("there is no plan `{other}`: short, long, aborts, switch or quiet"),
    })
}

/// The engines that a chain begins with and is moved to.
fn modules(args: &Args, threads: usize) -> anyhow::Result<Modules> {
    let others: &[&str] = match args.engine.as_str() {
        "pbft" => &["pbft", "pbft-reverse"],
        "raft" => &["raft", "pbft"],
        _ => &["pbft"],
    };
    if args.native {
        return match args.engine.as_str() {
            "pbft" => Ok(Modules::pbft()),
            "raft" => Ok(Modules::raft()),
            other => anyhow::bail!("`{other}` is not built in: without --native it is read as a file"),
        };
    }
    let host = host(threads)?;
    let prepare = |bytes: &[u8], world| prepare(&host, bytes, world);
    let own = |name: &str, world| own(&host, name, world);
    let mut engines = Vec::new();
    if others.len() == 1 {
        let file = PathBuf::from(&args.engine);
        let name = file.file_stem().map_or_else(|| args.engine.clone(), |stem| stem.to_string_lossy().into());
        engines.extend(EngineModule::component(&name, prepare(&read(&file)?, World::Engine)?));
    }
    for name in others {
        engines.extend(EngineModule::component(name, own(name, World::Engine)?));
    }
    with_the_rest(&host, engines)
}

/// A module host for runs on so many threads.
pub(crate) fn host(threads: usize) -> anyhow::Result<ModuleHost> {
    host_for(INSTANCES_A_THREAD * u32::try_from(threads)?)
}

/// Loads a module as a node would.
pub(crate) fn prepare(host: &ModuleHost, bytes: &[u8], world: World) -> anyhow::Result<Prepared> {
    host.prepare(bytes.into(), ModuleHash::of(bytes), world).map_err(|error| negative(error.to_string()))
}

/// One that came with this program.
pub(crate) fn own(host: &ModuleHost, name: &str, world: World) -> anyhow::Result<Prepared> {
    let module = builtin(name).with_context(|| format!("the module {name} is not built in"))?;
    prepare(host, module.bytes, world)
}

/// Engines, with the applications and the policy that came with this program.
pub(crate) fn with_the_rest(host: &ModuleHost, engines: Vec<EngineModule>) -> anyhow::Result<Modules> {
    let kv = [own(host, "kv", World::Application)?, own(host, "kv2", World::Application)?];
    Modules::components(engines, kv, own(host, "approve-valid", World::Approval)?)
        .context("a module of another world")
}

/// One seed, with everything that happens.
fn trace(args: &Args, plan: &Plan, modules: &Modules, json: bool) -> anyhow::Result<()> {
    let seed = args.seed.context("--trace takes --seed")?;
    for (name, hash) in modules.list() {
        eprintln!("{name}  {hash}");
    }
    match run(seed, plan, modules, true) {
        Ok(report) => {
            if json {
                return output::json(&Line::of_report(&report, "", 0, modules));
            }
            say!("{report}");
            Ok(())
        }
        Err(violation) => Err(negative(violation.to_string())),
    }
}

struct Campaign<'a> {
    args: &'a Args,
    plan: &'a Plan,
    modules: &'a Modules,
    config: String,
    out: Progress,
    next: AtomicU64,
    stopped: AtomicU64,
    started: Instant,
    shared: Mutex<Shared>,
}

struct Shared {
    summary: Summary,
    log: Option<Log>,
    ran: u64,
    last_line: Instant,
    /// The log cannot be written: the run ends.
    problem: Option<anyhow::Error>,
}

impl Campaign<'_> {
    fn work(&self, due: &std::ops::Range<u64>, done: &std::collections::BTreeSet<u64>, of: u64) {
        while self.stopped.load(Ordering::Relaxed) == 0 {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= due.end {
                return;
            }
            if done.contains(&seed) {
                continue;
            }
            let started = Instant::now();
            let result = self.run(seed);
            let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let line = match &result {
                Ok(report) => Line::of_report(report, &self.config, ms, self.modules),
                Err(violation) => Line::of_violation(violation, &self.config, ms, self.modules),
            };
            let minimal = result.as_ref().err().map(|violation| minimise(self.plan, self.modules, violation));
            self.note(&line, result.err().zip(minimal), of);
        }
    }

    /// One seed, and now and then once more.
    fn run(&self, seed: u64) -> Result<moult_sim::Report, Violation> {
        let report = run(seed, self.plan, self.modules, false)?;
        if seed.is_multiple_of(TWICE_EVERY) {
            let again = run(seed, self.plan, self.modules, false)?;
            if again != report {
                return Err(Violation {
                    property: "one run a seed",
                    detail: format!("trace {:016x}, then {:016x}", report.trace, again.trace),
                    at_us: 0,
                    seed,
                    trace: again.trace,
                    modules: self.modules.list(),
                });
            }
        }
        Ok(report)
    }

    fn note(&self, line: &Line, failure: Option<(Violation, Minimal)>, of: u64) {
        let Ok(mut shared) = self.shared.lock() else { return };
        shared.ran += 1;
        shared.summary.add(line);
        if let Some(Err(problem)) = shared.log.as_mut().map(|log| log.append(line)) {
            shared.problem = Some(problem);
            self.stopped.store(1, Ordering::Relaxed);
        }
        if let Some((violation, minimal)) = failure {
            if !self.args.keep_going {
                self.stopped.store(1, Ordering::Relaxed);
            }
            self.tell_failure(&violation, &minimal);
        }
        if shared.last_line.elapsed() >= BETWEEN_LINES {
            shared.last_line = Instant::now();
            self.tell_progress(&shared, of);
        }
    }

    fn tell_progress(&self, shared: &Shared, of: u64) {
        let (done, failed) = (shared.summary.seeds, shared.summary.failed.len());
        let a_second = shared.ran as f64 / self.started.elapsed().as_secs_f64();
        let left_s = of.saturating_sub(done) as f64 / a_second.max(1e-9);
        self.out.line(format_args!(
            "{} of {} seeds, {failed} failed, {a_second:.1} a second, {:.0} min left",
            grouped(done),
            grouped(of),
            left_s / 60.0
        ));
    }

    fn tell_failure(&self, violation: &Violation, minimal: &Minimal) {
        self.out.line(violation);
        for (name, hash) in &violation.modules {
            self.out.line(format_args!("  {name}  {hash}"));
        }
        let Minimal { plan, without, runs, violation: smaller } = minimal;
        self.out.line(format_args!(
            "  without {} (found in {runs} runs) it still fails, at {} ms: {}",
            if without.is_empty() { "nothing".to_owned() } else { without.join(", ") },
            smaller.at_us / 1000,
            smaller.detail
        ));
        let mut command = format!("moult sim --engine {} --plan {}", self.args.engine, self.args.plan);
        if self.args.native {
            command.push_str(" --native");
        }
        for name in self.args.without.iter().map(String::as_str).chain(without.iter().copied()) {
            command.push_str(" --without ");
            command.push_str(name);
        }
        if let Some(ms) = self.args.calm_ms {
            command.push_str(&format!(" --calm-ms {ms}"));
        }
        if let Some(max) = plan.faults_max {
            command.push_str(&format!(" --faults-max {max}"));
        }
        self.out.line(format_args!("  repeat it: {command} --seed {} --trace", violation.seed));
    }

    fn finish(self, seeds: u64, json: bool) -> anyhow::Result<()> {
        let shared = self.shared.into_inner().map_err(|_| anyhow::anyhow!("a run ended in a panic"))?;
        if let Some(problem) = shared.problem {
            return Err(problem);
        }
        let summary = shared.summary;
        let unused =
            if summary.seeds >= ENOUGH_SEEDS { summary.unused(self.plan, self.modules) } else { Vec::new() };
        let seconds = self.started.elapsed().as_secs_f64();
        if json {
            output::json(&summary.to_json(&self.config, &unused, seconds))?;
        } else {
            summary.say(&unused, seconds);
        }
        let complete = summary.seeds >= seeds;
        if summary.failed.is_empty() && unused.is_empty() && complete { Ok(()) } else { Err(Told.into()) }
    }
}
