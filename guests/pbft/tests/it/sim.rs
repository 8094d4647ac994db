//! Several engines and a host for each, in one thread and in virtual time.
//!
//! The host here does what a real one does as far as an engine can tell: it makes records
//! durable before it carries out anything, signs under a guard, knows which signatures it
//! holds, tells of batches and finality, and catches up nodes that are behind.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use moult_pbft::Pbft;
use moult_sdk::engine::{DurableRecord, Engine, Event, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Committee, Digest, FaultModel, Slot, Statement};

use crate::attack::Attack;
use crate::rng::Rng;

/// What a run is made of; everything else follows from the seed.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) stakes: Vec<u64>,
    pub(crate) fault_model: FaultModel,
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
    /// Batches told late, in percent.
    pub(crate) late: u64,
    /// A node that attacks.
    pub(crate) byzantine: Option<(u32, Attack)>,
    /// A node that is down from the start and never comes back.
    pub(crate) dead: Option<u32>,
    /// How long a node may be behind before its host catches it up.
    pub(crate) catch_up_ms: u64,
    /// Faults end here; then everything must be committed.
    pub(crate) faults_until: u64,
    /// Whether the report has a hash of everything that happened.
    pub(crate) traced: bool,
    pub(crate) end: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) trace: u64,
    pub(crate) commits: u64,
    pub(crate) views: u64,
    pub(crate) jumps: u64,
    pub(crate) restarts: u64,
    pub(crate) refusals: u64,
    pub(crate) stable: u64,
    pub(crate) finished_at: u64,
}

pub(crate) struct Sim {
    pub(crate) options: Options,
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) queue: BTreeMap<(u64, u64), Job>,
    pub(crate) count: u64,
    pub(crate) nodes: Vec<Node>,
    /// By index, what the first honest node committed.
    pub(crate) agreed: BTreeMap<u64, Vec<Digest>>,
    /// Stake that committed, by index.
    pub(crate) committed_by: BTreeMap<u64, BTreeSet<u32>>,
    pub(crate) last_final: u64,
    pub(crate) batches: BTreeMap<Digest, Batch>,
    /// While set: nodes on different sides do not hear each other.
    pub(crate) sides: Option<u64>,
    pub(crate) trace: DefaultHasher,
    pub(crate) report: Report,
    pub(crate) gauges: Vec<BTreeMap<u32, u64>>,
}

pub(crate) struct Node {
    pub(crate) engine: Option<Pbft>,
    pub(crate) life: u64,
    pub(crate) started_at: u64,
    pub(crate) disk: Vec<DurableRecord>,
    pub(crate) guard: BTreeMap<Slot, Digest>,
    pub(crate) released: BTreeMap<u16, (u64, u64)>,
    pub(crate) known: BTreeSet<Statement>,
    pub(crate) held: BTreeSet<Digest>,
    pub(crate) chain: BTreeMap<u64, Vec<Digest>>,
    pub(crate) last_final: u64,
    pub(crate) behind_since: Option<u64>,
    pub(crate) next_index: u64,
    pub(crate) last_record: u64,
    pub(crate) timers: BTreeMap<u64, u64>,
}

#[derive(Clone)]
pub(crate) enum Job {
    Deliver {
        to: u32,
        event: Event,
    },
    Timer {
        node: u32,
        life: u64,
        id: u64,
        number: u64,
    },
    Tell {
        node: u32,
        batch: Batch,
    },
    /// What was fetched is told even if it was told before.
    Answer {
        node: u32,
        batch: Batch,
    },
    Submit {
        batch: Batch,
    },
    Host {
        node: u32,
    },
    Restart {
        node: u32,
    },
    Blackout,
    Split {
        for_ms: u64,
    },
    Heal,
}

/// Runs to the end; `Err` names the property that broke.
pub(crate) fn run(options: Options) -> Result<Report, String> {
    let mut sim = Sim::new(options)?;
    while sim.turn()? {}
    sim.check_end()?;
    sim.report.trace = sim.trace.finish();
    sim.report.finished_at = sim.now;
    Ok(sim.report)
}

impl Sim {
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        let authorities = options.stakes.len();
        let mut sim = Self {
            rng: Rng(options.seed),
            now: 0,
            queue: BTreeMap::new(),
            count: 0,
            nodes: (0..authorities).map(|_| Node::new()).collect(),
            agreed: BTreeMap::new(),
            committed_by: BTreeMap::new(),
            last_final: 0,
            batches: BTreeMap::new(),
            sides: None,
            trace: DefaultHasher::new(),
            report: Report {
                trace: 0,
                commits: 0,
                views: 0,
                jumps: 0,
                restarts: 0,
                refusals: 0,
                stable: 0,
                finished_at: 0,
            },
            gauges: vec![BTreeMap::new(); authorities],
            options,
        };
        for node in 0..authorities as u32 {
            if sim.options.dead != Some(node) {
                sim.start(node)?;
                sim.push(50 + u64::from(node), Job::Host { node });
            }
        }
        let until = sim.options.faults_until;
        for i in 0..sim.options.batches {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&(i + 1).to_be_bytes());
            digest[31] = 7;
            let author = AuthorityIndex((i % authorities as u64) as u32);
            let at = sim.rng.range(1, (until * 2 / 3).max(2));
            sim.push(at, Job::Submit { batch: Batch { digest: Digest(digest), author, bytes: 100 } });
        }
        for _ in 0..sim.options.blackouts {
            let at = sim.rng.range(100, until);
            sim.push(at, Job::Blackout);
        }
        for _ in 0..sim.options.partitions {
            let (at, for_ms) = (sim.rng.range(50, until), sim.rng.range(200, 2_000));
            sim.push(at, Job::Split { for_ms });
        }
        Ok(sim)
    }

    pub(crate) fn push(&mut self, at: u64, job: Job) {
        self.count += 1;
        self.queue.insert((at.max(self.now), self.count), job);
    }

    /// Does everything of the next millisecond; false at the end.
    pub(crate) fn turn(&mut self) -> Result<bool, String> {
        let Some((&(at, _), _)) = self.queue.first_key_value() else { return Ok(false) };
        if at > self.options.end || (at > self.options.faults_until && self.is_done()) {
            return Ok(false);
        }
        self.now = at;
        let mut steps: BTreeMap<u32, Vec<Event>> = BTreeMap::new();
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 == at
        {
            let job = entry.remove();
            self.job(job, &mut steps)?;
        }
        for (node, events) in steps {
            self.step(node, events)?;
        }
        Ok(true)
    }

    fn job(&mut self, job: Job, steps: &mut BTreeMap<u32, Vec<Event>>) -> Result<(), String> {
        match job {
            Job::Deliver { to, event } => {
                self.learn(to, &event);
                steps.entry(to).or_default().push(event);
            }
            Job::Timer { node, life, id, number } => {
                let n = self.node(node);
                if n.life == life && n.timers.get(&id) == Some(&number) {
                    n.timers.remove(&id);
                    steps.entry(node).or_default().push(Event::Timer(id));
                }
            }
            Job::Submit { batch } => {
                self.batches.insert(batch.digest, batch);
                for node in 0..self.nodes.len() as u32 {
                    let late = self.rng.percent(self.options.late);
                    let after = if late { self.rng.range(100, 2_500) } else { self.rng.range(1, 20) };
                    self.push(self.now + after, Job::Tell { node, batch });
                }
            }
            Job::Tell { node, batch } => {
                let n = self.node(node);
                let is_final =
                    n.chain.range(..=n.last_final).any(|(_, batches)| batches.contains(&batch.digest));
                if n.held.insert(batch.digest) && !is_final {
                    steps.entry(node).or_default().push(Event::Batches(vec![batch]));
                }
            }
            Job::Answer { node, batch } => {
                self.node(node).held.insert(batch.digest);
                steps.entry(node).or_default().push(Event::Batches(vec![batch]));
            }
            Job::Host { node } => {
                self.push(self.now + 40, Job::Host { node });
                if let Some(event) = self.finality(node) {
                    steps.entry(node).or_default().push(event);
                }
            }
            Job::Restart { node } => {
                if self.node(node).engine.is_none() {
                    self.report.restarts += 1;
                    self.start(node)?;
                }
            }
            Job::Blackout => {
                for node in 0..self.nodes.len() as u32 {
                    self.crash(node, 2_000);
                }
            }
            Job::Split { for_ms } => {
                self.sides = Some(self.rng.next());
                self.push(self.now + for_ms, Job::Heal);
            }
            Job::Heal => self.sides = None,
        }
        Ok(())
    }

    pub(crate) fn node(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node as usize]
    }

    pub(crate) fn settings(&self, me: u32) -> Settings {
        let committee = committee(&self.options.stakes, self.options.fault_model, me);
        let schedule = committee.authorities().collect();
        Settings {
            committee,
            config: self.options.config.clone().into_bytes(),
            seed: Digest::ZERO,
            schedule,
            max_message_bytes: 4 << 20,
            max_batches_in_commit: 4,
        }
    }

    fn start(&mut self, node: u32) -> Result<(), String> {
        let settings = self.settings(node);
        let (batches, now) = (self.batches.clone(), self.now);
        let n = self.node(node);
        let is_first = n.life == 0;
        n.life += 1;
        n.started_at = now;
        n.timers.clear();
        n.known = n.disk.iter().flat_map(|r| r.statements.iter().copied()).collect();
        n.next_index = n.last_final + 1;
        let settled: BTreeSet<Digest> =
            n.chain.range(..=n.last_final).flat_map(|(_, b)| b.iter().copied()).collect();
        let recovered = Recovered {
            records: n.disk.clone(),
            committed: CommitIndex(n.chain.last_key_value().map_or(0, |(i, _)| *i)),
            last_final: CommitIndex(n.last_final),
            batches: n.held.difference(&settled).filter_map(|d| batches.get(d).copied()).collect(),
        };
        let (engine, outcome) = Pbft::init(settings, (!is_first).then_some(recovered))
            .map_err(|e| format!("node {node}: {e:?}"))?;
        n.engine = Some(engine);
        self.apply(node, outcome)
    }

    pub(crate) fn crash(&mut self, node: u32, down_ms_max: u64) {
        if self.node(node).engine.take().is_some() {
            let at = self.now + self.rng.range(1, down_ms_max);
            self.push(at, Job::Restart { node });
        }
    }

    pub(crate) fn step(&mut self, node: u32, events: Vec<Event>) -> Result<(), String> {
        let now = self.now;
        let n = self.node(node);
        let Some(engine) = &mut n.engine else { return Ok(()) };
        if events.is_empty() {
            return Ok(());
        }
        let outcome = engine.step(now - n.started_at, events);
        if self.options.traced {
            format!("{now} {node} {outcome:?}").hash(&mut self.trace);
        }
        let crashes = self.now < self.options.faults_until && self.rng.next() % 10_000 < self.options.crashes;
        if !crashes {
            return self.apply(node, outcome);
        }
        // The host stops before the records are durable, after it, or in the middle of
        // what they release.
        match self.rng.range(0, 2) {
            0 => {}
            1 => self.store(node, outcome.durable)?,
            _ => {
                let some = self.rng.range(0, outcome.release.len() as u64) as usize;
                let release = outcome.release.into_iter().take(some).collect();
                self.apply(node, Outcome { durable: outcome.durable, release })?;
            }
        }
        self.crash(node, 3_000);
        Ok(())
    }

    pub(crate) fn send(&mut self, from: u32, to: u32, event: Event) {
        if from == to {
            return;
        }
        let faulty = self.now < self.options.faults_until;
        let split = self.sides.is_some_and(|sides| (sides >> from) & 1 != (sides >> to) & 1);
        if faulty && (split || self.rng.percent(self.options.loss)) {
            return;
        }
        let copies = if faulty && self.rng.percent(self.options.duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            let (low, high) = if faulty { self.options.delay } else { (1, 10) };
            let at = self.now + self.rng.range(low, high);
            self.push(at, Job::Deliver { to, event: event.clone() });
        }
    }

    pub(crate) fn is_byzantine(&self, node: u32) -> bool {
        self.options.byzantine.as_ref().is_some_and(|(b, _)| *b == node)
    }

    fn honest(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.nodes.len() as u32).filter(|n| !self.is_byzantine(*n) && self.options.dead != Some(*n))
    }

    fn is_done(&self) -> bool {
        self.batches.len() as u64 == self.options.batches
            && self.honest().all(|node| self.lacking(node).is_empty())
    }

    /// Batches that the node has not committed.
    fn lacking(&self, node: u32) -> Vec<Digest> {
        let n = &self.nodes[node as usize];
        let have: BTreeSet<&Digest> = n.chain.values().flatten().collect();
        self.batches.keys().filter(|b| !have.contains(b)).copied().collect()
    }

    fn check_end(&self) -> Result<(), String> {
        for node in self.honest() {
            let lacking = self.lacking(node);
            if !lacking.is_empty() {
                let n = &self.nodes[node as usize];
                let gauges: Vec<_> =
                    self.gauges.iter().map(|g| g.values().copied().collect::<Vec<_>>()).collect();
                return Err(format!(
                    "liveness: node {node} lacks {} batches at {}, has {} commits; gauges {gauges:?}",
                    lacking.len(),
                    self.now,
                    n.chain.len()
                ));
            }
        }
        Ok(())
    }

    /// Runs on until nothing happens any more but the hosts' polling; how long it took.
    pub(crate) fn settle(&mut self) -> Result<u64, String> {
        let from = self.now;
        self.options.end = u64::MAX;
        while self.queue.values().any(|job| !matches!(job, Job::Host { .. })) {
            let done = self.options.faults_until;
            self.options.faults_until = u64::MAX;
            let turned = self.turn();
            self.options.faults_until = done;
            if !turned? || self.now - from > 600_000 {
                return Err("it never comes to rest".to_owned());
            }
        }
        Ok(self.now - from)
    }
}

impl Node {
    fn new() -> Self {
        Self {
            engine: None,
            life: 0,
            started_at: 0,
            disk: Vec::new(),
            guard: BTreeMap::new(),
            released: BTreeMap::new(),
            known: BTreeSet::new(),
            held: BTreeSet::new(),
            chain: BTreeMap::new(),
            last_final: 0,
            behind_since: None,
            next_index: 1,
            last_record: 0,
            timers: BTreeMap::new(),
        }
    }
}

/// A committee with the quorums that the host hands in.
pub(crate) fn committee(stakes: &[u64], fault_model: FaultModel, me: u32) -> Committee {
    let total: u64 = stakes.iter().sum();
    let (quorum, validity) = match fault_model {
        FaultModel::Byzantine => (total * 2 / 3 + 1, total - (total * 2 / 3 + 1) + 1),
        FaultModel::Crash => (total / 2 + 1, 1),
    };
    Committee {
        epoch: 3,
        fault_model,
        stakes: stakes.to_vec(),
        quorum,
        validity,
        me: Some(AuthorityIndex(me)),
    }
}
