//! What nodes say to each other.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{CommitIndex, Digest};

use crate::batch::{SignedBatch, SystemTransaction};
use crate::block::{BlockRecord, Certificate};
use crate::ids::{EpochIdentity, EpochNumber, GlobalIndex, ModuleHash};
use crate::phase::{Abort, Bundle, Claim, FinalityProof, Phase, Point};
use crate::state_root::StateRoot;
use crate::statement::Signed;

/// One message; its sender is known from the connection.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum Message {
    /// An engine's message: payload in the engine's encoding, with signed statements of
    /// engine kinds in the scope of `identity`. Without payload: votes alone.
    Engine {
        /// Which epoch's engine.
        identity: EpochIdentity,
        /// `None` where the statements are votes on the hot path.
        payload: Option<Vec<u8>>,
        /// Engine kinds only.
        statements: Vec<Signed>,
    },
    /// Batches, pushed by their author or asked for.
    Batches(Vec<SignedBatch>),
    /// The sender's latest votes in the rounds of the finality kernel; each counts for every
    /// block below it.
    Votes {
        /// Which epoch.
        identity: EpochIdentity,
        /// At most one of each round.
        votes: Vec<Signed>,
        /// When they are sent again: the highest certificate of the first round that the sender
        /// holds.
        certificate: Option<Box<Certificate>>,
    },
    /// Where the sender is; sent when it changes, at most a few times a second.
    Status(Status),
    /// Governance from a node that cannot order it itself (or wants to be sure).
    System(SystemTransaction),
    /// Ask for batches by digest.
    FetchBatches(Vec<Digest>),
    /// Ask for final blocks from a global index on.
    FetchBlocks {
        /// The first one.
        from: GlobalIndex,
        /// The epoch and phase of the block before it, as the sender knows it.
        epoch: EpochNumber,
        /// See `epoch`.
        phase: Phase,
    },
    /// Final blocks in order, with a proof for the last one.
    Blocks(Box<Blocks>),
    /// Whether a batch waits to be ordered: the sender holds it and it is not final there.
    Waiting {
        /// Which phase's engine was told of it.
        identity: EpochIdentity,
        /// The batch.
        batch: Digest,
        /// Whether the recipient is asked to say the same, if it is so.
        is_question: bool,
    },
    /// The sender suspects the engine of a phase; holds for a moment, unless it is said again.
    Suspect {
        /// Which phase.
        identity: EpochIdentity,
    },
    /// The author signs nothing more in a phase.
    Abort {
        /// Which phase.
        identity: EpochIdentity,
        /// What it signed.
        abort: Abort,
        /// The proof of its claim.
        claim: Option<Box<Claim>>,
    },
    /// What opens a phase.
    Opening {
        /// Number of the epoch.
        epoch: EpochNumber,
        /// The phase that it opens.
        phase: Phase,
        /// The proof.
        bundle: Bundle,
    },
    /// Ask for blocks that are certified and not final.
    FetchPrepared {
        /// The first one, in the phase of `to`.
        from: CommitIndex,
        /// The last one.
        to: Point,
    },
    /// The answer: a stretch of that chain from its beginning.
    Prepared(Box<Prepared>),
    /// Ask how far the chain may have been acknowledged (linearizable reads).
    ReadQuery {
        /// Names the question.
        nonce: u64,
    },
    /// The answer.
    ReadReply {
        /// Of the question.
        nonce: u64,
        /// The sender's epoch.
        epoch: EpochNumber,
        /// Its phase.
        phase: Phase,
        /// In a certified epoch the highest block that the sender holds a certificate of the
        /// first round for, or knows to be final; in a graduated one the block of a marker.
        index: CommitIndex,
    },
    /// Ask for a part of a module.
    FetchModule {
        /// Which module.
        hash: ModuleHash,
        /// From which byte.
        offset: u64,
    },
    /// A part of a module.
    ModulePart {
        /// Which module.
        hash: ModuleHash,
        /// Size of the whole; 0 where the sender does not have it.
        total_bytes: u64,
        /// Where the part begins.
        offset: u64,
        /// The part.
        bytes: Vec<u8>,
    },
    /// Which state the sender has after a block.
    StateRoot(StateRoot),
}

/// Where a node is.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Status {
    /// Number of its epoch.
    pub epoch: EpochNumber,
    /// The phase of the chain that it follows.
    pub phase: Phase,
    /// Its last final block.
    pub last_final: GlobalIndex,
    /// The hash of that block, so that a fork is noticed.
    pub hash: Digest,
    /// The state root after the last block it executed, with that block's index.
    pub executed: GlobalIndex,
    /// See `executed`.
    pub state_root: Digest,
}

/// Blocks of one phase that are certified and not final.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Prepared {
    /// In order, without a gap.
    pub blocks: Vec<BlockRecord>,
    /// Every batch of these blocks, in the order of first mention.
    pub batches: Vec<SignedBatch>,
    /// From the last of these blocks to the one that was asked for.
    pub bodies: Vec<Digest>,
}

/// A stretch of one phase's final blocks.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Blocks {
    /// In order, without a gap, all of one phase. None where the proof is all that is new: a
    /// fallback resumed from the block before.
    pub blocks: Vec<BlockRecord>,
    /// Every batch of these blocks, in the order of first mention.
    pub batches: Vec<SignedBatch>,
    /// For the last block.
    pub proof: FinalityProof,
}
