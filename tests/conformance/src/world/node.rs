//! One node: its engine, what its host has on disk, and how it starts and stops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moult_sdk::engine::{DurableRecord, Event, Recovered, Settings};
use moult_sdk::{AuthorityIndex, CommitIndex, Committee, Digest, FaultModel, Slot, Statement};

use super::check::{Check, Violation};
use super::{Job, Point, World};
use crate::engine::Instance;

/// A node, or the second life of an authority that lies.
#[derive(Default)]
pub(crate) struct Node {
    /// Whose signatures it makes.
    pub(crate) authority: u32,
    pub(crate) engine: Option<Box<dyn Instance>>,
    /// Gets the same calls; must give the same outcomes.
    pub(crate) shadow: Option<Box<dyn Instance>>,
    pub(crate) life: u64,
    pub(crate) started_at: u64,
    /// Its clock runs at this many percent.
    pub(crate) speed: u64,
    pub(crate) paused: bool,
    pub(crate) inbox: Vec<Event>,
    pub(crate) timers: BTreeMap<u64, u64>,
    /// Stays down whatever happens.
    pub(crate) dead: bool,

    pub(crate) disk: Vec<DurableRecord>,
    /// Records at the front of `disk` that were there when it was last truncated: no crash
    /// leaves fewer.
    pub(crate) disk_floor: usize,
    pub(crate) last_record: u64,
    pub(crate) guard: BTreeMap<Slot, Digest>,
    /// Slots that were signed by a life that died before anything of it was seen.
    pub(crate) orphans: BTreeSet<Slot>,
    pub(crate) released: BTreeMap<u16, (u64, u64)>,
    /// Statements whose signatures this host holds.
    pub(crate) known: BTreeSet<Statement>,
    pub(crate) held: BTreeSet<Digest>,
    /// Its durable blocks: by index, dense from 1.
    pub(crate) chain: BTreeMap<u64, Vec<Digest>>,
    /// What the engine went on from, or its last commit.
    pub(crate) committed: u64,
    pub(crate) last_final: u64,
    /// What is final as the engine was told before the step that runs.
    pub(crate) told_final: u64,
    pub(crate) settled: BTreeSet<Digest>,
    pub(crate) behind_since: Option<u64>,
    pub(crate) arm: Option<Arm>,
    pub(crate) gauges: usize,
    /// Last values of the gauges.
    pub(crate) measured: BTreeMap<u32, u64>,
}

/// A crash that is to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arm {
    /// Outcomes with records to go, this one included.
    pub(crate) nth: u64,
    pub(crate) point: Point,
    pub(crate) back_ms: Option<u64>,
}

impl Node {
    pub(crate) fn new(authority: u32) -> Self {
        Self { authority, speed: 100, ..Self::default() }
    }

    /// Its clock.
    pub(crate) fn clock(&self, now: u64) -> u64 {
        (now - self.started_at) * self.speed / 100
    }

    pub(crate) fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    /// Batches committed, by this node's own chain.
    pub(crate) fn batches_committed(&self) -> u64 {
        self.chain.values().map(|batches| batches.len() as u64).sum()
    }
}

/// A committee with the quorums that the host hands in.
pub fn committee(stakes: &[u64], fault_model: FaultModel, me: u32) -> Committee {
    let total: u64 = stakes.iter().sum();
    let quorum = match fault_model {
        FaultModel::Byzantine => total * 2 / 3 + 1,
        FaultModel::Crash => total / 2 + 1,
    };
    let validity = match fault_model {
        FaultModel::Byzantine => total - quorum + 1,
        FaultModel::Crash => 1,
    };
    Committee {
        epoch: super::EPOCH,
        fault_model,
        stakes: stakes.to_vec(),
        quorum,
        validity,
        me: Some(AuthorityIndex(me)),
    }
}

impl World<'_> {
    /// The settings of an authority.
    pub fn settings(&self, me: u32) -> Settings {
        let committee = committee(&self.setup.stakes, self.setup.fault_model, me);
        let schedule = committee.authorities().collect();
        Settings {
            committee,
            config: self.setup.config.clone(),
            seed: Digest([7; 32]),
            schedule,
            max_message_bytes: self.setup.max_message_bytes,
            max_batches_in_commit: self.setup.max_batches_in_commit,
        }
    }

    /// What the host of a node would hand to its engine at a start now.
    pub fn recovered_by(&self, node: u32) -> Recovered {
        self.recovered(node as usize)
    }

    pub(crate) fn recovered(&self, place: usize) -> Recovered {
        let node = &self.nodes[place];
        let held = node.held.difference(&node.settled);
        Recovered {
            records: node.disk.clone(),
            committed: CommitIndex(node.committed),
            last_final: CommitIndex(node.last_final),
            batches: held.filter_map(|digest| self.batches.get(digest).copied()).collect(),
        }
    }

    pub(crate) fn start(&mut self, place: usize) -> Result<(), Violation> {
        let settings = self.settings(self.nodes[place].authority);
        let is_first = self.nodes[place].life == 0;
        if !is_first {
            self.lose_mark(place);
        }
        let recovered = (!is_first || self.setup.recovered_at_first).then(|| self.recovered(place));
        let mut engine = self.instance(place)?;
        let info = engine.describe().map_err(|fault| self.at(place, Check::Fault, fault.0))?;
        let outcome = self.init(place, engine.as_mut(), &settings, recovered.as_ref())?;
        let shadow = if self.setup.shadows {
            let mut shadow = self.instance(place)?;
            let other = self.init(place, shadow.as_mut(), &settings, recovered.as_ref())?;
            if other != outcome {
                return Err(self.at(place, Check::Determinism, "init gave another outcome the second time"));
            }
            Some(shadow)
        } else {
            None
        };
        let now = self.now;
        let node = &mut self.nodes[place];
        node.life += 1;
        node.started_at = now;
        node.timers.clear();
        node.known = node.disk.iter().flat_map(|record| record.statements.iter().copied()).collect();
        node.told_final = node.last_final;
        node.gauges = info.gauges.len();
        node.engine = Some(engine);
        node.shadow = shadow;
        self.trace(|| format!("node {place} starts, {} records", recovered.map_or(0, |r| r.records.len())));
        self.take(place, outcome)
    }

    fn instance(&self, place: usize) -> Result<Box<dyn Instance>, Violation> {
        self.factory.instance().map_err(|fault| self.at(place, Check::Fault, fault.0))
    }

    fn init(
        &self,
        place: usize,
        engine: &mut dyn Instance,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<moult_sdk::engine::Outcome, Violation> {
        match engine.init(settings, recovered) {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(refusal)) => Err(self.at(place, Check::Init, format!("init refuses: {refusal:?}"))),
            Err(fault) => Err(self.at(place, Check::Fault, format!("init: {fault}"))),
        }
    }

    /// Ends a node's engine; what was not made durable is lost.
    pub(crate) fn stop(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        if node.engine.take().is_none() {
            return;
        }
        node.shadow = None;
        node.paused = false;
        node.inbox.clear();
        node.timers.clear();
        node.arm = None;
        self.trace(|| format!("node {place} stops"));
        let authority = self.nodes[place].authority;
        self.tell_of_peer(authority, false);
    }

    /// Ends it, and starts it again after a time.
    pub(crate) fn bounce(&mut self, place: usize, back_ms: u64) {
        if self.nodes[place].is_up() {
            self.stop(place);
            let at = self.now + back_ms.max(1);
            self.push(at, Job::Restart { place });
        }
    }

    pub(crate) fn restart(&mut self, place: usize) -> Result<(), Violation> {
        if self.nodes[place].is_up() || self.nodes[place].dead {
            return Ok(());
        }
        if self.nodes[place].life > 0 {
            self.count("restarts");
        }
        self.forget_of_liar(place);
        self.start(place)?;
        let authority = self.nodes[place].authority;
        self.tell_of_peer(authority, true);
        Ok(())
    }

    /// Delivers what came while the node stood still, in steps as long as a step may be.
    pub(crate) fn resume(&mut self, place: usize) -> Result<(), Violation> {
        self.nodes[place].paused = false;
        let mut waiting: VecDeque<Event> = std::mem::take(&mut self.nodes[place].inbox).into();
        while !waiting.is_empty() {
            let some = waiting.len().min(super::EVENTS_MAX);
            self.step(place, waiting.drain(..some).collect())?;
        }
        Ok(())
    }

    /// A violation by a node, now.
    pub(crate) fn at(&self, place: usize, check: Check, text: impl Into<String>) -> Violation {
        let node = self.nodes.get(place).map_or(place as u32, |node| node.authority);
        Violation { check, node: Some(node), at_ms: self.now, text: text.into() }
    }
}
