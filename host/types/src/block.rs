//! The hash chain of an epoch and its certificates.
//!
//! `h_0` is the epoch's identity; `h_i = H(h_{i-1}, body_i)`; a body is the hash of the
//! index, the batch digests, the block time and, in the first block, the state root at the
//! barrier that the epoch follows. Leader and round are not part of it.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Slot, Statement};

use crate::codec::hash_of;
use crate::ids::{EpochIdentity, EpochNumber, GlobalIndex, Signature};
use crate::statement::SlotKind;

/// What is agreed on at one index of an epoch.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Block {
    /// Dense, from 1.
    pub index: CommitIndex,
    /// Stake-weighted median of the authorities' latest batch times, never going back.
    pub time_ms: u64,
    /// In order of execution.
    pub batches: Vec<Digest>,
    /// In block 1 of an epoch: the state root at the barrier before it.
    pub state_root: Option<Digest>,
}

impl Block {
    /// `body_i`.
    pub fn body(&self) -> Digest {
        hash_of("moult body", self)
    }
}

/// `h_i` from `h_{i-1}` and `body_i`.
pub fn link(parent: Digest, body: Digest) -> Digest {
    hash_of("moult link", &(parent, body))
}

/// A block with its place, as stored and served.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct BlockRecord {
    /// Number of the epoch.
    pub epoch: EpochNumber,
    /// Identity of the epoch.
    pub identity: EpochIdentity,
    /// Over all epochs.
    pub global: GlobalIndex,
    /// `h_{i-1}`.
    pub parent: Digest,
    /// `h_i`.
    pub hash: Digest,
    /// The block.
    pub block: Block,
}

/// One vote of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct CertificateVote {
    /// Who voted.
    pub author: AuthorityIndex,
    /// For which index: at or above the certificate's.
    pub index: CommitIndex,
    /// Over [`prepare_statement`].
    pub signature: Signature,
}

/// Proof that a quorum holds the chain up to a block durably. A vote at a higher index
/// counts for every block below it on its chain; `bodies` lead from the certificate's hash
/// up to the highest vote.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Certificate {
    /// The epoch.
    pub identity: EpochIdentity,
    /// The certified index.
    pub index: CommitIndex,
    /// `h_index`.
    pub hash: Digest,
    /// Rising authors, together of quorum stake.
    pub votes: Vec<CertificateVote>,
    /// `body_{index+1}` to the highest vote's.
    pub bodies: Vec<Digest>,
}

/// What an authority signs, in the scope of the epoch's identity, once it holds the chain
/// to block `index` durably.
pub fn prepare_statement(author: AuthorityIndex, index: CommitIndex, hash: Digest) -> Statement {
    Statement { author, slot: Slot { kind: SlotKind::PREPARE, a: index.0, b: 0 }, digest: hash }
}
