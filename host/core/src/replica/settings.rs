//! What a replica is started with.

use std::sync::Arc;

use moult_sdk::Digest;
use moult_types::{AuthorityId, BlockRecord, ChainId, HeldBatch, Manifest, PublicKey};

use crate::governance::Ledger;
use crate::guard::GuardState;
use crate::io::{EpochStart, PhaseRecord};

/// What an operator sets for one node; nothing replicated depends on it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's authority; outlives its key.
    pub authority: AuthorityId,
    /// Peers outside the committee that may connect, with an address where they are dialled.
    pub observers: Vec<(PublicKey, Option<String>)>,
    /// A batch is closed at this size, in encoded bytes.
    pub batch_bytes: usize,
    /// A batch is closed at this age although others of this node are in flight.
    pub batch_delay_ms: u64,
    /// Most own batches that are not final yet.
    pub batches_in_flight_max: usize,
    /// Most bytes of transactions that wait for a batch; more are refused as overload.
    pub queue_bytes_max: usize,
    /// Most bytes of batches held of one author that are not final yet.
    pub pending_bytes_per_author_max: usize,
    /// Whether the node stops where it meets something signed with its key that its guard does
    /// not know. Always, but for who plays a liar with two places.
    pub minds_traces: bool,
    /// A bug planted for the simulator.
    #[cfg(feature = "planted")]
    pub planted: Option<Planted>,
}

/// Bugs that the simulator must catch.
#[cfg(feature = "planted")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// Certificates one unit of stake short of a quorum.
    QuorumMinusOne,
    /// The barrier is not seen.
    PastBarrier,
    /// Each vote on a proposal has twice its stake.
    VoteCountedTwice,
    /// Every epoch is taken to be graduated.
    WithoutCertificates,
    /// Certificates of blocks from peers are not looked at.
    CertificateUnchecked,
    /// A quorum is counted in authorities, whatever their stake.
    QuorumOfHeads,
    /// Whether it is time for an activation is asked of this node's clock.
    LocalClock,
    /// Blocks have the time of the node that assembles them.
    ClockInBlocks,
    /// Votes and readiness count when they are heard of, before they are final.
    BarrierFromGossip,
    /// A change is scheduled as soon as it is approved.
    WithoutReadiness,
    /// Batches that are not final at the end of an epoch are dropped.
    PendingDropped,
    /// Reads are placed at this node's last final block; nobody is asked.
    ReadsUnasked,
    /// The start count is not raised.
    StartCountKept,
    /// A commit leaves although its certificate is not durable.
    CommitWithoutCertificate,
    /// An abort claims nothing, whatever was committed to.
    AbortBelowCommit,
    /// Commits are signed in a phase that was aborted.
    CommitAfterAbort,
    /// Blocks that were prepared are dropped when their phase is aborted.
    DropsPrepared,
    /// Engines that were given up are forgotten with their epoch.
    FailedForgotten,
    /// State roots that others state are not compared with this node's.
    RootsUncompared,
    /// A bundle opens a phase without that of the phase before, where one is needed.
    NoRecursion,
}

impl Settings {
    /// The defaults for an authority.
    pub fn new(authority: AuthorityId) -> Self {
        Self {
            authority,
            observers: Vec::new(),
            batch_bytes: 256 * 1024,
            batch_delay_ms: 5,
            batches_in_flight_max: 32,
            queue_bytes_max: 16 << 20,
            pending_bytes_per_author_max: 64 << 20,
            minds_traces: true,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }
}

/// What a node finds on its disk when it starts.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The chain.
    pub chain: ChainId,
    /// The present epoch.
    pub epoch: EpochStart,
    /// Whether nothing was on disk: `epoch` is genesis and is to be written.
    pub fresh: bool,
    /// The manifest of the epoch before, whose batches may still be ordered.
    pub former: Option<Manifest>,
    /// Replicated state after the last final block; `None` if fresh.
    pub ledger: Option<Ledger>,
    /// Fallbacks of the present epoch, by rising phase: the last one is the present phase, the
    /// last one that resumed that of the last final block.
    pub phases: Vec<PhaseRecord>,
    /// Blocks of the present epoch above the last final one, in order.
    pub tail: Vec<Arc<BlockRecord>>,
    /// Blocks of a fallback that has not resumed, in order.
    pub side: Vec<Arc<BlockRecord>>,
    /// Batches that are not final, those of the tail included.
    pub batches: Vec<Arc<HeldBatch>>,
    /// The guard.
    pub guard: GuardState,
    /// The hash of this node's chain at the guard's last prepared index.
    pub prepared_on_chain: Option<Digest>,
    /// Why this node must not sign, if so.
    pub signing_stopped: Option<String>,
}
