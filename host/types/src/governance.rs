//! Proposals for an epoch change, votes and readiness.

use std::collections::BTreeMap;
use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, FaultModel, Slot, Statement};
use serde::{Deserialize, Serialize};

use crate::certification::SignedReport;
use crate::codec::hash_of;
use crate::committee::Member;
use crate::ids::{AuthorityId, EpochNumber, Signature};
use crate::manifest::{EpochLimits, ModulePin, World};
use crate::statement::SlotKind;

/// Longest reason of a rejection, in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// Number of a proposal on its chain, from 1, given when it becomes final.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(transparent)]
pub struct ProposalId(pub u64);

impl fmt::Display for ProposalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// When an approved and ready proposal is activated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum Activation {
    /// At the barrier that follows readiness.
    AsSoonAsReady,
    /// Likewise, but no barrier is set before a block has at least this time (the phased
    /// rollout), in milliseconds since 1970.
    NotBefore(u64),
}

/// A change to the next epoch: committee, fault model, modules and limits in full.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct EpochChangeProposal {
    /// The present number and one.
    pub new_epoch: EpochNumber,
    /// By authority index.
    pub new_committee: Vec<Member>,
    /// The proposer's wall clock when it was made; rises with each of its proposals.
    pub new_epoch_timestamp_ms: u64,
    /// The last final index its proposer knew of.
    pub proposal_commit_index: CommitIndex,
    /// One for each world.
    pub modules: BTreeMap<World, ModulePin>,
    /// Engines to fall back to, in order; see [`Manifest::fallbacks`](crate::Manifest).
    pub fallbacks: Vec<ModulePin>,
    /// What the new thresholds are made for.
    pub fault_model: FaultModel,
    /// Shared numbers of the new epoch.
    pub limits: EpochLimits,
    /// When.
    pub activation: Activation,
    /// Expires after this index of the present epoch.
    pub deadline: CommitIndex,
    /// An authority of the present committee.
    pub proposer: AuthorityId,
    /// Engines may be pinned that a quorum gave up before, as they were then.
    pub readmit_failed: bool,
    /// What certifiers found out about modules that it pins: for approval policies. One a module
    /// and certifier, rising by these; see [`crate::certification`] for the bounds.
    pub reports: Vec<SignedReport>,
}

impl EpochChangeProposal {
    /// What votes and readiness refer to.
    pub fn hash(&self) -> Digest {
        hash_of("moult proposal", self)
    }

    /// The engines that it pins: the first one, then its fallbacks.
    pub fn engines(&self) -> impl Iterator<Item = &ModulePin> {
        self.modules.get(&World::Engine).into_iter().chain(&self.fallbacks)
    }

    /// What its proposer signs, in the scope of the present epoch's number.
    pub fn statement(&self, author: AuthorityIndex) -> Statement {
        let slot = Slot { kind: SlotKind::PROPOSE, a: self.new_epoch_timestamp_ms, b: 0 };
        Statement { author, slot, digest: self.hash() }
    }
}

/// A proposal with its proposer's signature.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct SignedProposal {
    /// What is proposed.
    pub proposal: EpochChangeProposal,
    /// The proposer's place in the present committee.
    pub author: AuthorityIndex,
    /// Over [`EpochChangeProposal::statement`].
    pub signature: Signature,
}

/// A proposal taken back by its author.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Withdrawal {
    /// Which one.
    pub proposal: ProposalId,
    /// Its hash.
    pub hash: Digest,
    /// Its author.
    pub author: AuthorityIndex,
    /// Over [`Withdrawal::statement`].
    pub signature: Signature,
}

impl Withdrawal {
    /// What is signed, in the scope of the present epoch's number.
    pub fn statement(&self) -> Statement {
        let slot = Slot { kind: SlotKind::WITHDRAW, a: self.proposal.0, b: 0 };
        Statement { author: self.author, slot, digest: self.hash }
    }
}

/// For or against.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// For.
    Approve,
    /// Against; the reason is at most 512 bytes.
    Reject(String),
}

/// A vote of an authority of the present committee.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Vote {
    /// On which proposal.
    pub proposal: ProposalId,
    /// Its hash, so that the signature covers committee and module pins.
    pub hash: Digest,
    /// For or against.
    pub decision: Decision,
    /// Who votes.
    pub author: AuthorityIndex,
    /// Over [`Vote::statement`].
    pub signature: Signature,
}

impl Vote {
    /// What is signed, in the scope of the present epoch's number.
    pub fn statement(&self) -> Statement {
        let slot = Slot { kind: SlotKind::VOTE, a: self.proposal.0, b: 0 };
        Statement { author: self.author, slot, digest: hash_of("moult vote", &(self.hash, &self.decision)) }
    }
}

/// An authority of the *new* committee holds, has compiled and has rehearsed everything
/// that the proposal pins.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct ReadyNotice {
    /// For which proposal.
    pub proposal: ProposalId,
    /// Its hash.
    pub hash: Digest,
    /// The present epoch's final index divided by the readiness window.
    pub window: u64,
    /// Its place in the new committee.
    pub author: AuthorityIndex,
    /// Over [`ReadyNotice::statement`].
    pub signature: Signature,
}

impl ReadyNotice {
    /// What is signed, in the scope of the *new* epoch's number.
    pub fn statement(&self) -> Statement {
        let slot = Slot { kind: SlotKind::READY, a: self.proposal.0, b: self.window };
        Statement { author: self.author, slot, digest: self.hash }
    }
}
