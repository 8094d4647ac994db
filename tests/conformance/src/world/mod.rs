//! Several engines and a host for each, in one thread and in virtual time.
//!
//! The host here does what a real one does as far as an engine can tell: it makes records
//! durable before it carries out anything, signs under a guard, knows which signatures it
//! holds, tells of batches and finality, and catches up nodes that are behind. After every
//! event what an engine said is checked. Everything follows from the seed and the calls; a
//! scenario or a schedule of faults drives it from outside.

mod carry;
mod chain;
mod check;
mod drive;
mod lie;
mod links;
mod node;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moult_sdk::engine::Event;
use moult_sdk::{Batch, Digest, FaultModel, Statement};

pub(crate) use check::{Bounds, check_outcome};
pub use check::{Check, Violation};
pub use lie::{Attack, Lie};
pub use links::{Drop, Kind, Quality};
pub(crate) use node::Node;
pub use node::committee;

use crate::engine::Factory;
use crate::rng::Rng;

/// The epoch of all runs.
pub const EPOCH: u64 = 3;
/// Most events of one step.
pub(crate) const EVENTS_MAX: usize = 1_024;
/// How often a host looks for news of finality.
const HOST_MS: u64 = 40;

/// What a world is made of; everything else follows.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The seed.
    pub seed: u64,
    /// Stakes by authority.
    pub stakes: Vec<u64>,
    /// What faulty authorities may do.
    pub fault_model: FaultModel,
    /// The engine's configuration.
    pub config: Vec<u8>,
    /// An authority that lies, and how.
    pub liar: Option<(u32, Lie)>,
    /// Authorities that never start.
    pub dead: Vec<u32>,
    /// Speed of the clocks by authority, in percent of the true one; 100 where none is given.
    pub clocks: Vec<u64>,
    /// How long a node may be behind before its host carries it on.
    pub catch_up_ms: u64,
    /// What links do.
    pub quality: Quality,
    /// Longest payload.
    pub max_message_bytes: u32,
    /// Most batches in a commit.
    pub max_batches_in_commit: u32,
    /// Whether the very first start has `recovered` too, as the real host does it.
    pub recovered_at_first: bool,
    /// Whether a second instance of each engine must answer the same.
    pub shadows: bool,
    /// How many of the last lines of what happens are kept, with a hash of all of them.
    pub trace_lines: Option<usize>,
}

impl Setup {
    /// A committee without faults, and no configuration.
    pub fn new(stakes: &[u64], fault_model: FaultModel) -> Self {
        Self {
            seed: 0,
            stakes: stakes.to_vec(),
            fault_model,
            config: Vec::new(),
            liar: None,
            dead: Vec::new(),
            clocks: Vec::new(),
            catch_up_ms: 1_000,
            quality: Quality::GOOD,
            max_message_bytes: 4 << 20,
            max_batches_in_commit: 4,
            recovered_at_first: true,
            shadows: false,
            trace_lines: None,
        }
    }
}

/// Where in the carrying out of an outcome a node crashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// Before anything is durable.
    Before,
    /// Once the guard knows of its signatures, and nothing else is durable.
    Guard,
    /// With some of its records durable.
    Torn,
    /// With everything durable, and nothing sent.
    Synced,
    /// In the middle of what it sends.
    Sent,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Before, Self::Guard, Self::Torn, Self::Synced, Self::Sent];

    fn fault(self) -> &'static str {
        match self {
            Self::Before => "crashes before the sync",
            Self::Guard => "crashes after the guard's sync",
            Self::Torn => "crashes amid the records",
            Self::Synced => "crashes after the sync",
            Self::Sent => "crashes amid sending",
        }
    }
}

/// How often what happened, by name.
pub type Counts = BTreeMap<&'static str, u64>;

#[derive(Clone, Debug)]
pub(crate) enum Job {
    Deliver {
        place: usize,
        event: Event,
    },
    Timer {
        place: usize,
        life: u64,
        id: u64,
        number: u64,
    },
    /// A batch reaches a node, once anybody can hand it over.
    Tell {
        place: usize,
        batch: Batch,
    },
    /// What was asked for is told even if it was told before.
    Answer {
        place: usize,
        batch: Digest,
    },
    Host {
        place: usize,
    },
    Restart {
        place: usize,
    },
    Resume {
        place: usize,
    },
    Sides,
}

/// A committee of nodes with its network.
pub struct World<'a> {
    pub(crate) factory: &'a dyn Factory,
    pub(crate) setup: Setup,
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    queue: BTreeMap<(u64, u64), Job>,
    number: u64,
    /// The committee, then the liar's twin if it has one.
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: links::Network,
    /// By index, what the first honest node committed.
    pub(crate) agreed: BTreeMap<u64, Vec<Digest>>,
    pub(crate) batches: BTreeMap<Digest, Batch>,
    private: BTreeSet<Digest>,
    placed: BTreeMap<Digest, u64>,
    /// Batches that an engine may order once more without knowing it.
    repeatable: BTreeSet<Digest>,
    pub(crate) last_final: u64,
    /// Leader of the last commit, with its index.
    pub(crate) leader: (u64, Option<u32>),
    pub(crate) commits: u64,
    /// Crashes in ten thousand steps.
    pub(crate) crashes: u64,
    /// Whether messages are kept, and the last of them.
    pub(crate) capturing: bool,
    pub(crate) captured: Vec<Event>,
    /// Who was jailed.
    pub(crate) shunned: Option<u32>,
    sides: u64,
    pub(crate) counts: Counts,
    trace: VecDeque<String>,
    hash: u64,
}

impl<'a> World<'a> {
    /// Starts a committee.
    ///
    /// # Errors
    /// A property was broken while starting.
    pub fn new(factory: &'a dyn Factory, setup: Setup) -> Result<Self, Violation> {
        let size = setup.stakes.len();
        let mut nodes: Vec<Node> = (0..size as u32).map(Node::new).collect();
        if let Some((liar, Lie::Twins)) = setup.liar {
            nodes.push(Node::new(liar));
        }
        let mut world = Self {
            factory,
            now: 0,
            rng: Rng::new(setup.seed),
            queue: BTreeMap::new(),
            number: 0,
            nodes,
            network: links::Network::new(setup.quality),
            agreed: BTreeMap::new(),
            batches: BTreeMap::new(),
            private: BTreeSet::new(),
            placed: BTreeMap::new(),
            repeatable: BTreeSet::new(),
            last_final: 0,
            leader: (0, None),
            commits: 0,
            crashes: 0,
            capturing: matches!(setup.liar, Some((_, Lie::Replay))),
            captured: Vec::new(),
            shunned: None,
            sides: 0,
            counts: Counts::new(),
            trace: VecDeque::new(),
            hash: 0,
            setup,
        };
        if world.nodes.len() > size {
            world.draw_sides();
        }
        for place in 0..world.nodes.len() {
            let authority = world.nodes[place].authority;
            world.nodes[place].dead = world.setup.dead.contains(&authority);
            world.nodes[place].speed =
                world.setup.clocks.get(authority as usize).copied().unwrap_or(100).max(1);
            if !world.nodes[place].dead {
                world.start(place)?;
            }
            world.push(HOST_MS + place as u64, Job::Host { place });
        }
        Ok(world)
    }

    pub(crate) fn push(&mut self, at: u64, job: Job) {
        let number = self.next_number();
        self.queue.insert((at.max(self.now), number), job);
    }

    pub(crate) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Runs for a time.
    ///
    /// # Errors
    /// A property was broken.
    pub fn run(&mut self, for_ms: u64) -> Result<(), Violation> {
        let end = self.now + for_ms;
        while self.turn(end)? {}
        self.now = end;
        Ok(())
    }

    /// Runs until something holds, at most for a time; whether it came to hold.
    ///
    /// # Errors
    /// A property was broken.
    pub fn run_until(&mut self, within_ms: u64, holds: impl Fn(&Self) -> bool) -> Result<bool, Violation> {
        let end = self.now + within_ms;
        loop {
            if holds(self) {
                return Ok(true);
            }
            if !self.turn(end)? {
                self.now = end;
                return Ok(holds(self));
            }
        }
    }

    /// Does everything of the next millisecond up to `end`; false if there is none.
    fn turn(&mut self, end: u64) -> Result<bool, Violation> {
        let Some((&(at, _), _)) = self.queue.first_key_value() else { return Ok(false) };
        if at > end {
            return Ok(false);
        }
        self.now = at;
        let mut steps: BTreeMap<usize, Vec<Event>> = BTreeMap::new();
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 == at
        {
            let job = entry.remove();
            self.job(job, &mut steps)?;
        }
        for (place, mut events) in steps {
            if self.nodes[place].paused {
                self.nodes[place].inbox.append(&mut events);
                continue;
            }
            while !events.is_empty() {
                let rest = events.split_off(events.len().min(EVENTS_MAX));
                self.step(place, std::mem::replace(&mut events, rest))?;
            }
        }
        Ok(true)
    }

    fn job(&mut self, job: Job, steps: &mut BTreeMap<usize, Vec<Event>>) -> Result<(), Violation> {
        match job {
            Job::Deliver { place, event } => {
                if self.nodes[place].is_up() {
                    self.learn(place, &event);
                    steps.entry(place).or_default().push(event);
                }
            }
            Job::Timer { place, life, id, number } => {
                let node = &mut self.nodes[place];
                if node.life == life && node.timers.get(&id) == Some(&number) {
                    node.timers.remove(&id);
                    steps.entry(place).or_default().push(Event::Timer(id));
                }
            }
            Job::Tell { place, batch } => self.tell(place, batch, steps),
            Job::Answer { place, batch } => {
                let node = &self.nodes[place];
                if node.is_up() && (node.held.contains(&batch) || self.can_get(place, &batch)) {
                    self.nodes[place].held.insert(batch);
                    if self.placed.contains_key(&batch) {
                        self.repeatable.insert(batch);
                    }
                    let batch = self.batches[&batch];
                    steps.entry(place).or_default().push(Event::Batches(vec![batch]));
                }
            }
            Job::Host { place } => {
                self.push(self.now + HOST_MS, Job::Host { place });
                if !self.nodes[place].paused
                    && let Some(event) = self.finality(place)
                {
                    steps.entry(place).or_default().push(event);
                }
            }
            Job::Restart { place } => self.restart(place)?,
            Job::Resume { place } => self.resume(place)?,
            Job::Sides => self.draw_sides(),
        }
        Ok(())
    }

    /// A batch is told once, and not if it is final here already.
    fn tell(&mut self, place: usize, batch: Batch, steps: &mut BTreeMap<usize, Vec<Event>>) {
        let node = &self.nodes[place];
        if node.held.contains(&batch.digest) || node.dead {
            return;
        }
        let own = node.authority == batch.author.0;
        let can = own || (node.is_up() && self.can_get(place, &batch.digest));
        if !can {
            return self.push(self.now + 50, Job::Tell { place, batch });
        }
        let node = &mut self.nodes[place];
        node.held.insert(batch.digest);
        if node.is_up() && !node.settled.contains(&batch.digest) {
            steps.entry(place).or_default().push(Event::Batches(vec![batch]));
        }
    }

    fn learn(&mut self, place: usize, event: &Event) {
        let known: &mut BTreeSet<Statement> = &mut self.nodes[place].known;
        match event {
            Event::Vote(statement) => {
                known.insert(*statement);
            }
            Event::Message(message) => known.extend(message.statements.iter().copied()),
            _ => {}
        }
    }
}
