//! Phases of an epoch: how one is aborted, and where the next one goes on.
//!
//! An epoch begins in phase 0, on the engine that its manifest pins. When a quorum aborts a
//! phase, the same committee goes on in the next one, on an engine of the manifest's list
//! `fallbacks`. Here live the statements and proofs of that; what they prove is checked in the
//! core.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Slot, Statement};

use crate::block::{BlockRecord, Certificate};
use crate::codec::hash_of;
use crate::ids::{EpochIdentity, GlobalIndex, Signature};
use crate::statement::SlotKind;

/// Phase of an epoch: 0 as it begins, one more with each abort.
pub type Phase = u32;

/// Most phases of one epoch. The stall timeout doubles with each, so that none gets there.
pub const PHASES_MAX: Phase = 64;

/// The identity of the phase after `phase` of an epoch; `identity` is that of `phase`. It
/// depends on no outcome: a phase has one fallback.
pub fn fallback_identity(identity: EpochIdentity, phase: Phase) -> EpochIdentity {
    EpochIdentity(hash_of("moult fallback", &(identity, phase + 1)).0)
}

/// An executed block, or the point where an epoch begins (index 0).
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Point {
    /// The phase it lies in.
    pub identity: EpochIdentity,
    /// Its index there.
    pub index: CommitIndex,
    /// `h_index`.
    pub hash: Digest,
    /// Over all epochs; at index 0 that of the barrier before the epoch.
    pub global: GlobalIndex,
}

/// Where the chain of a fallback goes on. It stands in the resume block and in every block
/// after it, so that whoever has one of these blocks knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Resumed {
    /// The resume block. It and the blocks before it are not executed.
    pub at: CommitIndex,
    /// What the block after it is executed upon.
    pub point: Point,
}

impl Resumed {
    /// The block of the phase at an index, over all epochs; `None` for the blocks that are not
    /// executed.
    pub fn global_of(&self, index: CommitIndex) -> Option<GlobalIndex> {
        let above = index.0.checked_sub(self.at.0).filter(|above| *above > 0)?;
        self.point.global.0.checked_add(above).map(GlobalIndex)
    }
}

/// An authority signs nothing more in a phase, and says for which block it holds the highest
/// certificate of the first round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Abort {
    /// Who.
    pub author: AuthorityIndex,
    /// The certified block: (index, hash); index 0 and the phase's identity for none.
    pub claim: (CommitIndex, Digest),
    /// Over [`Abort::statement`].
    pub signature: Signature,
}

impl Abort {
    /// What is signed, in the scope of the phase's identity.
    pub fn statement(&self) -> Statement {
        let digest = hash_of("moult abort", &self.claim);
        Statement { author: self.author, slot: Slot { kind: SlotKind::ABORT, a: 0, b: 0 }, digest }
    }
}

/// What proves an abort's claim.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Claim {
    /// A certificate of the first round for the claimed block.
    pub certificate: Certificate,
    /// In a fallback, the claimed block: it says whether the phase's chain had resumed.
    pub block: Option<Box<BlockRecord>>,
}

/// The aborts of one phase by a quorum.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct AbortedPhase {
    /// The phase.
    pub identity: EpochIdentity,
    /// By rising authors.
    pub aborts: Vec<Abort>,
    /// Of the highest claim; none if nobody claims anything.
    pub claim: Option<Claim>,
}

/// Proof that a phase was aborted, and of the point at which its fallback goes on.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Bundle {
    /// The phase whose fallback this opens; below it, as long as the phase before had not
    /// resumed as far as its claim shows, the one before.
    pub aborted: Vec<AbortedPhase>,
}

/// Proof that the chain of a phase resumed: its resume block, final.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Resumption {
    /// The phase.
    pub phase: Phase,
    /// The resume block.
    pub block: BlockRecord,
    /// A certificate of the second round for it.
    pub certificate: Certificate,
}

/// What proves that a block is final.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum FinalityProof {
    /// A certificate of the second round for it.
    Committed(Certificate),
    /// A fallback resumed from it or from a block above it.
    Resumed {
        /// From the block after it up to the one that was resumed from.
        bodies: Vec<Digest>,
        /// That the fallback did.
        resumption: Box<Resumption>,
    },
}

impl FinalityProof {
    /// The certificate in it: of the block itself, or of the resume block.
    pub fn certificate(&self) -> &Certificate {
        match self {
            Self::Committed(certificate) => certificate,
            Self::Resumed { resumption, .. } => &resumption.certificate,
        }
    }
}
