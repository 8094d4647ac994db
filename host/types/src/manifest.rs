//! What an epoch fixes, and the genesis.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{CommitIndex, Digest, FaultModel};
use serde::{Deserialize, Serialize};

use crate::codec::hash_of;
use crate::committee::{Committee, CommitteeError, Member};
use crate::ids::{ChainId, EpochIdentity, EpochNumber, GlobalIndex, ModuleHash, ParseError};
use crate::phase::Phase;

/// Longest configuration of a module, in bytes.
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;

/// A role that a module can have.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    BorshSerialize,
    BorshDeserialize,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// Orders batches.
    Engine,
    /// Decides a node's votes.
    Approval,
    /// The replicated state.
    Application,
}

impl World {
    /// All worlds that this host serves; an epoch pins exactly one module for each.
    pub const ALL: [Self; 3] = [Self::Engine, Self::Approval, Self::Application];

    /// The name in files, options and contracts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Approval => "approval",
            Self::Application => "application",
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for World {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::ALL.into_iter().find(|w| w.name() == text).ok_or_else(|| ParseError {
            what: "world",
            text: text.chars().take(80).collect(),
            reason: "expected engine, approval or application".into(),
        })
    }
}

/// A module and its configuration, fixed for an epoch.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct ModulePin {
    /// Which module.
    pub hash: ModuleHash,
    /// At most 64 KiB.
    pub config: Vec<u8>,
}

/// When blocks are executed and their writes acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finality {
    /// With a certificate of the host's own, whatever the engine says: a block is executed once
    /// it has one. Every epoch but a graduated one.
    Certified,
    /// On the engine's word: a block is executed once the engine has ordered it, at most
    /// [`EpochLimits::window_blocks`] ahead of the last one with a certificate. An engine that
    /// is wrong forks the chain, and then nodes stop.
    Graduated,
}

/// Numbers that all nodes must share, since replicated decisions depend on them.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EpochLimits {
    /// K: how many blocks past the last final one a node certifies; bounds what a lagging
    /// peer must be sent to link a vote.
    pub window_blocks: u64,
    /// d, at least K: from the block that schedules a change to the barrier.
    pub barrier_distance_blocks: u64,
    /// A certified epoch graduates after so many blocks: from then on, the first block after
    /// which no proposal is open schedules the change to an epoch that is the same but for
    /// [`Finality::Graduated`]. `None`: it stays certified.
    pub graduate_after_blocks: Option<u64>,
    /// A batch that a quorum holds and that is not final after so long makes a node suspect the
    /// engine; twice as long in each phase. Counted only while a quorum is heard. Longer than it
    /// takes to drain full queues.
    pub stall_timeout_ms: u64,
    /// R: a readiness notice counts for so many blocks.
    pub readiness_window_blocks: u64,
    /// Most batches of one block.
    pub batches_in_block_max: u32,
    /// Largest encoded batch.
    pub batch_bytes_max: u32,
    /// Largest engine message.
    pub engine_message_bytes_max: u32,
    /// How many sequence numbers of a client are remembered, counted back from its highest;
    /// a client keeps the window that it began with.
    pub client_window: u64,
    /// After so many blocks without a transaction a client is forgotten.
    pub client_idle_blocks: u64,
    /// Largest module.
    pub module_bytes_max: u32,
}

impl Default for EpochLimits {
    fn default() -> Self {
        Self {
            window_blocks: 32,
            barrier_distance_blocks: 32,
            graduate_after_blocks: None,
            stall_timeout_ms: 10_000,
            readiness_window_blocks: 1000,
            batches_in_block_max: 64,
            batch_bytes_max: 2 << 20,
            engine_message_bytes_max: 4 << 20,
            client_window: 1024,
            client_idle_blocks: 1_000_000,
            module_bytes_max: 32 << 20,
        }
    }
}

/// The barrier that an epoch follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Follows {
    /// Identity of the former epoch.
    pub identity: EpochIdentity,
    /// Its last block.
    pub index: CommitIndex,
    /// That block's hash.
    pub hash: Digest,
}

/// Everything that an epoch fixes.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Manifest {
    /// Number of the epoch, from 0.
    pub number: EpochNumber,
    /// By authority index.
    pub members: Vec<Member>,
    /// What the thresholds are made for.
    pub fault_model: FaultModel,
    /// One for each world.
    pub modules: BTreeMap<World, ModulePin>,
    /// Engines to fall back to, in order: phase `p` runs entry `min(p, last)`, counted from 1.
    /// Without any, a phase cannot be aborted: an epoch that stalls needs its operators.
    pub fallbacks: Vec<ModulePin>,
    /// When blocks are executed.
    pub finality: Finality,
    /// Shared numbers.
    pub limits: EpochLimits,
    /// None at genesis.
    pub follows: Option<Follows>,
}

impl Manifest {
    /// The identity of the epoch.
    pub fn identity(&self) -> EpochIdentity {
        EpochIdentity(hash_of("moult manifest", self).0)
    }

    /// The committee.
    ///
    /// # Errors
    /// The members are no committee.
    pub fn committee(&self) -> Result<Committee, CommitteeError> {
        Committee::new(self.members.clone(), self.fault_model)
    }

    /// The engine of a phase; `None` for a fallback where there is none.
    pub fn engine(&self, phase: Phase) -> Option<&ModulePin> {
        let Some(place) = phase.checked_sub(1) else { return self.pin(World::Engine) };
        self.fallbacks.get(place as usize).or_else(|| self.fallbacks.last())
    }

    /// The pin of a world.
    pub fn pin(&self, world: World) -> Option<&ModulePin> {
        self.modules.get(&world)
    }
}

/// Where a chain goes on that lost its quorum for good: the state of the new chain's beginning.
/// Nobody can sign for it; whoever starts from a genesis with it has agreed to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Origin {
    /// The former chain.
    pub chain: ChainId,
    /// The epoch that it was in.
    pub epoch: EpochNumber,
    /// Its last block that is carried on.
    pub global: GlobalIndex,
    /// That block's hash.
    pub hash: Digest,
    /// Root of the state after it, which the new chain begins with.
    pub state_root: Digest,
}

/// Where a chain begins.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Genesis {
    /// For people; makes chains with equal committees differ.
    pub name: String,
    /// Milliseconds since 1970; no block time lies before it.
    pub time_ms: u64,
    /// The chain that this one carries on; `None`: it begins with nothing.
    pub origin: Option<Origin>,
    /// The first epoch: number 0, or the one after that of the former chain.
    pub manifest: Manifest,
}

impl Genesis {
    /// Names the chain.
    pub fn chain(&self) -> ChainId {
        ChainId(hash_of("moult genesis", self).0)
    }

    /// The block before the first one: 0, or the last one that is carried on.
    pub fn base(&self) -> GlobalIndex {
        self.origin.map_or(GlobalIndex(0), |origin| origin.global)
    }
}
