//! What a run is made of. Every number is a bound from which the seed draws.

use std::fmt;
use std::sync::Arc;

use moult_core::ports::EngineInstance;

use crate::report::CHANGE_KINDS;

/// Sizes and kinds of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Virtual time during which faults happen, in milliseconds.
    pub faults_ms: u64,
    /// Virtual time after the last fault within which everything must have come to rest.
    pub calm_ms: u64,
    /// Most authorities of the genesis committee; the least is 4.
    pub members_max: u64,
    /// Most nodes outside the genesis committee (joiners, observers, spare keys).
    pub others_max: u64,
    /// Most clients.
    pub clients_max: u64,
    /// Mean virtual time between two transactions of all clients together.
    pub between_transactions_ms: u64,
    /// Mean virtual time between two faults; 0 for none.
    pub between_faults_ms: u64,
    /// Mean virtual time between two proposals of an epoch change; 0 for none.
    pub between_changes_ms: u64,
    /// Which kinds of change are proposed.
    pub change_kinds: Vec<&'static str>,
    /// Whether links delay, lose, repeat and reorder beyond the ordinary.
    pub bad_links: bool,
    /// In how many of 1,000 runs an authority (within what is tolerated) is Byzantine.
    pub byzantine_per_mille: u64,
    /// In how many of 1,000 runs epochs have fallbacks, and engines that stall or trap.
    pub failing_per_mille: u64,
    /// A node whose engine is another one, for hostile engines in an unmodified host.
    pub hostile: Option<Hostile>,
    /// Exactly one crash: where, for enumerating all of them.
    pub crash_point: Option<CrashPoint>,
    /// A bug to plant.
    #[cfg(feature = "planted")]
    pub planted: Option<Planted>,
}

/// Takes the engine that a node would run, and gives the one that it runs.
pub type Replace = Arc<dyn Fn(Box<dyn EngineInstance>) -> Box<dyn EngineInstance> + Send + Sync>;

/// One member runs another engine than the rest. Its host is held to every promise: it signs
/// nothing contradictory and follows the chain.
#[derive(Clone)]
pub struct Hostile {
    /// Which member, below 4.
    pub node: usize,
    /// What it runs.
    pub replace: Replace,
}

impl fmt::Debug for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hostile {{ node: {} }}", self.node)
    }
}

/// A place in the life of a node at which it crashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashPoint {
    /// Which node; `None`: all nodes at once, when node 0 gets there.
    pub node: Option<usize>,
    /// At which of its groups of steps that are synced, from 0.
    pub group: u64,
    /// Where within it.
    pub phase: Phase,
}

/// Where in the writing of a group of steps a node crashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nothing of the group is on disk.
    Before,
    /// The store's part is written and partly on disk, nothing is synced.
    Torn,
    /// The store is synced, the guard is not.
    StoreSynced,
    /// All is synced, nothing was released.
    Synced,
    /// All was released.
    Released,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Before, Self::Torn, Self::StoreSynced, Self::Synced, Self::Released];
}

/// Bugs that the checkers must catch.
#[cfg(feature = "planted")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// Certificates of the host one unit of stake short of a quorum.
    CertificateQuorumMinusOne,
    /// Certificates of the engine one unit of stake short of a quorum.
    EngineQuorumMinusOne,
    /// A node goes on past the barrier.
    PastBarrier,
    /// The guard's updates are not synced before signatures leave.
    UnsyncedGuard,
    /// A vote on a proposal counts each time it is seen.
    VoteCountedTwice,
    /// Blocks of a certified epoch are executed before they have a certificate.
    WithoutCertificates,
    /// A commit leaves although its certificate is not durable.
    CommitWithoutCertificate,
    /// An abort claims nothing, whatever was committed to.
    AbortBelowCommit,
    /// Commits are signed in a phase that was aborted.
    CommitAfterAbort,
    /// A bundle opens a phase without that of the phase before, where one is needed.
    NoRecursion,
    /// Blocks that were prepared are dropped when their phase is aborted.
    DropsPrepared,
}

impl Plan {
    /// Whether epochs may graduate: not on the word of an engine that is wrong on purpose.
    pub(crate) fn trusts_engines(&self) -> bool {
        #[cfg(feature = "planted")]
        if self.planted == Some(Planted::EngineQuorumMinusOne) {
            return false;
        }
        self.hostile.is_none()
    }

    /// A run of a fraction of a second: for every commit.
    pub fn short() -> Self {
        Self {
            faults_ms: 8_000,
            calm_ms: 60_000,
            members_max: 5,
            others_max: 6,
            clients_max: 6,
            between_transactions_ms: 50,
            between_faults_ms: 400,
            between_changes_ms: 2_000,
            change_kinds: CHANGE_KINDS.to_vec(),
            bad_links: true,
            byzantine_per_mille: 250,
            failing_per_mille: 500,
            hostile: None,
            crash_point: None,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    /// A longer one with larger committees: for the nightly run.
    pub fn long() -> Self {
        Self { faults_ms: 40_000, members_max: 10, others_max: 8, clients_max: 12, ..Self::short() }
    }

    /// Every epoch has fallbacks, and engines fail one after the other.
    pub fn aborts() -> Self {
        Self { failing_per_mille: 1000, ..Self::short() }
    }

    /// Four nodes that exchange modules and do nothing else: to crash them at every point.
    pub fn switch() -> Self {
        Self {
            faults_ms: 900,
            calm_ms: 30_000,
            members_max: 4,
            others_max: 0,
            clients_max: 3,
            between_transactions_ms: 40,
            between_changes_ms: 200,
            change_kinds: vec!["engine", "application"],
            ..Self::quiet()
        }
    }

    /// A short run with faults in which one member's engine is hostile, within what the
    /// committee tolerates: equal stakes, and no change of members.
    pub fn with_hostile(node: usize, replace: Replace) -> Self {
        Self {
            faults_ms: 8_000,
            others_max: 0,
            change_kinds: vec!["engine", "application"],
            byzantine_per_mille: 0,
            hostile: Some(Hostile { node, replace }),
            ..Self::short()
        }
    }

    /// No faults at all.
    pub fn quiet() -> Self {
        Self {
            between_faults_ms: 0,
            between_changes_ms: 0,
            bad_links: false,
            byzantine_per_mille: 0,
            failing_per_mille: 0,
            ..Self::short()
        }
    }
}
