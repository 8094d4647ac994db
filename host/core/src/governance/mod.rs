//! Epoch changes as a function of the final sequence.
//!
//! Here lives the [`Ledger`]: replicated state of the host at a final block, with every open
//! proposal, its votes and readiness, and the scheduled barrier. [`Ledger::apply`] is a pure
//! function of the block, so every node decides at the same index. Nothing here asks a
//! clock, a queue or a peer; what this node *does* about a proposal is in `duties`.

mod check;
mod failed;
mod time;

use std::collections::{BTreeMap, BTreeSet};

use borsh::{BorshDeserialize, BorshSerialize};
use moult_crypto::verify_statement;
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Stake};
use moult_types::governance::{Decision, REASON_BYTES_MAX, ReadyNotice, Vote, Withdrawal};
use moult_types::phase::Phase;
use moult_types::{
    Activation, BlockRecord, ChainId, Committee, EpochChangeProposal, EpochIdentity, Finality, Follows,
    GlobalIndex, HeldBatch, Manifest, ProposalId, Scope, SignedProposal, SystemTransaction, Transaction,
};

#[cfg(feature = "planted")]
use crate::replica::Planted;

pub use check::{
    DEADLINE_BLOCKS_MAX, FALLBACKS_MAX, ProposalError, check_limits, check_manifest, check_reports,
};
pub use failed::{FAILED_ENGINES_MAX, FailedEngine, FailedEngines, config_hash};
pub use time::{block_time, note_times};

/// Where a proposal stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum ProposalState {
    /// Votes are being collected: no quorum yet.
    Proposed,
    /// A quorum approved; readiness is being collected.
    Approved,
    /// A quorum of the new committee is ready; the epoch ends at the barrier.
    Scheduled {
        /// The last block of the epoch.
        barrier: CommitIndex,
    },
    /// The new epoch follows this proposal.
    Active,
    /// A quorum voted against it.
    Rejected,
    /// The deadline passed, or the epoch ended, before it was scheduled.
    Expired,
    /// Its proposer took it back.
    Withdrawn,
    /// A rival's quorum came first.
    Superseded,
    /// A phase of the epoch was aborted below the barrier, or the proposal pins the engine that
    /// was aborted.
    Cancelled,
}

impl ProposalState {
    /// Whether it can still become active.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Proposed | Self::Approved | Self::Scheduled { .. })
    }
}

/// A vote as it was counted.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct VoteRecord {
    /// How.
    pub decision: Decision,
    /// In which block.
    pub index: CommitIndex,
    /// At what block time.
    pub time_ms: u64,
}

/// A proposal with everything that was decided about it: the audit trail.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct ProposalRecord {
    /// Its number.
    pub id: ProposalId,
    /// Its hash.
    pub hash: Digest,
    /// Its content.
    pub proposal: EpochChangeProposal,
    /// Its proposer's place in the committee of then.
    pub author: AuthorityIndex,
    /// Where it stands.
    pub state: ProposalState,
    /// Index and time of the block that carried it.
    pub proposed: (CommitIndex, u64),
    /// Index and time of the block that brought its present state.
    pub changed: (CommitIndex, u64),
    /// By voter's place in the committee of then.
    pub votes: BTreeMap<AuthorityIndex, VoteRecord>,
    /// By place in the new committee: the block of the last notice.
    pub ready: BTreeMap<AuthorityIndex, CommitIndex>,
}

/// Replicated state of the host after a final block.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Ledger {
    /// The block, over all epochs.
    pub global: GlobalIndex,
    /// How many blocks of the epoch are executed up to this one. Barriers, deadlines and
    /// readiness count in these: it goes on through the phases of an epoch.
    pub index: CommitIndex,
    /// The phase that the block lies in.
    pub identity: EpochIdentity,
    /// The block's index there: that of `index` but in a fallback.
    pub commit: CommitIndex,
    /// Its hash.
    pub hash: Digest,
    /// The phase in which the next block lies.
    pub phase: Phase,
    /// Its block time.
    pub time_ms: u64,
    /// The latest batch time of each authority in this epoch; 0 for none.
    pub author_times_ms: Vec<u64>,
    /// The number that the next proposal gets.
    pub next_proposal: ProposalId,
    /// The timestamp of each authority's latest proposal in this epoch: what was decided once
    /// is not put forward again by whoever kept a copy of it.
    pub proposed_ms: Vec<u64>,
    /// Proposals that are open.
    pub open: BTreeMap<ProposalId, ProposalRecord>,
    /// The last block of the epoch, where it graduates.
    pub graduation: Option<CommitIndex>,
    /// Engines that were given up, in this epoch and before.
    pub failed: FailedEngines,
    /// A bug planted for the simulator.
    #[cfg(feature = "planted")]
    #[borsh(skip)]
    pub planted: Option<Planted>,
    /// What this node's clock shows: for one of them.
    #[cfg(feature = "planted")]
    #[borsh(skip)]
    pub clock_ms: u64,
}

/// The present epoch, as far as proposals are judged by it.
#[derive(Clone, Copy, Debug)]
pub struct Present<'a> {
    /// The chain.
    pub chain: ChainId,
    /// What the epoch fixes.
    pub manifest: &'a Manifest,
    /// Its committee.
    pub committee: &'a Committee,
}

impl Ledger {
    /// At the point where an epoch begins.
    pub fn at_start(manifest: &Manifest, base: GlobalIndex, time_ms: u64, next_proposal: ProposalId) -> Self {
        Self {
            global: base,
            index: CommitIndex(0),
            identity: manifest.identity(),
            commit: CommitIndex(0),
            hash: manifest.identity().digest(),
            phase: 0,
            time_ms,
            author_times_ms: vec![0; manifest.members.len()],
            next_proposal,
            proposed_ms: vec![0; manifest.members.len()],
            open: BTreeMap::new(),
            graduation: None,
            failed: FailedEngines::default(),
            #[cfg(feature = "planted")]
            planted: None,
            #[cfg(feature = "planted")]
            clock_ms: 0,
        }
    }

    /// At the beginning of the epoch that follows this one at its last block.
    pub fn at_next(&self, manifest: &Manifest) -> Self {
        let next = Self::at_start(manifest, self.global, self.time_ms, self.next_proposal);
        #[cfg(feature = "planted")]
        if self.planted == Some(Planted::FailedForgotten) {
            return next;
        }
        Self { failed: self.failed.clone(), ..next }
    }

    /// The barrier and the proposal that set it.
    pub fn schedule(&self) -> Option<(&ProposalRecord, CommitIndex)> {
        self.open.values().find_map(|record| match record.state {
            ProposalState::Scheduled { barrier } => Some((record, barrier)),
            _ => None,
        })
    }

    /// The last block of the epoch, once it is known: where a proposal becomes active or the
    /// epoch graduates.
    pub fn barrier(&self) -> Option<CommitIndex> {
        self.graduation.or_else(|| self.schedule().map(|(_, barrier)| barrier))
    }

    /// The block as what an epoch follows: of the phase that it lies in, never of a fallback that
    /// closed it (K12).
    fn follows(&self) -> Follows {
        Follows { identity: self.identity, index: self.commit, hash: self.hash }
    }

    /// Whether the epoch ends with the block that this is the state of.
    pub fn is_at_barrier(&self) -> bool {
        self.barrier() == Some(self.index)
    }

    /// The manifest of the epoch that follows. `None` but at the barrier.
    pub fn next_manifest(&self, present: &Manifest) -> Option<Manifest> {
        if !self.is_at_barrier() {
            return None;
        }
        Some(match self.schedule() {
            Some((record, _)) => manifest_of(&record.proposal, self),
            None => graduated(present, self),
        })
    }

    /// Applies one final block; answers with the proposals whose state changed.
    pub fn apply(
        &mut self,
        present: Present<'_>,
        record: &BlockRecord,
        batches: &[&HeldBatch],
    ) -> Vec<ProposalRecord> {
        self.index = CommitIndex(self.index.0 + record.global.0.saturating_sub(self.global.0));
        self.global = record.global;
        self.identity = record.identity;
        self.commit = record.block.index;
        self.hash = record.hash;
        self.time_ms = record.block.time_ms;
        note_times(&mut self.author_times_ms, present.manifest.number.0, batches.iter().copied());
        let mut changed = BTreeSet::new();
        for transaction in batches.iter().flat_map(|batch| &batch.batch().transactions) {
            if let Transaction::System(system) = transaction {
                changed.extend(self.apply_system(present, system));
            }
        }
        self.expire(&mut changed);
        self.schedule_if_ready(present, &mut changed);
        let records = changed.iter().filter_map(|id| self.open.get(id).cloned()).collect();
        self.open.retain(|_, record| record.state.is_open());
        self.graduate(present.manifest);
        records
    }

    /// Takes governance out of a batch that is not final: a bug planted for the simulator.
    #[cfg(feature = "planted")]
    pub(crate) fn hear(&mut self, present: Present<'_>, batch: &HeldBatch) {
        for transaction in &batch.batch().transactions {
            if let Transaction::System(system @ (SystemTransaction::Vote(_) | SystemTransaction::Ready(_))) =
                transaction
            {
                self.apply_system(present, system);
            }
        }
    }

    /// K12: a phase was aborted, and its fallback goes on from here, below any barrier. What was
    /// scheduled is cancelled, and what pins an aborted engine, with whatever configuration: it was
    /// proposed before anybody knew. The rest goes on. The engines of all phases from the last one
    /// that resumed are remembered. Answers with what was cancelled.
    pub fn resume(&mut self, present: &Manifest, phase: Phase) -> Vec<ProposalRecord> {
        let at = (self.index, self.time_ms);
        let aborted = self.phase..phase;
        let modules: BTreeSet<_> =
            aborted.clone().filter_map(|former| present.engine(former)).map(|pin| pin.hash).collect();
        self.failed.note(present, aborted, self.global);
        self.phase = phase;
        self.graduation = None;
        let mut cancelled = Vec::new();
        self.open.retain(|_, record| {
            let pins_it = record.proposal.engines().any(|pin| modules.contains(&pin.hash));
            let is_void = pins_it || matches!(record.state, ProposalState::Scheduled { .. });
            if is_void {
                record.state = ProposalState::Cancelled;
                record.changed = at;
                cancelled.push(record.clone());
            }
            !is_void
        });
        cancelled
    }

    /// What becomes of the open proposals when the epoch ends here.
    pub fn close(&mut self) -> Vec<ProposalRecord> {
        let at = (self.index, self.time_ms);
        let mut records: Vec<_> = std::mem::take(&mut self.open).into_values().collect();
        for record in &mut records {
            let active = matches!(record.state, ProposalState::Scheduled { .. });
            record.state = if active { ProposalState::Active } else { ProposalState::Expired };
            record.changed = at;
            if active {
                self.failed.readmit(&record.proposal);
            }
        }
        records
    }

    /// Checks a proposal against the state after the last final block.
    ///
    /// # Errors
    /// Why it cannot be put forward.
    pub fn check_proposal(&self, present: Present<'_>, signed: &SignedProposal) -> Result<(), ProposalError> {
        let (proposal, author) = (&signed.proposal, signed.author);
        self.check_unsigned(present, proposal)?;
        let member = present.committee.member(author).filter(|m| m.id == proposal.proposer);
        let member = member.ok_or(ProposalError::NotAnAuthority)?;
        let scope = Scope::Number(present.manifest.number);
        verify_statement(&member.key, present.chain, scope, &proposal.statement(author), &signed.signature)
            .map_err(|_| ProposalError::BadSignature)
    }

    /// The part of [`Ledger::check_proposal`] that needs no signature.
    ///
    /// # Errors
    /// Why it cannot be put forward.
    pub fn check_unsigned(
        &self,
        present: Present<'_>,
        proposal: &EpochChangeProposal,
    ) -> Result<(), ProposalError> {
        let expected = present.manifest.number.next();
        if proposal.new_epoch != expected {
            return Err(ProposalError::WrongEpoch { given: proposal.new_epoch.0, expected: expected.0 });
        }
        if let Some(barrier) = self.graduation {
            return Err(ProposalError::Graduates(barrier.0));
        }
        let author = present.committee.index_of(proposal.proposer).ok_or(ProposalError::NotAnAuthority)?;
        let given = proposal.new_epoch_timestamp_ms;
        let last = self.proposed_ms.get(author.as_usize()).copied().unwrap_or(0);
        if given <= last {
            return Err(ProposalError::Repeated { given, last });
        }
        for record in self.open.values() {
            if record.state != ProposalState::Proposed {
                return Err(ProposalError::RivalApproved(record.id));
            }
            if record.author == author {
                return Err(ProposalError::OneAtATime(record.id));
            }
        }
        let (deadline, index) = (proposal.deadline.0, self.index.0);
        if deadline <= index || deadline - index > DEADLINE_BLOCKS_MAX {
            return Err(ProposalError::Deadline { deadline, index });
        }
        check_reports(proposal)?;
        check_manifest(&manifest_of(proposal, self))?;
        self.failed.check(proposal)
    }

    fn apply_system(&mut self, present: Present<'_>, system: &SystemTransaction) -> Vec<ProposalId> {
        match system {
            SystemTransaction::Propose(signed) => self.propose(present, signed),
            SystemTransaction::Withdraw(withdrawal) => self.withdraw(present, withdrawal),
            SystemTransaction::Vote(vote) => self.vote(present, vote),
            SystemTransaction::Ready(notice) => self.ready(present, notice),
            SystemTransaction::Open(_) => Vec::new(),
        }
    }

    fn propose(&mut self, present: Present<'_>, signed: &SignedProposal) -> Vec<ProposalId> {
        if self.check_proposal(present, signed).is_err() {
            return Vec::new();
        }
        let id = self.next_proposal;
        self.next_proposal = ProposalId(id.0 + 1);
        if let Some(last) = self.proposed_ms.get_mut(signed.author.as_usize()) {
            *last = signed.proposal.new_epoch_timestamp_ms;
        }
        let at = (self.index, self.time_ms);
        let record = ProposalRecord {
            id,
            hash: signed.proposal.hash(),
            proposal: signed.proposal.clone(),
            author: signed.author,
            state: ProposalState::Proposed,
            proposed: at,
            changed: at,
            votes: BTreeMap::new(),
            ready: BTreeMap::new(),
        };
        self.open.insert(id, record);
        vec![id]
    }

    fn withdraw(&mut self, present: Present<'_>, withdrawal: &Withdrawal) -> Vec<ProposalId> {
        let at = (self.index, self.time_ms);
        let Some(record) = self.open.get_mut(&withdrawal.proposal) else { return Vec::new() };
        let scheduled = matches!(record.state, ProposalState::Scheduled { .. });
        if scheduled || record.author != withdrawal.author || record.hash != withdrawal.hash {
            return Vec::new();
        }
        if !signed_by_member(present, withdrawal.statement(), &withdrawal.signature) {
            return Vec::new();
        }
        record.state = ProposalState::Withdrawn;
        record.changed = at;
        vec![record.id]
    }

    /// One vote a distinct voter; later, duplicate, foreign and post-decision ones never add.
    fn vote(&mut self, present: Present<'_>, vote: &Vote) -> Vec<ProposalId> {
        let at = (self.index, self.time_ms);
        let Some(record) = self.open.get_mut(&vote.proposal) else { return Vec::new() };
        let late = record.state != ProposalState::Proposed || record.votes.contains_key(&vote.author);
        let too_long = matches!(&vote.decision, Decision::Reject(reason) if reason.len() > REASON_BYTES_MAX);
        if late || too_long || record.hash != vote.hash {
            return Vec::new();
        }
        if !signed_by_member(present, vote.statement(), &vote.signature) {
            return Vec::new();
        }
        let counted = VoteRecord { decision: vote.decision.clone(), index: at.0, time_ms: at.1 };
        record.votes.insert(vote.author, counted);
        let stake = |wanted: fn(&Decision) -> bool| -> Stake {
            let voters = record.votes.iter().filter(|(_, v)| wanted(&v.decision));
            let stake = voters.map(|(voter, _)| present.committee.stake(*voter)).sum();
            #[cfg(feature = "planted")]
            if self.planted == Some(Planted::VoteCountedTwice) {
                return 2 * stake;
            }
            stake
        };
        let quorum = present.committee.quorum();
        if stake(|d| *d == Decision::Approve) >= quorum {
            record.state = ProposalState::Approved;
        } else if stake(|d| *d != Decision::Approve) >= quorum {
            record.state = ProposalState::Rejected;
        } else {
            return vec![vote.proposal];
        }
        record.changed = at;
        if record.state == ProposalState::Approved {
            self.supersede_rivals(vote.proposal, at)
        } else {
            vec![vote.proposal]
        }
    }

    /// At most one proposal of an epoch number can win: the first whose quorum is final.
    fn supersede_rivals(&mut self, winner: ProposalId, at: (CommitIndex, u64)) -> Vec<ProposalId> {
        for record in self.open.values_mut().filter(|record| record.id != winner && record.state.is_open()) {
            record.state = ProposalState::Superseded;
            record.changed = at;
        }
        self.open.keys().copied().collect()
    }

    fn ready(&mut self, present: Present<'_>, notice: &ReadyNotice) -> Vec<ProposalId> {
        let window = self.index.0 / present.manifest.limits.readiness_window_blocks;
        let index = self.index;
        let Some(record) = self.open.get_mut(&notice.proposal) else { return Vec::new() };
        // A notice of an older window was signed longer ago than it may count.
        let fresh = notice.window == window || notice.window + 1 == window;
        if record.state != ProposalState::Approved || record.hash != notice.hash || !fresh {
            return Vec::new();
        }
        let Some(member) = record.proposal.new_committee.get(notice.author.as_usize()) else {
            return Vec::new();
        };
        let scope = Scope::Number(record.proposal.new_epoch);
        if verify_statement(&member.key, present.chain, scope, &notice.statement(), &notice.signature)
            .is_err()
        {
            return Vec::new();
        }
        record.ready.insert(notice.author, index);
        vec![notice.proposal]
    }

    fn expire(&mut self, changed: &mut BTreeSet<ProposalId>) {
        let at = (self.index, self.time_ms);
        for record in self.open.values_mut() {
            let undecided = matches!(record.state, ProposalState::Proposed | ProposalState::Approved);
            if undecided && record.proposal.deadline <= at.0 {
                record.state = ProposalState::Expired;
                record.changed = at;
                changed.insert(record.id);
            }
        }
    }

    fn schedule_if_ready(&mut self, present: Present<'_>, changed: &mut BTreeSet<ProposalId>) {
        let (index, time_ms) = (self.index, self.time_ms);
        let limits = &present.manifest.limits;
        #[cfg(feature = "planted")]
        let time_ms = if self.planted == Some(Planted::LocalClock) { self.clock_ms } else { time_ms };
        let Some(record) = self.open.values_mut().find(|r| r.state == ProposalState::Approved) else {
            return;
        };
        if matches!(record.proposal.activation, Activation::NotBefore(at) if time_ms < at) {
            return;
        }
        // Checked when it was proposed.
        let Ok(next) = Committee::new(record.proposal.new_committee.clone(), record.proposal.fault_model)
        else {
            return;
        };
        let counts = |at: &CommitIndex| at.0 + limits.readiness_window_blocks > index.0;
        let ready: BTreeSet<_> = record.ready.iter().filter(|(_, at)| counts(at)).map(|(a, _)| *a).collect();
        let is_ready = next.is_quorum(&ready);
        #[cfg(feature = "planted")]
        let is_ready = is_ready || self.planted == Some(Planted::WithoutReadiness);
        if is_ready {
            let barrier = CommitIndex(index.0 + limits.barrier_distance_blocks);
            record.state = ProposalState::Scheduled { barrier };
            record.changed = (index, time_ms);
            changed.insert(record.id);
        }
    }

    /// The epoch graduates where its manifest says so, after what was proposed has come to its
    /// end: the number of the next epoch is what a proposal is for. A fallback does not: what
    /// was proven of the engine that it replaces counts no more.
    fn graduate(&mut self, manifest: &Manifest) {
        let is_due = manifest.limits.graduate_after_blocks.is_some_and(|after| after <= self.index.0);
        let is_certified = manifest.finality == Finality::Certified && self.phase == 0;
        if is_due && is_certified && self.open.is_empty() && self.graduation.is_none() {
            self.graduation = Some(CommitIndex(self.index.0 + manifest.limits.barrier_distance_blocks));
        }
    }
}

fn signed_by_member(
    present: Present<'_>,
    statement: moult_sdk::Statement,
    signature: &moult_types::Signature,
) -> bool {
    let scope = Scope::Number(present.manifest.number);
    present.committee.member(statement.author).is_some_and(|member| {
        verify_statement(&member.key, present.chain, scope, &statement, signature).is_ok()
    })
}

/// The same epoch once more, on its engine's word.
fn graduated(present: &Manifest, at: &Ledger) -> Manifest {
    Manifest {
        number: present.number.next(),
        finality: Finality::Graduated,
        follows: Some(at.follows()),
        ..present.clone()
    }
}

fn manifest_of(proposal: &EpochChangeProposal, at: &Ledger) -> Manifest {
    Manifest {
        number: proposal.new_epoch,
        members: proposal.new_committee.clone(),
        fault_model: proposal.fault_model,
        modules: proposal.modules.clone(),
        fallbacks: proposal.fallbacks.clone(),
        // What was changed has yet to show that it can be trusted.
        finality: Finality::Certified,
        limits: proposal.limits.clone(),
        follows: Some(at.follows()),
    }
}
