//! Between the generated types of `approval` and the plain ones.

use moult_sdk::approval::{
    Certification, Context, Epoch, Info, Member, ModuleCheck, ModulePin, Proposal, ShadowRun, ShadowState,
    Verdict,
};

use crate::bindings::approval::exports::moult::approval::approval as wit;

fn all<'a, A, B: From<&'a A>>(items: &'a [A]) -> Vec<B> {
    items.iter().map(B::from).collect()
}

impl From<&Member> for wit::Member {
    fn from(member: &Member) -> Self {
        Self {
            authority: member.authority.into(),
            key: member.key.into(),
            stake: member.stake,
            address: member.address.clone(),
        }
    }
}

impl From<&ModulePin> for wit::ModulePin {
    fn from(pin: &ModulePin) -> Self {
        Self { world: pin.world.clone(), hash: pin.hash.into(), config: pin.config.clone() }
    }
}

impl From<&Epoch> for wit::Epoch {
    fn from(epoch: &Epoch) -> Self {
        Self {
            number: epoch.number,
            fault_model: epoch.fault_model.into(),
            committee: all(&epoch.committee),
            modules: all(&epoch.modules),
        }
    }
}

impl From<&Proposal> for wit::Proposal {
    fn from(proposal: &Proposal) -> Self {
        Self {
            id: proposal.id,
            hash: proposal.hash.into(),
            proposer: proposal.proposer.into(),
            next: (&proposal.next).into(),
            deadline: proposal.deadline.0,
            not_before_ms: proposal.not_before_ms,
            proposed_index: proposal.proposed_index.0,
            proposed_ms: proposal.proposed_ms,
            readmit_failed: proposal.readmit_failed,
        }
    }
}

impl From<&ModuleCheck> for wit::ModuleCheck {
    fn from(check: &ModuleCheck) -> Self {
        Self {
            world: check.world.clone(),
            hash: check.hash.into(),
            name: check.name.clone(),
            version: check.version.clone(),
            problem: check.problem.clone(),
        }
    }
}

impl From<&Context> for wit::Context {
    fn from(context: &Context) -> Self {
        Self {
            present: (&context.present).into(),
            index: context.index.0,
            block_time_ms: context.block_time_ms,
            checks: all(&context.checks),
            operator: context.operator.as_ref().map(wit::Verdict::from),
            shadow: context.shadow.as_ref().map(wit::ShadowRun::from),
            certifications: all(&context.certifications),
        }
    }
}

impl From<&Certification> for wit::Certification {
    fn from(of: &Certification) -> Self {
        Self {
            world: of.world.clone(),
            module: of.module.into(),
            certifier: of.certifier.into(),
            host_version: of.host_version.clone(),
            first_seed: of.first_seed,
            seeds: of.seeds,
            failures: of.failures,
            worst_stall_ms: of.worst_stall_ms,
            fuel_per_commit: of.fuel_per_commit,
        }
    }
}

impl From<&ShadowRun> for wit::ShadowRun {
    fn from(run: &ShadowRun) -> Self {
        Self {
            state: match &run.state {
                ShadowState::Running => wit::ShadowState::Running,
                ShadowState::Complete => wit::ShadowState::Complete,
                ShadowState::Failed(reason) => wit::ShadowState::Failed(reason.clone()),
                ShadowState::DroppedOut(reason) => wit::ShadowState::DroppedOut(reason.clone()),
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

impl From<&Verdict> for wit::Verdict {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Approve => Self::Approve,
            Verdict::Reject(reason) => Self::Reject(reason.clone()),
            Verdict::Wait => Self::Wait,
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

impl From<wit::Info> for Info {
    fn from(info: wit::Info) -> Self {
        Self { name: info.name, version: info.version }
    }
}
