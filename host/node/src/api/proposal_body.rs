//! Proposals in their written form, with a sentence that says where they stand.

use std::collections::BTreeSet;

use moult_core::governance::{Ledger, ProposalRecord, ProposalState};
use moult_replay::{Sent, ShadowEnd, ShadowState, ShadowView, UsageReport};
use moult_sdk::approval::ModuleCheck;
use moult_types::governance::Decision;
use moult_types::{Activation, Committee, EpochLimits, ModuleHash, Stake};

use super::convert;
use crate::api_types::{
    CheckBody, FailedEngineBody, ProposalBody, ShadowBody, ShadowCommitsBody, ShadowCostBody, VoteBody,
};
use crate::genesis::PinFile;

/// What a record is described with.
pub(super) struct Facts<'a> {
    /// Those who vote; `None` where the epoch is not in the store.
    pub(super) committee: Option<Committee>,
    /// What this node found out about the pinned modules.
    pub(super) checks: &'a [ModuleCheck],
    /// The shadow run of its engine.
    pub(super) shadow: Option<&'a ShadowView>,
    /// After the last final block.
    pub(super) ledger: &'a Ledger,
    /// Of the present epoch.
    pub(super) limits: &'a EpochLimits,
}

/// Stake of the votes.
struct Tally {
    approve: Stake,
    reject: Stake,
    quorum: Stake,
}

pub(super) fn body(record: &ProposalRecord, facts: &Facts<'_>) -> ProposalBody {
    let proposal = &record.proposal;
    let tally = tally(record, facts.committee.as_ref());
    ProposalBody {
        id: record.id.0,
        hash: record.hash.to_string(),
        state: state_name(record.state).into(),
        explanation: explanation(record, facts, &tally),
        proposer: proposal.proposer,
        new_epoch: proposal.new_epoch.0,
        proposed_index: record.proposed.0.0,
        proposed_time_ms: record.proposed.1,
        changed_index: record.changed.0.0,
        changed_time_ms: record.changed.1,
        deadline: proposal.deadline.0,
        not_before_ms: match proposal.activation {
            Activation::AsSoonAsReady => None,
            Activation::NotBefore(at_ms) => Some(at_ms),
        },
        barrier: match record.state {
            ProposalState::Scheduled { barrier } => Some(barrier.0),
            _ => None,
        },
        fault_model: proposal.fault_model,
        committee: proposal.new_committee.clone(),
        modules: proposal.modules.iter().map(|(world, pin)| (*world, PinFile::from(pin))).collect(),
        fallbacks: proposal.fallbacks.iter().map(PinFile::from).collect(),
        readmit_failed: proposal.readmit_failed,
        failed_engines: failed_engines(record, facts.ledger),
        limits: proposal.limits.clone(),
        votes: votes(record),
        stake_approve: tally.approve,
        stake_reject: tally.reject,
        quorum: tally.quorum,
        ready: record.ready.keys().map(|place| place.0).collect(),
        checks: facts.checks.iter().map(check).collect(),
        shadow: facts.shadow.map(shadow),
        reports: proposal.reports.clone(),
    }
}

/// What is known against the engines of a proposal that is not decided.
fn failed_engines(record: &ProposalRecord, ledger: &Ledger) -> Vec<FailedEngineBody> {
    let engines = record.proposal.engines().filter(|_| record.state.is_open());
    engines.filter_map(|pin| ledger.failed.of(pin)).map(convert::failed_engine).collect()
}

fn shadow(run: &ShadowView) -> ShadowBody {
    let report = &run.report;
    let (state, reason) = match (&run.state, &report.end) {
        (ShadowState::Running, _) => ("running", None),
        (ShadowState::Complete, _) => ("complete", None),
        (ShadowState::Ended, Some(ShadowEnd::Refused(reason))) => {
            ("failed", Some(format!("it refuses to start: {reason}")))
        }
        (ShadowState::Ended, Some(ShadowEnd::Failed(reason))) => ("failed", Some(reason.clone())),
        (ShadowState::Ended, None) => ("failed", None),
        (ShadowState::DroppedOut(reason), _) => ("dropped-out", Some(reason.clone())),
    };
    let commits = &report.commits;
    ShadowBody {
        state: state.into(),
        reason,
        steps: report.steps,
        events: report.events,
        without_records: report.without_records,
        commits: ShadowCommitsBody {
            live: commits.live,
            candidate: commits.candidate,
            equal: commits.equal,
            other: commits.other,
            missed: commits.missed,
            behind_p50_ms: commits.behind_p50_ms,
            behind_p99_ms: commits.behind_p99_ms,
            behind_max_ms: commits.behind_max_ms,
            first_other: commits.first_other.as_ref().map(|other| other.index),
        },
        live: cost(&report.live, &report.live_asked),
        candidate: cost(&report.candidate, &report.candidate_asked),
    }
}

fn cost(usage: &UsageReport, asked: &Sent) -> ShadowCostBody {
    ShadowCostBody {
        calls: usage.calls,
        busy_us: usage.busy_us,
        call_p50_us: usage.call_p50_us,
        call_p99_us: usage.call_p99_us,
        call_max_us: usage.call_max_us,
        fuel: usage.fuel,
        fuel_max: usage.fuel_max,
        memory_bytes: usage.memory_bytes,
        messages: asked.messages,
        message_bytes: asked.message_bytes,
        signatures: asked.signatures,
        record_bytes: asked.record_bytes,
    }
}

pub(super) fn state_name(state: ProposalState) -> &'static str {
    match state {
        ProposalState::Proposed => "proposed",
        ProposalState::Approved => "approved",
        ProposalState::Scheduled { .. } => "scheduled",
        ProposalState::Active => "active",
        ProposalState::Rejected => "rejected",
        ProposalState::Expired => "expired",
        ProposalState::Withdrawn => "withdrawn",
        ProposalState::Superseded => "superseded",
        ProposalState::Cancelled => "cancelled",
    }
}

fn votes(record: &ProposalRecord) -> Vec<VoteBody> {
    let vote =
        |(place, vote): (&moult_types::AuthorityIndex, &moult_core::governance::VoteRecord)| VoteBody {
            authority_index: place.0,
            approve: vote.decision == Decision::Approve,
            reason: reason_of(&vote.decision).map(str::to_owned),
            index: vote.index.0,
            time_ms: vote.time_ms,
        };
    record.votes.iter().map(vote).collect()
}

fn reason_of(decision: &Decision) -> Option<&str> {
    match decision {
        Decision::Approve => None,
        Decision::Reject(reason) => Some(reason),
    }
}

fn check(check: &ModuleCheck) -> CheckBody {
    CheckBody {
        world: check.world.clone(),
        hash: ModuleHash(check.hash.0),
        name: check.name.clone(),
        version: check.version.clone(),
        problem: check.problem.clone(),
    }
}

fn tally(record: &ProposalRecord, committee: Option<&Committee>) -> Tally {
    let Some(committee) = committee else { return Tally { approve: 0, reject: 0, quorum: 0 } };
    let stake = |approve: bool| {
        let votes = record.votes.iter().filter(|(_, vote)| (vote.decision == Decision::Approve) == approve);
        votes.map(|(place, _)| committee.stake(*place)).sum()
    };
    Tally { approve: stake(true), reject: stake(false), quorum: committee.quorum() }
}

fn explanation(record: &ProposalRecord, facts: &Facts<'_>, tally: &Tally) -> String {
    let Tally { approve, reject, quorum } = tally;
    let (epoch, at) = (record.proposal.new_epoch, record.changed.0.0);
    match record.state {
        ProposalState::Proposed if *reject > 0 => format!(
            "no quorum yet: approved by stake {approve} of {quorum} needed, rejected by {reject}: {}",
            reasons(record)
        ),
        ProposalState::Proposed => format!("no quorum yet: approved by stake {approve} of {quorum} needed"),
        ProposalState::Approved => approved(record, facts),
        ProposalState::Scheduled { barrier } => format!(
            "scheduled: epoch {epoch} begins after block {barrier} of this epoch",
            barrier = barrier.0
        ),
        ProposalState::Active => format!("active: epoch {epoch} began after block {at}"),
        ProposalState::Rejected => format!("rejected by quorum: {}", reasons(record)),
        ProposalState::Expired if approve >= quorum && *quorum > 0 => {
            format!("expired at block {at}: approved, but not ready or not due in time")
        }
        ProposalState::Expired if *quorum == 0 => format!("expired at block {at}"),
        ProposalState::Expired => format!("expired at block {at}: no quorum (stake {approve} of {quorum})"),
        ProposalState::Withdrawn => format!("withdrawn by its proposer at block {at}"),
        ProposalState::Superseded => {
            format!("superseded at block {at}: another proposal for epoch {epoch} was approved first")
        }
        ProposalState::Cancelled => {
            format!("cancelled: the committee gave up an engine, and the epoch goes on from block {at}")
        }
    }
}

fn approved(record: &ProposalRecord, facts: &Facts<'_>) -> String {
    let proposal = &record.proposal;
    let Ok(next) = Committee::new(proposal.new_committee.clone(), proposal.fault_model) else {
        return "approved".into();
    };
    let (index, window) = (facts.ledger.index.0, facts.limits.readiness_window_blocks);
    let counts = record.ready.iter().filter(|(_, at)| at.0.saturating_add(window) > index);
    let ready: BTreeSet<_> = counts.map(|(place, _)| *place).collect();
    let (stake, quorum) = (next.stake_of(&ready), next.quorum());
    match proposal.activation {
        Activation::NotBefore(at_ms) if stake >= quorum => {
            format!("approved and ready (stake {stake} of {quorum} needed); waits for block time {at_ms}")
        }
        _ => format!("approved; ready: {stake} of {quorum} needed"),
    }
}

/// Each reason once, in the order of the voters.
fn reasons(record: &ProposalRecord) -> String {
    let mut told: Vec<&str> = Vec::new();
    for reason in record.votes.values().filter_map(|vote| reason_of(&vote.decision)) {
        let reason = if reason.is_empty() { "no reason given" } else { reason };
        if !told.contains(&reason) {
            told.push(reason);
        }
    }
    told.join("; ")
}

#[cfg(test)]
#[path = "proposal_body_test.rs"]
mod tests;
