//! The hash chain of an epoch and its certificates.
//!
//! `h_0` is the epoch's identity; `h_i = H(h_{i-1}, body_i)`; a body is the hash of the
//! index, the batch digests, the block time, in the first block the state root at the barrier
//! that the epoch follows, and in a fallback the point at which it resumed. Leader and round are
//! not part of it.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Slot, Statement};

use crate::codec::hash_of;
use crate::ids::{EpochIdentity, EpochNumber, GlobalIndex, Signature};
use crate::phase::Resumed;
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
    /// In the first executed block of an epoch: the state root at the barrier before it.
    pub state_root: Option<Digest>,
    /// In a fallback, from its resume block on: where its chain goes on.
    pub resumed: Option<Resumed>,
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
    /// Identity of the epoch, in its phase.
    pub identity: EpochIdentity,
    /// Over all epochs; 0 for blocks of a fallback that are not executed.
    pub global: GlobalIndex,
    /// `h_{i-1}`.
    pub parent: Digest,
    /// `h_i`.
    pub hash: Digest,
    /// The block.
    pub block: Block,
}

/// A round of the finality kernel's votes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, BorshSerialize, BorshDeserialize)]
pub enum Round {
    /// The author's engine ordered the chain to a block, and the author holds it durably.
    Prepare,
    /// The author holds a certificate of the first round for the block durably.
    Commit,
}

impl Round {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Prepare, Self::Commit];

    /// The kind of slot that its votes are signed for.
    pub fn slot_kind(self) -> u16 {
        match self {
            Self::Prepare => SlotKind::PREPARE,
            Self::Commit => SlotKind::COMMIT,
        }
    }

    /// The round of a vote; `None` for any other statement.
    pub fn of(statement: &Statement) -> Option<Self> {
        let is_vote = statement.slot.a > 0 && statement.slot.b == 0;
        Self::ALL.into_iter().find(|round| is_vote && round.slot_kind() == statement.slot.kind)
    }
}

/// One vote of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct CertificateVote {
    /// Who voted.
    pub author: AuthorityIndex,
    /// For which index: at or above the certificate's.
    pub index: CommitIndex,
    /// Over [`vote_statement`].
    pub signature: Signature,
}

/// Votes of a quorum in one round for the chain up to a block. A vote at a higher index counts
/// for every block below it on its chain; `bodies` lead from the certificate's hash up to the
/// highest vote. It proves nothing above its index.
///
/// Of the first round: no other block can be certified at an index up to this one. Of the
/// second: everything up to the block is final.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Certificate {
    /// Which votes these are.
    pub round: Round,
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

/// What an authority signs, in the scope of the epoch's identity, in a round of votes for the
/// chain to block `index`.
pub fn vote_statement(round: Round, author: AuthorityIndex, index: CommitIndex, hash: Digest) -> Statement {
    Statement { author, slot: Slot { kind: round.slot_kind(), a: index.0, b: 0 }, digest: hash }
}
