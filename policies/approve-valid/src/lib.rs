//! The approval policy that trusts the host's checks.
//!
//! - upon an operator's rejection: reject with the operator's reason (a veto);
//! - upon checks that are not there yet for every module proposed: wait;
//! - upon a module that is not ready here: reject and say why;
//! - else approve.
//!
//! An operator's approval does not stand in for a check that failed.

use moult_sdk::approval::{ApprovalPolicy, Context, Info, Proposal, Verdict, before_rules};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_approval!(ApproveValid);

/// See the crate.
pub struct ApproveValid;

impl ApprovalPolicy for ApproveValid {
    fn describe() -> Info {
        Info { name: "approve-valid".into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn evaluate(_: &[u8], proposal: &Proposal, context: &Context) -> Verdict {
        before_rules(proposal, context).unwrap_or(Verdict::Approve)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moult_sdk::approval::{Epoch, ModuleCheck, ModulePin};
    use moult_sdk::{CommitIndex, Digest, FaultModel};

    fn ask(checks: Vec<ModuleCheck>, operator: Option<Verdict>) -> Verdict {
        let pin =
            |world: &str, n| ModulePin { world: world.into(), hash: Digest([n; 32]), config: Vec::new() };
        let epoch = |number| Epoch {
            number,
            fault_model: FaultModel::Byzantine,
            committee: Vec::new(),
            modules: vec![pin("engine", 1), pin("application", 2)],
        };
        let proposal = Proposal {
            id: 1,
            hash: Digest::ZERO,
            proposer: Digest::ZERO,
            next: epoch(2),
            deadline: CommitIndex(9),
            not_before_ms: None,
            proposed_index: CommitIndex(2),
            proposed_ms: 4,
            readmit_failed: false,
        };
        let context = Context {
            present: epoch(1),
            index: CommitIndex(3),
            block_time_ms: 5,
            checks,
            operator,
            shadow: None,
            certifications: Vec::new(),
        };
        ApproveValid::evaluate(&[], &proposal, &context)
    }

    fn check(world: &str, n: u8, problem: Option<&str>) -> ModuleCheck {
        ModuleCheck {
            world: world.into(),
            hash: Digest([n; 32]),
            name: "m".into(),
            version: "1".into(),
            problem: problem.map(String::from),
        }
    }

    #[test]
    fn waits_for_every_check_then_approves() {
        assert_eq!(ask(vec![], None), Verdict::Wait);
        assert_eq!(ask(vec![check("engine", 1, None)], None), Verdict::Wait);
        assert_eq!(ask(vec![check("engine", 1, None), check("application", 3, None)], None), Verdict::Wait);
        let all = vec![check("engine", 1, None), check("application", 2, None)];
        assert_eq!(ask(all.clone(), None), Verdict::Approve);
        assert_eq!(ask(all, Some(Verdict::Reject("no".into()))), Verdict::Reject("no".into()));
    }

    #[test]
    fn a_problem_is_a_reason_and_is_cut_at_a_character() {
        let long = "ä".repeat(600);
        let checks = vec![check("engine", 1, Some(&long))];
        let Verdict::Reject(reason) = ask(checks, Some(Verdict::Approve)) else { panic!("approved") };
        assert!(reason.starts_with("engine module sha256:0101"));
        assert!(reason.len() <= Verdict::REASON_BYTES_MAX && reason.len() > Verdict::REASON_BYTES_MAX - 4);
    }
}
