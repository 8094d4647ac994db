//! Several engines and a host for each, in one thread and in virtual time.
//!
//! The host does what a real one does as far as an engine can tell: it makes records durable
//! before it carries out anything, tells of batches, brings those asked for from whoever
//! holds them, calls final what a quorum committed, and catches up nodes that are behind.

use std::collections::{BTreeMap, BTreeSet};

use moult_raft::codec::{Payload, decode};
use moult_raft::{Raft, Term};
use moult_sdk::engine::{DurableRecord, Engine, Event, Message, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Committee, Digest, FaultModel};

use crate::rng::Rng;

pub(crate) const EPOCH: u64 = 7;

/// What a run is made of; everything else follows from the seed.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) stakes: Vec<u64>,
    pub(crate) config: String,
    /// Batches, handed in over the first two thirds of the time of faults.
    pub(crate) batches: u64,
    /// Messages lost and doubled, in percent, and their delay in milliseconds.
    pub(crate) loss: u64,
    pub(crate) duplicates: u64,
    pub(crate) delay: (u64, u64),
    /// Crashes in ten thousand steps.
    pub(crate) crashes: u64,
    /// Instants at which every node crashes.
    pub(crate) blackouts: u64,
    /// Times at which the committee falls into two parts for a while.
    pub(crate) partitions: u64,
    /// Batches told late to some nodes, in percent.
    pub(crate) late: u64,
    /// How long a node may be behind before its host catches it up.
    pub(crate) catch_up_ms: u64,
    /// Faults end here; then everything must be committed.
    pub(crate) faults_until: u64,
    pub(crate) end: u64,
    /// Longest message, in bytes; most batches in a commit.
    pub(crate) limits: (u32, u32),
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) trace: u64,
    pub(crate) commits: u64,
    pub(crate) terms: u64,
    pub(crate) jumps: u64,
    pub(crate) restarts: u64,
    pub(crate) truncations: u64,
    /// Batches that were committed more than once.
    pub(crate) repeats: u64,
    pub(crate) finished_at: u64,
}

pub(crate) struct Net {
    pub(crate) options: Options,
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    queue: BTreeMap<(u64, u64), Job>,
    count: u64,
    pub(crate) nodes: Vec<Node>,
    /// By index, what the first node committed, and in which term it was proposed.
    pub(crate) agreed: BTreeMap<u64, Vec<Digest>>,
    pub(crate) committed_by: BTreeMap<u64, BTreeSet<u32>>,
    /// Committed by the hosts of a quorum: certified.
    pub(crate) last_final: u64,
    /// When the first index of a term got there.
    pub(crate) first_final_ms: BTreeMap<u64, u64>,
    /// The term in which an index was proposed.
    pub(crate) terms: BTreeMap<u64, u64>,
    pub(crate) batches: BTreeMap<Digest, Batch>,
    /// While set: nodes on different sides do not hear each other.
    pub(crate) sides: Option<u64>,
    pub(crate) leaders: BTreeMap<Term, u32>,
    /// Every entry that was ever sent, by index and term: its batches and the term before.
    pub(crate) entries: BTreeMap<(u64, Term), (Vec<Digest>, Term)>,
    pub(crate) report: Report,
}

pub(crate) struct Node {
    pub(crate) engine: Option<Raft>,
    pub(crate) life: u64,
    started_at: u64,
    pub(crate) disk: Vec<DurableRecord>,
    pub(crate) held: BTreeSet<Digest>,
    pub(crate) told: BTreeSet<Digest>,
    pub(crate) chain: BTreeMap<u64, Vec<Digest>>,
    pub(crate) last_final: u64,
    /// The batches of what is final, up to an index.
    done: BTreeSet<Digest>,
    done_to: u64,
    behind_since: Option<u64>,
    pub(crate) next_index: u64,
    pub(crate) last_record: u64,
    pub(crate) timers: BTreeMap<u64, u64>,
    pub(crate) inbox: Vec<Event>,
    pub(crate) gauges: BTreeMap<u32, u64>,
}

#[derive(Clone)]
pub(crate) enum Job {
    Deliver { from: u32, to: u32, payload: Vec<u8> },
    Step { node: u32, life: u64 },
    Timer { node: u32, life: u64, id: u64, number: u64 },
    Tell { node: u32, digest: Digest },
    Fetch { node: u32, digest: Digest },
    Host { node: u32 },
    Restart { node: u32 },
    Blackout,
    Split { for_ms: u64 },
    Heal,
}

/// Runs to the end; `Err` names the property that broke.
pub(crate) fn run(options: Options) -> Result<Report, String> {
    let mut net = Net::new(options, Vec::new())?;
    while net.turn()? {}
    net.check_end()?;
    net.report.finished_at = net.now;
    Ok(net.report)
}

pub(crate) fn committee(stakes: &[u64], me: u32) -> Committee {
    let total: u64 = stakes.iter().sum();
    Committee {
        epoch: EPOCH,
        fault_model: FaultModel::Crash,
        stakes: stakes.to_vec(),
        quorum: total / 2 + 1,
        validity: 1,
        me: Some(AuthorityIndex(me)),
    }
}

impl Net {
    /// A network whose nodes find `disks` (from the first node on).
    pub(crate) fn new(options: Options, disks: Vec<Vec<DurableRecord>>) -> Result<Self, String> {
        let size = options.stakes.len();
        let mut net = Self {
            rng: Rng(options.seed),
            now: 0,
            queue: BTreeMap::new(),
            count: 0,
            nodes: (0..size).map(|_| Node::new()).collect(),
            agreed: BTreeMap::new(),
            committed_by: BTreeMap::new(),
            last_final: 0,
            first_final_ms: BTreeMap::new(),
            terms: BTreeMap::new(),
            batches: BTreeMap::new(),
            sides: None,
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            report: Report::default(),
            options,
        };
        for (node, disk) in net.nodes.iter_mut().zip(disks) {
            node.last_record = disk.last().map_or(0, |record| record.id);
            node.disk = disk;
        }
        for node in 0..size as u32 {
            net.start(node)?;
            net.push(20 + u64::from(node), Job::Host { node });
        }
        let until = net.options.faults_until;
        for i in 0..net.options.batches {
            let at = net.rng.range(1, (until * 2 / 3).max(2));
            net.submit(i + 1, at);
        }
        for _ in 0..net.options.blackouts {
            let at = net.rng.range(100, until);
            net.push(at, Job::Blackout);
        }
        for _ in 0..net.options.partitions {
            let (at, for_ms) = (net.rng.range(50, until), net.rng.range(200, 2_000));
            net.push(at, Job::Split { for_ms });
        }
        Ok(net)
    }

    /// A batch that its author's host tells everybody, some of them late.
    pub(crate) fn submit(&mut self, number: u64, at: u64) {
        let size = self.nodes.len() as u64;
        let digest = batch_digest(number);
        let author = (number % size) as u32;
        self.batches.insert(digest, Batch { digest, author: AuthorityIndex(author), bytes: 100 });
        for node in 0..size as u32 {
            let late = self.rng.percent(self.options.late);
            let after = if late { self.rng.range(100, 1_500) } else { self.delay() };
            self.push(if node == author { at } else { at + after }, Job::Tell { node, digest });
        }
    }

    pub(crate) fn delay(&mut self) -> u64 {
        let (low, high) = self.options.delay;
        self.rng.range(low, high)
    }

    pub(crate) fn push(&mut self, at: u64, job: Job) {
        self.count += 1;
        self.queue.insert((at, self.count), job);
    }

    pub(crate) fn node(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node as usize]
    }

    pub(crate) fn settings(&self, node: u32) -> Settings {
        let (max_message_bytes, max_batches_in_commit) = self.options.limits;
        Settings {
            committee: committee(&self.options.stakes, node),
            config: self.options.config.clone().into_bytes(),
            seed: Digest([self.options.seed as u8; 32]),
            schedule: (0..self.options.stakes.len() as u32).map(AuthorityIndex).collect(),
            max_message_bytes,
            max_batches_in_commit,
        }
    }

    /// Starts a node with what is on its disk. The mark of finality may be an older one.
    pub(crate) fn start(&mut self, node: u32) -> Result<(), String> {
        let settings = self.settings(node);
        let (now, lost) = (self.now, self.rng.range(0, 3));
        let n = self.node(node);
        n.last_final = n.last_final.saturating_sub(if n.life == 0 { 0 } else { lost });
        n.life += 1;
        n.started_at = now;
        n.timers.clear();
        n.inbox.clear();
        n.told.clear();
        let top = n.chain.last_key_value().map_or(0, |(index, _)| *index);
        n.next_index = top + 1;
        n.done = n.chain.range(..=n.last_final).flat_map(|(_, b)| b.clone()).collect();
        n.done_to = n.last_final;
        let done = n.done.clone();
        let (held, records, last_final) = (n.held.clone(), n.disk.clone(), n.last_final);
        let batches: Vec<Batch> =
            held.difference(&done).filter_map(|d| self.batches.get(d).copied()).collect();
        self.node(node).told.extend(batches.iter().map(|b| b.digest));
        let recovered = Recovered {
            records,
            committed: CommitIndex(top.max(last_final)),
            last_final: CommitIndex(last_final),
            batches,
        };
        let (engine, outcome) =
            Raft::init(settings, Some(recovered)).map_err(|e| format!("start: node {node}: {e:?}"))?;
        self.node(node).engine = Some(engine);
        self.apply(node, outcome)
    }

    pub(crate) fn crash(&mut self, node: u32) {
        self.node(node).engine = None;
    }

    pub(crate) fn is_connected(&self, a: u32, b: u32) -> bool {
        self.sides.is_none_or(|sides| (sides >> a) & 1 == (sides >> b) & 1)
    }

    fn is_faulty_time(&self) -> bool {
        self.now < self.options.faults_until
    }

    pub(crate) fn transmit(&mut self, from: u32, to: u32, payload: Vec<u8>) {
        let faulty = self.is_faulty_time();
        if !self.is_connected(from, to) || (faulty && self.rng.percent(self.options.loss)) {
            return;
        }
        let copies = 1 + u64::from(faulty && self.rng.percent(self.options.duplicates));
        for _ in 0..copies {
            let at = self.now + self.delay();
            self.push(at, Job::Deliver { from, to, payload: payload.clone() });
        }
    }

    /// Puts an event before an engine; it sees it with others of the same moment.
    pub(crate) fn feed(&mut self, node: u32, event: Event) {
        let now = self.now;
        let n = self.node(node);
        if n.engine.is_none() {
            return;
        }
        n.inbox.push(event);
        if n.inbox.len() == 1 {
            let life = n.life;
            self.push(now, Job::Step { node, life });
        }
    }

    /// One job; whether there is more to do.
    pub(crate) fn turn(&mut self) -> Result<bool, String> {
        let Some(((at, _), job)) = self.queue.pop_first() else { return Ok(false) };
        if at > self.options.end {
            return Ok(false);
        }
        self.now = at;
        match job {
            Job::Deliver { from, to, payload } => {
                if self.is_connected(from, to) {
                    let message = Message { sender: AuthorityIndex(from), payload, statements: Vec::new() };
                    self.feed(to, Event::Message(message));
                }
            }
            Job::Step { node, life } => self.step(node, life)?,
            Job::Timer { node, life, id, number } => {
                let n = self.node(node);
                if n.life == life && n.timers.get(&id) == Some(&number) {
                    n.timers.remove(&id);
                    self.feed(node, Event::Timer(id));
                }
            }
            Job::Tell { node, digest } => self.tell(node, digest, false),
            Job::Fetch { node, digest } => {
                let holders = 0..self.nodes.len() as u32;
                let found = holders.into_iter().any(|other| {
                    let holder = &self.nodes[other as usize];
                    holder.engine.is_some() && holder.held.contains(&digest) && self.is_connected(node, other)
                });
                if found {
                    self.node(node).told.remove(&digest);
                    self.tell(node, digest, true);
                }
            }
            Job::Host { node } => {
                if let Some(event) = self.finality(node) {
                    self.feed(node, event);
                }
                let at = self.now + self.rng.range(2, 10);
                self.push(at, Job::Host { node });
            }
            Job::Restart { node } => {
                self.report.restarts += 1;
                self.start(node)?;
            }
            Job::Blackout => {
                for node in 0..self.nodes.len() as u32 {
                    self.fall(node);
                }
            }
            Job::Split { for_ms } => {
                self.sides = Some(self.rng.next());
                self.push(self.now + for_ms, Job::Heal);
            }
            Job::Heal => self.sides = None,
        }
        Ok(true)
    }

    /// Runs until a time.
    pub(crate) fn run_to(&mut self, time: u64) -> Result<(), String> {
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= time) {
            self.turn()?;
        }
        self.now = self.now.max(time);
        Ok(())
    }

    fn tell(&mut self, node: u32, digest: Digest, wanted: bool) {
        let Some(batch) = self.batches.get(&digest).copied() else { return };
        let n = self.node(node);
        n.held.insert(digest);
        // What is final is told to who asks for it only.
        let last_final = n.last_final;
        while n.done_to < last_final {
            n.done_to += 1;
            n.done.extend(n.chain.get(&n.done_to).into_iter().flatten());
        }
        let is_done = !wanted && n.done.contains(&digest);
        if n.engine.is_some() && !is_done && n.told.insert(digest) {
            self.feed(node, Event::Batches(vec![batch]));
        }
    }

    /// A crash, and a start somewhat later.
    fn fall(&mut self, node: u32) {
        if self.node(node).engine.is_some() {
            self.crash(node);
            let at = self.now + self.rng.range(1, 800);
            self.push(at, Job::Restart { node });
        }
    }

    fn step(&mut self, node: u32, life: u64) -> Result<(), String> {
        let now = self.now;
        let n = self.node(node);
        let Some(engine) = n.engine.as_mut().filter(|_| n.life == life) else { return Ok(()) };
        let events = std::mem::take(&mut n.inbox);
        let mut outcome = engine.step(now - n.started_at, events);
        let crashes = self.is_faulty_time() && self.rng.next() % 10_000 < self.options.crashes;
        if crashes {
            // Some of what was to be durable is; nothing of it has left.
            let kept = self.rng.range(0, outcome.durable.len() as u64) as usize;
            outcome.durable.truncate(kept);
            self.store(node, outcome.durable)?;
            self.fall(node);
            return Ok(());
        }
        self.apply(node, outcome)
    }

    /// What the host of a node has to say about finality.
    fn finality(&mut self, node: u32) -> Option<Event> {
        let (last_final, now, patience) = (self.last_final, self.now, self.options.catch_up_ms);
        let n = &mut self.nodes[node as usize];
        n.engine.as_ref()?;
        let former = n.last_final;
        if n.last_final >= last_final {
            n.behind_since = None;
            return None;
        }
        let own = n.next_index - 1;
        if own >= last_final {
            n.last_final = last_final;
        } else if now - *n.behind_since.get_or_insert(now) >= patience {
            n.behind_since = None;
            for index in n.last_final + 1..=last_final {
                let batches = self.agreed[&index].clone();
                n.held.extend(batches.iter().copied());
                n.chain.insert(index, batches);
            }
            n.last_final = last_final;
            n.next_index = n.next_index.max(last_final + 1);
            self.report.jumps += 1;
        } else if own > n.last_final {
            n.last_final = own;
        } else {
            return None;
        }
        let n = self.node(node);
        let batches = n.chain.range(former + 1..=n.last_final).flat_map(|(_, batches)| batches);
        Some(Event::Final { index: CommitIndex(n.last_final), batches: batches.copied().collect() })
    }

    /// Who leads the highest term, if it is up.
    pub(crate) fn leader(&self) -> Option<u32> {
        let (_, leader) = self.leaders.last_key_value()?;
        let n = &self.nodes[*leader as usize];
        (n.engine.is_some() && n.gauges.get(&1) == Some(&2)).then_some(*leader)
    }

    fn check_end(&mut self) -> Result<(), String> {
        let committed: BTreeSet<Digest> = self.agreed.values().flatten().copied().collect();
        let missing = self.batches.keys().filter(|b| !committed.contains(*b)).count();
        let gauges: Vec<_> =
            self.nodes.iter().map(|n| n.gauges.values().copied().collect::<Vec<_>>()).collect();
        if missing > 0 {
            return Err(format!("liveness: {missing} batches were never committed {gauges:?}"));
        }
        let top = self.agreed.len() as u64;
        if self.nodes.iter().any(|n| n.last_final < top) {
            return Err(format!("liveness: not everybody got to {top} {gauges:?}"));
        }
        let copies = self.agreed.values().flatten().count();
        self.report.repeats = (copies - committed.len()) as u64;
        Ok(())
    }
}

impl Node {
    fn new() -> Self {
        Self {
            engine: None,
            life: 0,
            started_at: 0,
            disk: Vec::new(),
            held: BTreeSet::new(),
            told: BTreeSet::new(),
            chain: BTreeMap::new(),
            last_final: 0,
            done: BTreeSet::new(),
            done_to: 0,
            behind_since: None,
            next_index: 1,
            last_record: 0,
            timers: BTreeMap::new(),
            inbox: Vec::new(),
            gauges: BTreeMap::new(),
        }
    }
}

pub(crate) fn batch_digest(number: u64) -> Digest {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    digest[31] = 7;
    Digest(digest)
}

/// What a message says.
pub(crate) fn payload_of(bytes: &[u8]) -> Payload {
    decode(EPOCH, bytes).expect("an engine sends what decodes")
}
