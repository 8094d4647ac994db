//! `moult module conform`: whether a component is an engine that a chain may run.
//!
//! The suite is the library `moult-conformance`; here it is given the instances that a node
//! would make of the file, under a node's limits.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use moult_conformance::{Plan, PortFactory, Progress as Ended, Report, Seeds, conform};
use moult_types::World;

use crate::failure::{Told, negative};
use crate::module::{fit, read};
use crate::output::{self, Progress, say};
use crate::pins::host_for;

/// Instances at once: the suite's largest committee, with a liar's twins and a second
/// instance of each for comparison, takes less than half of it.
pub(crate) const INSTANCES: u32 = 128;
/// At most this often a line about how far it is.
const BETWEEN_LINES: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    file: PathBuf,
    /// How many runs of drawn faults.
    #[arg(long, value_name = "N", default_value_t = 300)]
    seeds: u64,
    /// The seed to begin with.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    first_seed: u64,
    /// Only this probe or scenario; may be given several times.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["seeds", "first_seed"])]
    only: Vec<String>,
    /// Only the runs of drawn faults.
    #[arg(long, conflicts_with = "only")]
    only_seeds: bool,
}

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let plan = plan(args)?;
    let bytes = read(&args.file)?;
    let report = fit(&bytes, Some(World::Engine))?;
    let host = host_for(INSTANCES)?;
    let prepared = host.prepare(bytes.into(), report.hash, World::Engine);
    let prepared = prepared.map_err(|error| negative(error.to_string()))?;
    let mut told = Teller::new(Progress { json });
    let report = conform(&PortFactory(|| prepared.engine()), &plan, &mut |ended| told.tell(&ended));
    let passed = report.passed();
    if json {
        output::json(&report)?;
    } else {
        say!("{}", report.to_string().trim_end());
        for line in repeats(&args.file.display().to_string(), &report) {
            say!("{line}");
        }
    }
    if passed { Ok(()) } else { Err(Told.into()) }
}

fn plan(args: &Args) -> anyhow::Result<Plan> {
    let seeds = Some(Seeds::new(args.first_seed, args.seeds)).filter(|seeds| seeds.count > 0);
    if args.only_seeds {
        return Ok(Plan { seeds, ..Plan::empty() });
    }
    if args.only.is_empty() {
        return Ok(Plan { seeds, ..Plan::default() });
    }
    Plan::only(&args.only).map_err(|name| {
        let known = Plan::default().scenarios.into_iter().map(|scenario| scenario.name);
        let known = known.collect::<Vec<_>>().join(", ");
        anyhow::anyhow!("no probe and no scenario is called `{name}`; scenarios: {known}")
    })
}

/// Says how far a run is: each failure at once, else a line now and then.
pub(crate) struct Teller {
    out: Progress,
    last: Instant,
    failed: u64,
}

impl Teller {
    pub(crate) fn new(out: Progress) -> Self {
        Self { out, last: Instant::now(), failed: 0 }
    }

    pub(crate) fn tell(&mut self, ended: &Ended) {
        let Ended { part, name, done, of, passed } = ended;
        if !passed {
            self.failed += 1;
            self.out.line(format_args!("FAILED: {name} (details follow at the end)"));
        }
        if done == of || self.last.elapsed() >= BETWEEN_LINES {
            self.last = Instant::now();
            let mut line = format!("{part}: {done} of {of}");
            if self.failed > 0 {
                // Writing into a String cannot fail.
                let _ = write!(line, ", {} failed so far", self.failed);
            }
            self.out.line(line);
        }
    }
}

/// The commands that repeat what failed.
fn repeats(file: &str, report: &Report) -> Vec<String> {
    let items = report.probes.iter().chain(&report.scenarios).filter(|item| !item.failures.is_empty());
    let mut lines: Vec<_> =
        items.map(|item| format!("repeat it: moult module conform {file} --only {}", item.name)).collect();
    for failure in report.seeds.iter().flat_map(|seeds| &seeds.failures) {
        lines.push(format!(
            "repeat it: moult module conform {file} --only-seeds --first-seed {} --seeds 1",
            failure.seed
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(seeds: u64, only: &[&str], only_seeds: bool) -> Args {
        let only = only.iter().map(ToString::to_string).collect();
        Args { file: "a.wasm".into(), seeds, first_seed: 5, only, only_seeds }
    }

    #[test]
    fn a_plan_holds_what_was_asked_for() {
        let whole = plan(&args(7, &[], false)).expect("a plan");
        assert!(whole.probes && whole.scenarios.len() > 50);
        assert_eq!(whole.seeds, Some(Seeds::new(5, 7)));
        assert_eq!(plan(&args(0, &[], false)).expect("a plan").seeds, None);
        let few = plan(&args(300, &["calm", "describe-is-constant"], false)).expect("a plan");
        assert_eq!((few.scenarios.len(), few.only_probes.len(), few.seeds), (1, 1, None));
        let seeds = plan(&args(1, &[], true)).expect("a plan");
        assert!(!seeds.probes && seeds.scenarios.is_empty() && seeds.seeds.is_some());
        let unknown = plan(&args(1, &["no-such-thing"], false)).expect_err("unknown").to_string();
        assert!(unknown.contains("`no-such-thing`") && unknown.contains("calm"), "{unknown}");
    }
}
