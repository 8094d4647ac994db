//! The approval policy that trusts the host's checks.
//!
//! - upon an operator's rejection: reject with the operator's reason (a veto);
//! - upon checks that are not there yet for every module proposed: wait;
//! - upon a module that is not ready here: reject and say why;
//! - else approve.
//!
//! An operator's approval does not stand in for a check that failed.

use moult_sdk::approval::{ApprovalPolicy, Context, Info, ModuleCheck, Proposal, Verdict};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_approval!(ApproveValid);

/// See the crate.
pub struct ApproveValid;

impl ApprovalPolicy for ApproveValid {
    fn describe() -> Info {
        Info { name: "approve-valid".into(), version: env!("CARGO_PKG_VERSION").into() }
    }

    fn evaluate(_: &[u8], proposal: &Proposal, context: &Context) -> Verdict {
        if let Some(veto @ Verdict::Reject(_)) = &context.operator {
            return veto.clone();
        }
        if let Some(reason) = context.checks.iter().find_map(problem) {
            return Verdict::Reject(reason);
        }
        let checked = |world: &str, hash| context.checks.iter().any(|c| c.world == world && c.hash == hash);
        if context.checks.is_empty() || !proposal.next.modules.iter().all(|m| checked(&m.world, m.hash)) {
            return Verdict::Wait;
        }
        Verdict::Approve
    }
}

fn problem(check: &ModuleCheck) -> Option<String> {
    let problem = check.problem.as_ref()?;
    let mut reason = format!("{} module sha256:{}: {problem}", check.world, check.hash);
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    Some(reason)
}

/// What the contract allows.
const REASON_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use moult_sdk::approval::{Epoch, ModulePin};
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
        assert!(reason.len() <= REASON_BYTES_MAX && reason.len() > REASON_BYTES_MAX - 4);
    }
}
