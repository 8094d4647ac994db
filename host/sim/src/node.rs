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

use crate::byzantine::Vices;
use crate::disk::Disk;
use crate::report::Group;

/// Virtual time 0 on the wall, in milliseconds since 1970.
pub(crate) const WALL_START_MS: u64 = 1_750_000_000_000;

/// A node.
pub(crate) struct Node {
    pub(crate) keys: KeyPair,
    pub(crate) public: PublicKey,
    pub(crate) authority: AuthorityId,
    /// The checkers hold it to nothing.
    pub(crate) byzantine: bool,
    /// Its state goes wrong; it is held to the promises that do not concern the state.
    pub(crate) is_spoilt: bool,
    pub(crate) disk: Disk,
    /// Rises with each start; what belongs to an earlier life is void.
    pub(crate) life: u64,
    pub(crate) process: Option<Process>,
    /// Added to the true time on the wall.
    pub(crate) skew_ms: i64,
    /// Both clocks run so much too fast (or slow), in millionths.
    pub(crate) drift_ppm: i64,
    /// The wall clock stands still: (until when, what it shows).
    pub(crate) frozen: Option<(u64, u64)>,
    pub(crate) paused_until_us: u64,
    /// A slow node takes so much longer for everything.
    pub(crate) slow_factor: u64,
    pub(crate) sync_us: (u64, u64),
    /// Syncs end no sooner than this.
    pub(crate) disk_stalls_until_us: u64,
    /// Writes fail for want of space until then.
    pub(crate) disk_full_until_us: u64,
    /// The next sync fails.
    pub(crate) next_write_fails: bool,
    /// Nothing can be read until then.
    pub(crate) reads_fail_until_us: u64,
    /// In the second half of a run: it stays broken until the core has shown that it goes on.
    pub(crate) is_left_out: bool,
    /// Modules that it can get hold of.
    pub(crate) modules: BTreeSet<ModuleHash>,
    /// The process is not started again before this time.
    pub(crate) sleeps_until_us: u64,
    /// Groups of steps that were synced so far, over all lives.
    pub(crate) groups: Vec<Group>,
    /// An older guard, and when it was kept: for a bug to plant.
    #[cfg(feature = "planted")]
    pub(crate) backup: Option<(u64, moult_core::guard::GuardState)>,
    /// What it does to its messages, if it is Byzantine.
    pub(crate) vices: Vices,
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
    /// The engine that it runs is wrong on purpose.
    pub(crate) runs_broken: bool,
    /// It found that its state is not that of a quorum.
    pub(crate) has_forked: bool,
}

/// Steps that wait for the disk.
#[derive(Default)]
pub(crate) struct Writer {
    /// What is to be released, and whether a sync must come first.
    pub(crate) steps: VecDeque<(Vec<Effect>, bool)>,
    /// The sync that is under way: (steps covered, mark on the disk).
    pub(crate) syncing: Option<(usize, (usize, usize))>,
    /// What is under way.
    pub(crate) group: Group,
    /// See [`Group::is_change`], of what waits.
    pub(crate) is_change: bool,
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
        let wall_ms = (WALL_START_MS + self.drifted(now_us) / 1000).saturating_add_signed(self.skew_ms);
        let frozen = self.frozen.filter(|(until_us, _)| *until_us > now_us).map(|(_, shows_ms)| shows_ms);
        let mono_ms = self.drifted(now_us.saturating_sub(started_us)) / 1000;
        Now { mono_ms, wall_ms: frozen.unwrap_or(wall_ms) }
    }

    /// What its clock makes of a span of true time.
    fn drifted(&self, span_us: u64) -> u64 {
        span_us.saturating_add_signed((span_us as i64 / 1000) * self.drift_ppm / 1000)
    }

    /// After how much true time its clock has moved by this span, or a little more.
    pub(crate) fn true_span_us(&self, span_us: u64) -> u64 {
        if self.drift_ppm == 0 {
            return span_us;
        }
        let rate = 1_000_000_i64 + self.drift_ppm;
        (u128::from(span_us) * 1_000_000 / rate as u128) as u64 + 1_000
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }
}
