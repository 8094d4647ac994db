//! Whose turn it is to lead a view: the one thing in which engines of this family differ.

use moult_sdk::AuthorityIndex;

/// Maps views to leaders, and names the engine that leads so.
pub trait Rotation {
    /// Short name of the engine.
    const NAME: &'static str;
    /// Semantic version of the engine.
    const VERSION: &'static str;

    /// Who leads `view`; `schedule` is never empty.
    ///
    /// Determinism: a pure function, the same on every node.
    fn leader(schedule: &[AuthorityIndex], view: u64) -> AuthorityIndex;
}

/// Walks the schedule from its first authority to its last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward;

impl Rotation for Forward {
    const NAME: &'static str = "pbft";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn leader(schedule: &[AuthorityIndex], view: u64) -> AuthorityIndex {
        let turn = view % (schedule.len().max(1) as u64);
        schedule.get(turn as usize).copied().unwrap_or(AuthorityIndex(0))
    }
}
