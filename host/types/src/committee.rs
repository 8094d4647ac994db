//! The committee of an epoch and its thresholds.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::{AuthorityIndex, FaultModel, Stake};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{AuthorityId, PublicKey, Signature};

/// Most authorities of one committee.
pub const AUTHORITIES_MAX: usize = 1000;
/// Longest address of an authority, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// One authority.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Outlives the key.
    pub id: AuthorityId,
    /// The key of this epoch.
    pub key: PublicKey,
    /// Proof of possession: a signature of the key over itself and the id.
    pub possession: Signature,
    /// Voting weight, 1 or more.
    pub stake: Stake,
    /// `host:port` at which peers reach it.
    pub address: String,
}

/// Why a list of members is no committee.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CommitteeError {
    #[error(
        "{count} authorities are too few: the {model:?} fault model needs at least {min} (or exactly 1, for development)"
    )]
    TooFew { count: usize, model: FaultModel, min: usize },
    #[error("{count} authorities are too many: the limit is {AUTHORITIES_MAX}")]
    TooMany { count: usize },
    #[error("authority {id} has no stake")]
    ZeroStake { id: AuthorityId },
    #[error("the stakes together exceed 2^63")]
    StakeOverflow,
    #[error("authority {id} stands in the list twice")]
    DuplicateAuthority { id: AuthorityId },
    #[error("key {key} stands in the list twice")]
    DuplicateKey { key: PublicKey },
    #[error("the address of authority {id} is longer than {ADDRESS_BYTES_MAX} bytes or empty")]
    BadAddress { id: AuthorityId },
}

/// A checked list of authorities with the thresholds of its fault model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committee {
    members: Vec<Member>,
    fault_model: FaultModel,
    total: Stake,
    quorum: Stake,
}

impl Committee {
    /// Checks the list.
    ///
    /// # Errors
    /// What is wrong with it; keys and proofs of possession are checked elsewhere.
    pub fn new(members: Vec<Member>, fault_model: FaultModel) -> Result<Self, CommitteeError> {
        let count = members.len();
        let min = match fault_model {
            FaultModel::Byzantine => 4,
            FaultModel::Crash => 3,
        };
        if count != 1 && count < min {
            return Err(CommitteeError::TooFew { count, model: fault_model, min });
        }
        if count > AUTHORITIES_MAX {
            return Err(CommitteeError::TooMany { count });
        }
        let (mut ids, mut keys) = (BTreeSet::new(), BTreeSet::new());
        let mut total: u128 = 0;
        for member in &members {
            let id = member.id;
            if member.stake == 0 {
                return Err(CommitteeError::ZeroStake { id });
            }
            if !ids.insert(id) {
                return Err(CommitteeError::DuplicateAuthority { id });
            }
            if !keys.insert(member.key) {
                return Err(CommitteeError::DuplicateKey { key: member.key });
            }
            if member.address.is_empty() || member.address.len() > ADDRESS_BYTES_MAX {
                return Err(CommitteeError::BadAddress { id });
            }
            total += u128::from(member.stake);
        }
        if total > 1 << 63 {
            return Err(CommitteeError::StakeOverflow);
        }
        let quorum = quorum(total, fault_model);
        // Both fit: total is at most 2^63 and the quorum at most the total.
        Ok(Self { members, fault_model, total: total as Stake, quorum: quorum as Stake })
    }

    /// By authority index.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// An authority by index.
    pub fn member(&self, index: AuthorityIndex) -> Option<&Member> {
        self.members.get(index.as_usize())
    }

    /// The stake of an authority; 0 for an index outside the committee.
    pub fn stake(&self, index: AuthorityIndex) -> Stake {
        self.member(index).map_or(0, |m| m.stake)
    }

    /// The place of a key.
    pub fn index_of_key(&self, key: &PublicKey) -> Option<AuthorityIndex> {
        self.members.iter().position(|m| m.key == *key).map(|i| AuthorityIndex(i as u32))
    }

    /// The place of an authority.
    pub fn index_of(&self, id: AuthorityId) -> Option<AuthorityIndex> {
        self.members.iter().position(|m| m.id == id).map(|i| AuthorityIndex(i as u32))
    }

    /// All indices, rising.
    pub fn indices(&self) -> impl Iterator<Item = AuthorityIndex> + use<> {
        (0..self.members.len() as u32).map(AuthorityIndex)
    }

    /// What the thresholds are made for.
    pub fn fault_model(&self) -> FaultModel {
        self.fault_model
    }

    /// W.
    pub fn total(&self) -> Stake {
        self.total
    }

    /// q: any two sets of this stake share an honest authority.
    pub fn quorum(&self) -> Stake {
        self.quorum
    }

    /// Stake that always holds an honest authority: W - q + 1, or 1 where authorities only
    /// crash.
    pub fn validity(&self) -> Stake {
        match self.fault_model {
            FaultModel::Byzantine => self.total - self.quorum + 1,
            FaultModel::Crash => 1,
        }
    }

    /// The sum of the stakes of distinct authorities.
    pub fn stake_of(&self, indices: &BTreeSet<AuthorityIndex>) -> Stake {
        indices.iter().map(|&i| self.stake(i)).sum()
    }

    /// Whether these distinct authorities hold a quorum.
    pub fn is_quorum(&self, indices: &BTreeSet<AuthorityIndex>) -> bool {
        self.stake_of(indices) >= self.quorum
    }
}

/// floor(2W/3)+1 or floor(W/2)+1: the one place where a quorum is computed.
pub fn quorum(total: u128, fault_model: FaultModel) -> u128 {
    match fault_model {
        FaultModel::Byzantine => 2 * total / 3 + 1,
        FaultModel::Crash => total / 2 + 1,
    }
}
