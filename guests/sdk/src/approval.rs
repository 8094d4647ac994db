//! The contract of an approval policy; `wit/approval/approval.wit` is its manual.

use crate::{CommitIndex, Digest, FaultModel, Stake};

/// An approval policy as plain Rust; `export_approval!` makes a component of it.
pub trait ApprovalPolicy {
    /// What the policy is; always the same answer.
    fn describe() -> Info;

    /// This node's vote. A pure function of its arguments.
    fn evaluate(config: &[u8], proposal: &Proposal, context: &Context) -> Verdict;
}

/// One authority of a committee.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Outlives keys.
    pub authority: Digest,
    /// Public key.
    pub key: Digest,
    /// Voting weight.
    pub stake: Stake,
    /// Where peers reach it.
    pub address: String,
}

/// A module pinned for a world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModulePin {
    /// "engine", "approval", "application", ...
    pub world: String,
    /// SHA-256 of the bytes.
    pub hash: Digest,
    /// At most 64 KiB.
    pub config: Vec<u8>,
}

/// An epoch, present or proposed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Epoch {
    /// Number of the epoch.
    pub number: u64,
    /// What the quorums are made for.
    pub fault_model: FaultModel,
    /// By authority index.
    pub committee: Vec<Member>,
    /// One a world.
    pub modules: Vec<ModulePin>,
}

/// What is proposed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// Number on this chain, from 1.
    pub id: u64,
    /// What votes refer to.
    pub hash: Digest,
    /// The authority that proposed it.
    pub proposer: Digest,
    /// The epoch to come.
    pub next: Epoch,
    /// Expires after this block index of the present epoch.
    pub deadline: CommitIndex,
    /// Not before this block time, milliseconds since 1970.
    pub not_before_ms: Option<u64>,
}

/// What this node found out about one pinned module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleCheck {
    /// Which world it is pinned for.
    pub world: String,
    /// Its hash.
    pub hash: Digest,
    /// As the module names itself.
    pub name: String,
    /// As the module says.
    pub version: String,
    /// `None` where it is ready here.
    pub problem: Option<String>,
}

/// Where a shadow run of a proposed engine stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShadowState {
    /// It is being fed.
    Running,
    /// It was fed to the end of the epoch.
    Complete,
    /// The engine refused to start, trapped, used up its fuel or broke its contract.
    Failed(String),
    /// The run was given up for the live engine's sake; nothing is known against the candidate.
    DroppedOut(String),
}

/// What a shadow run of the proposed engine has shown here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShadowRun {
    /// Where it stands.
    pub state: ShadowState,
    /// Calls of the live engine that it was fed.
    pub steps: u64,
    /// Events in them.
    pub events: u64,
    /// Commits of the live engine meanwhile.
    pub live_commits: u64,
    /// Of both, with the same batches.
    pub equal_commits: u64,
    /// Of both, with other batches.
    pub other_commits: u64,
    /// Of the live engine alone: final before the candidate had committed them.
    pub missed_commits: u64,
    /// The slowest call, in microseconds.
    pub slowest_us: u64,
    /// The most fuel of one call, and the limit.
    pub fuel_max: u64,
    /// See `fuel_max`.
    pub fuel_limit: u64,
    /// Most linear memory, in bytes.
    pub memory_bytes: u64,
}

/// What a certifier says of one pinned module, in a report that the proposal carries; the host
/// has verified the signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certification {
    /// What the module was certified as.
    pub world: String,
    /// Its hash.
    pub module: Digest,
    /// Public key of who says so.
    pub certifier: Digest,
    /// Version of the host that ran it.
    pub host_version: String,
    /// The first seed of the simulator.
    pub first_seed: u64,
    /// How many seeds.
    pub seeds: u64,
    /// Seeds that broke a promise, and cases of the conformance suite that failed.
    pub failures: u64,
    /// The longest that a healed quorum took to decide all that it was asked, in milliseconds.
    pub worst_stall_ms: u64,
    /// Fuel of the module's calls for each of its commits.
    pub fuel_per_commit: u64,
}

/// This node's view when it is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context {
    /// The present epoch.
    pub present: Epoch,
    /// Last final block.
    pub index: CommitIndex,
    /// Its time, milliseconds since 1970.
    pub block_time_ms: u64,
    /// One for each pinned module; empty as long as the checks run.
    pub checks: Vec<ModuleCheck>,
    /// What an operator of this node decided by hand.
    pub operator: Option<Verdict>,
    /// Where another engine is proposed: its shadow run here, if there is one.
    pub shadow: Option<ShadowRun>,
    /// One for each report that the proposal carries.
    pub certifications: Vec<Certification>,
}

/// The vote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// For.
    Approve,
    /// Against, with a reason of at most 512 bytes.
    Reject(String),
    /// Not yet: asked again at later blocks.
    Wait,
}

/// What a policy is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Short name.
    pub name: String,
    /// Semantic version.
    pub version: String,
}
