//! What a run is made of. Every number is a bound from which the seed draws.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use moult_core::ports::EngineInstance;

use crate::modules::Modules;
#[cfg(feature = "planted")]
use crate::planted::Planted;
use crate::report::{CHANGE_KINDS, FAULT_KINDS};

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
    /// Kinds of faults that do not happen; each other one is left out by a third of the seeds.
    pub without: BTreeSet<&'static str>,
    /// Of the faults that come one by one, those after so many do not happen.
    pub faults_max: Option<u64>,
    /// Whether signatures are ed25519; `None`: in one seed of ten, else a keyed hash.
    pub real_signatures: Option<bool>,
    /// In how many of 1,000 runs an authority (within what is tolerated) is Byzantine.
    pub byzantine_per_mille: u64,
    /// In how many of 1,000 runs epochs have fallbacks, and engines that stall or trap.
    pub failing_per_mille: u64,
    /// A node whose engine is another one, for hostile engines in an unmodified host.
    pub hostile: Option<Hostile>,
    /// A member whose state goes wrong.
    pub spoilt: Option<usize>,
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
    /// How many writes to the store and updates of the guard are on disk, for what is torn;
    /// `None`: chance decides.
    pub kept: Option<(usize, usize)>,
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

/// What can be left out of a run as a whole, beside single kinds of faults and changes.
pub const WHOLE_GROUPS: [&str; 4] = ["byzantine", "bad-links", "changes", "faults"];

impl Plan {
    /// Leaves out a kind of fault or change, or a whole group of them; whether there was such a
    /// thing to leave out.
    pub fn leave_out(&mut self, name: &str) -> bool {
        match name {
            "byzantine" => std::mem::take(&mut self.byzantine_per_mille) > 0,
            "bad-links" => std::mem::take(&mut self.bad_links),
            "changes" => std::mem::take(&mut self.between_changes_ms) > 0,
            "faults" => std::mem::take(&mut self.between_faults_ms) > 0,
            name => {
                if let Some(kind) = FAULT_KINDS.into_iter().find(|kind| *kind == name) {
                    return self.without.insert(kind);
                }
                let before = self.change_kinds.len();
                self.change_kinds.retain(|kind| *kind != name);
                self.change_kinds.len() < before
            }
        }
    }

    /// Whether epochs may graduate: not on the word of an engine that is wrong on purpose.
    pub(crate) fn trusts_engines(&self) -> bool {
        self.hostile.is_none() && self.spoilt.is_none()
    }

    /// Whether some nodes may be Byzantine.
    pub(crate) fn has_lies(&self, modules: &Modules) -> bool {
        let bears = modules.engines().first().is_some_and(|engine| engine.bears_lies());
        self.byzantine_per_mille > 0 && bears
    }

    /// A run of a fraction of a second: for every change.
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
            without: BTreeSet::new(),
            faults_max: None,
            real_signatures: None,
            byzantine_per_mille: 300,
            failing_per_mille: 500,
            hostile: None,
            spoilt: None,
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

    /// Shorter and with mostly changes of the engine: for [`Modules::with_broken`].
    pub fn broken() -> Self {
        let change_kinds = vec!["engine", "back-to-back", "application", "stake", "join", "leave"];
        let (faults_ms, between_changes_ms, others_max) = (6_000, 1_500, 3);
        Self { faults_ms, between_changes_ms, others_max, change_kinds, ..Self::aborts() }
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

    /// A run without faults in which the state of one member goes wrong, long enough for several
    /// state roots to be stated.
    pub fn with_spoilt(node: usize) -> Self {
        Self { faults_ms: 20_000, others_max: 0, spoilt: Some(node), ..Self::quiet() }
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
