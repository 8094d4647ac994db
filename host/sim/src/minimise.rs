//! A failing run made small: kinds of faults and changes that it does not need are left out one
//! by one, then the faults after the shortest prefix that still fails.
//!
//! A smaller run counts if it breaks the same promise. It is another schedule, not a part of the
//! first one; what was left out for good is what the failure does not need.

use crate::modules::Modules;
use crate::plan::{Plan, WHOLE_GROUPS};
use crate::report::{CHANGE_KINDS, FAULT_KINDS, Violation};
use crate::world::run;

/// A smaller run that breaks the same promise.
#[derive(Clone, Debug)]
pub struct Minimal {
    /// What it is made of.
    pub plan: Plan,
    /// What was left out, by the names that [`Plan::leave_out`] takes.
    pub without: Vec<&'static str>,
    /// How it breaks the promise.
    pub violation: Violation,
    /// Runs that it took.
    pub runs: u64,
}

/// Makes a failing run smaller.
pub fn minimise(plan: &Plan, modules: &Modules, violation: &Violation) -> Minimal {
    let mut best = Minimal { plan: plan.clone(), without: Vec::new(), violation: violation.clone(), runs: 0 };
    for name in WHOLE_GROUPS.into_iter().chain(FAULT_KINDS).chain(CHANGE_KINDS) {
        let mut smaller = best.plan.clone();
        if smaller.leave_out(name) && best.try_instead(smaller, modules) {
            best.without.push(name);
        }
    }
    best.shorten(modules);
    best
}

impl Minimal {
    /// Takes a smaller plan if it breaks the same promise.
    fn try_instead(&mut self, smaller: Plan, modules: &Modules) -> bool {
        self.runs += 1;
        match run(self.violation.seed, &smaller, modules, false) {
            Err(found) if found.property == self.violation.property => {
                (self.plan, self.violation) = (smaller, found);
                true
            }
            _ => false,
        }
    }

    /// The fewest faults, counted from the beginning of the run, with which it fails. Failing is
    /// not monotonous in their number; this finds one end of it.
    fn shorten(&mut self, modules: &Modules) {
        if self.plan.between_faults_ms == 0 {
            return;
        }
        let (mut below, mut fails_at) = (0, self.plan.faults_ms / self.plan.between_faults_ms * 3);
        while below < fails_at {
            let middle = below + (fails_at - below) / 2;
            if self.try_instead(Plan { faults_max: Some(middle), ..self.plan.clone() }, modules) {
                fails_at = middle;
            } else {
                below = middle + 1;
            }
        }
    }
}
