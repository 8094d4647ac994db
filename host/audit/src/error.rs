//! What is wrong with a chain.

use moult_types::phase::Phase;
use moult_types::{AuthorityIndex, CommitIndex, Digest, EpochIdentity, EpochNumber, GlobalIndex};
use thiserror::Error;

/// What is wrong with a chain; nothing from the block on is proven.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AuditError {
    /// The genesis cannot begin a chain.
    #[error("the genesis cannot begin a chain: {0}")]
    Genesis(String),
    /// A stretch without blocks.
    #[error("a stretch of no blocks where block {0} belongs")]
    Empty(GlobalIndex),
    /// A block is missing, or out of order.
    #[error("block {expected} is missing: block {found} comes in its place")]
    Missing {
        /// What should come.
        expected: GlobalIndex,
        /// What came.
        found: GlobalIndex,
    },
    /// The block is of another chain, or of an epoch that does not follow from this one.
    #[error(
        "block {global} is of an epoch {found_epoch} with the identity {found}, but the genesis and the blocks before \
         it lead to epoch {epoch} with the identity {expected}: it is of another chain, or the genesis is"
    )]
    OtherEpoch {
        /// The block.
        global: GlobalIndex,
        /// What follows from the genesis.
        epoch: EpochNumber,
        /// What follows from the genesis.
        expected: EpochIdentity,
        /// What came.
        found_epoch: EpochNumber,
        /// What came.
        found: EpochIdentity,
    },
    /// The block does not follow the one before it.
    #[error("block {global} does not follow the block before it: {what} does not fit")]
    Link {
        /// The block.
        global: GlobalIndex,
        /// Which field.
        what: &'static str,
    },
    /// The epoch had ended.
    #[error("block {global} lies past the barrier: its epoch {epoch} ended with the block before it")]
    PastBarrier {
        /// The block.
        global: GlobalIndex,
        /// The epoch.
        epoch: EpochNumber,
    },
    /// The block's time is not what its batches make of it.
    #[error("block {global} has the time {found} ms, but its batches and those before make it {expected} ms")]
    Time {
        /// The block.
        global: GlobalIndex,
        /// What it says.
        found: u64,
        /// What follows.
        expected: u64,
    },
    /// The first block of an epoch binds a state root, no other does.
    #[error("block {global} binds a state root where none belongs, or none where one belongs")]
    StateRoot {
        /// The block.
        global: GlobalIndex,
    },
    /// A batch of the block did not come with it.
    #[error("block {global} names batch {batch}, which is missing")]
    MissingBatch {
        /// The block.
        global: GlobalIndex,
        /// The batch.
        batch: Digest,
    },
    /// A batch that no block of the stretch names.
    #[error("batch {batch} came with the stretch up to block {global}, but no block names it, or twice")]
    StrayBatch {
        /// The last block of the stretch.
        global: GlobalIndex,
        /// The batch.
        batch: Digest,
    },
    /// A batch's author or signature.
    #[error("batch {batch} of authority {} (epoch {epoch}) is not its author's: {reason}", author.0)]
    Batch {
        /// The batch.
        batch: Digest,
        /// The epoch it says it was made in.
        epoch: EpochNumber,
        /// Who is said to have made it.
        author: AuthorityIndex,
        /// What is wrong.
        reason: String,
    },
    /// The blocks are not proven final.
    #[error("the certificate for block {global} (index {} of its epoch) does not hold: {reason}", index.0)]
    Certificate {
        /// The block.
        global: GlobalIndex,
        /// The block within its epoch.
        index: CommitIndex,
        /// What is wrong.
        reason: String,
    },
    /// A fallback did not resume where it is said to.
    #[error("that phase {phase} of the epoch goes on after block {global} is not proven: {reason}")]
    Resumption {
        /// The block.
        global: GlobalIndex,
        /// The phase.
        phase: Phase,
        /// What is wrong.
        reason: String,
    },
    /// The epoch that follows cannot begin.
    #[error("the epoch that follows block {global} cannot begin: {reason}")]
    NextEpoch {
        /// The barrier.
        global: GlobalIndex,
        /// Why.
        reason: String,
    },
    /// What a store says of an epoch is not what follows from its blocks.
    #[error("the store says otherwise of epoch {epoch} than its blocks do: {what}")]
    StoredEpoch {
        /// The epoch.
        epoch: EpochNumber,
        /// Which part.
        what: &'static str,
    },
}
