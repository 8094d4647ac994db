//! Running a scenario.

use std::collections::BTreeMap;

use moult_sdk::engine::{Event, InitError};
use moult_sdk::{AuthorityIndex, FaultModel};
use serde::{Deserialize, Serialize};

use super::{Atom, Expect, LieName, Line, Links, Model, Nodes, Scenario, Step, Variant, drop_rule};
use crate::engine::{Factory, Fault};
use crate::world::{Check, Counts, Lie, Setup, Violation, World};

/// A scenario with a committee and a choice: what runs.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The choice.
    pub variant: &'a Variant,
    /// The fault model.
    pub fault_model: FaultModel,
    /// The committee.
    pub stakes: &'a [u64],
}

/// Where and why a case failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Which case: fault model, stakes, choice.
    pub case: String,
    /// Line of the scenario at which it failed, from 1; 0 for none.
    pub line: usize,
    /// That line.
    pub step: String,
    /// The property that broke.
    pub check: Check,
    /// What happened.
    pub problem: String,
    /// The last lines of what happened.
    pub trace: Vec<String>,
}

/// All cases of a scenario for an engine made for these fault models.
pub fn cases<'a>(scenario: &'a Scenario, models: &[FaultModel]) -> Vec<Case<'a>> {
    let wanted = |model: &&FaultModel| scenario.model == Model::Any || scenario.model == Model::One(**model);
    let mut cases = Vec::new();
    for model in models.iter().filter(wanted) {
        for stakes in &scenario.stakes {
            cases.extend(scenario.variants.iter().map(|variant| Case {
                scenario,
                variant,
                fault_model: *model,
                stakes,
            }));
        }
    }
    cases
}

/// What a scenario remembers while it runs.
#[derive(Default)]
struct Memory {
    names: BTreeMap<String, Vec<u32>>,
    /// Batches committed by node at the last `mark`.
    marks: Vec<u64>,
}

impl Case<'_> {
    /// The case in words.
    pub fn label(&self) -> String {
        let model = format!("{:?}", self.fault_model).to_lowercase();
        let stakes: Vec<String> = self.stakes.iter().map(u64::to_string).collect();
        let space = if self.variant.label.is_empty() { "" } else { ", " };
        format!("{model}, stakes {}{space}{}", stakes.join(" "), self.variant.label)
    }

    fn setup(&self, factory: &dyn Factory) -> Setup {
        let scenario = self.scenario;
        let lie = scenario.liar.map(|(liar, lie)| (liar, lie_of(lie)));
        Setup {
            config: factory.tuning().plain,
            liar: lie,
            dead: scenario.dead.clone(),
            catch_up_ms: scenario.catch_up_ms,
            max_batches_in_commit: scenario.commit_max,
            ..Setup::new(self.stakes, self.fault_model)
        }
    }

    /// Why the engine does not run with this committee, if it says so.
    ///
    /// # Errors
    /// The instance ended.
    pub fn unsuitable(&self, factory: &dyn Factory) -> Result<Option<String>, Fault> {
        // The one size that an engine may refuse: Byzantine faults of less than four.
        if self.fault_model == FaultModel::Crash || !(2..4).contains(&self.stakes.len()) {
            return Ok(None);
        }
        let setup = self.setup(factory);
        let settings = moult_sdk::engine::Settings {
            committee: crate::world::committee(self.stakes, self.fault_model, 0),
            config: setup.config,
            seed: moult_sdk::Digest::ZERO,
            schedule: (0..self.stakes.len() as u32).map(AuthorityIndex).collect(),
            max_message_bytes: setup.max_message_bytes,
            max_batches_in_commit: setup.max_batches_in_commit,
        };
        match factory.instance()?.init(&settings, None)? {
            Err(InitError::Unsuitable(why)) => Ok(Some(why)),
            _ => Ok(None),
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Where and why it failed.
    pub fn run(&self, factory: &dyn Factory, trace_lines: usize) -> Result<Counts, Failure> {
        match self.attempt(factory, None) {
            Ok(counts) => Ok(counts),
            // The same again, this time with the trace.
            Err(failure) => Err(self.attempt(factory, Some(trace_lines)).err().unwrap_or(failure)),
        }
    }

    fn attempt(&self, factory: &dyn Factory, trace_lines: Option<usize>) -> Result<Counts, Failure> {
        let failure = |line: Option<&Line>, violation: Violation, trace| Failure {
            case: self.label(),
            line: line.map_or(0, |line| line.number),
            step: line.map_or_else(String::new, |line| line.text.clone()),
            check: violation.check,
            problem: violation.to_string(),
            trace,
        };
        let setup = Setup { trace_lines, ..self.setup(factory) };
        let mut world = World::new(factory, setup).map_err(|v| failure(None, v, Vec::new()))?;
        let mut memory = Memory { marks: vec![0; self.stakes.len()], ..Memory::default() };
        for line in &self.variant.steps {
            world.trace(|| format!("---- line {}: {}", line.number, line.text));
            world
                .perform(&line.step, &mut memory)
                .map_err(|violation| failure(Some(line), violation, world.trace_tail().0))?;
        }
        Ok(world.counts().clone())
    }
}

fn lie_of(name: LieName) -> Lie {
    match name {
        LieName::Silent => Lie::Silent,
        LieName::Twins => Lie::Twins,
        LieName::Garble => Lie::Garble,
        LieName::Flip => Lie::Flip,
        LieName::Replay => Lie::Replay,
        LieName::Amnesia => Lie::Amnesia,
    }
}

fn unmet(text: impl Into<String>) -> Violation {
    Violation::new(Check::Expectation, text)
}

impl World<'_> {
    fn perform(&mut self, step: &Step, memory: &mut Memory) -> Result<(), Violation> {
        let find = |world: &Self, nodes: &Nodes| world.find(nodes, memory);
        match step {
            Step::Batches { count, at, private, over_ms } => {
                let at = match at {
                    Some(nodes) => find(self, nodes)?,
                    None => self.honest().filter(|node| self.nodes[*node as usize].is_up()).collect(),
                };
                return self.hand_in(*count, &at, *private, *over_ms);
            }
            Step::Run(time) => return self.run(*time),
            Step::Crash(nodes) => find(self, nodes)?.into_iter().for_each(|node| self.crash(node)),
            Step::Restart(nodes) => {
                return find(self, nodes)?.into_iter().try_for_each(|node| self.revive(node));
            }
            Step::CrashAt { nodes, nth, point, back_ms } => {
                let nodes = find(self, nodes)?;
                nodes.into_iter().for_each(|node| self.crash_later(node, *nth, *point, *back_ms));
            }
            Step::CrashOften(often) => self.crash_often(*often),
            Step::Partition(parts) => {
                let parts = parts.iter().map(|part| find(self, part)).collect::<Result<Vec<_>, _>>()?;
                self.partition(&parts);
            }
            Step::Cut(from, to) => self.cut(&find(self, from)?, &find(self, to)?),
            Step::Mend(from, to) => self.mend(&find(self, from)?, &find(self, to)?),
            Step::Heal => self.heal(),
            Step::Drop { kind, percent, between } => {
                let all = Nodes::all();
                let (from, to) = between.as_ref().map_or((&all, &all), |(from, to)| (from, to));
                self.lose(drop_rule(*kind, *percent, &find(self, from)?, &find(self, to)?));
            }
            Step::Links(links) => self.change_links(*links),
            Step::Pause(nodes, time) => {
                find(self, nodes)?.into_iter().for_each(|node| self.pause(node, *time));
            }
            Step::Drain(nodes) => {
                return find(self, nodes)?.into_iter().try_for_each(|n| self.tell_node(n, &Event::Draining));
            }
            Step::Shun(nodes) => return self.shun(&find(self, nodes)?),
            Step::Name(name, nodes) => {
                let nodes = find(self, nodes)?;
                memory.names.insert(name.clone(), nodes);
            }
            Step::Mark => {
                memory.marks = self.nodes.iter().map(crate::world::Node::batches_committed).collect()
            }
            Step::Expect(expect) => return self.meets(expect, memory)?.map_or(Ok(()), |why| Err(unmet(why))),
            Step::Until(expect, within_ms) => {
                let met = |world: &Self| matches!(world.meets(expect, memory), Ok(None));
                if !self.run_until(*within_ms, met)? {
                    let why = self.meets(expect, memory)?.unwrap_or_default();
                    return Err(unmet(format!("not within {within_ms} ms: {why}")));
                }
            }
            Step::Settle(within_ms) => return self.settle(*within_ms),
        }
        Ok(())
    }

    fn hand_in(&mut self, count: u64, at: &[u32], private: bool, over_ms: u64) -> Result<(), Violation> {
        if at.is_empty() {
            return Err(unmet("no node is up to take batches"));
        }
        for (i, author) in (0..count).zip(at.iter().cycle()) {
            self.submit(*author, private);
            let (before, after) = (over_ms * i / count, over_ms * (i + 1) / count);
            self.run(after - before)?;
        }
        Ok(())
    }

    fn change_links(&mut self, links: Links) {
        let mut quality = self.quality();
        match links {
            Links::Delay(low, high) => quality.delay_ms = (low, high),
            Links::Loss(percent) => quality.loss = percent,
            Links::Duplicates(percent) => quality.duplicates = percent,
            Links::LateBatches(percent) => quality.late_batches = percent,
            Links::LateTimers(ms) => quality.late_timers_ms = ms,
        }
        self.set_quality(quality);
    }

    fn shun(&mut self, jailed: &[u32]) -> Result<(), Violation> {
        for node in 0..self.setup.stakes.len() as u32 {
            for jailed in jailed {
                self.tell_node(node, &Event::Shun(AuthorityIndex(*jailed)))?;
            }
        }
        Ok(())
    }

    fn find(&self, nodes: &Nodes, memory: &Memory) -> Result<Vec<u32>, Violation> {
        let size = self.setup.stakes.len() as u32;
        let up = |node: &u32| self.nodes[*node as usize].is_up();
        let mut found: Vec<u32> = Vec::new();
        for atom in &nodes.atoms {
            match atom {
                Atom::Index(node) if *node < size => found.push(*node),
                Atom::Index(node) => return Err(unmet(format!("there is no node {node} among {size}"))),
                Atom::All => found.extend(0..size),
                Atom::Up => found.extend((0..size).filter(up)),
                Atom::Down => found.extend((0..size).filter(|node| !up(node))),
                Atom::Leader => found.push(self.last_leader()?),
                Atom::Follower(n) => {
                    let leader = self.last_leader()?;
                    let follower =
                        (0..size).filter(|node| *node != leader).nth((*n as usize).wrapping_sub(1));
                    found.push(
                        follower.ok_or_else(|| unmet(format!("there is no follower {n} among {size}")))?,
                    );
                }
                Atom::Name(name) => {
                    let named = memory.names.get(name);
                    found.extend(named.ok_or_else(|| unmet(format!("nobody was named `{name}`")))?);
                }
            }
        }
        if nodes.not {
            found = (0..size).filter(|node| !found.contains(node)).collect();
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn last_leader(&self) -> Result<u32, Violation> {
        self.leader.1.ok_or_else(|| unmet("no commit has named its leader yet"))
    }

    /// `None` if it is met, else what is instead.
    fn meets(&self, expect: &Expect, memory: &Memory) -> Result<Option<String>, Violation> {
        let committed = |node: u32| self.nodes[node as usize].batches_committed();
        let settled = |node: u32| self.nodes[node as usize].settled.len() as u64;
        let marked = |node: u32| memory.marks.get(node as usize).copied().unwrap_or(0);
        let first =
            |on: &Nodes, wrong: &dyn Fn(u32) -> Option<String>| -> Result<Option<String>, Violation> {
                Ok(self.find(on, memory)?.into_iter().find_map(wrong))
            };
        match expect {
            Expect::Committed { compare, count, on } => first(on, &|node| {
                let has = committed(node);
                (!compare.holds(has, *count)).then(|| format!("node {node} has committed {has} batches"))
            }),
            Expect::Final { compare, count, on } => first(on, &|node| {
                let has = settled(node);
                (!compare.holds(has, *count)).then(|| format!("{has} batches are final at node {node}"))
            }),
            Expect::Progress { on } => first(on, &|node| {
                (committed(node) <= marked(node)).then(|| format!("node {node} has committed nothing new"))
            }),
            Expect::NoProgress { on } => first(on, &|node| {
                (committed(node) > marked(node))
                    .then(|| format!("node {node} went from {} batches to {}", marked(node), committed(node)))
            }),
            Expect::LeaderIn(who) => {
                let (leader, who) = (self.last_leader()?, self.find(who, memory)?);
                Ok((!who.contains(&leader)).then(|| format!("{leader} leads")))
            }
            Expect::LeaderNotIn(who) => {
                let (leader, who) = (self.last_leader()?, self.find(who, memory)?);
                Ok(who.contains(&leader).then(|| format!("{leader} leads")))
            }
            Expect::Same { on } => {
                let nodes = self.find(on, memory)?;
                let chain = |node: u32| &self.nodes[node as usize].chain;
                let other = nodes.windows(2).find(|pair| chain(pair[0]) != chain(pair[1]));
                Ok(other.map(|pair| format!("the chains of nodes {} and {} differ", pair[0], pair[1])))
            }
            Expect::EmptyCommits { compare, count } => {
                let empty = self.agreed.values().filter(|batches| batches.is_empty()).count() as u64;
                Ok((!compare.holds(empty, *count)).then(|| format!("{empty} commits are empty")))
            }
            Expect::AllFinal => Ok((!self.is_settled()).then(|| "not everything is final".to_owned())),
            Expect::Happened(what) => {
                Ok((!self.counts.contains_key(what.as_str())).then(|| format!("no {what}")))
            }
        }
    }
}
