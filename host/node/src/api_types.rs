//! The JSON of the HTTP interface, shared by the node and the command line.
//!
//! `docs/API.md` is the manual. Hashes are hex (modules `sha256:<hex>`), times milliseconds
//! since 1970, indices numbers. Fields are only ever added.

use std::collections::BTreeMap;

use moult_core::governance;
use moult_types::{
    AuthorityId, EpochLimits, FaultModel, Finality, Member, ModuleHash, ModulePin, PublicKey, SignedReport,
    World,
};
use serde::{Deserialize, Serialize};

use crate::genesis::PinFile;

/// Answer of every refused call, with a status of 400 or more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Stable, for programs: `overloaded`, `not-found`, `mismatch`, `bad-request`, ...
    pub code: String,
    /// For a person: what happened, to what, and what to do next.
    pub message: String,
    /// Whether the call was certainly not applied (4xx and 503) or may have been (504).
    pub applied: Applied,
    /// With the code `mismatch`: what the key holds, as `?expect=` takes it (hex, or `none`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<String>,
}

/// Whether a refused call changed anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applied {
    /// Certainly not.
    No,
    /// Not known: ask for the receipt, or retry with the same client and number.
    Unknown,
}

/// `PUT`, `DELETE /v1/kv/{key}`: the write is final and executed on this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Written {
    /// Global index of the block that executed it first.
    pub index: u64,
    /// Names the transaction for `GET /v1/tx/{id}`.
    pub id: String,
}

/// `POST /v1/tx` (raw payload in the body): waits like a write.
/// `GET /v1/tx/{id}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReceiptBody {
    /// Names the transaction.
    pub id: String,
    /// Global index of the block that executed it first.
    pub index: u64,
    /// `executed`, `trapped` or `stale`.
    pub status: String,
    /// The application's code; 0 means applied.
    pub code: Option<u32>,
    /// The application's answer, in hex.
    pub output_hex: Option<String>,
}

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node's public key.
    pub node: PublicKey,
    /// The authority it stands for.
    pub authority: AuthorityId,
    /// Of the program.
    pub version: String,
    /// Chain id.
    pub chain: String,
    /// Number of the epoch.
    pub epoch: u64,
    /// Phase of the epoch; 0 but in a fallback.
    pub phase: u32,
    /// Identity of the epoch.
    pub identity: String,
    /// When blocks of the epoch are executed.
    pub finality: Finality,
    /// `authority` or `observer`.
    pub role: String,
    /// Place in the committee.
    pub authority_index: Option<u32>,
    /// Why this node signs nothing, if so.
    pub signing_stopped: Option<String>,
    /// Name and version that the engine gives itself.
    pub engine: String,
    /// Its hash.
    pub engine_hash: ModuleHash,
    /// All pins of the epoch.
    pub modules: BTreeMap<World, PinFile>,
    /// Last final block, in its epoch.
    pub commit_index: u64,
    /// Last block executed here, over all epochs.
    pub global_exec_index: u64,
    /// Last final block, over all epochs.
    pub global_final_index: u64,
    /// After `global_exec_index`.
    pub state_root: String,
    /// Time of the last final block.
    pub block_time_ms: u64,
    /// Who leads, as the engine here sees it (its place in the committee).
    pub leader: Option<u32>,
    /// The engine's round or view.
    pub round: u64,
    /// The scheduled barrier of this epoch.
    pub barrier: Option<u64>,
    /// Connected peers.
    pub peers: Vec<Peer>,
    /// Highest final block that a peer told of.
    pub highest_seen: u64,
    /// Engines that a quorum gave up, in this epoch and before; a proposal that pins one of them
    /// needs `readmit_failed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_engines: Vec<FailedEngineBody>,
    /// Time since the start of the process, in milliseconds.
    pub uptime_ms: u64,
}

/// An engine that a quorum gave up, with the configuration that it had.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FailedEngineBody {
    /// The module.
    pub module: ModuleHash,
    /// Hash of its configuration.
    pub config_hash: String,
    /// The epoch in which it failed last.
    pub epoch: u64,
    /// The phase that was aborted.
    pub phase: u32,
    /// Global index of the block that the fallback went on from.
    pub resumed_from: u64,
}

impl FailedEngineBody {
    /// Whether a pin is this engine, configuration and all.
    pub fn is(&self, pin: &PinFile) -> bool {
        let is_it = |pin: &ModulePin| {
            self.module == pin.hash && self.config_hash == governance::config_hash(pin).to_string()
        };
        pin.to_pin().is_ok_and(|pin| is_it(&pin))
    }
}

/// A connected peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its key.
    pub key: PublicKey,
    /// Its place in the committee.
    pub authority_index: Option<u32>,
    /// Where it is.
    pub address: String,
    /// Smoothed round trip in microseconds.
    pub rtt_us: u64,
}

/// `GET /v1/blocks/{global_exec_index}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BlockBody {
    /// Over all epochs.
    pub global_exec_index: u64,
    /// Number of the epoch.
    pub epoch: u64,
    /// In its epoch.
    pub index: u64,
    /// `h_i`.
    pub hash: String,
    /// `h_{i-1}`.
    pub parent: String,
    /// Block time.
    pub time_ms: u64,
    /// Digests, in order.
    pub batches: Vec<String>,
    /// In the first block of an epoch: the state root at the barrier.
    pub state_root: Option<String>,
    /// In a block of a fallback: where its chain goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<ResumedBody>,
    /// Proof that it is final. Where the last block of a phase that was aborted is above it, that
    /// of the block of the fallback which goes on from there.
    pub certificate: CertificateBody,
}

/// Where the chain of a fallback goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResumedBody {
    /// Index of the resume block; it and those before it are not executed.
    pub at: u64,
    /// Identity of the phase of the block that is gone on from.
    pub identity: String,
    /// Its index there.
    pub index: u64,
    /// Its hash.
    pub hash: String,
    /// Its position over all epochs.
    pub global_exec_index: u64,
}

/// A certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CertificateBody {
    /// Identity of the epoch.
    pub identity: String,
    /// The certified index.
    pub index: u64,
    /// Its hash.
    pub hash: String,
    /// Votes.
    pub votes: Vec<CertificateVoteBody>,
    /// Bodies that lead up to the highest vote.
    pub bodies: Vec<String>,
}

/// One vote of a certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CertificateVoteBody {
    /// Place in the committee.
    pub authority_index: u32,
    /// The index it was given for.
    pub index: u64,
    /// ed25519.
    pub signature: String,
}

/// `GET /v1/epochs` (`?from=N&limit=M`): a list of these, rising.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochBody {
    /// Number.
    pub number: u64,
    /// Phase.
    pub phase: u32,
    /// Identity.
    pub identity: String,
    /// Global index of the barrier that it follows; 0 at genesis.
    pub base: u64,
    /// Block time at its beginning.
    pub time_ms: u64,
    /// Wall clock of this node at the switch.
    pub switched_at_ms: u64,
    /// What the thresholds are made for.
    pub fault_model: FaultModel,
    /// When its blocks are executed.
    pub finality: Finality,
    /// By place.
    pub committee: Vec<Member>,
    /// Total stake and quorum.
    pub stake: u64,
    /// See `stake`.
    pub quorum: u64,
    /// One for each world.
    pub modules: BTreeMap<World, PinFile>,
    /// Engines to fall back to, in order.
    #[serde(default)]
    pub fallbacks: Vec<PinFile>,
    /// Phases that were aborted, as this node saw it.
    #[serde(default)]
    pub aborts: Vec<AbortBody>,
    /// Shared numbers.
    pub limits: EpochLimits,
    /// State root at the barrier.
    pub state_root: Option<String>,
}

/// An engine was given up, and the epoch went on with the next one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AbortBody {
    /// The phase that followed.
    pub phase: u32,
    /// Its identity.
    pub identity: String,
    /// The engine that was given up.
    pub failed: ModuleHash,
    /// Why this node suspected it; empty where it followed others.
    pub reason: String,
    /// Global index of the block that the phase goes on from, once that is final.
    pub resumed_from: Option<u64>,
    /// Wall clock of this node then.
    pub entered_at_ms: u64,
}

/// `POST /v1/proposals` (admin): what is left out stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProposeBody {
    /// Pins that change.
    pub modules: BTreeMap<World, PinFile>,
    /// The whole new list of engines to fall back to.
    pub fallbacks: Option<Vec<PinFile>>,
    /// The whole new committee.
    pub committee: Option<Vec<Member>>,
    /// The new fault model.
    pub fault_model: Option<FaultModel>,
    /// The whole new set of limits.
    pub limits: Option<EpochLimits>,
    /// Not before this block time (milliseconds since 1970).
    pub not_before_ms: Option<u64>,
    /// Expires so many blocks from now; default 50,000.
    pub deadline_blocks: Option<u64>,
    /// Engines may be pinned that were given up before.
    pub readmit_failed: bool,
    /// Certifiers' reports on modules that it pins, each in hex as `moult certify` writes it,
    /// rising by module and certifier.
    pub reports: Vec<String>,
}

/// `GET /v1/backup` and `POST /v1/backup` (admin): backups of this node's store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupBody {
    /// Whether one is under way.
    pub running: bool,
    /// Bytes of it so far.
    pub written_bytes: u64,
    /// How many were made since the start.
    pub made: u64,
    /// How many failed since the start.
    pub failed: u64,
    /// The last one since the start.
    pub last: Option<BackupFileBody>,
    /// Why there is no newer one, if the last attempt failed.
    pub problem: Option<String>,
}

/// A backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupFileBody {
    /// Where it is on the node's machine.
    pub file: String,
    /// Number of the epoch that it was made in.
    pub epoch: u64,
    /// The last final block in it.
    pub global_final_index: u64,
    /// Its size.
    pub bytes: u64,
    /// Over its content.
    pub hash: String,
    /// How long it took.
    pub took_ms: u64,
}

/// `POST /v1/proposals/{id}/vote` (admin): for policies that ask their operator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorVoteBody {
    /// `true`: for.
    pub approve: bool,
    /// Why not.
    #[serde(default)]
    pub reason: String,
}

/// A proposal: answer of `POST /v1/proposals` (once it is final), `GET /v1/proposals/{id}`
/// and, as a list, `GET /v1/proposals` (open ones and history, newest first;
/// `?open=true`). `DELETE /v1/proposals/{id}` (admin) withdraws.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProposalBody {
    /// Its number on this chain.
    pub id: u64,
    /// What votes refer to.
    pub hash: String,
    /// `proposed` (no quorum yet), `approved`, `scheduled`, `active`, `rejected` (by quorum),
    /// `expired`, `withdrawn`, `superseded`, `cancelled` (a phase of the epoch was aborted).
    pub state: String,
    /// One line for a person: where it stands and what it waits for.
    pub explanation: String,
    /// The authority that proposed it.
    pub proposer: AuthorityId,
    /// The epoch it leads to.
    pub new_epoch: u64,
    /// Index and block time of the block that carried it.
    pub proposed_index: u64,
    /// See `proposed_index`.
    pub proposed_time_ms: u64,
    /// Index and block time of the last change of state.
    pub changed_index: u64,
    /// See `changed_index`.
    pub changed_time_ms: u64,
    /// Expires after this index.
    pub deadline: u64,
    /// Not before this block time.
    pub not_before_ms: Option<u64>,
    /// The last block of the present epoch, once scheduled.
    pub barrier: Option<u64>,
    /// What the thresholds are made for.
    pub fault_model: FaultModel,
    /// The new committee.
    pub committee: Vec<Member>,
    /// The new pins.
    pub modules: BTreeMap<World, PinFile>,
    /// Engines to fall back to, in order.
    #[serde(default)]
    pub fallbacks: Vec<PinFile>,
    /// It may pin engines that were given up before: those who vote should know why.
    #[serde(default)]
    pub readmit_failed: bool,
    /// Engines that it pins and that were given up before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_engines: Vec<FailedEngineBody>,
    /// The new limits.
    pub limits: EpochLimits,
    /// Votes so far.
    pub votes: Vec<VoteBody>,
    /// Stake for, against, and what a quorum is; 0 where the committee is not known any more.
    pub stake_approve: u64,
    /// See `stake_approve`.
    pub stake_reject: u64,
    /// See `stake_approve`.
    pub quorum: u64,
    /// Places in the new committee that said they are ready.
    pub ready: Vec<u32>,
    /// What this node found out about the pinned modules.
    pub checks: Vec<CheckBody>,
    /// Where another engine is proposed: its shadow run on this node, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowBody>,
    /// Certifiers' reports that it carries; their signatures hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reports: Vec<SignedReport>,
}

/// The shadow run of a proposed engine on one node: fed what the live engine is fed, with
/// nothing carried out of what it answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShadowBody {
    /// `running`, `complete` (the proposal was decided or the epoch ended), `failed` (the engine
    /// refused to start or failed), `dropped-out` (given up for the live engine's sake; nothing
    /// is known against the candidate).
    pub state: String,
    /// Why it failed or dropped out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Calls of the live engine that it was fed.
    pub steps: u64,
    /// Events in them.
    pub events: u64,
    /// It could not read the live engine's records and was started without any.
    pub without_records: bool,
    /// What both ordered.
    pub commits: ShadowCommitsBody,
    /// What the live engine took meanwhile; its fuel and memory are not known.
    pub live: ShadowCostBody,
    /// What the candidate took.
    pub candidate: ShadowCostBody,
}

/// What two engines ordered from the same events, in blocks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShadowCommitsBody {
    /// Of the live engine.
    pub live: u64,
    /// Of the candidate.
    pub candidate: u64,
    /// Of both, with the same batches.
    pub equal: u64,
    /// Of both, with other batches.
    pub other: u64,
    /// Of the live engine alone: final before the candidate had committed them.
    pub missed: u64,
    /// How much later than the live engine the candidate committed the same, in milliseconds of
    /// their time: half of them no later, 99 of 100, the latest.
    pub behind_p50_ms: u64,
    /// See `behind_p50_ms`.
    pub behind_p99_ms: u64,
    /// See `behind_p50_ms`.
    pub behind_max_ms: u64,
    /// The first commit index with other batches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_other: Option<u64>,
}

/// What an engine took and asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShadowCostBody {
    /// Calls.
    pub calls: u64,
    /// Time of all calls, in microseconds of the wall clock.
    pub busy_us: u64,
    /// Half of them were not slower, 99 of 100, the slowest; in microseconds.
    pub call_p50_us: u64,
    /// See `call_p50_us`.
    pub call_p99_us: u64,
    /// See `call_p50_us`.
    pub call_max_us: u64,
    /// Fuel of all calls, and the most of one; 0 where that is not known.
    pub fuel: u64,
    /// See `fuel`.
    pub fuel_max: u64,
    /// Most linear memory, in bytes; 0 where that is not known.
    pub memory_bytes: u64,
    /// Messages, and bytes of their payloads.
    pub messages: u64,
    /// See `messages`.
    pub message_bytes: u64,
    /// Statements to sign.
    pub signatures: u64,
    /// Bytes of durable records.
    pub record_bytes: u64,
}

/// One vote.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VoteBody {
    /// Place in the committee.
    pub authority_index: u32,
    /// For or against.
    pub approve: bool,
    /// Why not.
    pub reason: Option<String>,
    /// In which block.
    pub index: u64,
    /// At what block time.
    pub time_ms: u64,
}

/// What this node found out about a pinned module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckBody {
    /// For which world.
    pub world: String,
    /// Which module.
    pub hash: ModuleHash,
    /// As it names itself.
    pub name: String,
    /// As it says.
    pub version: String,
    /// Nothing where it is ready here.
    pub problem: Option<String>,
}

/// `GET /v1/modules`: a list of these. `PUT /v1/modules/{hash}` (admin) takes the bytes,
/// `GET /v1/modules/{hash}` gives them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ModuleBody {
    /// Its hash.
    pub hash: ModuleHash,
    /// Its size.
    pub bytes: u64,
    /// Worlds it is pinned for in the present epoch.
    pub pinned: Vec<World>,
}

/// `D/devnet.json`, written by `moult devnet`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DevnetFile {
    /// By index.
    pub nodes: Vec<DevnetNode>,
}

/// One node of a devnet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DevnetNode {
    /// From 0.
    pub index: u32,
    /// Of its process.
    pub pid: u32,
    /// Base address of its HTTP interface.
    pub api: String,
    /// Base address of its gRPC interface, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Where its peers reach it.
    pub p2p: String,
    /// Its folder.
    pub dir: String,
}
