//! What must hold after the demo's load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use moult_node::api_types::Status;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Request, Target, path_segment};
use crate::demo::workload::{Written, count_of};
use crate::load::{Answer, Writer};

/// Connections to each node.
const READERS: usize = 24;
const PAGE_READERS: usize = 2;
/// Blocks of one answer.
const PAGE: u64 = 100;
const RETRIES: usize = 20;
const POLL: Duration = Duration::from_millis(100);

/// All nodes at one block.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settled {
    pub(crate) epoch: u64,
    pub(crate) engines: Vec<String>,
    pub(crate) global_exec_index: u64,
    /// One, if all nodes have the same state.
    pub(crate) state_roots: Vec<String>,
}

/// What was read back.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Reads {
    pub(crate) keys: u64,
    /// Not there, or with another value.
    pub(crate) lost: u64,
    /// Counters whose value is not the number of acknowledged raises.
    pub(crate) wrong_counters: Vec<String>,
}

/// The nodes' blocks, compared.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Blocks {
    pub(crate) nodes: usize,
    /// Global indices at which all nodes gave a block.
    pub(crate) compared: u64,
    /// Of these, with more than one hash.
    pub(crate) forks: u64,
    /// At which a node gave none.
    pub(crate) missing: u64,
}

/// Waits until all nodes have executed the same number of blocks, and that rests.
pub(crate) async fn settle(targets: &[Target], timeout: Duration) -> anyhow::Result<Settled> {
    let deadline = Instant::now() + timeout;
    let mut clients: Vec<Client> = targets.iter().map(|target| Client::new(target.clone(), None)).collect();
    loop {
        let mut statuses = Vec::new();
        for client in &mut clients {
            statuses.push(client.get::<Status>("/v1/status").await?);
        }
        let index = statuses[0].global_exec_index;
        if statuses
            .iter()
            .all(|status| status.global_exec_index == index && status.epoch == statuses[0].epoch)
        {
            let mut state_roots: Vec<String> =
                statuses.iter().map(|status| status.state_root.clone()).collect();
            state_roots.dedup();
            let mut engines: Vec<String> =
                statuses.iter().map(|status| status.engine_hash.to_string()).collect();
            engines.dedup();
            return Ok(Settled { epoch: statuses[0].epoch, engines, global_exec_index: index, state_roots });
        }
        if Instant::now() > deadline {
            let at: Vec<u64> = statuses.iter().map(|status| status.global_exec_index).collect();
            bail!("the nodes do not come to one block: they are at {at:?}");
        }
        sleep(POLL).await;
    }
}

/// Reads every acknowledged key and every counter, linearizably.
pub(crate) async fn read_back(targets: &[Target], written: &Written) -> anyhow::Result<Reads> {
    let mut work: Vec<(usize, String, String)> = written.pairs().collect();
    for pair in &mut work {
        pair.0 = (pair.0 + 1) % targets.len();
    }
    let keys = work.len() as u64;
    let by_node = (0..targets.len()).map(|node| {
        let own = work.iter().filter(|(n, _, _)| *n == node);
        Arc::new(own.map(|(_, key, value)| (key.clone(), value.clone())).collect::<Vec<_>>())
    });
    let lost = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for (work, target) in by_node.zip(targets) {
        let next = Arc::new(AtomicUsize::new(0));
        for _ in 0..READERS {
            let (work, next, lost) = (work.clone(), next.clone(), lost.clone());
            let mut reader = Writer::new(target.clone());
            readers.spawn(async move {
                while let Some((key, value)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if read(&mut reader, key).await?.as_deref() != Some(value.as_bytes()) {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                }
                anyhow::Ok(())
            });
        }
    }
    while let Some(done) = readers.join_next().await {
        done??;
    }
    let mut wrong_counters = Vec::new();
    for (index, counter) in written.counters.iter().enumerate() {
        let mut reader = Writer::new(targets[index % targets.len()].clone());
        let value = read(&mut reader, &written.counter_key(index)).await?;
        if count_of(value.as_deref()) != Some(counter.raised) {
            let found = value.map_or("nothing".into(), |value| String::from_utf8_lossy(&value).into_owned());
            wrong_counters
                .push(format!("counter {index}: raised {} times, and it holds `{found}`", counter.raised));
        }
    }
    Ok(Reads { keys, lost: lost.load(Ordering::Relaxed), wrong_counters })
}

async fn read(reader: &mut Writer, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let path = format!("/v1/kv/{}", path_segment(key.as_bytes()));
    get(reader, &path).await
}

/// A body, or nothing for 404; overload and hiccups are tried again.
async fn get(reader: &mut Writer, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let request = Request { method: "GET", path, headers: &[], body: b"" };
    let mut problem = String::new();
    for _ in 0..RETRIES {
        match reader.send(&request).await {
            Answer::Status(200) => return Ok(Some(reader.body())),
            Answer::Status(404) => {
                reader.tidy();
                return Ok(None);
            }
            Answer::Status(status) => {
                problem = format!("{status}: {}", String::from_utf8_lossy(&reader.body()))
            }
            Answer::NotSent(text) | Answer::Unknown(text) => problem = text,
        }
        sleep(POLL).await;
    }
    bail!("GET {path}: {problem}")
}

#[derive(Deserialize)]
struct Hash {
    global_exec_index: u64,
    hash: String,
}

/// Fetches every block from every node and compares hashes.
pub(crate) async fn compare_blocks(targets: &[Target], last: u64) -> anyhow::Result<Blocks> {
    let mut readers = JoinSet::new();
    for target in targets {
        let next = Arc::new(AtomicU64::new(1));
        for _ in 0..PAGE_READERS {
            let next = next.clone();
            let mut reader = Writer::new(target.clone());
            readers.spawn(async move {
                let mut found = Vec::new();
                loop {
                    let from = next.fetch_add(PAGE, Ordering::Relaxed);
                    if from > last {
                        return anyhow::Ok(found);
                    }
                    let limit = PAGE.min(last + 1 - from);
                    let body = get(&mut reader, &format!("/v1/blocks?from={from}&limit={limit}")).await?;
                    let page: Vec<Hash> = serde_json::from_slice(&body.unwrap_or_default())
                        .with_context(|| format!("blocks from {from}"))?;
                    found.extend(page.into_iter().map(|block| (block.global_exec_index, block.hash)));
                }
            });
        }
    }
    let mut by_index: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    while let Some(found) = readers.join_next().await {
        for (index, hash) in found?? {
            by_index.entry(index).or_default().push(hash);
        }
    }
    Ok(tally(targets.len(), last, &by_index))
}

fn tally(nodes: usize, last: u64, by_index: &BTreeMap<u64, Vec<String>>) -> Blocks {
    let mut blocks = Blocks { nodes, ..Blocks::default() };
    for index in 1..=last {
        let hashes = by_index.get(&index).map_or(&[][..], Vec::as_slice);
        if hashes.len() < nodes {
            blocks.missing += 1;
        } else {
            blocks.compared += 1;
        }
        if hashes.windows(2).any(|pair| pair[0] != pair[1]) {
            blocks.forks += 1;
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_and_holes_are_counted() {
        let mut blocks = BTreeMap::new();
        blocks.insert(1, vec!["a".to_owned(), "a".to_owned()]);
        blocks.insert(2, vec!["a".to_owned(), "b".to_owned()]);
        blocks.insert(3, vec!["a".to_owned()]);
        let tally = tally(2, 4, &blocks);
        assert_eq!((tally.compared, tally.forks, tally.missing), (2, 1, 2));
    }
}
