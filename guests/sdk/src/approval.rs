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
    /// The block that carried it.
    pub proposed_index: CommitIndex,
    /// Time of that block, milliseconds since 1970.
    pub proposed_ms: u64,
    /// It may pin engines that a quorum gave up before.
    pub readmit_failed: bool,
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

/// What stands before a policy's own rules: an operator's veto; a module that is not ready here,
/// which is rejected; checks that are not there yet for every module proposed, which are waited
/// for. `None` where none of that decides.
pub fn before_rules(proposal: &Proposal, context: &Context) -> Option<Verdict> {
    if let Some(veto @ Verdict::Reject(_)) = &context.operator {
        return Some(veto.clone());
    }
    if let Some(reason) = context.checks.iter().find_map(ModuleCheck::objection) {
        return Some(Verdict::reject(reason));
    }
    let is_checked = |pin: &ModulePin| {
        context.checks.iter().any(|check| check.world == pin.world && check.hash == pin.hash)
    };
    let is_complete = !context.checks.is_empty() && proposal.next.modules.iter().all(is_checked);
    (!is_complete).then_some(Verdict::Wait)
}

impl ModuleCheck {
    fn objection(&self) -> Option<String> {
        let problem = self.problem.as_ref()?;
        Some(format!("{} module sha256:{}: {problem}", self.world, self.hash))
    }
}

impl Verdict {
    /// Longest reason that the contract allows, in bytes.
    pub const REASON_BYTES_MAX: usize = 512;

    /// A vote against, with a reason that is cut to what the contract allows.
    pub fn reject(reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(Self::REASON_BYTES_MAX));
        Self::Reject(reason)
    }
}

/// Reads a policy's configuration: nothing, or lines `key=value` in the order given.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn settings(config: &[u8]) -> Result<Vec<(&str, &str)>, String> {
    let text = core::str::from_utf8(config).map_err(|_| "it is not UTF-8".to_owned())?;
    let lines = text.strip_suffix('\n').unwrap_or(text).split('\n').filter(|_| !text.is_empty());
    let pair = |line: &'_ str| format!("expected `key=value`, found `{line}`");
    lines.map(|line| line.split_once('=').ok_or_else(|| pair(line))).collect()
}

/// A value in plain decimal: no sign, no leading zero, no space.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn plain_number(key: &str, value: &str) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number: &u64| number.to_string() == value);
    number.ok_or_else(|| format!("`{key}`: `{value}` is no plain number"))
}

/// A digest or key in 64 lower-case hex digits.
pub fn plain_digest(text: &str) -> Option<Digest> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Digest(digest))
}

/// A proposal and what a node knows of it, to test a policy with: four members of stake 100,
/// an engine (hash of ones), an application (twos) and a policy (threes), all checked and ready,
/// and nothing is changed by the proposal. Tests change what they are about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// Number 1, carried by block 2 at 4,000 ms, good until block 1,000.
    pub proposal: Proposal,
    /// At block 3, 5,000 ms.
    pub context: Context,
}

impl Case {
    /// See the type.
    pub fn unchanged() -> Self {
        let worlds = [("engine", 1), ("application", 2), ("approval", 3)];
        let pin = |(world, n): (&str, u8)| ModulePin {
            world: world.to_owned(),
            hash: Digest([n; 32]),
            config: Vec::new(),
        };
        let epoch = |number| Epoch {
            number,
            fault_model: FaultModel::Byzantine,
            committee: (0..4).map(|n| Member::numbered(n, 100)).collect(),
            modules: worlds.map(pin).to_vec(),
        };
        let check = |pin: &ModulePin| ModuleCheck::ready(&pin.world, pin.hash);
        let proposal = Proposal {
            id: 1,
            hash: Digest([9; 32]),
            proposer: Member::numbered(0, 100).authority,
            next: epoch(2),
            deadline: CommitIndex(1_000),
            not_before_ms: None,
            proposed_index: CommitIndex(2),
            proposed_ms: 4_000,
            readmit_failed: false,
        };
        let context = Context {
            present: epoch(1),
            index: CommitIndex(3),
            block_time_ms: 5_000,
            checks: proposal.next.modules.iter().map(check).collect(),
            operator: None,
            shadow: None,
            certifications: Vec::new(),
        };
        Self { proposal, context }
    }

    /// What a policy says to it.
    pub fn ask<P: ApprovalPolicy>(&self, config: &str) -> Verdict {
        P::evaluate(config.as_bytes(), &self.proposal, &self.context)
    }

    /// Pins another module for a world, ready on this node.
    pub fn pin(&mut self, world: &str, hash: Digest) {
        let next = &mut self.proposal.next.modules;
        if let Some(pin) = next.iter_mut().find(|pin| pin.world == world) {
            pin.hash = hash;
        }
        self.context.checks.retain(|check| check.world != world);
        self.context.checks.push(ModuleCheck::ready(world, hash));
    }
}

impl Member {
    /// A member for a [`Case`]: authority `n`, key `100 + n`.
    pub fn numbered(n: u8, stake: Stake) -> Self {
        let key = n.wrapping_add(100);
        Self { authority: Digest([n; 32]), key: Digest([key; 32]), stake, address: format!("node{n}:7000") }
    }
}

impl ModuleCheck {
    /// A check that found nothing wrong.
    pub fn ready(world: &str, hash: Digest) -> Self {
        Self { world: world.to_owned(), hash, name: world.to_owned(), version: "0.1.0".into(), problem: None }
    }
}
