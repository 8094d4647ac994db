//! What this node does about open proposals: check the modules, vote, say when it is ready,
//! and keep saying so until it is final. The decisions about proposals are the ledger's.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_sdk::approval::{self, ModuleCheck, Verdict};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest};
use moult_types::governance::{Decision, REASON_BYTES_MAX, ReadyNotice, Vote, Withdrawal};
use moult_types::{
    Activation, EpochChangeProposal, EpochNumber, Member, Message, ModulePin, ProposalId, Scope, Signature,
    SignedProposal, SignedReport, SystemTransaction, World,
};

use super::Replica;
use crate::governance::{ProposalRecord, ProposalState};
use crate::io::{Effect, Event};
use crate::ports::Fault;

/// Governance that is not final after this time is said again, in milliseconds.
const RESAY_MS: u64 = 1000;
/// Most relayed system transactions that wait at once.
const RELAYED_MAX: usize = 256;

/// What this node has done about open proposals.
#[derive(Default)]
pub(super) struct Duties {
    by_hash: BTreeMap<Digest, Duty>,
    /// Own proposals and withdrawals that are not final: (transaction, said at).
    own: Vec<(SystemTransaction, u64)>,
}

#[derive(Default)]
struct Duty {
    checks_asked: bool,
    checks: Option<Vec<ModuleCheck>>,
    operator: Option<Decision>,
    /// Index at which the policy was asked last, and whether the answer is still out.
    asked: Option<CommitIndex>,
    asking: bool,
    decision: Option<Decision>,
    vote_said_ms: Option<u64>,
    ready_said_ms: Option<u64>,
}

impl Duties {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn on_checked(&mut self, proposal: Digest, checks: Vec<ModuleCheck>) {
        if let Some(duty) = self.by_hash.get_mut(&proposal) {
            duty.checks = Some(checks);
            duty.asked = None;
        }
    }

    pub(super) fn on_operator_vote(&mut self, id: ProposalId, decision: Decision) {
        // By number until the next look at the ledger; see `do_duties`.
        self.by_hash.entry(operator_key(id)).or_default().operator = Some(decision);
    }
}

/// Where an operator's vote waits until its proposal's hash is known.
fn operator_key(id: ProposalId) -> Digest {
    moult_types::codec::hash_of("moult operator vote", &id)
}

impl Replica {
    pub(super) fn do_duties(&mut self) {
        if self.closing() {
            return;
        }
        self.forget_decided();
        let open: Vec<ProposalRecord> = self.ledger.open.values().cloned().collect();
        for record in &open {
            self.duty_of(record);
        }
        self.resay_own();
        self.announce_peers();
    }

    fn forget_decided(&mut self) {
        let open = &self.ledger.open;
        let known = |key: &Digest| open.values().any(|r| r.hash == *key || operator_key(r.id) == *key);
        let gone: Vec<_> = self.duties.by_hash.keys().filter(|key| !known(key)).copied().collect();
        for hash in gone {
            self.duties.by_hash.remove(&hash);
            self.out.release.push(Effect::ForgetModules { hash });
        }
        self.duties.own.retain(|(transaction, _)| match transaction {
            SystemTransaction::Propose(signed) => {
                let hash = signed.proposal.hash();
                signed.proposal.deadline > self.ledger.index && !open.values().any(|r| r.hash == hash)
            }
            SystemTransaction::Withdraw(withdrawal) => open
                .get(&withdrawal.proposal)
                .is_some_and(|r| !matches!(r.state, ProposalState::Scheduled { .. })),
            SystemTransaction::Vote(_) | SystemTransaction::Ready(_) | SystemTransaction::Open(_) => false,
        });
    }

    fn duty_of(&mut self, record: &ProposalRecord) {
        let operator = self.duties.by_hash.remove(&operator_key(record.id)).and_then(|duty| duty.operator);
        let duty = self.duties.by_hash.entry(record.hash).or_default();
        if let Some(decision) = operator {
            duty.operator = Some(decision);
            duty.asked = None;
        }
        if !duty.checks_asked {
            duty.checks_asked = true;
            let proposal = Arc::new(record.proposal.clone());
            self.out.release.push(Effect::CheckModules { proposal, hash: record.hash });
        }
        match record.state {
            ProposalState::Proposed => self.vote_on(record),
            ProposalState::Approved => self.say_ready(record),
            _ => {}
        }
    }

    fn vote_on(&mut self, record: &ProposalRecord) {
        let Some(me) = self.epoch.me else { return };
        if record.votes.contains_key(&me) || !self.guard.is_enabled() {
            return;
        }
        let index = self.ledger.index;
        let Some(duty) = self.duties.by_hash.get_mut(&record.hash) else { return };
        match duty.decision.clone() {
            None if !duty.asking && duty.checks.is_some() && duty.asked.is_none_or(|asked| asked < index) => {
                duty.asking = true;
                duty.asked = Some(index);
                self.ask_policy(record);
            }
            Some(decision) if duty.vote_said_ms.is_none_or(|at| at + RESAY_MS <= self.now.mono_ms) => {
                duty.vote_said_ms = Some(self.now.mono_ms);
                self.say_vote(record, me, decision);
            }
            _ => {}
        }
    }

    fn ask_policy(&mut self, record: &ProposalRecord) {
        let Some(pin) = self.epoch.start.manifest.pin(World::Approval).cloned() else { return };
        let Some(duty) = self.duties.by_hash.get(&record.hash) else { return };
        let manifest = &self.epoch.start.manifest;
        let context = approval::Context {
            present: sdk_epoch(manifest.number, manifest.fault_model, &manifest.members, &manifest.modules),
            index: self.ledger.index,
            block_time_ms: self.ledger.time_ms,
            checks: duty.checks.clone().unwrap_or_default(),
            operator: duty.operator.as_ref().map(|decision| match decision {
                Decision::Approve => Verdict::Approve,
                Decision::Reject(reason) => Verdict::Reject(reason.clone()),
            }),
            // The shell's to fill in: it runs them.
            shadow: None,
            // Verified when the proposal was let in.
            certifications: record.proposal.reports.iter().map(sdk_certification).collect(),
        };
        let proposal = Box::new(sdk_proposal(record));
        self.out.release.push(Effect::Evaluate { pin, proposal, context: Box::new(context) });
    }

    pub(super) fn on_verdict(&mut self, id: ProposalId, verdict: Result<Verdict, Fault>) {
        let Some(record) = self.ledger.open.get(&id) else { return };
        let Some(duty) = self.duties.by_hash.get_mut(&record.hash) else { return };
        duty.asking = false;
        let decision = match verdict {
            Ok(Verdict::Approve) => Decision::Approve,
            Ok(Verdict::Reject(reason)) => Decision::Reject(shorten(reason)),
            Ok(Verdict::Wait) => return,
            Err(fault) => return self.event(Event::PolicyFault { proposal: id, fault: fault.to_string() }),
        };
        duty.decision = Some(decision.clone());
        self.event(Event::Voted { proposal: id, decision });
    }

    fn say_vote(&mut self, record: &ProposalRecord, author: AuthorityIndex, decision: Decision) {
        let no_signature = Signature([0; 64]);
        let mut vote =
            Vote { proposal: record.id, hash: record.hash, decision, author, signature: no_signature };
        let scope = Scope::Number(self.epoch.start.manifest.number);
        // Refused where an earlier life of this node voted otherwise: that vote stands.
        if let Ok(signature) = self.sign_host(scope, &vote.statement()) {
            vote.signature = signature;
            self.submit_system(SystemTransaction::Vote(vote));
        }
    }

    /// Readiness is attested anew as long as the barrier is not set: it counts only while
    /// it is fresh.
    fn say_ready(&mut self, record: &ProposalRecord) {
        let me = self.signer.public_key();
        let Some(place) = record.proposal.new_committee.iter().position(|member| member.key == me) else {
            return;
        };
        let author = AuthorityIndex(place as u32);
        let window_blocks = self.epoch.start.manifest.limits.readiness_window_blocks;
        let (index, now_ms) = (self.ledger.index, self.now.mono_ms);
        let fresh = record.ready.get(&author).is_some_and(|at| at.0 + window_blocks / 2 > index.0);
        let Some(duty) = self.duties.by_hash.get_mut(&record.hash) else { return };
        let all_good =
            duty.checks.as_ref().is_some_and(|checks| checks.iter().all(|check| check.problem.is_none()));
        let said = duty.ready_said_ms.is_some_and(|at| at + RESAY_MS > now_ms);
        if fresh || said || !all_good || !self.guard.is_enabled() {
            return;
        }
        duty.ready_said_ms = Some(now_ms);
        let window = index.0 / window_blocks;
        let no_signature = Signature([0; 64]);
        let mut notice =
            ReadyNotice { proposal: record.id, hash: record.hash, window, author, signature: no_signature };
        let scope = Scope::Number(record.proposal.new_epoch);
        if let Ok(signature) = self.sign_host(scope, &notice.statement()) {
            notice.signature = signature;
            self.say(SystemTransaction::Ready(notice));
        }
    }

    /// Orders governance: in an own batch, or through the members where this node has none.
    fn say(&mut self, system: SystemTransaction) {
        if self.epoch.me.is_some() {
            self.submit_system(system);
        } else {
            self.send(self.members(), Message::System(system));
        }
    }

    /// Governance of a node that cannot order it itself.
    pub(super) fn relay(&mut self, system: SystemTransaction) {
        let wanted = match &system {
            SystemTransaction::Ready(notice) => {
                let record =
                    self.ledger.open.get(&notice.proposal).filter(|r| r.state == ProposalState::Approved);
                record.is_some_and(|record| {
                    let member = record.proposal.new_committee.get(notice.author.as_usize());
                    let scope = Scope::Number(record.proposal.new_epoch);
                    member.is_some_and(|member| {
                        let statement = notice.statement();
                        moult_crypto::verify_statement(
                            &member.key,
                            self.chain,
                            scope,
                            &statement,
                            &notice.signature,
                        )
                        .is_ok()
                    })
                })
            }
            // Members order their own.
            SystemTransaction::Propose(_)
            | SystemTransaction::Withdraw(_)
            | SystemTransaction::Vote(_)
            | SystemTransaction::Open(_) => false,
        };
        if wanted && self.epoch.me.is_some() && self.batching.queued() < RELAYED_MAX {
            self.submit_system(system);
        }
    }

    pub(super) fn propose(&mut self, mut proposal: EpochChangeProposal) {
        let Some(author) = self.epoch.me else { return };
        proposal.proposal_commit_index = self.ledger.index;
        let statement = proposal.statement(author);
        let scope = Scope::Number(self.epoch.start.manifest.number);
        if let Ok(signature) = self.sign_host(scope, &statement) {
            let signed = SignedProposal { proposal, author, signature };
            self.duties.own.push((SystemTransaction::Propose(Box::new(signed)), 0));
        }
        self.resay_own();
    }

    pub(super) fn withdraw(&mut self, id: ProposalId) {
        let Some(record) = self.ledger.open.get(&id) else { return };
        if self.epoch.me != Some(record.author) {
            return;
        }
        let (hash, author) = (record.hash, record.author);
        let mut withdrawal = Withdrawal { proposal: id, hash, author, signature: Signature([0; 64]) };
        let scope = Scope::Number(self.epoch.start.manifest.number);
        if let Ok(signature) = self.sign_host(scope, &withdrawal.statement()) {
            withdrawal.signature = signature;
            self.duties.own.push((SystemTransaction::Withdraw(withdrawal), 0));
        }
        self.resay_own();
    }

    fn resay_own(&mut self) {
        let now_ms = self.now.mono_ms;
        let due = self.duties.own.iter_mut().filter(|(_, said)| *said == 0 || *said + RESAY_MS * 5 <= now_ms);
        let due: Vec<_> = due
            .map(|(transaction, said)| {
                *said = now_ms.max(1);
                transaction.clone()
            })
            .collect();
        for transaction in due {
            self.submit_system(transaction);
        }
    }
}

/// To the bytes that a reason may have at most.
pub(super) fn shorten(mut reason: String) -> String {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

fn sdk_epoch(
    number: EpochNumber,
    fault_model: moult_sdk::FaultModel,
    members: &[Member],
    modules: &BTreeMap<World, ModulePin>,
) -> approval::Epoch {
    approval::Epoch {
        number: number.0,
        fault_model,
        committee: members
            .iter()
            .map(|member| approval::Member {
                authority: Digest(member.id.0),
                key: Digest(member.key.0),
                stake: member.stake,
                address: member.address.clone(),
            })
            .collect(),
        modules: modules
            .iter()
            .map(|(world, pin)| approval::ModulePin {
                world: world.name().to_owned(),
                hash: Digest(pin.hash.0),
                config: pin.config.clone(),
            })
            .collect(),
    }
}

fn sdk_certification(signed: &SignedReport) -> approval::Certification {
    let report = &signed.report;
    approval::Certification {
        world: report.world.name().to_owned(),
        module: Digest(report.module.0),
        certifier: Digest(signed.certifier.0),
        host_version: report.host_version.clone(),
        first_seed: report.first_seed,
        seeds: report.seeds,
        failures: report.all_failures(),
        worst_stall_ms: report.worst_stall_ms,
        fuel_per_commit: report.fuel_per_commit,
    }
}

fn sdk_proposal(record: &ProposalRecord) -> approval::Proposal {
    let proposal = &record.proposal;
    approval::Proposal {
        id: record.id.0,
        hash: record.hash,
        proposer: Digest(proposal.proposer.0),
        next: sdk_epoch(proposal.new_epoch, proposal.fault_model, &proposal.new_committee, &proposal.modules),
        deadline: proposal.deadline,
        not_before_ms: match proposal.activation {
            Activation::AsSoonAsReady => None,
            Activation::NotBefore(at) => Some(at),
        },
        proposed_index: record.proposed.0,
        proposed_ms: record.proposed.1,
        readmit_failed: proposal.readmit_failed,
    }
}
