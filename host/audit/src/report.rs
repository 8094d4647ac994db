//! The record of an audit, as it is printed.

use moult_core::governance::{ProposalRecord, ProposalState};
use moult_types::governance::Decision;
use moult_types::{
    AuthorityIndex, Committee, Finality, Genesis, GlobalIndex, HeldBatch, Manifest, Transaction,
};
use serde::Serialize;

/// What was checked and found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Audit {
    /// The chain.
    pub chain: String,
    /// Its name.
    pub name: String,
    /// The chain that this one carries on, as the genesis says. Not checked here.
    pub origin: Option<OriginReport>,
    /// The last block that was checked.
    pub last: Option<BlockPlace>,
    /// Certificates that were checked.
    pub certificates: u64,
    /// Batches in the blocks, each with its author's signature.
    pub batches: u64,
    /// Transactions of clients in them.
    pub transactions: u64,
    /// Proposals, votes, withdrawals and notices of readiness in them, counted or not.
    pub governance: u64,
    /// Epochs in order.
    pub epochs: Vec<EpochReport>,
    /// Proposals by number, with the votes that counted.
    pub proposals: Vec<ProposalReport>,
}

/// The chain that one carries on, and from where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct OriginReport {
    /// The former chain.
    pub chain: String,
    /// Its last block that is carried on.
    pub global_exec_index: u64,
    /// That block's epoch.
    pub epoch: u64,
    /// That block's hash.
    pub hash: String,
    /// Root of the state after it.
    pub state_root: String,
}

/// A block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BlockPlace {
    /// Over all epochs.
    pub global_exec_index: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Within it.
    pub index: u64,
    /// `h_index`.
    pub hash: String,
    /// Block time, milliseconds since 1970.
    pub time_ms: u64,
}

/// An epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EpochReport {
    /// Its number.
    pub number: u64,
    /// The hash of everything that it fixes.
    pub identity: String,
    /// `certified` or `graduated`.
    pub finality: &'static str,
    /// The last block before it.
    pub base: u64,
    /// Block time at its beginning.
    pub time_ms: u64,
    /// Blocks checked.
    pub blocks: u64,
    /// State root at its beginning, as its first block says. Certified, not computed here.
    pub state_root: Option<String>,
    /// Stake of a quorum.
    pub quorum: u64,
    /// Modules by world.
    pub modules: Vec<ModuleReport>,
    /// Certificates that were checked.
    pub certificates: u64,
    /// Engines that were given up, by what went on in their place.
    pub fallbacks: Vec<FallbackReport>,
    /// The committee, by place.
    pub committee: Vec<AuthorityReport>,
}

/// A fallback that resumed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FallbackReport {
    /// The epoch's phase, from 1.
    pub phase: u32,
    /// Of the phase.
    pub identity: String,
    /// The block over all epochs that it went on from.
    pub resumed_after: u64,
    /// Hash of the engine that the epoch's manifest has for the phase.
    pub engine: Option<String>,
}

/// A pinned module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ModuleReport {
    /// Its world.
    pub world: &'static str,
    /// Its hash.
    pub hash: String,
    /// Bytes of its configuration.
    pub config_bytes: usize,
}

/// A member of a committee.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AuthorityReport {
    /// Who.
    pub authority: String,
    /// Its key.
    pub key: String,
    /// Its weight.
    pub stake: u64,
    /// Certificates, of those checked, that hold its vote. A certificate needs a quorum and no
    /// more: who is missing was not necessarily away.
    pub votes_in_certificates: u64,
}

/// A proposal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ProposalReport {
    /// Its number.
    pub id: u64,
    /// What votes refer to.
    pub hash: String,
    /// Who put it forward.
    pub proposer: String,
    /// The epoch it leads to.
    pub new_epoch: u64,
    /// Where it stood at its end, or stands.
    pub state: &'static str,
    /// The block of its epoch that carried it, and its time.
    pub proposed_index: u64,
    /// See `proposed_index`.
    pub proposed_time_ms: u64,
    /// The block that brought its last state, and its time.
    pub changed_index: u64,
    /// See `changed_index`.
    pub changed_time_ms: u64,
    /// Who voted what, by place.
    pub votes: Vec<VoteReport>,
    /// Who of the new committee was ready last, and when.
    pub ready: Vec<ReadyReport>,
}

/// A vote that was counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VoteReport {
    /// Who.
    pub authority: String,
    /// How.
    pub approve: bool,
    /// Why not.
    pub reason: Option<String>,
    /// In which block of the epoch, and its time.
    pub index: u64,
    /// See `index`.
    pub time_ms: u64,
}

/// A notice of readiness that was counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ReadyReport {
    /// Place in the new committee.
    pub place: u32,
    /// In which block of the epoch.
    pub index: u64,
}

impl Audit {
    pub(crate) fn new(chain: String, genesis: &Genesis) -> Self {
        let origin = genesis.origin.map(|origin| OriginReport {
            chain: origin.chain.to_string(),
            global_exec_index: origin.global.0,
            epoch: origin.epoch.0,
            hash: origin.hash.to_string(),
            state_root: origin.state_root.to_string(),
        });
        Self {
            chain,
            name: genesis.name.clone(),
            origin,
            last: None,
            certificates: 0,
            batches: 0,
            transactions: 0,
            governance: 0,
            epochs: Vec::new(),
            proposals: Vec::new(),
        }
    }

    pub(crate) fn count(&mut self, batches: &[&HeldBatch], is_governance: impl Fn(&Transaction) -> bool) {
        self.batches += batches.len() as u64;
        for transaction in batches.iter().flat_map(|batch| &batch.batch().transactions) {
            if is_governance(transaction) {
                self.governance += 1;
            } else {
                self.transactions += 1;
            }
        }
    }
}

impl EpochReport {
    pub(crate) fn new(manifest: &Manifest, base: GlobalIndex, time_ms: u64, committee: &Committee) -> Self {
        let module = |(world, pin): (&moult_types::World, &moult_types::ModulePin)| ModuleReport {
            world: world.name(),
            hash: pin.hash.to_string(),
            config_bytes: pin.config.len(),
        };
        Self {
            number: manifest.number.0,
            identity: manifest.identity().to_string(),
            finality: match manifest.finality {
                Finality::Certified => "certified",
                Finality::Graduated => "graduated",
            },
            base: base.0,
            time_ms,
            blocks: 0,
            state_root: None,
            quorum: committee.quorum(),
            modules: manifest.modules.iter().map(module).collect(),
            certificates: 0,
            fallbacks: Vec::new(),
            committee: committee
                .members()
                .iter()
                .map(|member| AuthorityReport {
                    authority: member.id.to_string(),
                    key: member.key.to_string(),
                    stake: member.stake,
                    votes_in_certificates: 0,
                })
                .collect(),
        }
    }

    pub(crate) fn note_certificate(&mut self, voters: &[AuthorityIndex]) {
        self.certificates += 1;
        for voter in voters {
            if let Some(member) = self.committee.get_mut(voter.as_usize()) {
                member.votes_in_certificates += 1;
            }
        }
    }
}

impl ProposalReport {
    pub(crate) fn new(record: &ProposalRecord, committee: &Committee) -> Self {
        let name = |place: AuthorityIndex| {
            committee.member(place).map_or_else(|| place.0.to_string(), |member| member.id.to_string())
        };
        let vote = |(place, vote): (&AuthorityIndex, &moult_core::governance::VoteRecord)| VoteReport {
            authority: name(*place),
            approve: vote.decision == Decision::Approve,
            reason: match &vote.decision {
                Decision::Approve => None,
                Decision::Reject(reason) => Some(reason.clone()),
            },
            index: vote.index.0,
            time_ms: vote.time_ms,
        };
        Self {
            id: record.id.0,
            hash: record.hash.to_string(),
            proposer: record.proposal.proposer.to_string(),
            new_epoch: record.proposal.new_epoch.0,
            state: state_name(record.state),
            proposed_index: record.proposed.0.0,
            proposed_time_ms: record.proposed.1,
            changed_index: record.changed.0.0,
            changed_time_ms: record.changed.1,
            votes: record.votes.iter().map(vote).collect(),
            ready: record
                .ready
                .iter()
                .map(|(place, at)| ReadyReport { place: place.0, index: at.0 })
                .collect(),
        }
    }
}

fn state_name(state: ProposalState) -> &'static str {
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
