//! A closed loop: each client has one put in flight, and sends the next when it is answered.
//!
//! One thread drives all clients, for every system alike. What is answered within the measured
//! time counts; warm-up and what is on its way at the end do not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::wire::{Client, System};
use crate::work::{Work, node_of};

/// Longer than either system's own limit for a put under any load it withstands.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After a put that failed.
const FAILED_PAUSE: Duration = Duration::from_millis(50);
/// Different reasons of failures that are kept.
const PROBLEMS_MAX: usize = 3;

/// One load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whose protocol.
    pub system: System,
    /// Where the nodes take puts.
    pub nodes: Vec<SocketAddr>,
    /// Puts in flight.
    pub clients: u16,
    /// HTTP/2 connections to each node; no more than there are clients.
    pub connections: u16,
    /// Of each value.
    pub value_bytes: usize,
    /// Not measured.
    pub warmup: Duration,
    /// Measured.
    pub duration: Duration,
    /// Puts to Moult travel on a stream for each connection.
    pub is_stream: bool,
    /// Different for each load of a run: keys are distinct over all of them.
    pub phase: u16,
}

/// What a load showed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Measured {
    /// That were measured.
    pub seconds: f64,
    /// Acknowledged in that time.
    pub puts: u64,
    /// Refused, or without an answer.
    pub failed: u64,
    /// The first few different reasons.
    pub problems: Vec<String>,
    /// Acknowledged.
    pub puts_per_second: f64,
    /// From sending a put to its acknowledgement.
    pub p50_us: u64,
    /// The same.
    pub p90_us: u64,
    /// The same.
    pub p99_us: u64,
    /// The same.
    pub max_us: u64,
}

/// Loads and measures; `at_border` is called where the measured time begins and where it ends.
///
/// # Errors
/// A node takes no connection.
pub async fn run(plan: &Plan, mut at_border: impl FnMut()) -> anyhow::Result<Measured> {
    let connections = plan.connections.clamp(1, plan.clients.max(1));
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(connect(plan).await?);
    }
    let shared = Arc::new(Shared::default());
    let mut loops = JoinSet::new();
    for (index, clients) in (0..plan.clients).zip(clients.iter().cycle()) {
        let work = Work::new(plan.phase, index, plan.value_bytes);
        loops.spawn(put_in_turn(index, clients.clone(), work, shared.clone()));
    }
    sleep(plan.warmup).await;
    at_border();
    shared.restart();
    let start = Instant::now();
    sleep(plan.duration).await;
    let measured = shared.measured(start.elapsed());
    at_border();
    shared.is_over.store(true, Ordering::Relaxed);
    while loops.join_next().await.is_some() {}
    Ok(measured)
}

/// A connection to each node.
async fn connect(plan: &Plan) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for node in &plan.nodes {
        let client = timeout(CONNECT_TIMEOUT, Client::connect(plan.system, *node, plan.is_stream)).await;
        clients.push(client.with_context(|| format!("{node} takes no connection"))??);
    }
    Ok(clients)
}

/// One client, until the load is over.
async fn put_in_turn(index: u16, mut nodes: Vec<Client>, mut work: Work, shared: Arc<Shared>) {
    let count = nodes.len();
    while !shared.is_over.load(Ordering::Relaxed) {
        let (key, value, number) = work.put();
        let began = Instant::now();
        let answer = timeout(ANSWER_TIMEOUT, nodes[node_of(index, number, count)].put(key, value)).await;
        let problem = match answer {
            Ok(Ok(())) => {
                shared.acknowledged(began.elapsed());
                continue;
            }
            Ok(Err(problem)) => format!("{problem:#}"),
            Err(_) => format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        };
        shared.failed(problem);
        sleep(FAILED_PAUSE).await;
    }
}

/// What all clients of a load share.
struct Shared {
    is_over: AtomicBool,
    record: Mutex<Record>,
}

struct Record {
    latency_us: Histogram<u64>,
    failed: u64,
    problems: Vec<String>,
}

impl Record {
    fn new() -> Self {
        // Up to a minute, three digits.
        let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
        Self { latency_us, failed: 0, problems: Vec::new() }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self { is_over: AtomicBool::new(false), record: Mutex::new(Record::new()) }
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restart(&self) {
        *self.record() = Record::new();
    }

    fn acknowledged(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.record().latency_us.saturating_record(us);
    }

    fn failed(&self, problem: String) {
        let mut record = self.record();
        record.failed += 1;
        if record.problems.len() < PROBLEMS_MAX && !record.problems.contains(&problem) {
            record.problems.push(problem);
        }
    }

    fn measured(&self, time: Duration) -> Measured {
        let record = self.record();
        let puts = record.latency_us.len();
        let at = |quantile| record.latency_us.value_at_quantile(quantile);
        Measured {
            seconds: time.as_secs_f64(),
            puts,
            failed: record.failed,
            problems: record.problems.clone(),
            puts_per_second: puts as f64 / time.as_secs_f64(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            max_us: record.latency_us.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_measured_and_warming_up_is_not() {
        let shared = Shared::default();
        shared.acknowledged(Duration::from_secs(5));
        shared.failed("cold".into());
        shared.restart();
        (1..=100).for_each(|ms| shared.acknowledged(Duration::from_millis(ms)));
        ["a", "a", "b", "c", "d"].into_iter().for_each(|problem| shared.failed(problem.into()));
        let measured = shared.measured(Duration::from_secs(2));
        assert_eq!((measured.puts, measured.failed, measured.puts_per_second), (100, 5, 50.0));
        assert_eq!(measured.problems, ["a", "b", "c"]);
        let ms = [measured.p50_us, measured.p90_us, measured.p99_us, measured.max_us].map(|us| us / 1000);
        assert_eq!(ms, [50, 90, 99, 100]);
    }
}
