//! The seam between the replica and the world: inputs in, one [`Step`] out.
//!
//! The order of effects is in the type: everything in [`Step::durable`] that is not lazy is
//! synced to disk before anything in [`Step::release`] is carried out, and steps are carried
//! out in order. So the replica may go on as if its writes had happened: nothing that
//! depends on them leaves the node before they have.

use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::approval::{self, ModuleCheck, Verdict};
use moult_sdk::engine::DurableRecord;
use moult_sdk::{Digest, Slot};
use moult_types::governance::Decision;
use moult_types::phase::{Bundle, Claim, FinalityProof, Phase, Resumed, Resumption};
use moult_types::{
    BlockRecord, ClientTransaction, CommitIndex, EpochChangeProposal, EpochIdentity, EpochNumber,
    GlobalIndex, HeldBatch, Manifest, Message, ModuleHash, ModulePin, ProposalId, PublicKey, Scope, Signed,
    TransactionId,
};

use crate::governance::{Ledger, ProposalRecord};
use crate::ports::{EngineInstance, Fault};
use crate::stop::Stop;
use crate::verify::{VerifiedMessage, VerifyContext};

/// What the node's clocks show. The replica has none of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Monotonic milliseconds since the node started.
    pub mono_ms: u64,
    /// Wall clock, milliseconds since 1970. Content of batches, never a basis of decisions.
    pub wall_ms: u64,
}

/// What happens to a replica.
pub enum Input {
    /// A message whose statements were verified.
    Message {
        /// Authenticated by the transport.
        from: PublicKey,
        /// What it says.
        message: VerifiedMessage,
    },
    /// A message of an epoch that this node does not know yet; kept (bounded) for the switch.
    Early {
        /// Authenticated by the transport.
        from: PublicKey,
        /// Not verified.
        message: Message,
    },
    /// A link to a peer came up or went down.
    Peer {
        /// Which peer.
        key: PublicKey,
        /// Whether it can be reached.
        up: bool,
        /// Smoothed round trip in microseconds, 0 if unknown.
        rtt_us: u32,
    },
    /// Transactions of this node's clients.
    Submit(Vec<ClientTransaction>),
    /// Answer to [`Effect::Fetch`]: batches that were in this node's own store.
    Stored(Vec<Arc<HeldBatch>>),
    /// A client waits to read the latest state; answered by [`Effect::ReadAt`].
    Read {
        /// Names the read.
        id: u64,
    },
    /// The executor has applied everything up to here. Also given once after the start,
    /// when final blocks that were not applied yet have been: an epoch whose last block is
    /// final on disk waits for it.
    Executed {
        /// The last block applied.
        global: GlobalIndex,
        /// The state root after it.
        state_root: Digest,
    },
    /// Answer to [`Effect::StartEngine`]: an instance, not initialised.
    Engine {
        /// The epoch it is for.
        identity: EpochIdentity,
        /// The instance.
        engine: Box<dyn EngineInstance>,
        /// The epoch's engine records that are durable here, by rising id.
        records: Vec<EngineRecord>,
    },
    /// Answer to [`Effect::CheckModules`].
    ModulesChecked {
        /// Which proposal.
        proposal: Digest,
        /// One for each pinned module.
        checks: Vec<ModuleCheck>,
    },
    /// Answer to [`Effect::Evaluate`].
    Verdict {
        /// Which proposal.
        proposal: ProposalId,
        /// The policy's answer; a fault is no vote.
        verdict: Result<Verdict, Fault>,
    },
    /// An operator proposes an epoch change as this authority; the replica completes what
    /// depends on the chain (see [`crate::governance`]) and signs.
    Propose(Box<EpochChangeProposal>),
    /// An operator takes this authority's proposal back.
    Withdraw(ProposalId),
    /// An operator decided by hand; the approval policy sees it.
    OperatorVote(ProposalId, Decision),
    /// Time has passed; see `Replica::next_wake_ms`.
    Wake,
    /// The node is going to stop: no new transactions, hand over what can be handed over.
    Drain,
}

/// The whole answer to a call of the replica: first what is durable, then the rest in order.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Synced first (lazy writes excepted).
    pub durable: Vec<Persist>,
    /// Then carried out, in order.
    pub release: Vec<Effect>,
}

/// What is written to disk. Store and guard change together: what a synced step writes into
/// the one is not found after a crash without what it writes into the other, lazy writes
/// before it included. So the guard never knows of a block that the store can lose.
#[derive(Clone, Debug)]
pub enum Persist {
    /// Into the guard's file, outside the store.
    Guard(GuardUpdate),
    /// A batch that is held and not final. Lazy.
    Batch(Arc<HeldBatch>),
    /// A block that is ordered here and not final. Replaces a block of the same index. Lazy.
    Block(Arc<BlockRecord>),
    /// Blocks of the present epoch above this index are dropped (they were never final).
    DropBlocksAbove(GlobalIndex),
    /// An engine's record with the signatures of its statements.
    Record(EngineRecord),
    /// Engine records at or below this id are not needed any more.
    TruncateRecords(u64),
    /// A block of a fallback that has not resumed, or its resume block. Replaces a block of the
    /// same index. Lazy.
    SideBlock(Arc<BlockRecord>),
    /// This node enters a fallback: one record, written at once with the removal of the former
    /// phase's engine records and side blocks.
    PhaseOpened(Box<PhaseRecord>),
    /// The resume block of a fallback is final, and everything up to its point.
    PhaseResumed {
        /// The fallback, with its resumption.
        record: Box<PhaseRecord>,
        /// Replicated state of the host there: what was scheduled is cancelled.
        ledger: Arc<Ledger>,
        /// Batches that only its blocks up to the resume block name: no longer pending.
        batches: Vec<Digest>,
    },
    /// Every block up to here is final. Lazy: it can be learnt again from peers.
    Final {
        /// The last final block.
        global: GlobalIndex,
        /// What proves it.
        proof: Box<FinalityProof>,
        /// Replicated state of the host at that block.
        ledger: Arc<Ledger>,
        /// Batches of the blocks that became final: no longer pending.
        batches: Vec<Digest>,
    },
    /// The switch to a new epoch: one record, written at once with the removal of the former
    /// epoch's engine records and uncertified blocks.
    Epoch {
        /// The new epoch.
        start: Box<EpochStart>,
        /// Batches that can never be ordered any more.
        expired: Vec<Digest>,
        /// Replicated state of the host at the start.
        ledger: Arc<Ledger>,
    },
    /// A proposal came to its end: the audit trail. Lazy.
    History(Box<ProposalRecord>),
}

impl Persist {
    /// Whether nothing that leaves the node depends on this being synced. Batches and blocks do
    /// not wait: what says that they are held here (a vote of the engine, a prepare) comes in
    /// the same step or a later one, which is synced with all that was written before it.
    pub fn is_lazy(&self) -> bool {
        matches!(
            self,
            Self::Batch(_)
                | Self::Block(_)
                | Self::SideBlock(_)
                | Self::Final { .. }
                | Self::History(_)
                | Self::TruncateRecords(_)
        ) || matches!(self, Self::Guard(update) if update.is_lazy())
    }
}

/// An epoch as it began.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct EpochStart {
    /// What it fixes.
    pub manifest: Manifest,
    /// Global index of its block 0: the barrier before it, 0 at genesis.
    pub base: GlobalIndex,
    /// State root at the barrier; `None` at genesis.
    pub state_root: Option<Digest>,
    /// Block time at the barrier.
    pub time_ms: u64,
    /// This node's wall clock at the switch: for the history, replicated nowhere.
    pub switched_at_ms: u64,
}

/// An engine's record as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineRecord {
    /// As the engine gave it.
    pub record: DurableRecord,
    /// The statements it names, signed, as far as the host held them.
    pub signed: Vec<Signed>,
}

/// What changes in the signer guard.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum GuardUpdate {
    /// A digest was signed for a slot.
    Signed {
        /// Where the slot counts.
        scope: Scope,
        /// The slot.
        slot: Slot,
        /// The digest.
        digest: Digest,
    },
    /// The last prepare: rises within an epoch.
    Prepared {
        /// The index.
        index: CommitIndex,
        /// `h_index`.
        hash: Digest,
    },
    /// The last commit: what it was signed with, of its index and hash (K4).
    Committed(Box<Claim>),
    /// The phase is aborted, with a claim to this block (K8).
    Aborted {
        /// Its index; 0 for none.
        index: CommitIndex,
        /// Its hash; the phase's identity for none.
        hash: Digest,
    },
    /// The guard enters a fallback of the present epoch: everything of former phases is closed.
    Phase {
        /// Its phase.
        phase: Phase,
        /// Its identity.
        identity: EpochIdentity,
        /// What opened it.
        proof: Box<PhaseProof>,
    },
    /// Engine slots of a kind at or below (a, b) are never signed again.
    Released(Slot),
    /// The guard enters an epoch: everything of former epochs is closed.
    Epoch {
        /// Its number.
        number: u64,
        /// Its identity.
        identity: EpochIdentity,
    },
    /// The node has started once more.
    Started {
        /// How often, this time included.
        count: u64,
    },
    /// High-water mark: the store must hold the final chain at least to here. Lazy.
    FinalMark {
        /// The last final block.
        global: GlobalIndex,
        /// Its hash.
        hash: Digest,
    },
    /// A state root was stated: rises over all epochs.
    Stated {
        /// The block.
        global: GlobalIndex,
        /// The root after it.
        root: Digest,
    },
    /// Nothing more is signed, whatever starts.
    Stopped(Stop),
    /// An operator lifts that. The block whose state root was stated last is closed: that root may
    /// have been the wrong one.
    Resumed,
}

impl GuardUpdate {
    fn is_lazy(&self) -> bool {
        matches!(self, Self::FinalMark { .. } | Self::Released(_))
    }
}

/// What opened a fallback (K17).
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum PhaseProof {
    /// The phase before it was aborted.
    Aborted(Bundle),
    /// Its chain has resumed.
    Resumed(Box<Resumption>),
}

/// A fallback of the present epoch, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct PhaseRecord {
    /// Number of the epoch.
    pub number: EpochNumber,
    /// Its phase, from 1.
    pub phase: Phase,
    /// Its identity.
    pub identity: EpochIdentity,
    /// The engine of the phase before, which was aborted.
    pub failed: ModuleHash,
    /// Why this node suspected it; empty where it only followed others.
    pub reason: String,
    /// What opened it, where this node was shown that.
    pub opened: Option<Bundle>,
    /// That its chain resumed, once it is final here.
    pub resumption: Option<Resumption>,
    /// This node's wall clock when it entered: for the history, replicated nowhere.
    pub entered_at_ms: u64,
}

impl PhaseRecord {
    /// Where its chain goes on, once that is final here.
    pub fn resumed(&self) -> Option<Resumed> {
        self.resumption.as_ref().and_then(|resumption| resumption.block.block.resumed)
    }
}

/// The hash at an index of the phase that a node votes in, as its disk has it: for
/// [`Recovery::prepared_on_chain`](crate::Recovery). `executed` gives executed blocks by their
/// position over all epochs, `side` blocks of a fallback up to its resume block.
pub fn hash_on_disk<E>(
    epoch: &EpochStart,
    phases: &[PhaseRecord],
    index: CommitIndex,
    executed: impl FnOnce(GlobalIndex) -> Result<Option<BlockRecord>, E>,
    side: impl FnOnce(CommitIndex) -> Result<Option<BlockRecord>, E>,
) -> Result<Option<Digest>, E> {
    let present = phases.last();
    let identity = present.map_or_else(|| epoch.manifest.identity(), |record| record.identity);
    if index.0 == 0 {
        return Ok(Some(identity.digest()));
    }
    let global = match present {
        None => epoch.base.0.checked_add(index.0).map(GlobalIndex),
        Some(record) => record.resumed().and_then(|resumed| resumed.global_of(index)),
    };
    let found = match global {
        Some(global) => executed(global)?,
        None => side(index)?,
    };
    Ok(found.filter(|block| block.identity == identity).map(|block| block.hash))
}

/// Who gets a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Every connected peer.
    Everyone,
    /// These peers, as far as they are connected.
    Keys(Vec<PublicKey>),
}

/// What is done once the step's writes are durable.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send a message. It may be lost.
    Send {
        /// To whom.
        to: Target,
        /// What.
        message: Arc<Message>,
    },
    /// Get batches: from this node's store ([`Input::Stored`]), else from these peers.
    Fetch {
        /// Which.
        batches: Vec<Digest>,
        /// Whom to ask.
        from: Target,
    },
    /// Apply a final block. In order, without a gap, each once.
    Execute {
        /// The block.
        record: Arc<BlockRecord>,
        /// Its batches in order (a batch that is named twice stands here twice).
        batches: Vec<Arc<HeldBatch>>,
    },
    /// The read may be served once this block is executed.
    ReadAt {
        /// Which reads.
        ids: Vec<u64>,
        /// The block.
        global: GlobalIndex,
    },
    /// Load the pinned engine and answer with [`Input::Engine`] (also after a fault).
    StartEngine {
        /// For which epoch.
        identity: EpochIdentity,
        /// What to load.
        pin: ModulePin,
    },
    /// Fetch, check, compile and rehearse what a proposal pins; answer with
    /// [`Input::ModulesChecked`]. Idempotent.
    CheckModules {
        /// The proposal.
        proposal: Arc<EpochChangeProposal>,
        /// Its hash.
        hash: Digest,
    },
    /// A proposal is decided: what was prepared for it may be let go.
    ForgetModules {
        /// Its hash.
        hash: Digest,
    },
    /// Ask the approval policy; answer with [`Input::Verdict`].
    Evaluate {
        /// The policy pinned by the present epoch.
        pin: ModulePin,
        /// What is proposed.
        proposal: Box<approval::Proposal>,
        /// This node's view.
        context: Box<approval::Context>,
    },
    /// The set of peers to connect to and accept changed: (key, address).
    Peers(Vec<(PublicKey, Option<String>)>),
    /// What messages are verified against from now on.
    Verify(Arc<VerifyContext>),
    /// Verify these again: they came before their epoch.
    Reverify(Vec<(PublicKey, Message)>),
    /// A new epoch has begun here.
    EpochStarted(Box<EpochStart>),
    /// Something for metrics and logs.
    Event(Event),
    /// A transaction of this node's clients will not be ordered.
    Refused {
        /// Which one.
        transaction: TransactionId,
        /// Why: for the client.
        reason: Refusal,
    },
    /// The node must stop: going on could break a promise.
    Halt(String),
}

/// Why a transaction is refused before it is ordered. It was not applied and will not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Too much is in flight.
    #[error("overloaded: too many transactions are in flight on this node")]
    Overloaded,
    /// This node cannot order transactions.
    #[error("this node is not in the present committee")]
    Observer,
    /// The node is stopping.
    #[error("this node is shutting down")]
    Draining,
    /// Larger than a batch may be.
    #[error("the transaction is larger than a batch may be")]
    TooLarge,
}

/// Something that happened, for metrics and logs; nothing depends on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The engine committed a block here.
    Ordered {
        /// Its index.
        index: CommitIndex,
        /// The engine's word.
        round: u64,
        /// The engine's word.
        leader: Option<u32>,
        /// How many batches.
        batches: usize,
    },
    /// Blocks became final here.
    Final {
        /// The last one.
        index: CommitIndex,
        /// The last one.
        global: GlobalIndex,
        /// Its time.
        time_ms: u64,
        /// Milliseconds from ordered here to final, 0 if it came from a peer.
        latency_ms: u64,
    },
    /// An engine's gauge.
    Gauge {
        /// Its name.
        name: String,
        /// Its value.
        value: u64,
    },
    /// The engine is gone and is being rebuilt, or is beyond recovery.
    EngineFault {
        /// What happened.
        fault: String,
        /// The peer whose message did it, if that is known.
        peer: Option<PublicKey>,
        /// Whether it will not be started again in this epoch.
        beyond_recovery: bool,
    },
    /// The engine asked for something it may not have; the request was dropped.
    EngineMisbehaved(String),
    /// A proposal changed its state; see its record.
    Proposal(Box<ProposalRecord>),
    /// A vote of this node was made.
    Voted {
        /// On which proposal.
        proposal: ProposalId,
        /// How.
        decision: Decision,
    },
    /// The approval policy failed: no vote.
    PolicyFault {
        /// On which proposal.
        proposal: ProposalId,
        /// What happened.
        fault: String,
    },
    /// A peer holds another final block at an index: alarm.
    ForkDetected {
        /// The peer.
        peer: PublicKey,
        /// The index.
        global: GlobalIndex,
    },
    /// This node's state is not that of a quorum: it signs nothing more.
    StateForked {
        /// The block after which it differs.
        global: GlobalIndex,
        /// Which roots, for a person.
        reason: String,
    },
    /// Where peers are, as far as they said: (stake at this node's height, total stake,
    /// authorities at this node's height, highest final block heard of).
    Sync {
        /// Stake at this node's height.
        stake: u64,
        /// Stake of the committee.
        stake_total: u64,
        /// Authorities at this node's height.
        nodes: u32,
        /// Authorities of the committee.
        nodes_total: u32,
        /// The highest final block that a peer told of.
        highest: GlobalIndex,
    },
    /// This node suspects the engine of the present phase.
    Suspects {
        /// Why.
        reason: String,
    },
    /// This node entered a fallback of its epoch.
    PhaseOpened(Box<PhaseRecord>),
    /// The chain of a fallback resumed here.
    PhaseResumed {
        /// Which one.
        phase: Phase,
        /// The executed block that it goes on from.
        global: GlobalIndex,
    },
    /// This node's chain is not the certified one: it prepares nothing more in this epoch, and
    /// follows certificates.
    Diverged {
        /// A block at which they differ.
        index: CommitIndex,
    },
    /// This node signs nothing: why.
    SigningStopped(String),
    /// Something is signed with this node's key that its guard does not know: it signs nothing
    /// more with it. What was met, for a person.
    KeyElsewhere(String),
}
