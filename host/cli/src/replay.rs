//! `moult replay`: runs a record of an engine again, and another engine in its shadow.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use moult_module::{CallLimits, Limits, ModuleHost, Prepared, WorldLimits};
use moult_replay::{
    Beside, EngineLimits, RecordReader, Replayed, ShadowEnd, ShadowReport, Start, UsageReport, replay,
};
use moult_types::{ModuleHash, World};
use serde_json::json;

use crate::builtin::{builtin, name_of};
use crate::failure::Told;
use crate::output::{self, Progress, duration_us, grouped, say};
use crate::pins::{choose, host_with, label};

/// At most this often a line about how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of a record, or a file in it.
    record: PathBuf,
    /// A folder in which the pinned module is looked for; may be given several times.
    #[arg(long, value_name = "DIR")]
    modules: Vec<PathBuf>,
    /// The data folder of a node, which holds the modules that it ran.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Feed this engine the same, and compare: NAME, FILE or HASH.
    #[arg(long, value_name = "MODULE")]
    engine: Option<String>,
    /// That engine's configuration, from a file. Left out: the recorded one.
    #[arg(long, value_name = "FILE", requires = "engine")]
    config: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let mut reader = RecordReader::open(&args.record)?;
    let start = reader.start().clone();
    let out = Progress { json };
    out.line(format_args!(
        "record of {} ({}), epoch {}, begun {}",
        start.name,
        label(start.engine.hash),
        start.epoch,
        output::utc(start.started_ms)
    ));
    let host = host_with(limits_of(&start.limits))?;
    let pinned = prepare(&host, &find(args, start.engine.hash)?, start.engine.hash)?;
    let candidate = args.engine.as_deref().map(|text| candidate(args, &host, text)).transpose()?;
    let mut teller = Teller { out, last: Instant::now() };
    let mut tell = |calls, read, of| teller.tell(calls, read, of);
    let (mut engine, stats) = pinned.engine_apart()?;
    let Some((candidate, config)) = candidate else {
        let done = replay(&mut reader, engine.as_mut(), None, &mut tell)?;
        return answer(&start, &done, None, json);
    };
    let make = Box::new(|| {
        let (engine, stats) = candidate.engine_apart().map_err(|e| e.to_string())?;
        Ok((engine, Some(stats)))
    });
    let mut beside = Beside { make, config, pinned: Some(stats), shadow: None };
    let done = replay(&mut reader, engine.as_mut(), Some(&mut beside), &mut tell)?;
    let report = match beside.shadow {
        Some(shadow) => shadow.map_err(anyhow::Error::msg)?.report(),
        None => bail!("the record ends before its engine was started"),
    };
    answer(&start, &done, Some((candidate.hash(), &report)), json)
}

/// The limits that the engine ran under; a local machine may compile longer.
fn limits_of(recorded: &EngineLimits) -> Limits {
    let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    let limits = Limits::default();
    let call = CallLimits { fuel: recorded.fuel, watchdog_ms: recorded.watchdog_ms, ..limits.engine.call };
    let engine = WorldLimits {
        memory_bytes: size(recorded.memory_bytes),
        table_elements: size(recorded.table_elements),
        output_bytes: size(recorded.output_bytes),
        call,
    };
    Limits { instances: 16, engine, ..limits }
}

/// The bytes of the pinned module: built in, in a folder, or in a node's store.
fn find(args: &Args, hash: ModuleHash) -> anyhow::Result<Cow<'static, [u8]>> {
    if let Some(module) = name_of(hash).and_then(builtin) {
        return Ok(Cow::Borrowed(module.bytes));
    }
    let store = args.data_dir.iter().map(|dir| dir.join("store/modules"));
    for folder in args.modules.iter().cloned().chain(store) {
        if let Some(bytes) = find_in(&folder, hash)? {
            return Ok(Cow::Owned(bytes));
        }
    }
    bail!(
        "the record is of module {hash}, which is not built in and was not found: name a folder that holds it \
         with --modules DIR, or the node's data folder with --data-dir DIR"
    )
}

fn find_in(folder: &Path, hash: ModuleHash) -> anyhow::Result<Option<Vec<u8>>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if ModuleHash::of(&bytes) == hash {
                return Ok(Some(bytes));
            }
        }
    }
    Ok(None)
}

fn prepare(host: &ModuleHost, bytes: &[u8], hash: ModuleHash) -> anyhow::Result<Prepared> {
    Ok(host.prepare(bytes.into(), hash, World::Engine)?)
}

fn candidate(args: &Args, host: &ModuleHost, text: &str) -> anyhow::Result<(Prepared, Option<Vec<u8>>)> {
    let chosen = choose(World::Engine, text).context("--engine")?;
    let bytes = match chosen.bytes {
        Some(bytes) => bytes,
        None => find(args, chosen.hash).context("--engine")?,
    };
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("--config: {}", path.display()));
    Ok((prepare(host, &bytes, chosen.hash)?, args.config.as_ref().map(read).transpose()?))
}

struct Teller {
    out: Progress,
    last: Instant,
}

impl Teller {
    fn tell(&mut self, calls: u64, read: u64, of: u64) {
        if self.last.elapsed() >= BETWEEN_LINES {
            self.last = Instant::now();
            self.out.line(format_args!("{} calls, {} %", grouped(calls), read * 100 / of.max(1)));
        }
    }
}

/// Prints what came out; an answer that differs, or a candidate that failed, is a negative one.
fn answer(
    start: &Start,
    done: &Replayed,
    shadow: Option<(ModuleHash, &ShadowReport)>,
    json: bool,
) -> anyhow::Result<()> {
    if json {
        output::json(&json!({
            "engine": start.engine.hash.to_string(),
            "name": start.name,
            "epoch": start.epoch.0,
            "identity": start.identity.to_string(),
            "started_ms": start.started_ms,
            "program": start.program,
            "replay": done,
            "candidate": shadow.map(|(hash, _)| hash.to_string()),
            "shadow": shadow.map(|(_, report)| report),
        }))?;
    } else {
        tell_replay(start, done);
        if let Some((hash, report)) = shadow {
            tell_shadow(hash, report);
        }
    }
    let failed = shadow.is_some_and(|(_, report)| report.end.is_some() || report.commits.other > 0);
    if done.difference.is_some() || failed { Err(Told.into()) } else { Ok(()) }
}

fn tell_replay(start: &Start, done: &Replayed) {
    say!(
        "{} calls with {} events were run again, {} commits; the record is {}",
        grouped(done.calls),
        grouped(done.events),
        grouped(done.commits),
        done.ending
    );
    if done.not_comparable > 0 {
        say!("the watchdog ended the engine on the node: that call is not compared");
    }
    let Some(difference) = &done.difference else {
        say!("every answer is the one that was recorded");
        return;
    };
    let call = if difference.call == 0 { "`init`".to_owned() } else { format!("step {}", difference.call) };
    say!("DIFFERENT at {call} (the engine's time {} ms): {}", difference.now_ms, difference.at);
    say!("  recorded: {}", difference.recorded);
    say!("  now:      {}", difference.replayed);
    if start.program != env!("CARGO_PKG_VERSION") {
        say!("  (recorded by version {}, this is {})", start.program, env!("CARGO_PKG_VERSION"));
    }
}

fn tell_shadow(hash: ModuleHash, report: &ShadowReport) {
    say!();
    say!("{} in its shadow:", label(hash));
    match &report.end {
        None => {}
        Some(ShadowEnd::Refused(reason)) => say!("  REFUSED to start: {reason}"),
        Some(ShadowEnd::Failed(reason)) => {
            say!("  FAILED after {} calls: {reason}", grouped(report.candidate.calls))
        }
    }
    if report.without_records {
        say!("  it could not read the recorded engine's records and was started without any");
    }
    let commits = &report.commits;
    say!(
        "  commits: {} of {} alike, {} with other batches, {} missed; behind by {} ms (p50), {} ms (p99)",
        grouped(commits.equal),
        grouped(commits.live),
        grouped(commits.other),
        grouped(commits.missed),
        commits.behind_p50_ms,
        commits.behind_p99_ms
    );
    if let Some(first) = &commits.first_other {
        say!("  first with other batches: {}", first.index);
        say!("    recorded: {}", first.live.join(" "));
        say!("    now:      {}", first.candidate.join(" "));
    }
    let row = |name: &str, usage: &UsageReport, asked: &moult_replay::Sent| {
        vec![
            name.to_owned(),
            grouped(usage.calls),
            duration_us(usage.busy_us),
            duration_us(usage.call_p50_us),
            duration_us(usage.call_p99_us),
            duration_us(usage.call_max_us),
            grouped(usage.fuel),
            grouped(usage.fuel_max),
            format!("{} KiB", usage.memory_bytes >> 10),
            grouped(asked.messages + asked.signatures),
            format!("{} KiB", asked.message_bytes >> 10),
            format!("{} KiB", asked.record_bytes >> 10),
        ]
    };
    let head = [
        "", "calls", "time", "p50", "p99", "max", "fuel", "max fuel", "memory", "messages", "sent", "records",
    ];
    output::table(&[
        head.map(str::to_owned).to_vec(),
        row("  recorded", &report.live, &report.live_asked),
        row("  candidate", &report.candidate, &report.candidate_asked),
    ]);
    say!(
        "its messages reached nobody: that it commits less than the recorded engine says nothing against it"
    );
}
