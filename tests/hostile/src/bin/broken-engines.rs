//! `broken-engines --seeds 500`: every kind of broken engine, seed after seed, in simulated
//! clusters that are moved to it and have to give it up. Ends with 1 if a promise was broken, or
//! if a kind was never swapped in or never given up, and says how to repeat it.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use moult_broken::Kind;
use moult_hostile::{Bench, EngineTally};

const HELP: &str = "broken-engines [--kind KIND] [--first-seed SEED] [--seeds N] [--components] [--trace]
  --kind        only this one [all, one after the other]
  --seeds       of each kind [30]
  --components  as a node would run them [native code]
  --trace       shows everything that happens; with --kind, of the first seed alone";

struct Options {
    kinds: Vec<Kind>,
    first: u64,
    seeds: u64,
    components: bool,
    trace: bool,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(what) => {
            eprintln!("{what}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    // Engines that trap do it here as native code; a run turns every other panic into a failure.
    std::panic::set_hook(Box::new(|_| {}));
    match all(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { kinds: Kind::ALL.to_vec(), first: 0, seeds: 30, components: false, trace: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} takes a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number"));
        match name.as_str() {
            "--kind" => {
                let text = value()?;
                options.kinds = vec![Kind::of(&text).ok_or_else(|| format!("there is no kind `{text}`"))?];
            }
            "--first-seed" => options.first = number(value()?)?,
            "--seeds" => options.seeds = number(value()?)?,
            "--components" => options.components = true,
            "--trace" => options.trace = true,
            other => return Err(format!("what is `{other}`?")),
        }
    }
    let end = options.first.checked_add(options.seeds);
    end.map(|_| options).ok_or_else(|| "the seeds end beyond 2^64".to_owned())
}

fn all(options: &Options) -> Result<bool, String> {
    let threads = std::thread::available_parallelism().map_or(2, Into::into);
    let bench = if options.components {
        Bench::components(u32::try_from(threads).unwrap_or(u32::MAX))?
    } else {
        Bench::native()
    };
    if let (true, [kind]) = (options.trace, &options.kinds[..]) {
        let result = bench.run(*kind, options.first, true);
        match &result {
            Ok(report) => println!("{report}"),
            Err(violation) => println!("{violation}"),
        }
        return Ok(result.is_ok());
    }
    let mut holds = true;
    for kind in &options.kinds {
        let done = AtomicU64::new(0);
        let seeds = options.first..options.first + options.seeds;
        let tally = bench.campaign(*kind, seeds, threads, |_, violation| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(violation) = violation {
                eprintln!("{}: {violation}", kind.name());
            } else if done.is_multiple_of(50) {
                eprintln!("{}: {done} of {} seeds", kind.name(), options.seeds);
            }
        });
        holds &= tell(options, *kind, &tally);
    }
    Ok(holds)
}

fn tell(options: &Options, kind: Kind, tally: &EngineTally) -> bool {
    let (report, failed) = (&tally.report, tally.failed.len());
    let (swapped_in, given_up) = report.broken;
    println!(
        "{:14} {} seeds, {failed} failed; swapped in {swapped_in} times, given up {given_up} times; \
         {} blocks, {} acknowledged",
        kind.name(),
        tally.seeds,
        report.blocks,
        report.acknowledged
    );
    let how = if options.components { " --components" } else { "" };
    for (seed, violation) in &tally.failed {
        println!("FAILED: seed {seed} breaks `{}`", violation.property);
        println!("  repeat it: broken-engines --kind {}{how} --first-seed {seed} --trace", kind.name());
    }
    let was_there = swapped_in > 0 && given_up > 0;
    if !was_there {
        println!("FAILED: {} was never swapped in, or never given up", kind.name());
    }
    failed == 0 && was_there
}
