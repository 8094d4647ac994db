//! `fuzz-modules --seconds 600 --first-seed 0`: damaged and generated modules, seed after seed.
//! Ends with 1 at the first finding and says how to repeat it.
#![allow(clippy::disallowed_methods, reason = "runs for as long as it is told to")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use moult_hostile::{Finding, Kind, Tally, fuzz_limits, run_seed};
use moult_module::{Compile, CompileWorker, HostConfig, ModuleHost};

const HELP: &str = "fuzz-modules [--kind mutant|generated] [--first-seed SEED] [--seconds S | --count N]
  --kind    only these [both in turn]
The module of a finding is written to the current folder.";
const REPORT: Duration = Duration::from_secs(30);

struct Options {
    kinds: Vec<Kind>,
    first: u64,
    count: u64,
    limit: Option<Duration>,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("compile-worker") {
        return moult_module::worker_main();
    }
    match options() {
        Ok(options) => fuzz(&options),
        Err(what) => {
            eprintln!("{what}\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn options() -> Result<Options, String> {
    let kinds = vec![Kind::Mutant, Kind::Generated];
    let mut options = Options { kinds, first: 0, count: u64::MAX, limit: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} takes a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number"));
        match name.as_str() {
            "--first-seed" => options.first = number(value()?)?,
            "--count" => options.count = number(value()?)?,
            "--seconds" => options.limit = Some(Duration::from_secs(number(value()?)?)),
            "--kind" => {
                let text = value()?;
                options.kinds.retain(|kind| kind.name() == text);
                if options.kinds.is_empty() {
                    return Err(format!("there is no kind `{text}`"));
                }
            }
            other => return Err(format!("what is `{other}`?")),
        }
    }
    if options.count == u64::MAX && options.limit.is_none() {
        options.limit = Some(Duration::from_secs(60));
    }
    Ok(options)
}

fn fuzz(options: &Options) -> ExitCode {
    let worker = CompileWorker { program: "/proc/self/exe".into(), args: vec!["compile-worker".into()] };
    let compile = Compile::Worker(worker);
    let config = HostConfig { cache_dir: None, cache_key: [0; 32], compile, limits: fuzz_limits() };
    let host = match ModuleHost::new(config) {
        Ok(host) => host,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let (started, mut told) = (Instant::now(), Instant::now());
    let mut total = Tally::default();
    let mut seeds = 0;
    while seeds < options.count && options.limit.is_none_or(|limit| started.elapsed() < limit) {
        let seed = options.first + seeds;
        for kind in &options.kinds {
            match run_seed(&host, *kind, seed) {
                Ok(tally) => total.add(&tally),
                Err(finding) => return tell(&finding, &total),
            }
        }
        seeds += 1;
        if told.elapsed() >= REPORT {
            told = Instant::now();
            eprintln!("{seeds} seeds in {} s", started.elapsed().as_secs());
        }
    }
    println!("{total}{seeds} seeds from {} in {} s, no finding", options.first, started.elapsed().as_secs());
    ExitCode::SUCCESS
}

fn tell(finding: &Finding, total: &Tally) -> ExitCode {
    println!("{total}FOUND: {finding}");
    let name = format!("{}-{}.wasm", finding.kind.name(), finding.seed);
    match std::fs::write(&name, &finding.bytes) {
        Ok(()) => println!("its module is in {name}"),
        Err(error) => eprintln!("{name}: {error}"),
    }
    ExitCode::FAILURE
}
