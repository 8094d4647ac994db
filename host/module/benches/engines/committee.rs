//! A committee of four in one thread: a run is recorded once, step by step, and then played
//! to whatever instances, so that what is timed is their steps and nothing else.
//!
//! Nothing is lost, links take no time, and a step waits until as many events as wanted have
//! queued up at some node. As in a node, batches and finality that wait are told together.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::time::{Duration, Instant};

use moult_core::ports::EngineInstance;
use moult_sdk::engine::{Action, Choice, Event, Message, Outcome, Recipients, Settings};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Committee, Digest, FaultModel, Statement};
use moult_types::codec::sha256;

pub(crate) const NODES: u32 = 4;
const QUORUM: usize = 3;
const BATCHES_IN_COMMIT: u64 = 4;
/// Commits before anything is measured, and those that are.
const WARMUP: u64 = 300;
const MEASURED: u64 = 3_000;
/// Steps in a millisecond of the engines' clock: no timer runs out because of load.
const STEPS_PER_MS: u64 = 16;

/// What is run.
pub(crate) struct Plan {
    /// Events of a step.
    pub(crate) step_events: usize,
    /// Commits for which batches wait, all in all.
    pub(crate) in_flight: u64,
    pub(crate) fault_model: FaultModel,
    pub(crate) config: String,
}

/// Makes instances, not initialised.
pub(crate) type Factory<'a> = &'a dyn Fn() -> Box<dyn EngineInstance>;

#[derive(Clone)]
struct Step {
    node: usize,
    now: u64,
    events: Vec<Event>,
}

/// What every engine of a committee was given, and what it answered.
pub(crate) struct Recording {
    settings: Vec<Settings>,
    all: Vec<Step>,
    outcomes: Vec<Outcome>,
    measured_from: usize,
    /// Events in the measured part, over all nodes.
    pub(crate) events: usize,
    /// Commits in the measured part, over all nodes.
    pub(crate) commits: u64,
}

impl Recording {
    /// Runs a committee.
    pub(crate) fn of(plan: &Plan, factory: Factory<'_>) -> Self {
        let settings: Vec<_> =
            (0..NODES).map(|me| settings(me, plan.fault_model, plan.config.clone())).collect();
        let mut run = Run::new(plan, &settings, factory);
        run.until(WARMUP);
        let (measured_from, before) = (run.steps.len(), run.commits());
        run.until(WARMUP + MEASURED);
        let events = run.steps[measured_from..].iter().map(|step| step.events.len()).sum();
        let commits = run.commits() - before;
        Self { settings, all: run.steps, outcomes: run.outcomes, measured_from, events, commits }
    }

    /// Steps in the measured part.
    pub(crate) fn steps(&self) -> usize {
        self.all.len() - self.measured_from
    }

    /// Plays it to fresh instances, and sees to it that they answer the same.
    pub(crate) fn verify(&self, factory: Factory<'_>) {
        let mut nodes = self.start(factory);
        for (step, outcome) in self.all.iter().zip(&self.outcomes) {
            let answer = nodes[step.node].step(step.now, step.events.clone()).expect("no fault");
            assert_eq!(answer, *outcome, "another answer at {} ms", step.now);
        }
    }

    /// Plays it to fresh instances; the time of the measured part.
    pub(crate) fn replay(&self, factory: Factory<'_>) -> Duration {
        let mut nodes = self.start(factory);
        let mut steps = self.all.clone();
        let measured = steps.split_off(self.measured_from);
        for Step { node, now, events } in steps {
            nodes[node].step(now, events).expect("no fault");
        }
        let start = Instant::now();
        for Step { node, now, events } in measured {
            black_box(nodes[node].step(now, events).expect("no fault"));
        }
        start.elapsed()
    }

    fn start(&self, factory: Factory<'_>) -> Vec<Box<dyn EngineInstance>> {
        let start = |settings| {
            let mut engine = factory();
            engine.init(settings, None).expect("no fault").expect("no refusal");
            engine
        };
        self.settings.iter().map(start).collect()
    }
}

/// A committee that is being recorded.
struct Run<'a> {
    plan: &'a Plan,
    nodes: Vec<Node>,
    now: u64,
    /// Batches told so far.
    told: u64,
    /// What was committed, by index from 1.
    chain: Vec<Vec<Digest>>,
    steps: Vec<Step>,
    outcomes: Vec<Outcome>,
}

struct Node {
    engine: Box<dyn EngineInstance>,
    inbox: VecDeque<Event>,
    /// When each timer is due.
    timers: BTreeMap<u64, u64>,
    committed: u64,
    last_final: u64,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, settings: &[Settings], factory: Factory<'_>) -> Self {
        let node = || Node {
            engine: factory(),
            inbox: VecDeque::new(),
            timers: BTreeMap::new(),
            committed: 0,
            last_final: 0,
        };
        let nodes = settings.iter().map(|_| node()).collect();
        let (chain, steps, outcomes) = Default::default();
        let mut run = Self { plan, nodes, now: 0, told: 0, chain, steps, outcomes };
        for (place, settings) in settings.iter().enumerate() {
            let first = run.nodes[place].engine.init(settings, None).expect("no fault").expect("no refusal");
            run.carry_out(place, &first);
        }
        run
    }

    fn commits(&self) -> u64 {
        self.nodes.iter().map(|node| node.committed).sum()
    }

    /// Goes on until every node has committed so much.
    fn until(&mut self, commits: u64) {
        while self.nodes.iter().any(|node| node.committed < commits) {
            self.tell_batches();
            self.ring();
            match self.next() {
                Some(place) => self.step(place),
                None => self.now = self.next_timer().expect("an engine that waits for nothing has ended"),
            }
        }
    }

    /// Whose turn it is: who has enough for a step, or else the most.
    fn next(&self) -> Option<usize> {
        let waiting = |place: &usize| self.nodes[*place].inbox.len();
        let turn = self.steps.len();
        let places = (0..self.nodes.len()).map(|place| (place + turn) % self.nodes.len());
        let full = places.clone().find(|place| waiting(place) >= self.plan.step_events);
        full.or_else(|| places.max_by_key(waiting).filter(|place| waiting(place) > 0))
    }

    fn step(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let many = node.inbox.len().min(self.plan.step_events);
        let events: Vec<_> = node.inbox.drain(..many).collect();
        let outcome = node.engine.step(self.now, events.clone()).expect("no fault");
        self.steps.push(Step { node: place, now: self.now, events });
        self.carry_out(place, &outcome);
        self.outcomes.push(outcome);
        self.now += u64::from((self.steps.len() as u64).is_multiple_of(STEPS_PER_MS));
    }

    fn carry_out(&mut self, from: usize, outcome: &Outcome) {
        let sender = AuthorityIndex(from as u32);
        let sign = |choice: &Choice| Statement { author: sender, slot: choice.slot, digest: choice.digest };
        for action in &outcome.release {
            match action {
                Action::Vote { to, choice } => self.send(from, to, &Event::Vote(sign(choice))),
                Action::Send(envelope) => {
                    let statements = envelope.sign.iter().map(sign).chain(envelope.attach.iter().copied());
                    let (payload, statements) = (envelope.payload.clone(), statements.collect());
                    self.send(from, &envelope.to, &Event::Message(Message { sender, payload, statements }));
                }
                Action::SetTimer { id, after_ms } => {
                    self.nodes[from].timers.insert(*id, self.now + after_ms);
                }
                Action::CancelTimer(id) => drop(self.nodes[from].timers.remove(id)),
                Action::Commit(commit) => self.commit(from, commit.index.0, &commit.batches),
                Action::Fetch { batches, .. } => panic!("{batches:?} were told to everybody"),
                _ => {}
            }
        }
        self.tell_finality();
    }

    fn send(&mut self, from: usize, to: &Recipients, event: &Event) {
        for (place, node) in self.nodes.iter_mut().enumerate().filter(|(place, _)| *place != from) {
            let authority = AuthorityIndex(place as u32);
            let is_meant = match to {
                Recipients::All => true,
                Recipients::One(one) => *one == authority,
                Recipients::Some(some) => some.contains(&authority),
            };
            if is_meant {
                node.inbox.push_back(event.clone());
            }
        }
    }

    fn commit(&mut self, place: usize, index: u64, batches: &[Digest]) {
        let node = &mut self.nodes[place];
        assert_eq!(index, node.committed + 1, "commits are dense");
        node.committed = index;
        match self.chain.get(index as usize - 1) {
            Some(agreed) => assert_eq!(agreed, batches, "one content an index"),
            None => self.chain.push(batches.to_vec()),
        }
    }

    /// What a quorum has committed is final, for whoever has committed it, too.
    fn tell_finality(&mut self) {
        let mut heights: Vec<_> = self.nodes.iter().map(|node| node.committed).collect();
        heights.sort_unstable_by(|a, b| b.cmp(a));
        for node in &mut self.nodes {
            let height = heights[QUORUM - 1].min(node.committed);
            for index in node.last_final + 1..=height {
                let batches = &self.chain[index as usize - 1];
                match node.inbox.back_mut() {
                    Some(Event::Final { index: last, batches: told }) => {
                        *last = CommitIndex(index);
                        told.extend(batches);
                    }
                    _ => {
                        let event = Event::Final { index: CommitIndex(index), batches: batches.clone() };
                        node.inbox.push_back(event);
                    }
                }
            }
            node.last_final = node.last_final.max(height);
        }
    }

    /// One batch of each author for every commit that may be on its way.
    fn tell_batches(&mut self) {
        let slowest = self.nodes.iter().map(|node| node.committed).min().unwrap_or(0);
        while self.told < (slowest + self.plan.in_flight) * BATCHES_IN_COMMIT {
            let digest = sha256(&self.told.to_be_bytes());
            let author = AuthorityIndex((self.told % u64::from(NODES)) as u32);
            let batch = Batch { digest, author, bytes: 100_000 };
            for node in &mut self.nodes {
                match node.inbox.back_mut() {
                    Some(Event::Batches(batches)) if batches.len() < BATCHES_IN_COMMIT as usize => {
                        batches.push(batch);
                    }
                    _ => node.inbox.push_back(Event::Batches(vec![batch])),
                }
            }
            self.told += 1;
        }
    }

    /// Timers that have run out.
    fn ring(&mut self) {
        for node in &mut self.nodes {
            let due = node.timers.extract_if(.., |_, at| *at <= self.now);
            node.inbox.extend(due.map(|(id, _)| Event::Timer(id)));
        }
    }

    fn next_timer(&self) -> Option<u64> {
        self.nodes.iter().flat_map(|node| node.timers.values().copied()).min()
    }
}

pub(crate) fn settings(me: u32, fault_model: FaultModel, config: String) -> Settings {
    Settings {
        committee: Committee {
            epoch: 1,
            fault_model,
            stakes: vec![1; NODES as usize],
            quorum: QUORUM as u64,
            validity: 2,
            me: Some(AuthorityIndex(me)),
        },
        config: config.into_bytes(),
        seed: Digest([5; 32]),
        schedule: (0..NODES).map(AuthorityIndex).collect(),
        max_message_bytes: 1 << 20,
        max_batches_in_commit: BATCHES_IN_COMMIT as u32,
    }
}
