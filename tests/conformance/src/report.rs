//! What a run of the suite came to.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::scenario::Failure;
use crate::world::Check;

/// The result of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Name and version of the engine; empty where it could not even be asked.
    pub engine: String,
    /// Checks of single instances, by name.
    pub probes: Vec<Item>,
    /// Scenarios, by name.
    pub scenarios: Vec<Item>,
    /// Seeded runs.
    pub seeds: Option<SeedsReport>,
}

/// One probe or scenario.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Cases run: committees, fault models, choices.
    pub cases: u64,
    /// Committees that the engine refuses, and may.
    pub skipped: Vec<String>,
    /// Cases that failed.
    pub failures: Vec<Failure>,
}

/// Sums over all seeds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// How often what was injected or came of it.
    pub faults: BTreeMap<String, u64>,
    /// Commits of all nodes.
    pub commits: u64,
    /// Blocks of the shortest chain.
    pub height_min: Option<u64>,
}

/// What the seeds came to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SeedsReport {
    /// The first seed.
    pub from: u64,
    /// How many were run.
    pub count: u64,
    /// Sums.
    pub tally: Tally,
    /// Those that failed.
    pub failures: Vec<SeedFailure>,
}

/// A seed that failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeedFailure {
    /// Repeats it, in a plan with the same sizes, stakes and fault models.
    pub seed: u64,
    /// What it drew.
    pub run: String,
    /// The property that broke.
    pub check: Check,
    /// What happened.
    pub problem: String,
    /// The last lines of what happened.
    pub trace: Vec<String>,
}

impl Report {
    /// Whether everything passed, and anything was run at all.
    pub fn passed(&self) -> bool {
        let items = || self.probes.iter().chain(&self.scenarios);
        let seeds = self.seeds.as_ref();
        let ran = items().any(|item| item.cases > 0) || seeds.is_some_and(|seeds| seeds.count > 0);
        ran && items().all(|item| item.failures.is_empty())
            && seeds.is_none_or(|seeds| seeds.failures.is_empty())
    }

    /// Names of the probes and scenarios that failed, and `seeds` if one did.
    pub fn failed(&self) -> Vec<&str> {
        let items = self.probes.iter().chain(&self.scenarios);
        let mut failed: Vec<&str> =
            items.filter(|item| !item.failures.is_empty()).map(|item| item.name.as_str()).collect();
        failed.extend(self.seeds.iter().filter(|seeds| !seeds.failures.is_empty()).map(|_| "seeds"));
        failed
    }
}

/// A table, and below it each failure with its trace.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "engine: {}", self.engine)?;
        for (title, items) in [("probes", &self.probes), ("scenarios", &self.scenarios)] {
            if items.is_empty() {
                continue;
            }
            writeln!(f, "\n{title:44} cases  failed")?;
            for item in items {
                write!(f, "  {:42} {:>5} {:>7}", item.name, item.cases, item.failures.len())?;
                if !item.skipped.is_empty() {
                    write!(f, "  (not run: {})", item.skipped.join("; "))?;
                }
                writeln!(f)?;
            }
        }
        if let Some(seeds) = &self.seeds {
            writeln!(f, "\n{seeds}")?;
        }
        for item in self.probes.iter().chain(&self.scenarios) {
            for failure in &item.failures {
                writeln!(f, "\nFAILED {}: {}", item.name, failure.case)?;
                if failure.line > 0 {
                    writeln!(f, "  at line {}: {}", failure.line, failure.step)?;
                }
                writeln!(f, "  {}", failure.problem)?;
                failure.trace.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
            }
        }
        for failure in self.seeds.iter().flat_map(|seeds| &seeds.failures) {
            writeln!(f, "\nFAILED seed {}: {}", failure.seed, failure.run)?;
            writeln!(f, "  {}", failure.problem)?;
            writeln!(f, "  repeat it with `from: {}, count: 1` and the same plan", failure.seed)?;
            failure.trace.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        writeln!(f, "\n{}", if self.passed() { "passed" } else { "FAILED" })
    }
}

impl fmt::Display for SeedsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, count, tally, failures } = self;
        let last = from + count.saturating_sub(1);
        writeln!(f, "seeds {from} to {last}: {count} run, {} failed", failures.len())?;
        writeln!(
            f,
            "  {} commits; {} blocks in the shortest chain",
            tally.commits,
            tally.height_min.unwrap_or(0)
        )?;
        tally.faults.iter().try_for_each(|(what, times)| writeln!(f, "  {times:>9} {what}"))
    }
}
