//! What a node says of its state, so that one whose state went wrong is noticed.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{AuthorityIndex, Digest, Slot, Statement};

use crate::ids::{EpochNumber, GlobalIndex, Signature};
use crate::statement::{Scope, SlotKind};

/// Within an epoch a state root is stated after every block whose position over all epochs is a
/// multiple of this.
pub const STATE_ROOT_EVERY_BLOCKS: u64 = 100;

/// An authority says which state it has after a final block: at every hundredth one, and at the
/// block before its epoch, the barrier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct StateRoot {
    /// Number of the epoch whose authority says it.
    pub epoch: EpochNumber,
    /// The block.
    pub global: GlobalIndex,
    /// The root after it.
    pub root: Digest,
    /// Its place in the committee of that epoch.
    pub author: AuthorityIndex,
    /// Over [`StateRoot::statement`].
    pub signature: Signature,
}

impl StateRoot {
    /// What is signed, in the scope of the epoch's number.
    pub fn statement(&self) -> Statement {
        let slot = Slot { kind: SlotKind::STATE_ROOT, a: self.global.0, b: 0 };
        Statement { author: self.author, slot, digest: self.root }
    }

    /// Where it counts: in all phases of the epoch, since what is final is the same in all.
    pub fn scope(&self) -> Scope {
        Scope::Number(self.epoch)
    }
}
