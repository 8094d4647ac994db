//! What came of a run.

use std::collections::BTreeMap;
use std::fmt;

use moult_types::ModuleHash;

use crate::modules::Modules;
use crate::plan::Plan;

/// Every kind of fault that can be injected; a run of many seeds must have used each. The first
/// of them are drawn one by one over the run, see `nemesis`.
pub const FAULT_KINDS: [&str; 50] = [
    "crash",
    "crash-all",
    "crash-in-sync",
    "long-sleep",
    "pause",
    "slow-node",
    "partition",
    "partition-one-way",
    "partition-ring",
    "partition-bridge",
    "flapping",
    "link-down",
    "slow-link",
    "bandwidth",
    "slow-disk",
    "stalled-disk",
    "write-error",
    "full-disk",
    "read-error",
    "bit-rot",
    "clock-jump",
    "clock-stall",
    "clock-drift",
    "module-missing",
    "clock-skew",
    "engine-trap",
    "message-lost",
    "message-repeated",
    "message-reordered",
    "message-late",
    "unsynced-lost",
    "torn-write",
    "restart",
    "refused-to-start",
    "store-replaced",
    "folder-lost",
    "twin",
    "forged-message",
    "equivocation",
    "withholding",
    "wrong-digest",
    "replay",
    "false-certificate",
    "flooding",
    "left-down",
    "left-paused",
    "left-cut-off",
    "left-deaf-or-mute",
    "client-retry",
    "submit-while-down",
];

/// Which of them Byzantine nodes commit: none of them where a chain's engine bears no lies.
pub(crate) const BYZANTINE_KINDS: [&str; 8] = [
    "twin",
    "forged-message",
    "equivocation",
    "withholding",
    "wrong-digest",
    "replay",
    "false-certificate",
    "flooding",
];

/// Every kind of epoch change that is tried; likewise.
pub const CHANGE_KINDS: [&str; 15] = [
    "engine",
    "application",
    "join",
    "leave",
    "disjoint",
    "stake",
    "key",
    "rivals",
    "rejected",
    "vetoed",
    "expired",
    "withdrawn",
    "back-to-back",
    "not-before",
    "unavailable",
];

/// Every promise that is checked, by the name that a [`Violation`] has.
pub const INVARIANTS: [&str; 38] = [
    "a lost folder signs nothing",
    "a replaced store signs nothing",
    "agreement",
    "application",
    "barrier",
    "certificates",
    "chain",
    "density",
    "durability",
    "durable certificate",
    "engines run",
    "exactly once",
    "execution",
    "guard behind the store",
    "honest messages verify",
    "integrity",
    "linearizable",
    "linearizable reads",
    "liveness",
    "no busy loop",
    "no fork",
    "no halt",
    "no hidden commit",
    "no panic",
    "one digest a slot",
    "one outcome a phase",
    "one place a key",
    "one receipt",
    "one run a seed",
    "one successor",
    "quorum of votes",
    "recovery",
    "signatures",
    "state",
    "state root",
    "store",
    "the policy runs",
    "the run ends",
];

/// A promise was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which promise.
    pub property: &'static str,
    /// What happened.
    pub detail: String,
    /// When, in virtual microseconds.
    pub at_us: u64,
    /// In which run.
    pub seed: u64,
    /// Hash of everything that happened until then: equal for equal seeds.
    pub trace: u64,
    /// The modules that there were.
    pub modules: Vec<(String, ModuleHash)>,
}

impl Violation {
    pub(crate) fn new(property: &'static str, detail: impl Into<String>) -> Self {
        debug_assert!(INVARIANTS.contains(&property), "{property}");
        Self { property, detail: detail.into(), at_us: 0, seed: 0, trace: 0, modules: Vec::new() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { property, detail, at_us, seed, .. } = self;
        write!(f, "seed {seed} breaks `{property}` at {} ms: {detail}", at_us / 1000)
    }
}

impl std::error::Error for Violation {}

/// Steps that a node synced together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// Writes to the store.
    pub store: usize,
    /// Updates of the guard.
    pub guard: usize,
    /// Whether it switches the epoch, or votes on a change, or says that one may come.
    pub is_change: bool,
}

/// What happened in a run that broke no promise.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The run.
    pub seed: u64,
    /// Hash of everything that happened: equal for equal seeds.
    pub trace: u64,
    /// Events that were handled.
    pub events: u64,
    /// Blocks of the chain.
    pub blocks: u64,
    /// Epoch switches.
    pub switches: u64,
    /// Transactions acknowledged.
    pub acknowledged: u64,
    /// Transactions refused for good.
    pub refused: u64,
    /// Reads answered.
    pub reads: u64,
    /// Virtual time of the whole run, in milliseconds.
    pub virtual_ms: u64,
    /// The longest that a healed quorum, or everybody, took to decide all that was asked of it and
    /// to come to rest, in milliseconds of virtual time.
    pub worst_stall_ms: u64,
    /// Epochs that began with the engine that is wrong on purpose, and those in which it was given up.
    pub broken: (u64, u64),
    /// What each node synced, group by group: for crashing within each.
    pub groups: Vec<Vec<Group>>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Proposals of epoch changes by kind.
    pub changes: BTreeMap<&'static str, u64>,
    /// How proposals ended, and other things worth counting.
    pub notes: BTreeMap<String, u64>,
}

impl Report {
    /// Adds another run's numbers.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.blocks += other.blocks;
        self.switches += other.switches;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.reads += other.reads;
        self.virtual_ms += other.virtual_ms;
        self.worst_stall_ms = self.worst_stall_ms.max(other.worst_stall_ms);
        self.broken = (self.broken.0 + other.broken.0, self.broken.1 + other.broken.1);
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (kind, count) in &other.changes {
            *self.changes.entry(kind).or_default() += count;
        }
        for (note, count) in &other.notes {
            *self.notes.entry(note.clone()).or_default() += count;
        }
    }

    /// Kinds of faults and changes that could have happened and did not. Where faults as a whole,
    /// or all after some, are left out, nothing is said of them.
    pub fn unused(&self, plan: &Plan, modules: &Modules) -> Vec<&'static str> {
        let lies = plan.has_lies(modules);
        let all_faults = plan.between_faults_ms > 0 && plan.bad_links && plan.faults_max.is_none();
        let faults = FAULT_KINDS
            .iter()
            .filter(|_| all_faults)
            .filter(|kind| lies || !BYZANTINE_KINDS.contains(kind))
            .filter(|kind| !plan.without.contains(*kind))
            .filter(|kind| !self.faults.contains_key(*kind));
        let changes = plan
            .change_kinds
            .iter()
            .filter(|_| plan.between_changes_ms > 0)
            .filter(|kind| !self.changes.contains_key(*kind));
        faults.chain(changes).copied().collect()
    }

    pub(crate) fn fault(&mut self, kind: &'static str) {
        debug_assert!(FAULT_KINDS.contains(&kind));
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn change(&mut self, kind: &'static str) {
        debug_assert!(CHANGE_KINDS.contains(&kind));
        *self.changes.entry(kind).or_default() += 1;
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        *self.notes.entry(note.into()).or_default() += 1;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} blocks, {} epoch switches, {} transactions acknowledged, {} refused, {} reads, {} events, {} s of virtual time",
            self.blocks,
            self.switches,
            self.acknowledged,
            self.refused,
            self.reads,
            self.events,
            self.virtual_ms / 1000
        )?;
        for (title, counts) in [("faults", &self.faults), ("changes", &self.changes)] {
            let list: Vec<_> = counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            writeln!(f, "{title}: {}", list.join(", "))?;
        }
        let list: Vec<_> = self.notes.iter().map(|(note, count)| format!("{note} {count}")).collect();
        write!(f, "notes: {}", list.join(", "))
    }
}
