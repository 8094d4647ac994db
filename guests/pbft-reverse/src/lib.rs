//! PBFT whose leadership walks the schedule backwards, from its last authority.
//!
//! Everything but the rotation is [`moult_pbft`]; its documentation holds here too. The
//! two engines commit the same batches in different blocks under other leaders, so an
//! epoch change from one to the other shows that the engine really was exchanged.

use moult_pbft::{Replica, Rotation};
use moult_sdk::AuthorityIndex;

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_engine!(PbftReverse);

/// PBFT with leaders against the order of the schedule.
pub type PbftReverse = Replica<Backward>;

/// Walks the schedule from its last authority to its first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backward;

impl Rotation for Backward {
    const NAME: &'static str = "pbft-reverse";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    fn leader(schedule: &[AuthorityIndex], view: u64) -> AuthorityIndex {
        let turn = view % (schedule.len().max(1) as u64);
        schedule.iter().rev().nth(turn as usize).copied().unwrap_or(AuthorityIndex(0))
    }
}

#[cfg(test)]
mod tests {
    use super::{Backward, PbftReverse};
    use moult_pbft::{Forward, Rotation};
    use moult_sdk::AuthorityIndex;
    use moult_sdk::engine::Engine;

    #[test]
    fn leadership_walks_the_schedule_backwards() {
        let schedule = [5, 6, 7].map(AuthorityIndex);
        let leaders: Vec<u32> = (0..4).map(|view| Backward::leader(&schedule, view).0).collect();
        assert_eq!(leaders, [7, 6, 5, 7]);
        assert_eq!(Forward::leader(&schedule, u64::MAX), schedule[(u64::MAX % 3) as usize]);
    }

    #[test]
    fn it_is_an_engine_of_its_own() {
        let info = PbftReverse::describe();
        assert_eq!((info.name.as_str(), info.version.as_str()), ("pbft-reverse", "0.2.0"));
    }
}
