//! One node: its disk, which outlives it, and the process that runs or does not.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use moult_core::Replica;
use moult_core::io::{Effect, Input, Now};
use moult_core::ports::ApplicationInstance;
use moult_core::verify::VerifyContext;
use moult_crypto::KeyPair;
use moult_types::{
    AuthorityId, BlockRecord, EpochIdentity, EpochLimits, GlobalIndex, HeldBatch, ModuleHash, ModulePin,
    PublicKey,
};

use crate::disk::Disk;

/// Virtual time 0 on the wall, in milliseconds since 1970.
pub(crate) const WALL_START_MS: u64 = 1_750_000_000_000;

/// A node.
pub(crate) struct Node {
    pub(crate) keys: KeyPair,
    pub(crate) public: PublicKey,
    pub(crate) authority: AuthorityId,
    /// The checkers hold it to nothing.
    pub(crate) byzantine: bool,
    pub(crate) disk: Disk,
    /// Rises with each start; what belongs to an earlier life is void.
    pub(crate) life: u64,
    pub(crate) process: Option<Process>,
    /// Added to the true time on the wall.
    pub(crate) skew_ms: i64,
    pub(crate) paused_until_us: u64,
    /// A slow node takes so much longer for everything.
    pub(crate) slow_factor: u64,
    pub(crate) sync_us: (u64, u64),
    /// Modules that it can get hold of.
    pub(crate) modules: BTreeSet<ModuleHash>,
    /// The process is not started again before this time.
    pub(crate) sleeps_until_us: u64,
    /// Groups of steps that were synced so far, over all lives.
    pub(crate) groups: u64,
}

/// A running process.
pub(crate) struct Process {
    pub(crate) replica: Replica,
    pub(crate) started_us: u64,
    pub(crate) inbox: Vec<Input>,
    pub(crate) is_scheduled: bool,
    pub(crate) wake_at_us: u64,
    /// The replica returned nothing the last time it was woken at this time.
    pub(crate) idle_wakes: u32,
    pub(crate) writer: Writer,
    pub(crate) verify: Option<Arc<VerifyContext>>,
    pub(crate) announced: BTreeSet<PublicKey>,
    /// Nodes with a link to this one that the replica was told of.
    pub(crate) linked: BTreeSet<usize>,
    pub(crate) executor: Executor,
    /// Reads that wait for their block: (global, id).
    pub(crate) reads: Vec<(GlobalIndex, u64)>,
    /// An engine whose module is not here yet.
    pub(crate) wanted_engine: Option<(EpochIdentity, ModulePin)>,
}

/// Steps that wait for the disk.
#[derive(Default)]
pub(crate) struct Writer {
    /// What is to be released, and whether a sync must come first.
    pub(crate) steps: VecDeque<(Vec<Effect>, bool)>,
    /// The sync that is under way: (steps covered, mark on the disk).
    pub(crate) syncing: Option<(usize, (usize, usize))>,
}

/// Applies final blocks.
#[derive(Default)]
pub(crate) struct Executor {
    pub(crate) application: Option<Arc<dyn ApplicationInstance>>,
    pub(crate) config: Vec<u8>,
    pub(crate) limits: EpochLimits,
    pub(crate) queue: VecDeque<(Arc<BlockRecord>, Vec<Arc<HeldBatch>>)>,
    pub(crate) is_busy: bool,
    /// Whether the first epoch of this life was taken up.
    pub(crate) is_started: bool,
    /// Last final block when the process started.
    pub(crate) replay_to: GlobalIndex,
}

impl Node {
    /// What the node's clocks show.
    pub(crate) fn clock(&self, now_us: u64) -> Now {
        let started_us = self.process.as_ref().map_or(now_us, |process| process.started_us);
        let wall_ms = (WALL_START_MS + now_us / 1000).saturating_add_signed(self.skew_ms);
        Now { mono_ms: now_us.saturating_sub(started_us) / 1000, wall_ms }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }
}
