//! How far apart blocks are.

use moult_node::api_types::Status;
use serde::{Deserialize, Serialize};

use crate::client::Client;

/// At most so many blocks are looked at.
const BLOCKS_MAX: u64 = 1_000;
/// Of one answer.
const PAGE: u64 = 100;

/// Intervals between the times of consecutive blocks.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BlockTimes {
    pub(crate) blocks: u64,
    pub(crate) median_ms: u64,
    pub(crate) mean_ms: f64,
}

#[derive(Deserialize)]
struct Times {
    time_ms: u64,
}

/// The last blocks after `since` (a global index); nothing if there are not two.
pub(crate) async fn block_times(client: &mut Client, since: u64) -> anyhow::Result<Option<BlockTimes>> {
    let last = client.get::<Status>("/v1/status").await?.global_exec_index;
    let first = since.max(last.saturating_sub(BLOCKS_MAX)).max(1);
    let mut times = Vec::new();
    for from in (first..=last).step_by(PAGE as usize) {
        let page: Vec<Times> = client.get(&format!("/v1/blocks?from={from}&limit={PAGE}")).await?;
        times.extend(page.iter().map(|block| block.time_ms));
    }
    Ok(intervals(&times))
}

fn intervals(times: &[u64]) -> Option<BlockTimes> {
    let mut between: Vec<u64> = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    between.sort_unstable();
    let median_ms = *between.get(between.len() / 2)?;
    let mean_ms = between.iter().sum::<u64>() as f64 / between.len() as f64;
    Some(BlockTimes { blocks: times.len() as u64, median_ms, mean_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_intervals() {
        let times = intervals(&[0, 5, 10, 15, 415]).expect("four intervals");
        assert_eq!((times.blocks, times.median_ms, times.mean_ms), (5, 5, 103.75));
        assert!(intervals(&[7]).is_none());
    }
}
