//! The world `moult:approval/approval-policy`.

use super::types::list;
use crate::CommitIndex;
use crate::approval::{
    ApprovalPolicy, Certification, Context, Epoch, Info, Member, ModuleCheck, ModulePin, Proposal, ShadowRun,
    ShadowState, Verdict,
};
use bindings::exports::moult::approval::approval as wit;

/// What `wit-bindgen` makes of the contract.
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated code")]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/types", "../../wit/approval"],
        world: "moult:approval/approval-policy",
        with: { "moult:types/types@0.1.0": crate::component::engine::bindings::moult::types::types },
        pub_export_macro: true,
        export_macro_name: "export_approval_policy",
    });
}

/// `describe` of the contract.
pub fn describe<P: ApprovalPolicy>() -> wit::Info {
    let Info { name, version } = P::describe();
    wit::Info { name, version }
}

/// `evaluate` of the contract.
pub fn evaluate<P: ApprovalPolicy>(
    config: &[u8],
    proposal: wit::Proposal,
    context: wit::Context,
) -> wit::Verdict {
    P::evaluate(config, &proposal.into(), &context.into()).into()
}

impl From<wit::Member> for Member {
    fn from(member: wit::Member) -> Self {
        Self {
            authority: member.authority.into(),
            key: member.key.into(),
            stake: member.stake,
            address: member.address,
        }
    }
}

impl From<wit::ModulePin> for ModulePin {
    fn from(pin: wit::ModulePin) -> Self {
        Self { world: pin.world, hash: pin.hash.into(), config: pin.config }
    }
}

impl From<wit::Epoch> for Epoch {
    fn from(epoch: wit::Epoch) -> Self {
        Self {
            number: epoch.number,
            fault_model: epoch.fault_model.into(),
            committee: list(epoch.committee),
            modules: list(epoch.modules),
        }
    }
}

impl From<wit::Proposal> for Proposal {
    fn from(proposal: wit::Proposal) -> Self {
        Self {
            id: proposal.id,
            hash: proposal.hash.into(),
            proposer: proposal.proposer.into(),
            next: proposal.next.into(),
            deadline: CommitIndex(proposal.deadline),
            not_before_ms: proposal.not_before_ms,
            proposed_index: CommitIndex(proposal.proposed_index),
            proposed_ms: proposal.proposed_ms,
            readmit_failed: proposal.readmit_failed,
        }
    }
}

impl From<wit::ModuleCheck> for ModuleCheck {
    fn from(check: wit::ModuleCheck) -> Self {
        Self {
            world: check.world,
            hash: check.hash.into(),
            name: check.name,
            version: check.version,
            problem: check.problem,
        }
    }
}

impl From<wit::Context> for Context {
    fn from(context: wit::Context) -> Self {
        Self {
            present: context.present.into(),
            index: CommitIndex(context.index),
            block_time_ms: context.block_time_ms,
            checks: list(context.checks),
            operator: context.operator.map(Verdict::from),
            shadow: context.shadow.map(ShadowRun::from),
            certifications: list(context.certifications),
        }
    }
}

impl From<wit::Certification> for Certification {
    fn from(of: wit::Certification) -> Self {
        Self {
            world: of.world,
            module: of.module.into(),
            certifier: of.certifier.into(),
            host_version: of.host_version,
            first_seed: of.first_seed,
            seeds: of.seeds,
            failures: of.failures,
            worst_stall_ms: of.worst_stall_ms,
            fuel_per_commit: of.fuel_per_commit,
        }
    }
}

impl From<wit::ShadowRun> for ShadowRun {
    fn from(run: wit::ShadowRun) -> Self {
        Self {
            state: match run.state {
                wit::ShadowState::Running => ShadowState::Running,
                wit::ShadowState::Complete => ShadowState::Complete,
                wit::ShadowState::Failed(reason) => ShadowState::Failed(reason),
                wit::ShadowState::DroppedOut(reason) => ShadowState::DroppedOut(reason),
            },
            steps: run.steps,
            events: run.events,
            live_commits: run.live_commits,
            equal_commits: run.equal_commits,
            other_commits: run.other_commits,
            missed_commits: run.missed_commits,
            slowest_us: run.slowest_us,
            fuel_max: run.fuel_max,
            fuel_limit: run.fuel_limit,
            memory_bytes: run.memory_bytes,
        }
    }
}

impl From<wit::Verdict> for Verdict {
    fn from(verdict: wit::Verdict) -> Self {
        match verdict {
            wit::Verdict::Approve => Self::Approve,
            wit::Verdict::Reject(reason) => Self::Reject(reason),
            wit::Verdict::Wait => Self::Wait,
        }
    }
}

impl From<Verdict> for wit::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Approve => Self::Approve,
            Verdict::Reject(reason) => Self::Reject(reason),
            Verdict::Wait => Self::Wait,
        }
    }
}
