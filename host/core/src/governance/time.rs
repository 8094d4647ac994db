//! Block time: a function of the batches on the chain, no node's clock.

use moult_sdk::Stake;
use moult_types::{Committee, HeldBatch};

/// Notes the latest batch time of each author of the epoch.
pub fn note_times<'a>(times_ms: &mut [u64], epoch: u64, batches: impl Iterator<Item = &'a HeldBatch>) {
    for batch in batches.map(HeldBatch::batch).filter(|batch| batch.number.0 == epoch) {
        if let Some(latest) = times_ms.get_mut(batch.author.as_usize()) {
            *latest = (*latest).max(batch.time_ms);
        }
    }
}

/// Block time: the stake-weighted median of the authors' latest times, never before the
/// former block's. More than half of the stake bounds it from either side, so no minority
/// of wrong clocks can move it out of what honest clocks show.
pub fn block_time(committee: &Committee, times_ms: &[u64], former_ms: u64) -> u64 {
    let mut weighted: Vec<(u64, Stake)> =
        times_ms.iter().zip(committee.members()).map(|(time, member)| (*time, member.stake)).collect();
    weighted.sort_unstable();
    let half = committee.total() / 2;
    let mut below = 0;
    let median = weighted.iter().find(|(_, stake)| {
        below += stake;
        below > half
    });
    median.map_or(former_ms, |(time, _)| former_ms.max(*time))
}
