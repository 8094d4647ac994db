//! The values that the protocol is about.

use std::sync::Arc;

use moult_sdk::{CommitIndex, Digest};

/// A list of batches as proposed; shared by what refers to it.
pub type Batches = Arc<[Digest]>;

/// Numbers the reigns of leaders, from 1; 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Term(pub u64);

impl Term {
    /// The term after this one. The decoder keeps terms far below the last number.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Where a log stands: the order of positions is Raft's "at least as up-to-date".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position {
    /// Term of the entry; compared first.
    pub term: Term,
    /// Its index.
    pub index: CommitIndex,
}

impl Position {
    /// The position of an entry.
    pub const fn new(term: Term, index: CommitIndex) -> Self {
        Self { term, index }
    }
}

/// One entry of the log: one commit of the world.
///
/// Two entries with one index and one term are the same entry (log matching).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The term in which a leader made it.
    pub term: Term,
    /// In order of execution; none in the first entry of a leader without batches.
    pub batches: Batches,
}
