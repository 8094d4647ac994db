//! The approval policy that lets no engine in that has not run in the shadow of the present
//! one, on this node's own traffic.
//!
//! - upon an operator's rejection: reject with the operator's reason (a veto);
//! - upon a module that is not ready here: reject and say why;
//! - upon checks that are not there yet for every module proposed: wait;
//! - upon the engine that is running, with the same configuration: approve, as there is nothing
//!   to run beside it;
//! - upon a shadow run that failed, used more fuel in one call than allowed, or ordered other
//!   batches than the live engine more often than allowed: reject and say why;
//! - upon one that was fed enough: approve;
//! - else (no run yet, not enough of it, or given up for the live engine's sake): wait, until an
//!   operator approves by hand.
//!
//! An operator's approval stands in for a run that is missing, never for one that failed, nor
//! for a check. A configuration that is not one of this policy's traps, which is no vote and an
//! alert; an operator's approval is not held up by it.
//!
//! That a candidate commits less than the live engine says nothing against it (nobody answers
//! its messages), so that no equal commits are asked for unless the configuration does.

use moult_sdk::approval::{
    ApprovalPolicy, Context, Info, Proposal, ShadowRun, ShadowState, Verdict, before_rules, plain_number,
    settings,
};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_approval!(RequireShadow);

/// See the crate.
pub struct RequireShadow;

impl ApprovalPolicy for RequireShadow {
    fn describe() -> Info {
        Info { name: "require-shadow".into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn evaluate(config: &[u8], proposal: &Proposal, context: &Context) -> Verdict {
        if let Some(verdict) = before_rules(proposal, context) {
            return verdict;
        }
        let is_by_hand = context.operator == Some(Verdict::Approve);
        if is_same_engine(proposal, context) {
            return Verdict::Approve;
        }
        let bounds = match Bounds::parse(config) {
            Ok(bounds) => bounds,
            Err(_) if is_by_hand => Bounds::default(),
            Err(problem) => panic!("the configuration of require-shadow: {problem}"),
        };
        match &context.shadow {
            Some(run) => bounds.judge(run, is_by_hand),
            None if is_by_hand => Verdict::Approve,
            None => Verdict::Wait,
        }
    }
}

fn is_same_engine(proposal: &Proposal, context: &Context) -> bool {
    let engine = |epoch: &moult_sdk::approval::Epoch| {
        epoch.modules.iter().find(|module| module.world == "engine").cloned()
    };
    engine(&proposal.next) == engine(&context.present)
}

/// The configuration: empty, or lines `key=value` in plain decimal, each key at most once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Events that it must have been fed (`min_events`).
    pub min_events: u64,
    /// Blocks that the live engine must have committed meanwhile (`min_live_commits`).
    pub min_live_commits: u64,
    /// Blocks that both must have committed alike (`min_equal_commits`).
    pub min_equal_commits: u64,
    /// Blocks that it may have ordered otherwise (`max_other_commits`).
    pub max_other_commits: u64,
    /// Most fuel of one call, in percent of the limit (`max_fuel_percent`), 1 to 100.
    pub max_fuel_percent: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            min_events: 100,
            min_live_commits: 10,
            min_equal_commits: 0,
            max_other_commits: 0,
            max_fuel_percent: 25,
        }
    }
}

impl Bounds {
    /// Reads the text form.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut bounds = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (key, value) in settings(bytes)? {
            if seen.contains(&key) {
                return Err(format!("`{key}` is given twice"));
            }
            seen.push(key);
            let number = plain_number(key, value)?;
            match key {
                "min_events" => bounds.min_events = number,
                "min_live_commits" => bounds.min_live_commits = number,
                "min_equal_commits" => bounds.min_equal_commits = number,
                "max_other_commits" => bounds.max_other_commits = number,
                "max_fuel_percent" if (1..=100).contains(&number) => bounds.max_fuel_percent = number,
                "max_fuel_percent" => return Err(format!("`{key}` is 1 to 100, not {number}")),
                _ => return Err(format!("there is no key `{key}`")),
            }
        }
        Ok(bounds)
    }

    fn judge(&self, run: &ShadowRun, is_by_hand: bool) -> Verdict {
        if let ShadowState::Failed(reason) = &run.state {
            return Verdict::reject(format!(
                "the engine failed in its shadow run after {} calls: {reason}",
                run.steps
            ));
        }
        if run.other_commits > self.max_other_commits {
            return Verdict::reject(format!(
                "in its shadow run the engine ordered other batches than the live one at {} of {} blocks",
                run.other_commits,
                run.other_commits + run.equal_commits
            ));
        }
        // The limit is at most 2^40 or so: no overflow; and if, the check is passed by none.
        if run.fuel_max.saturating_mul(100) > run.fuel_limit.saturating_mul(self.max_fuel_percent) {
            return Verdict::reject(format!(
                "in its shadow run the engine used {} fuel in one call, more than {} % of the {} allowed",
                run.fuel_max, self.max_fuel_percent, run.fuel_limit
            ));
        }
        let is_enough = run.events >= self.min_events
            && run.live_commits >= self.min_live_commits
            && run.equal_commits >= self.min_equal_commits;
        let dropped_out = matches!(run.state, ShadowState::DroppedOut(_));
        if is_by_hand || (is_enough && !dropped_out) { Verdict::Approve } else { Verdict::Wait }
    }
}

#[cfg(test)]
mod tests {
    use moult_sdk::approval::{Epoch, ModuleCheck, ModulePin};
    use moult_sdk::{CommitIndex, Digest, FaultModel};

    use super::*;

    fn pin(world: &str, n: u8) -> ModulePin {
        ModulePin { world: world.into(), hash: Digest([n; 32]), config: Vec::new() }
    }

    fn run(state: ShadowState) -> ShadowRun {
        ShadowRun {
            state,
            steps: 500,
            events: 1_000,
            live_commits: 50,
            equal_commits: 50,
            other_commits: 0,
            missed_commits: 0,
            slowest_us: 90,
            fuel_max: 1_000,
            fuel_limit: 1_000_000,
            memory_bytes: 1 << 20,
        }
    }

    fn ask_all(
        config: &str,
        engine: u8,
        shadow: Option<ShadowRun>,
        operator: Option<Verdict>,
        problem: Option<&str>,
    ) -> Verdict {
        let epoch = |number, engine| Epoch {
            number,
            fault_model: FaultModel::Byzantine,
            committee: Vec::new(),
            modules: vec![pin("engine", engine)],
        };
        let proposal = Proposal {
            id: 1,
            hash: Digest::ZERO,
            proposer: Digest::ZERO,
            next: epoch(2, engine),
            deadline: CommitIndex(9),
            not_before_ms: None,
            proposed_index: CommitIndex(2),
            proposed_ms: 4,
            readmit_failed: false,
        };
        let check = ModuleCheck {
            world: "engine".into(),
            hash: Digest([engine; 32]),
            name: "m".into(),
            version: "1".into(),
            problem: problem.map(String::from),
        };
        let context = Context {
            present: epoch(1, 1),
            index: CommitIndex(3),
            block_time_ms: 5,
            checks: vec![check],
            operator,
            shadow,
            certifications: Vec::new(),
        };
        RequireShadow::evaluate(config.as_bytes(), &proposal, &context)
    }

    fn ask(shadow: Option<ShadowRun>, operator: Option<Verdict>) -> Verdict {
        ask_all("", 2, shadow, operator, None)
    }

    #[test]
    fn a_clean_run_of_enough_is_approved_and_less_is_waited_for() {
        assert_eq!(ask(None, None), Verdict::Wait);
        assert_eq!(ask(Some(run(ShadowState::Running)), None), Verdict::Approve);
        assert_eq!(ask(Some(run(ShadowState::Complete)), None), Verdict::Approve);
        let short = ShadowRun { events: 99, ..run(ShadowState::Running) };
        assert_eq!(ask(Some(short), None), Verdict::Wait);
        let idle = ShadowRun { live_commits: 9, ..run(ShadowState::Running) };
        assert_eq!(ask(Some(idle.clone()), None), Verdict::Wait);
        assert_eq!(ask_all("min_live_commits=9\n", 2, Some(idle), None, None), Verdict::Approve);
        let behind = ShadowRun { equal_commits: 0, missed_commits: 50, ..run(ShadowState::Running) };
        assert_eq!(ask(Some(behind.clone()), None), Verdict::Approve, "nobody answers it");
        assert_eq!(ask_all("min_equal_commits=1", 2, Some(behind), None, None), Verdict::Wait);
        assert_eq!(ask(Some(run(ShadowState::DroppedOut("slow".into()))), None), Verdict::Wait);
        assert_eq!(ask_all("", 1, None, None, None), Verdict::Approve, "the engine stays");
    }

    #[test]
    fn a_run_that_is_not_clean_is_rejected_whatever_the_operator_says() {
        let failed = run(ShadowState::Failed("ä".repeat(600)));
        let other = ShadowRun { other_commits: 1, ..run(ShadowState::Running) };
        let greedy = ShadowRun { fuel_max: 250_001, ..run(ShadowState::Running) };
        for (run, word) in [(failed, "failed"), (other, "other batches"), (greedy, "fuel")] {
            for operator in [None, Some(Verdict::Approve)] {
                let Verdict::Reject(reason) = ask(Some(run.clone()), operator) else { panic!("{run:?}") };
                assert!(reason.contains(word) && reason.len() <= Verdict::REASON_BYTES_MAX, "{reason}");
            }
        }
        assert!(matches!(ask_all("", 2, None, Some(Verdict::Approve), Some("broken")), Verdict::Reject(_)));
    }

    #[test]
    fn an_operator_stands_in_for_a_run_that_is_missing_and_has_a_veto() {
        let by_hand = || Some(Verdict::Approve);
        assert_eq!(ask(None, by_hand()), Verdict::Approve);
        assert_eq!(ask(Some(run(ShadowState::DroppedOut("slow".into()))), by_hand()), Verdict::Approve);
        assert_eq!(ask_all("nonsense", 2, None, by_hand(), None), Verdict::Approve);
        let veto = Verdict::Reject("no".into());
        assert_eq!(ask(Some(run(ShadowState::Complete)), Some(veto.clone())), veto);
    }

    #[test]
    fn configurations_have_one_reading() {
        let parsed = Bounds::parse(b"min_events=5\nmax_fuel_percent=100\n").expect("good");
        assert_eq!(parsed, Bounds { min_events: 5, max_fuel_percent: 100, ..Bounds::default() });
        for bad in [
            "min_events",
            "min_events=+5",
            "min_events=5\nmin_events=5",
            "nothing=1",
            "max_fuel_percent=0",
            "\n",
        ] {
            assert!(Bounds::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    #[should_panic(expected = "there is no key `nothing`")]
    fn a_bad_configuration_is_no_vote() {
        ask_all("nothing=1", 2, None, None, None);
    }
}
