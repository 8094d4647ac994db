//! Bugs planted to see that the checkers catch them.

#[cfg(feature = "planted")]
use moult_core::replica::{Planted as CorePlanted, Settings};

use crate::plan::Plan;
#[cfg(feature = "planted")]
use crate::world::World;

/// Bugs of what the simulator has in place of the node's shell: disk, executor, checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(feature = "planted"), allow(dead_code, reason = "only asked for, never there"))]
pub enum Bug {
    /// The guard's updates are not synced before signatures leave.
    GuardUnsynced,
    /// The store is not synced before anything leaves.
    StoreUnsynced,
    /// What a step releases leaves before its writes are synced.
    ReleasedBeforeSync,
    /// A write that failed is taken to be done.
    WriteErrorIgnored,
    /// After a start execution begins with the last block that was executed.
    ReplayFromApplied,
    /// A position that is not there counts as 0.
    PositionFallsToZero,
    /// The position is kept as an index within its epoch.
    PositionOfEpoch,
    /// A start finds the guard as it was in a backup.
    GuardRestored,
    /// A start finds a new guard.
    GuardForgotten,
    /// Reads are answered at once.
    ReadsServedEarly,
    /// Signatures are not checked.
    SignaturesUnchecked,
    /// A block is left out of execution now and then.
    BlockSkipped,
    /// What is executed depends on the node.
    StateOfNode,
    /// The switch of epochs is written as two records.
    EpochInTwoRecords,
    /// Clients are told before their transaction is executed.
    ToldBeforeExecuted,
    /// A node whose store was replaced signs as ever.
    ReplacedStoreSigns,
    /// A node whose folder was lost, the guard with it, signs with an empty one.
    LostFolderSigns,
}

/// One planted bug, wherever it is.
#[cfg(feature = "planted")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// In the replica.
    Replica(CorePlanted),
    /// In the shell.
    Shell(Bug),
    /// Around PBFT, by the name in [`moult_pbft::planted::BUGS`].
    Pbft(&'static str),
    /// In Raft, by the name that its configuration has for it.
    Raft(&'static str),
}

impl Plan {
    /// Whether this bug is planted.
    #[cfg_attr(not(feature = "planted"), allow(clippy::unused_self, reason = "there is none to ask for"))]
    pub(crate) fn has_bug(&self, bug: Bug) -> bool {
        #[cfg(feature = "planted")]
        return self.planted == Some(Planted::Shell(bug));
        #[cfg(not(feature = "planted"))]
        {
            let _ = bug;
            false
        }
    }
}

/// Sets a replica's share of a planted bug.
#[cfg(feature = "planted")]
pub(crate) fn apply(planted: Option<Planted>, settings: &mut Settings) {
    if let Some(Planted::Replica(bug)) = planted {
        settings.planted = Some(bug);
    }
}

/// Sets an engine's share of a planted bug.
#[cfg(feature = "planted")]
pub(crate) fn engine_config(planted: Option<Planted>, engine: &str, config: String) -> String {
    match planted {
        Some(Planted::Pbft(name)) if engine == "pbft" => format!("broken={name}\n{config}"),
        Some(Planted::Raft(name)) if engine == "raft" => format!("{config}planted={name}\n"),
        _ => config,
    }
}

#[cfg(feature = "planted")]
impl World {
    /// What a node with a planted bug finds on its disk.
    pub(crate) fn spoil(&mut self, node: usize) {
        let (now_us, plan) = (self.now_us, &self.plan);
        let it = &mut self.nodes[node];
        if plan.has_bug(Bug::GuardForgotten) {
            let (chain, identity) = (self.chain, self.genesis.manifest.identity());
            it.disk.put_guard(moult_core::guard::GuardState::new(chain, it.public, identity));
        }
        if plan.has_bug(Bug::GuardRestored) {
            if let Some((_, backup)) = it.backup.clone().filter(|(at_us, _)| at_us + 500_000 < now_us) {
                it.disk.put_guard(backup);
            }
            it.backup = Some((now_us, it.disk.guard().clone()));
        }
        if plan.has_bug(Bug::PositionFallsToZero) && self.rng.chance(300) {
            it.disk.now.applied = moult_types::GlobalIndex(0);
        }
        if plan.has_bug(Bug::PositionOfEpoch)
            && let Some(base) = it
                .disk
                .now
                .epochs
                .iter()
                .rev()
                .map(|start| start.base)
                .find(|base| *base < it.disk.now.applied)
        {
            it.disk.now.applied.0 -= base.0;
        }
    }
}
