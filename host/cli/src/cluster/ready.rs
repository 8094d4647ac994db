//! When a cluster takes writes.

use std::time::Duration;

use anyhow::bail;
use moult_kv::Command;
use moult_node::api_types::{ReceiptBody, Status};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Target};
use crate::cluster::processes::Cluster;

const POLL: Duration = Duration::from_millis(100);
/// Removed by each node's first write, and never there: no state is left behind.
const KEY: &[u8] = b"moult-devnet-ready";

/// Returns once a write went through each node.
///
/// # Errors
/// A node ended, or the time ran out: then what each node said last.
pub(crate) async fn wait_ready(cluster: &mut Cluster, timeout: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + timeout;
    let mut tasks = JoinSet::new();
    for node in &cluster.layout.nodes {
        let target = Target::parse(&node.url(), None)?;
        let index = node.index;
        tasks.spawn(async move { (index, write_once(Client::new(target, None), deadline).await) });
    }
    while !tasks.is_empty() {
        tokio::select! {
            Some(done) = tasks.join_next() => {
                let (index, result) = done?;
                if let Err(problem) = result {
                    bail!("node {index} took no write within {} s: {problem}", timeout.as_secs());
                }
            }
            () = sleep(POLL) => {
                if let Some(ended) = cluster.ended() {
                    bail!("{}", cluster.obituary(&ended));
                }
            }
        }
    }
    Ok(())
}

/// One write through one node, tried until the deadline.
async fn write_once(mut client: Client, deadline: Instant) -> Result<(), String> {
    let command = Command::Delete { key: KEY.to_vec() }.encode();
    let mut problem = "it was not asked".to_owned();
    while Instant::now() < deadline {
        let attempt = async {
            client.get::<Status>("/v1/status").await?;
            // Whatever the application makes of it: it was ordered, made final and executed.
            client.send_bytes::<ReceiptBody>("POST", "/v1/tx", &[], &command).await
        };
        match tokio::time::timeout_at(deadline, attempt).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => problem = error.to_string(),
            Err(_) => {
                problem = "the write is not final (do a quorum of nodes run and reach each other?)".into()
            }
        }
        sleep(POLL).await;
    }
    Err(problem)
}
