//! A stop that outlives every start: what ended a node's signing for good, and what an operator
//! does about it. It is part of the signer guard's memory, so that nothing loses one without the
//! other.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};

/// Why a key signs nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum StopCause {
    /// K20: the state here is not that of a quorum. Blocks are followed and reads are served.
    State,
    /// K16, K18: blocks were executed here that are not the chain's. The node does not run.
    Chain,
    /// The key has signed what this guard knows nothing of: it was in use elsewhere, or this
    /// folder is an old copy. Blocks are followed.
    Key,
}

/// That a key signs nothing more, until an operator acts.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Stop {
    /// What kind of thing was found.
    pub cause: StopCause,
    /// What exactly, for a person.
    pub reason: String,
}

impl Stop {
    /// Whether signing may begin again once the operator has put in order what was found. What a
    /// guard has forgotten cannot be brought back.
    pub fn may_be_lifted(&self) -> bool {
        self.cause != StopCause::Key
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = match self.cause {
            StopCause::State | StopCause::Chain => {
                "keep the data folder and find the cause; then bring the store back from a backup of before \
                 (`moult restore`) and lift the stop (`moult guard resume`), or set the node up anew with a \
                 new key"
            }
            StopCause::Key => {
                "see that no other process signs with this key, then give this authority a new one by an \
                 epoch change (`moult keys rotate`)"
            }
        };
        write!(f, "{}. This outlives every start: {next}", self.reason)
    }
}
