//! The statement: the only shape that is ever signed with a consensus key.
//!
//! A statement names a scope, an author, a slot and a digest. An honest author never signs
//! two digests for one slot of one scope; everything else (certificates, evidence, the
//! signer guard) follows from that rule.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::Statement;

use crate::codec::encode;
use crate::ids::{ChainId, EpochIdentity, EpochNumber, Signature};

/// What a slot kind means. Kinds below [`SlotKind::HOST_FIRST`] are the engine's own; the
/// host never lets an engine sign one of the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SlotKind;

impl SlotKind {
    /// The first kind that is the host's.
    pub const HOST_FIRST: u16 = 0x8000;
    /// A batch of this author: (start count, sequence number).
    pub const BATCH: u16 = 0x8000;
    /// First round of the finality kernel: (commit index, 0), digest `h_i`.
    pub const PREPARE: u16 = 0x8001;
    /// Second round of the finality kernel: (commit index, 0), digest `h_i`.
    pub const COMMIT: u16 = 0x8002;
    /// Abort of a phase: (0, 0).
    pub const ABORT: u16 = 0x8003;
    /// A vote on a proposal: (proposal, 0).
    pub const VOTE: u16 = 0x8004;
    /// Readiness of an authority of the new committee: (proposal, window).
    pub const READY: u16 = 0x8005;
    /// A proposal of this author: (nonce, 0).
    pub const PROPOSE: u16 = 0x8006;
    /// The withdrawal of a proposal by its author: (proposal, 0).
    pub const WITHDRAW: u16 = 0x8007;
    /// The state root after a block: (position over all epochs, 0), digest the root.
    pub const STATE_ROOT: u16 = 0x8008;
}

/// Where a slot counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, BorshSerialize, BorshDeserialize)]
pub enum Scope {
    /// One epoch with everything it fixes: prepare, commit, abort and engine slots.
    Epoch(EpochIdentity),
    /// An epoch's number, in every phase of it and in the next epoch's blocks: batches,
    /// proposals, votes, readiness, state roots.
    Number(EpochNumber),
}

/// A statement with its author's signature; the scope is known from where it stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, BorshSerialize, BorshDeserialize)]
pub struct Signed {
    /// What is stated.
    pub statement: Statement,
    /// Over [`signing_bytes`].
    pub signature: Signature,
}

/// What a signature is made over.
pub fn signing_bytes(chain: ChainId, scope: Scope, statement: &Statement) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(160);
    bytes.extend_from_slice(b"moult statement 1\n");
    bytes.extend_from_slice(&encode(&(chain, scope, statement)));
    bytes
}
