//! What the nodes take of their machines under a load: memory and processor time, as they
//! tell in their metrics.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Client, Target};

const BETWEEN: Duration = Duration::from_secs(1);

/// Of one node, while it was watched. A node that did not answer at some time is left out of
/// the numbers of that time.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Usage {
    /// Address of its API.
    pub(crate) node: String,
    /// Resident memory at the first look, at most, and at the last look.
    pub(crate) resident_first_bytes: u64,
    pub(crate) resident_most_bytes: u64,
    pub(crate) resident_last_bytes: u64,
    /// User and system time of all its threads between the first look and the last.
    pub(crate) cpu_seconds: f64,
}

/// Looks at each node once a second.
pub(crate) struct Watching {
    nodes: JoinSet<(usize, Option<Usage>)>,
    stop: watch::Sender<bool>,
}

impl Watching {
    pub(crate) fn start(targets: &[Target]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut nodes = JoinSet::new();
        for (index, target) in targets.iter().cloned().enumerate() {
            let stopped = stopped.clone();
            nodes.spawn(async move { (index, watch_node(target, stopped).await) });
        }
        Self { nodes, stop }
    }

    /// What was seen, in the order of the nodes; nothing of nodes that never answered.
    pub(crate) async fn stop(mut self) -> Vec<Usage> {
        self.stop.send_replace(true);
        let mut all = Vec::new();
        while let Some(done) = self.nodes.join_next().await {
            all.extend(done.ok());
        }
        all.sort_unstable_by_key(|(index, _)| *index);
        all.into_iter().filter_map(|(_, usage)| usage).collect()
    }
}

async fn watch_node(target: Target, mut stopped: watch::Receiver<bool>) -> Option<Usage> {
    let node = target.url.clone();
    let mut client = Client::new(target, None);
    let (mut usage, mut first_cpu_seconds) = (None::<Usage>, 0.0);
    loop {
        let is_last = *stopped.borrow();
        if let Some((resident_bytes, cpu_seconds)) = look(&mut client).await {
            let known = usage.get_or_insert_with(|| {
                first_cpu_seconds = cpu_seconds;
                Usage {
                    node: node.clone(),
                    resident_first_bytes: resident_bytes,
                    resident_most_bytes: 0,
                    resident_last_bytes: 0,
                    cpu_seconds: 0.0,
                }
            });
            known.resident_most_bytes = known.resident_most_bytes.max(resident_bytes);
            known.resident_last_bytes = resident_bytes;
            known.cpu_seconds = cpu_seconds - first_cpu_seconds;
        }
        if is_last {
            return usage;
        }
        // An error is a stop without a word: the last look follows in either case.
        let _ = tokio::time::timeout(BETWEEN, stopped.changed()).await;
    }
}

async fn look(client: &mut Client) -> Option<(u64, f64)> {
    let (_, body) = client.call("GET", "/metrics", &[], b"").await.ok()?;
    numbers(std::str::from_utf8(&body).ok()?)
}

/// Resident bytes and seconds of processor time.
fn numbers(metrics: &str) -> Option<(u64, f64)> {
    let value = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let resident = value("process_resident_memory_bytes")?.parse().ok()?;
    Some((resident, value("process_cpu_seconds_total")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_found_by_their_whole_names() {
        let text = "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 4096\n\
                    process_cpu_seconds_total_x 9\nprocess_cpu_seconds_total 1.25\n# EOF\n";
        assert_eq!(numbers(text), Some((4096, 1.25)));
        assert_eq!(numbers("process_resident_memory_bytes many\nprocess_cpu_seconds_total 1\n"), None);
        assert_eq!(numbers(""), None);
    }
}
