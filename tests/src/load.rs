//! Concurrent clients that record what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use moult_linear::{Entry, History, Outcome, Request, check};

use crate::api::{Api, Caller, Failure, kv};
use crate::cluster::Cluster;
use crate::rng::Rng;
use crate::wait::{LONG, until};

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes with clients.
    pub nodes: Vec<usize>,
    /// Clients at each.
    pub clients: usize,
    /// Registers that all clients share.
    pub registers: u64,
    /// Between two operations of a client.
    pub pause: Duration,
    /// For choosing operations.
    pub seed: u64,
}

impl Plan {
    /// Two clients at each node, eight shared registers.
    pub fn at(nodes: &[usize]) -> Self {
        Self { nodes: nodes.to_vec(), clients: 2, registers: 8, pause: Duration::from_millis(10), seed: 1 }
    }
}

/// Running clients.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<History>>,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Shared {
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Load {
    /// Starts the clients.
    pub fn start(cluster: &Cluster, plan: &Plan) -> Self {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
        });
        let mut clients = Vec::new();
        for (&node, number) in plan.nodes.iter().flat_map(|n| (0..plan.clients).map(move |c| (n, c))) {
            let id = clients.len() as u64;
            let mut client = Client {
                shared: shared.clone(),
                api: Api::new(cluster.node(node).api, None),
                name: format!("c{number}-{}", shared.began_name()),
                who: format!("c{number}@n{node}"),
                id,
                rng: Rng::new(plan.seed << 20 | id),
                plan: plan.clone(),
                seq: 0,
                history: History::default(),
            };
            clients.push(std::thread::spawn(move || {
                client.run();
                client.history
            }));
        }
        Self { shared, clients }
    }

    /// Acknowledged changes so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for so many more acknowledged changes.
    pub fn until_more(&self, count: u64) {
        let goal = self.acknowledged() + count;
        until(&format!("{count} more writes are acknowledged"), LONG, || {
            let now = self.acknowledged();
            if now >= goal { Ok(()) } else { Err(format!("{} are missing", goal - now)) }
        });
    }

    /// Stops the clients, reads every key at `reader`, and checks the history. All nodes with
    /// clients run by now.
    ///
    /// # Panics
    /// The history is not linearizable, an operation has no outcome even now, or a client met
    /// something that no manual allows.
    pub fn finish(mut self, cluster: &Cluster, reader: usize) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        for client in std::mem::take(&mut self.clients) {
            history.extend(client.join().expect("a client met something impossible"));
        }
        let mut api = cluster.client(reader);
        let keys: Vec<String> = history.keys.keys().cloned().collect();
        for key in keys {
            let called = self.shared.now();
            let value =
                until(&format!("{key} can be read"), LONG, || api.read(&key).map_err(|e| e.to_string()));
            let outcome = Outcome::Value(value.map(|v| number(&v)));
            let returned = self.shared.now();
            let entry =
                Entry { who: format!("end@n{reader}"), called, returned, request: Request::Read, outcome };
            history.push(&key, entry);
        }
        if let Err(error) = check(&history) {
            panic!("{error}");
        }
        let unknown = history.unknown();
        assert!(unknown.is_empty(), "all nodes run, and these never got an outcome:\n{}", unknown.join("\n"));
        eprintln!(
            "load: {} operations, {} changes acknowledged, {:.1} s, linearizable",
            history.len(),
            history.acknowledged(),
            self.shared.began.elapsed().as_secs_f64(),
        );
        history
    }
}

/// How long clients wait in a row without an acknowledgement; it sees as much as it is told to look.
#[derive(Debug)]
pub struct Pauses<'a> {
    load: &'a Load,
    seen: u64,
    since: Instant,
    longest: Duration,
}

impl<'a> Pauses<'a> {
    /// From now on.
    pub fn of(load: &'a Load) -> Self {
        Self { load, seen: load.acknowledged(), since: Instant::now(), longest: Duration::ZERO }
    }

    /// Looks; the longest time so far.
    pub fn look(&mut self) -> Duration {
        self.longest = self.longest.max(self.since.elapsed());
        let now = self.load.acknowledged();
        if std::mem::replace(&mut self.seen, now) != now {
            self.since = Instant::now();
        }
        self.longest
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// Names of clients differ between the loads of one cluster.
    fn began_name(&self) -> u64 {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        COUNT.fetch_add(1, Ordering::Relaxed)
    }
}

struct Client {
    shared: Arc<Shared>,
    api: Api,
    name: String,
    who: String,
    id: u64,
    rng: Rng,
    plan: Plan,
    seq: u64,
    history: History,
}

impl Client {
    fn run(&mut self) {
        while !self.shared.is_stopped() {
            let key = format!("r{}", self.rng.below(self.plan.registers));
            match self.rng.below(100) {
                0..35 => self.read(&key),
                35..65 => {
                    let value = self.fresh();
                    self.change(&key, Request::Write(Some(value)));
                }
                65..70 => self.change(&key, Request::Write(None)),
                70..85 => self.swap(&key),
                // A key of its own: nothing overwrites it, so a loss is seen at the end.
                _ => {
                    let value = self.fresh();
                    self.change(&format!("own-{value}"), Request::Write(Some(value)));
                }
            }
            std::thread::sleep(self.plan.pause);
        }
    }

    /// A value that is written once.
    fn fresh(&self) -> u64 {
        (self.plan.seed << 48) | (self.id << 32) | (self.seq + 1)
    }

    fn read(&mut self, key: &str) {
        let called = self.shared.now();
        // A read without an answer says nothing.
        if let Ok(value) = self.api.read(key) {
            let outcome = Outcome::Value(value.map(|v| number(&v)));
            self.record(key, called, Request::Read, outcome);
        }
    }

    /// Reads, then swaps what was read; sometimes something else.
    fn swap(&mut self, key: &str) {
        let Ok(found) = self.api.read(key) else { return };
        let found = found.map(|v| number(&v));
        let expect = if self.rng.below(8) == 0 { Some(0) } else { found };
        let value = self.fresh();
        self.change(key, Request::Swap { expect, value: Some(value) });
    }

    /// Sends a change until its outcome is known, under one number, at one node.
    fn change(&mut self, key: &str, request: Request) {
        self.seq += 1;
        let called = self.shared.now();
        let mut sent_before = false;
        let mut give_up = None;
        loop {
            match self.send(key, request) {
                Ok(outcome) => {
                    if outcome == Outcome::Applied {
                        self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    return self.record(key, called, request, outcome);
                }
                // The first refusal of a number leaves nothing behind.
                Err(failure) if !sent_before && failure.is_without_effect() && self.shared.is_stopped() => {
                    return;
                }
                Err(failure) => sent_before |= !failure.is_without_effect(),
            }
            if self.shared.is_stopped() {
                let end = *give_up.get_or_insert_with(|| Instant::now() + LAST_TRIES);
                if Instant::now() > end {
                    return self.record(key, called, request, Outcome::Unknown);
                }
            }
            std::thread::sleep(RETRY);
        }
    }

    fn send(&mut self, key: &str, request: Request) -> Result<Outcome, Failure> {
        let caller = Some(Caller { name: &self.name, seq: self.seq });
        match request {
            Request::Read => unreachable!("reads are not sent as changes"),
            Request::Write(Some(value)) => {
                self.api.put(key, value.to_string().as_bytes(), caller).map(|_| Outcome::Applied)
            }
            Request::Write(None) => self.api.delete(key, caller).map(|_| Outcome::Applied),
            Request::Swap { expect, value } => {
                let text = |value: Option<u64>| value.map(|v| v.to_string());
                let (expect, value) = (text(expect), text(value));
                let payload =
                    kv::swap(key, expect.as_deref().map(str::as_bytes), value.as_deref().map(str::as_bytes));
                let receipt = self.api.transact(&payload, caller)?;
                match (receipt.status.as_str(), receipt.code) {
                    ("executed", Some(0)) => Ok(Outcome::Applied),
                    ("executed", Some(1)) => Ok(Outcome::Mismatch),
                    _ => panic!("a swap was answered by {receipt:?}"),
                }
            }
        }
    }

    fn record(&mut self, key: &str, called: u64, request: Request, outcome: Outcome) {
        let entry = Entry { who: self.who.clone(), called, returned: self.shared.now(), request, outcome };
        self.history.push(key, entry);
    }
}

/// # Panics
/// The value is none that a client wrote.
fn number(value: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(value);
    text.parse().unwrap_or_else(|_| panic!("a value that no client wrote: {text}"))
}

/// Between two tries of one number.
const RETRY: Duration = Duration::from_millis(100);
/// For an outcome, after the load was stopped.
const LAST_TRIES: Duration = Duration::from_secs(60);
