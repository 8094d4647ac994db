//! The demo's load: writes whose outcome is known for certain.
//!
//! Each connection is a named client with numbered writes. A write without a clear answer is
//! repeated under its number at the same node until there is one, so that it is carried out
//! once. Four of five writes put a key of their own; the fifth raises one of a few counters
//! that all connections share, by compare-and-swap.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moult_kv::{Command, decode_value};
use moult_node::api_types::ReceiptBody;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{Request, Target};
use crate::load::{Answer, Pace, Random, Recorder, Writer};

/// Shared counters.
pub(crate) const COUNTERS: usize = 64;
const WRITERS: usize = 160;
/// Of so many writes one is a compare-and-swap.
const CAS_EVERY: u64 = 5;
const RETRY: Duration = Duration::from_millis(50);
/// How long writes under way may take after the end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(40);

/// A running load.
pub(crate) struct Workload {
    pub(crate) recorder: Arc<Recorder>,
    pace: Arc<Pace>,
    shared: Arc<Shared>,
    writers: JoinSet<u64>,
    nodes: usize,
}

/// What was written.
pub(crate) struct Written {
    /// Names this run's keys.
    run: String,
    /// By connection: the first so many of its keys were acknowledged.
    puts: Vec<u64>,
    pub(crate) counters: Vec<Counter>,
    /// Writes whose outcome never became known.
    pub(crate) unknown: u64,
    pub(crate) mismatches: u64,
    /// Attempts that were repeated.
    pub(crate) retries: u64,
    /// Answers that must not be.
    pub(crate) violations: Vec<String>,
    nodes: usize,
}

/// A shared counter as its writers know it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counter {
    /// Acknowledged raises.
    pub(crate) raised: u64,
    /// The value as last seen by anyone.
    seen: Option<Vec<u8>>,
}

struct Shared {
    run: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counters: Vec<Counter>,
    mismatches: u64,
    retries: u64,
    violations: Vec<String>,
}

impl Workload {
    /// Starts all connections.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn start(targets: &[Target], rate: u64) -> anyhow::Result<Self> {
        let mut run = [0; 6];
        getrandom::fill(&mut run).map_err(|e| anyhow::anyhow!("the system has no randomness: {e}"))?;
        let state = State { counters: vec![Counter::default(); COUNTERS], ..State::default() };
        let shared = Arc::new(Shared { run: hex::encode(run), state: Mutex::new(state) });
        let (recorder, pace) = (Arc::new(Recorder::new()), Arc::new(Pace::new(Some(rate))));
        let mut writers = JoinSet::new();
        for (index, target) in (0..WRITERS).zip(targets.iter().cycle()) {
            let client = Session {
                index,
                name: format!("demo-{}-{index}", shared.run),
                writer: Writer::new(target.clone()),
                seq: 0,
                shared: shared.clone(),
            };
            writers.spawn(client.run(pace.clone(), recorder.clone()));
        }
        Ok(Self { recorder, pace, shared, writers, nodes: targets.len() })
    }

    /// Ends the load and waits for what is under way.
    pub(crate) async fn finish(mut self) -> Written {
        self.pace.stop();
        let mut puts = vec![0; WRITERS];
        let mut unknown = WRITERS as u64;
        let drain = async {
            while let Some(done) = self.writers.join_next().await {
                if let Ok(done) = done {
                    let (index, count) = ((done >> 32) as usize, done & 0xFFFF_FFFF);
                    puts[index] = count;
                    unknown -= 1;
                }
            }
        };
        let _ = timeout(FINISH_TIMEOUT, drain).await;
        self.writers.abort_all();
        let state = std::mem::take(&mut *self.shared.state());
        let State { counters, mismatches, retries, violations } = state;
        Written {
            run: self.shared.run.clone(),
            puts,
            counters,
            unknown,
            mismatches,
            retries,
            violations,
            nodes: self.nodes,
        }
    }
}

impl Written {
    /// How many keys of their own were written.
    pub(crate) fn keys(&self) -> u64 {
        self.puts.iter().sum()
    }

    /// Every acknowledged key with its value, and the node that it was written through.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, String, String)> {
        self.puts.iter().enumerate().flat_map(move |(writer, count)| {
            (0..*count).map(move |n| (writer % self.nodes, key(&self.run, writer, n), value(writer, n)))
        })
    }

    /// The key of a counter.
    pub(crate) fn counter_key(&self, counter: usize) -> String {
        counter_key(&self.run, counter)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(run: &str, writer: usize, n: u64) -> String {
    format!("demo-{run}-{writer}-{n}")
}

fn value(writer: usize, n: u64) -> String {
    format!("value {n} of writer {writer}, long enough to look like something that matters")
}

fn counter_key(run: &str, counter: usize) -> String {
    format!("demo-{run}-counter-{counter}")
}

/// The number that a counter's value begins with.
pub(crate) fn count_of(value: Option<&[u8]>) -> Option<u64> {
    let Some(value) = value else { return Some(0) };
    std::str::from_utf8(value).ok()?.split(' ').next()?.parse().ok()
}

/// One connection.
struct Session {
    index: usize,
    name: String,
    writer: Writer,
    seq: u64,
    shared: Arc<Shared>,
}

impl Session {
    /// Writes until the load ends; gives its place (high half) and how many puts were
    /// acknowledged.
    async fn run(mut self, pace: Arc<Pace>, recorder: Arc<Recorder>) -> u64 {
        let mut random = Random::new(self.index as u64 + 1);
        let mut puts = 0;
        while let Some(due) = pace.ticket().await {
            if random.below(CAS_EVERY) == 0 {
                self.raise(random.below(COUNTERS as u64) as usize).await;
            } else {
                let key = key(&self.shared.run, self.index, puts);
                let command = Command::Put { key: key.into(), value: value(self.index, puts).into() };
                let receipt = self.certain(&command.encode()).await;
                self.expect(receipt.code == Some(0), &receipt, "a put was not applied");
                puts += 1;
            }
            recorder.acknowledged(due);
        }
        (self.index as u64) << 32 | puts
    }

    /// One attempt to raise a shared counter by one.
    async fn raise(&mut self, counter: usize) {
        let expect = self.shared.state().counters[counter].seen.clone();
        let next = count_of(expect.as_deref()).unwrap_or(0) + 1;
        // Told apart from every other value that this counter ever has.
        let value = format!("{next} by {} at {}", self.index, self.seq).into_bytes();
        let key = counter_key(&self.shared.run, counter).into_bytes();
        let command = Command::CompareAndSwap { key, expect, value: Some(value.clone()) };
        let receipt = self.certain(&command.encode()).await;
        let present = receipt.output_hex.as_deref().and_then(|text| hex::decode(text).ok());
        match (receipt.code, present.map(|bytes| decode_value(&bytes))) {
            (Some(0), _) => {
                let mut state = self.shared.state();
                state.counters[counter].raised += 1;
                state.counters[counter].seen = Some(value);
            }
            (Some(1), Some(Ok(present))) => {
                let mut state = self.shared.state();
                state.mismatches += 1;
                let known = &mut state.counters[counter].seen;
                if count_of(present.as_deref()) > count_of(known.as_deref()) {
                    *known = present;
                }
            }
            _ => self.expect(false, &receipt, "a compare-and-swap has a strange receipt"),
        }
    }

    /// Sends a transaction until its receipt is known.
    async fn certain(&mut self, payload: &[u8]) -> ReceiptBody {
        self.seq += 1;
        let seq = self.seq.to_string();
        let name = self.name.clone();
        let headers = [("moult-client", name.as_str()), ("moult-seq", seq.as_str())];
        let request = Request { method: "POST", path: "/v1/tx", headers: &headers, body: payload };
        loop {
            match self.writer.send(&request).await {
                Answer::Status(200) => match serde_json::from_slice(&self.writer.body()) {
                    Ok(receipt) => return receipt,
                    Err(error) => self.violation(format!("an answer is no receipt: {error}")),
                },
                Answer::Status(status) => {
                    let body = self.writer.body();
                    if !matches!(status, 502..=504) {
                        let text = String::from_utf8_lossy(&body).chars().take(200).collect::<String>();
                        self.violation(format!("{status}: {text}"));
                    }
                }
                // The answer got lost: the same again.
                Answer::Unknown(_) => {}
                // The node is away; nothing was tried.
                Answer::NotSent(_) => {
                    sleep(RETRY).await;
                    continue;
                }
            }
            self.shared.state().retries += 1;
            sleep(RETRY).await;
        }
    }

    fn expect(&self, holds: bool, receipt: &ReceiptBody, problem: &str) {
        if !holds {
            self.violation(format!("{problem}: {} {} code {:?}", receipt.id, receipt.status, receipt.code));
        }
    }

    fn violation(&self, text: String) {
        let mut state = self.shared.state();
        if state.violations.len() < 20 && !state.violations.contains(&text) {
            state.violations.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_number() {
        assert_eq!(count_of(None), Some(0));
        assert_eq!(count_of(Some(b"12 by 3 at 4")), Some(12));
        assert_eq!(count_of(Some(b"x")), None);
    }
}
