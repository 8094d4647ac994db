//! The approval policy that lets no engine in without a certifier's report on it.
//!
//! - upon an operator's rejection: reject with the operator's reason (a veto);
//! - upon a module that is not ready here: reject and say why;
//! - upon checks that are not there yet for every module proposed: wait;
//! - upon an engine, also one to fall back to, that is not the one that runs and that has no
//!   report by a listed certifier, only reports over fewer seeds than asked for, or one that
//!   tells of a failure: reject and say why;
//! - else: approve.
//!
//! The proposal carries the reports, and the host has verified that each was signed by the key
//! that it names. Whom to trust is the configuration's: lines `certifier=KEY` (64 hex digits, one
//! or more) and `min_seeds=N` (1,000 where it is left out). Where they differ, the report of one
//! listed certifier that tells of a failure outweighs those that do not. An operator's approval
//! stands in for nothing. A configuration that is not one of this policy's traps, which is no vote
//! and an alert.

use moult_sdk::Digest;
use moult_sdk::approval::{
    ApprovalPolicy, Certification, Context, Info, Proposal, Verdict, before_rules, plain_digest, settings,
};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_approval!(RequireCertified);

/// See the crate.
pub struct RequireCertified;

impl ApprovalPolicy for RequireCertified {
    fn describe() -> Info {
        Info { name: "require-certified".into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn evaluate(config: &[u8], proposal: &Proposal, context: &Context) -> Verdict {
        if let Some(verdict) = before_rules(proposal, context) {
            return verdict;
        }
        let running = context.present.modules.iter().find(|module| module.world == ENGINE).map(|m| m.hash);
        // The checks name every engine that is pinned, those to fall back to among them.
        let engines = context.checks.iter().filter(|check| check.world == ENGINE);
        let mut new = engines.map(|check| check.hash).filter(|hash| Some(*hash) != running).peekable();
        if new.peek().is_none() {
            return Verdict::Approve;
        }
        let demands = Demands::parse(config)
            .unwrap_or_else(|problem| panic!("the configuration of require-certified: {problem}"));
        match new.find_map(|engine| demands.objection(engine, &context.certifications)) {
            Some(reason) => Verdict::reject(reason),
            None => Verdict::Approve,
        }
    }
}

const ENGINE: &str = "engine";

/// The configuration: who is believed, and how much is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Demands {
    /// Public keys (`certifier`).
    pub certifiers: Vec<Digest>,
    /// Seeds that a report has to cover (`min_seeds`).
    pub min_seeds: u64,
}

impl Demands {
    /// Reads the text form.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let (mut certifiers, mut min_seeds) = (Vec::new(), None);
        for (key, value) in settings(bytes)? {
            match key {
                "certifier" => {
                    let certifier =
                        plain_digest(value).ok_or_else(|| format!("`{value}` is no public key"))?;
                    if certifiers.contains(&certifier) {
                        return Err(format!("the certifier {value} is given twice"));
                    }
                    certifiers.push(certifier);
                }
                "min_seeds" if min_seeds.is_some() => return Err(format!("`{key}` is given twice")),
                "min_seeds" => {
                    let number =
                        value.parse().ok().filter(|n: &u64| n.to_string() == value).filter(|n| *n > 0);
                    min_seeds =
                        Some(number.ok_or_else(|| format!("`{key}`: `{value}` is no number above 0"))?);
                }
                _ => return Err(format!("there is no key `{key}`")),
            }
        }
        if certifiers.is_empty() {
            return Err("it names no `certifier`".to_owned());
        }
        Ok(Self { certifiers, min_seeds: min_seeds.unwrap_or(1_000) })
    }

    /// Why an engine is not let in.
    fn objection(&self, engine: Digest, all: &[Certification]) -> Option<String> {
        let is_listed = |report: &&Certification| self.certifiers.contains(&report.certifier);
        let of_it = || all.iter().filter(|report| report.world == ENGINE && report.module == engine);
        if let Some(report) = of_it().filter(is_listed).find(|report| report.failures > 0) {
            return Some(format!(
                "engine sha256:{engine}: the report of certifier {} tells of {} failures",
                report.certifier, report.failures
            ));
        }
        match of_it().filter(is_listed).map(|report| report.seeds).max() {
            Some(seeds) if seeds >= self.min_seeds => None,
            Some(seeds) => Some(format!(
                "engine sha256:{engine} is certified over {seeds} seeds, {} are asked for",
                self.min_seeds
            )),
            None if of_it().next().is_some() => {
                Some(format!("engine sha256:{engine} is certified by nobody who is listed"))
            }
            None => Some(format!("engine sha256:{engine}: the proposal carries no report on it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use moult_sdk::approval::{Epoch, ModuleCheck, ModulePin};
    use moult_sdk::{CommitIndex, FaultModel};

    use super::*;

    const PRESENT: u8 = 1;
    const NEW: u8 = 2;
    const FALLBACK: u8 = 3;

    fn report(module: u8, certifier: u8) -> Certification {
        Certification {
            world: "engine".into(),
            module: Digest([module; 32]),
            certifier: Digest([certifier; 32]),
            host_version: "0.1.0".into(),
            first_seed: 0,
            seeds: 500,
            failures: 0,
            worst_stall_ms: 900,
            fuel_per_commit: 1_000,
        }
    }

    fn check(module: u8) -> ModuleCheck {
        let hash = Digest([module; 32]);
        ModuleCheck { world: "engine".into(), hash, name: "m".into(), version: "1".into(), problem: None }
    }

    fn ask_with(
        config: &str,
        checks: &[u8],
        reports: Vec<Certification>,
        operator: Option<Verdict>,
    ) -> Verdict {
        let epoch = |number, engine| Epoch {
            number,
            fault_model: FaultModel::Byzantine,
            committee: Vec::new(),
            modules: vec![ModulePin {
                world: "engine".into(),
                hash: Digest([engine; 32]),
                config: Vec::new(),
            }],
        };
        let proposal = Proposal {
            id: 1,
            hash: Digest::ZERO,
            proposer: Digest::ZERO,
            next: epoch(2, checks.first().copied().unwrap_or(NEW)),
            deadline: CommitIndex(9),
            not_before_ms: None,
            proposed_index: CommitIndex(2),
            proposed_ms: 4,
            readmit_failed: false,
        };
        let context = Context {
            present: epoch(1, PRESENT),
            index: CommitIndex(3),
            block_time_ms: 5,
            checks: checks.iter().map(|module| check(*module)).collect(),
            operator,
            shadow: None,
            certifications: reports,
        };
        RequireCertified::evaluate(config.as_bytes(), &proposal, &context)
    }

    /// Certifiers 7 and 8 are listed.
    fn config() -> String {
        format!("certifier={}\ncertifier={}\nmin_seeds=500\n", "07".repeat(32), "08".repeat(32))
    }

    fn ask(checks: &[u8], reports: Vec<Certification>) -> Verdict {
        ask_with(&config(), checks, reports, None)
    }

    fn objection(checks: &[u8], reports: Vec<Certification>) -> String {
        match ask(checks, reports) {
            Verdict::Reject(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_engine_is_let_in_with_a_clean_report_of_enough_by_somebody_listed() {
        assert_eq!(ask(&[NEW], vec![report(NEW, 7)]), Verdict::Approve);
        assert_eq!(ask(&[NEW], vec![report(NEW, 9), report(NEW, 8)]), Verdict::Approve);
        assert!(objection(&[NEW], vec![]).contains("no report"));
        assert!(objection(&[NEW], vec![report(FALLBACK, 7)]).contains("no report"));
        assert!(objection(&[NEW], vec![report(NEW, 9)]).contains("nobody who is listed"));
        let few = Certification { seeds: 499, ..report(NEW, 7) };
        assert!(objection(&[NEW], vec![few.clone()]).contains("over 499 seeds, 500 are asked for"));
        assert_eq!(ask(&[NEW], vec![few, report(NEW, 8)]), Verdict::Approve);
        let other = Certification { world: "application".into(), ..report(NEW, 7) };
        assert!(objection(&[NEW], vec![other]).contains("no report"));
    }

    #[test]
    fn a_failure_that_one_listed_certifier_saw_outweighs_the_others() {
        let failed = |by| Certification { failures: 1, ..report(NEW, by) };
        assert!(objection(&[NEW], vec![report(NEW, 7), failed(8)]).contains("tells of 1 failures"));
        assert_eq!(ask(&[NEW], vec![report(NEW, 7), failed(9)]), Verdict::Approve, "not listed");
    }

    #[test]
    fn engines_to_fall_back_to_need_reports_too_and_the_one_that_runs_does_not() {
        assert!(objection(&[NEW, FALLBACK], vec![report(NEW, 7)]).contains(&"03".repeat(32)));
        assert_eq!(ask(&[NEW, FALLBACK], vec![report(NEW, 7), report(FALLBACK, 8)]), Verdict::Approve);
        assert_eq!(ask(&[NEW, PRESENT], vec![report(NEW, 7)]), Verdict::Approve);
        assert_eq!(ask_with("nonsense", &[PRESENT], vec![], None), Verdict::Approve, "nothing new");
    }

    #[test]
    fn checks_come_first_and_an_operator_has_a_veto_and_nothing_more() {
        assert_eq!(ask(&[], vec![report(NEW, 7)]), Verdict::Wait);
        let veto = Verdict::Reject("no".into());
        assert_eq!(ask_with(&config(), &[NEW], vec![report(NEW, 7)], Some(veto.clone())), veto);
        let by_hand = ask_with(&config(), &[NEW], vec![], Some(Verdict::Approve));
        assert!(matches!(by_hand, Verdict::Reject(_)), "{by_hand:?}");
    }

    #[test]
    fn configurations_have_one_reading() {
        let demands = Demands::parse(config().as_bytes()).expect("good");
        assert_eq!((demands.certifiers.len(), demands.min_seeds), (2, 500));
        let one = format!("certifier={}", "07".repeat(32));
        assert_eq!(Demands::parse(one.as_bytes()).expect("good").min_seeds, 1_000);
        for bad in [
            "".to_owned(),
            "min_seeds=5".to_owned(),
            format!("{one}\n{one}"),
            format!("{one}\nmin_seeds=0"),
            format!("{one}\nmin_seeds=+5"),
            format!("{one}\nmin_seeds=5\nmin_seeds=5"),
            format!("{one}\nnothing=1"),
            format!("certifier={}", "0A".repeat(32)),
            "certifier=07".to_owned(),
        ] {
            assert!(Demands::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    #[should_panic(expected = "it names no `certifier`")]
    fn a_bad_configuration_is_no_vote() {
        ask_with("", &[NEW], vec![report(NEW, 7)], None);
    }
}
