//! What to run, and running it.

use moult_sdk::FaultModel;
use moult_sdk::engine::Info;

use crate::engine::Factory;
use crate::probes;
use crate::report::{Item, Report, SeedFailure, SeedsReport};
use crate::scenario::{Failure, Scenario, builtin, cases};
use crate::seeds::{Seeds, run_seed};
use crate::world::Check;

/// What to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Checks of single instances.
    pub probes: bool,
    /// Of the probes only those of these names; all where it is empty.
    pub only_probes: Vec<String>,
    /// Scenarios; by default all that come with this crate.
    pub scenarios: Vec<Scenario>,
    /// Seeded runs.
    pub seeds: Option<Seeds>,
    /// Failures of one scenario, or of the seeds, after which the rest of it is not run.
    pub failures_max: u64,
    /// Lines of what happened that a failure is shown with.
    pub trace_lines: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            probes: true,
            only_probes: Vec::new(),
            scenarios: builtin(),
            seeds: Some(Seeds::new(0, 300)),
            failures_max: 3,
            trace_lines: 60,
        }
    }
}

impl Plan {
    /// Nothing; for plans of a few things.
    pub fn empty() -> Self {
        Self {
            probes: false,
            only_probes: Vec::new(),
            scenarios: Vec::new(),
            seeds: None,
            failures_max: 3,
            trace_lines: 60,
        }
    }

    /// Only the probes and scenarios of these names.
    ///
    /// # Errors
    /// The name that neither a probe nor a scenario has.
    pub fn only(names: &[String]) -> Result<Self, String> {
        let mut plan = Self::empty();
        for name in names {
            if probes::ALL.iter().any(|(probe, _)| probe == name) {
                plan.probes = true;
                plan.only_probes.push(name.clone());
            } else {
                plan.scenarios.extend(Self::of_scenarios(&[name])?.scenarios);
            }
        }
        Ok(plan)
    }

    /// Only the scenarios of these names.
    ///
    /// # Errors
    /// The name that no scenario has.
    pub fn of_scenarios(names: &[&str]) -> Result<Self, String> {
        let all = builtin();
        let find = |name: &&str| {
            all.iter().find(|scenario| scenario.name == *name).cloned().ok_or_else(|| (*name).to_owned())
        };
        Ok(Self { scenarios: names.iter().map(find).collect::<Result<_, _>>()?, ..Self::empty() })
    }

    /// Only seeds.
    pub fn of_seeds(seeds: Seeds) -> Self {
        Self { seeds: Some(seeds), ..Self::empty() }
    }
}

/// How far a run has come; one for every item that ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// `probes`, `scenarios` or `seeds`.
    pub part: &'static str,
    /// The item: a probe, a scenario, a seed.
    pub name: String,
    /// Items of this part that ended, this one included.
    pub done: u64,
    /// Items of this part.
    pub of: u64,
    /// Whether this one passed.
    pub passed: bool,
}

/// Runs a plan. A given plan and a deterministic engine give the same report every time.
pub fn conform(factory: &dyn Factory, plan: &Plan, progress: &mut dyn FnMut(Progress)) -> Report {
    let mut report = Report::default();
    let info = match factory.instance().and_then(|mut instance| instance.describe()) {
        Ok(info) => info,
        Err(fault) => {
            report.probes.push(Item {
                name: "describe".to_owned(),
                cases: 1,
                skipped: Vec::new(),
                failures: vec![failure(Check::Fault, fault.0)],
            });
            return report;
        }
    };
    report.engine = format!("{} {}", info.name, info.version);
    if plan.probes {
        let wanted = |name: &str| plan.only_probes.is_empty() || plan.only_probes.iter().any(|n| n == name);
        let chosen: Vec<_> = probes::ALL.into_iter().filter(|(name, _)| wanted(name)).collect();
        let of = chosen.len() as u64;
        for (done, (name, probe)) in (1..).zip(chosen) {
            let failures: Vec<Failure> = probe(factory, &info).err().into_iter().collect();
            let passed = failures.is_empty();
            report.probes.push(Item { name: name.to_owned(), cases: 1, skipped: Vec::new(), failures });
            progress(Progress { part: "probes", name: name.to_owned(), done, of, passed });
        }
    }
    let of = plan.scenarios.len() as u64;
    for (done, scenario) in (1..).zip(&plan.scenarios) {
        let item = run_scenario(factory, scenario, &info, plan);
        let passed = item.failures.is_empty();
        report.scenarios.push(item);
        progress(Progress { part: "scenarios", name: scenario.name.clone(), done, of, passed });
    }
    if let Some(seeds) = &plan.seeds {
        report.seeds = Some(run_seeds(factory, seeds, &info, plan, progress));
    }
    report
}

pub(crate) fn failure(check: Check, problem: String) -> Failure {
    Failure { case: String::new(), line: 0, step: String::new(), check, problem, trace: Vec::new() }
}

fn run_scenario(factory: &dyn Factory, scenario: &Scenario, info: &Info, plan: &Plan) -> Item {
    let mut item = Item { name: scenario.name.clone(), cases: 0, skipped: Vec::new(), failures: Vec::new() };
    for case in cases(scenario, &info.fault_models) {
        match case.unsuitable(factory) {
            Ok(None) => {}
            Ok(Some(why)) => {
                item.skipped.push(format!("{}: {why}", case.label()));
                continue;
            }
            Err(fault) => item.failures.push(failure(Check::Fault, fault.0)),
        }
        item.cases += 1;
        item.failures.extend(case.run(factory, plan.trace_lines).err());
        if item.failures.len() as u64 >= plan.failures_max {
            break;
        }
    }
    item
}

fn run_seeds(
    factory: &dyn Factory,
    seeds: &Seeds,
    info: &Info,
    plan: &Plan,
    progress: &mut dyn FnMut(Progress),
) -> SeedsReport {
    let mut report = SeedsReport { from: seeds.from, ..SeedsReport::default() };
    let wanted = seeds.fault_models.iter().map(|model| FaultModel::from(*model));
    let models: Vec<FaultModel> = wanted.filter(|model| info.fault_models.contains(model)).collect();
    if models.is_empty() {
        return report;
    }
    for seed in seeds.from..seeds.from + seeds.count {
        let run = run_seed(factory, seeds, &models, seed, plan.trace_lines);
        run.add_to(&mut report.tally);
        report.count += 1;
        let passed = run.violation.is_none();
        if let Some((violation, trace)) = run.violation {
            let problem = violation.to_string();
            report.failures.push(SeedFailure {
                seed,
                run: run.label,
                check: violation.check,
                problem,
                trace,
            });
        }
        let name = format!("seed {seed}");
        progress(Progress { part: "seeds", name, done: report.count, of: seeds.count, passed });
        if report.failures.len() as u64 >= plan.failures_max {
            break;
        }
    }
    report
}
