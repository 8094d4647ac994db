//! The whole run: nodes, links, clients, faults and changes on one queue of events.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use moult_types::{ChainId, EpochNumber, Genesis, GlobalIndex};

use crate::check::Checks;
use crate::clients::Clients;
use crate::disk::Kept;
use crate::modules::Modules;
use crate::network::Network;
use crate::node::Node;
use crate::plan::{Phase, Plan};
use crate::queue::{Event, Queue};
use crate::report::{Report, Violation};
use crate::rng::Rng;
use crate::signing::Scheme;
use crate::trace::Trace;
use crate::verified::Verified;

/// How often the run looks whether everything came to rest.
pub(crate) const LOOK_US: u64 = 100_000;
/// More events than this in one run mean that something goes round in circles.
const EVENTS_MAX: u64 = 20_000_000;

/// Settings of the nodes that the seed chose.
pub(crate) struct Tuning {
    pub(crate) batch_delay_ms: u64,
    pub(crate) batches_in_flight_max: usize,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    /// Of everything that is neither a fault nor a proposal.
    pub(crate) rng: Rng,
    /// Of faults.
    pub(crate) nemesis: Rng,
    /// Of proposals.
    pub(crate) operator: Rng,
    /// Kinds of faults that do not happen in this run.
    pub(crate) off: BTreeSet<&'static str>,
    /// Faults that were drawn so far, one by one.
    pub(crate) faults_drawn: u64,
    pub(crate) now_us: u64,
    pub(crate) queue: Queue,
    pub(crate) genesis: Genesis,
    pub(crate) chain: ChainId,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) modules: Modules,
    pub(crate) scheme: Scheme,
    pub(crate) tuning: Tuning,
    pub(crate) clients: Clients,
    pub(crate) checks: Checks,
    pub(crate) report: Report,
    pub(crate) trace: Trace,
    pub(crate) verified: Verified,
    pub(crate) is_calm: bool,
    /// Until then a quorum must have shown that it goes on without the rest.
    pub(crate) core_until_us: Option<u64>,
    /// Until then everybody must have come to rest, if nobody is left out.
    pub(crate) rest_until_us: u64,
    /// What happens to nodes that are asleep until they are healed.
    pub(crate) deferred: Vec<Event>,
    /// The one node whose store is damaged in this run.
    pub(crate) rotten_node: Option<usize>,
    /// Block that every node must have applied before the run ends.
    pub(crate) goal: Option<GlobalIndex>,
    pub(crate) crash_point_hit: bool,
    /// The next sync of this node ends in a crash.
    pub(crate) crash_in_sync: Option<(usize, Phase)>,
    /// Instances of engines that may still be made to trap.
    pub(crate) traps_left: u64,
    /// Rises with each proposal.
    pub(crate) proposals: u64,
    /// Since when a quorum, or everybody, is healed.
    pub(crate) healed_us: u64,
    /// Epochs with the engine that is wrong on purpose.
    pub(crate) broken: Broken,
    /// The last thing done in the phase of calm, for people.
    pub(crate) waiting_for: String,
}

/// Epochs that began with the engine that is wrong on purpose, and those in which it was given up.
#[derive(Default)]
pub(crate) struct Broken {
    pub(crate) swapped_in: BTreeSet<EpochNumber>,
    pub(crate) given_up: BTreeSet<EpochNumber>,
}

/// Runs one seed with PBFT as native code.
///
/// # Errors
/// The first promise that was broken.
pub fn run_seed(seed: u64, plan: &Plan) -> Result<Report, Violation> {
    run(seed, plan, &Modules::pbft(), false)
}

/// Runs one seed; with `trace`, everything that happens goes to the standard error stream.
///
/// # Errors
/// The first promise that was broken.
pub fn run(seed: u64, plan: &Plan, modules: &Modules, trace: bool) -> Result<Report, Violation> {
    let mut world = World::new(seed, plan.clone(), modules.clone(), trace);
    // A panic of the replica would end a node's process; here it ends the run.
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(Violation::new("no panic", text.unwrap_or_default()))
    });
    let (at_us, trace) = (world.now_us, world.trace.hash());
    match result {
        Ok(()) => Ok(world.finish()),
        Err(violation) => Err(Violation { seed, at_us, trace, modules: modules.list(), ..violation }),
    }
}

impl World {
    fn run(&mut self) -> Result<(), Violation> {
        for node in 0..self.nodes.len() {
            let at_us = self.rng.below(50_000);
            self.queue.push(at_us, Event::Restart { node });
        }
        self.queue.push(self.plan.faults_ms * 1000, Event::Calm);
        self.queue.push(self.rng.below(100_000), Event::Transaction);
        self.queue.push(100_000, Event::Read);
        self.queue.push(500_000, Event::Retry);
        if self.plan.between_faults_ms > 0 {
            let first_us = self.nemesis.below(self.plan.between_faults_ms * 2_000);
            self.queue.push(first_us, Event::Fault);
        }
        if self.plan.between_changes_ms > 0 {
            let first_us = self.operator.below(self.plan.between_changes_ms * 1_000);
            self.queue.push(first_us, Event::Change);
        }
        if self.nodes.iter().any(|node| node.byzantine) {
            self.queue.push(self.rng.below(300_000), Event::Mischief);
        }
        while let Some((at_us, event)) = self.queue.pop() {
            self.now_us = at_us;
            self.report.events += 1;
            if self.report.events > EVENTS_MAX {
                return Err(Violation::new("the run ends", format!("more than {EVENTS_MAX} events")));
            }
            if matches!(event, Event::Look) {
                if self.is_at_rest()? {
                    let took_ms = (self.now_us - self.healed_us) / 1000;
                    self.report.worst_stall_ms = self.report.worst_stall_ms.max(took_ms);
                    if self.core_until_us.take().is_none() {
                        let undecided = self.checks.finish(&self.nodes, &self.clients)?;
                        if undecided > 0 {
                            self.report.note("history too entangled to be decided");
                        }
                        return self.audit();
                    }
                    self.heal();
                }
                self.queue.push(self.now_us + LOOK_US, Event::Look);
            } else {
                self.handle(event)?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        if let Some((node, life)) = owner(&event) {
            let it = &self.nodes[node];
            if life.is_some_and(|life| life != it.life) {
                return Ok(());
            }
            match it.paused_until_us {
                u64::MAX => {
                    self.deferred.push(event);
                    return Ok(());
                }
                until_us if until_us > self.now_us => {
                    self.queue.push(until_us, event);
                    return Ok(());
                }
                _ => {}
            }
        }
        self.trace.event(self.now_us, &event);
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, &message),
            Event::Process { node, .. } => self.process(node),
            Event::Wake { node, .. } => self.wake(node),
            Event::StoreSynced { node, .. } => self.store_synced(node),
            Event::GuardSynced { node, .. } => self.guard_synced(node),
            Event::Answer { node, input, .. } => {
                self.give(node, *input);
                Ok(())
            }
            Event::RetryEngine { node, .. } => {
                self.retry_engine(node);
                Ok(())
            }
            Event::Executed { node, .. } => self.executed(node),
            Event::Crash { node, kept } => {
                self.crash(node, kept);
                Ok(())
            }
            Event::Restart { node } => self.restart(node),
            Event::Calm => {
                self.calm();
                Ok(())
            }
            other => {
                self.outside(other);
                Ok(())
            }
        }
    }

    /// Clients, operators and faults.
    fn outside(&mut self, event: Event) {
        match event {
            Event::Transaction => self.transaction(),
            Event::Read => self.read(),
            Event::Retry => self.retry(),
            Event::Fault => self.fault(),
            Event::Resume { node } => self.log(node, || "goes on".into()),
            Event::RepairLinks => {
                self.network.repair();
                self.refresh_links();
            }
            Event::Cut { side } if !self.is_calm => self.network.partition(&side, self.nodes.len(), false),
            Event::Mischief => self.mischief(),
            Event::Repair { node } => self.repair(node),
            Event::SpeedUp { node } => self.nodes[node].slow_factor = 1,
            Event::Change => self.change(),
            Event::Afterthought { node, kind } => self.afterthought(node, kind),
            Event::ModuleArrives { node } => self.nodes[node].modules = self.modules.hashes().collect(),
            _ => {}
        }
    }

    fn restart(&mut self, node: usize) -> Result<(), Violation> {
        let sleeps_until_us = self.nodes[node].sleeps_until_us;
        if self.nodes[node].is_running() || sleeps_until_us == u64::MAX {
            return Ok(());
        }
        if sleeps_until_us > self.now_us {
            self.queue.push(sleeps_until_us, Event::Restart { node });
            return Ok(());
        }
        if self.nodes[node].life > 0 {
            self.report.fault("restart");
        }
        self.start(node)?;
        self.refresh_links();
        Ok(())
    }

    fn finish(mut self) -> Report {
        self.report.seed = self.seed;
        self.report.trace = self.trace.hash();
        self.report.blocks = self.checks.chain.length();
        self.report.switches = self.checks.chain.switches();
        self.report.acknowledged = self.clients.acknowledged;
        self.report.refused = self.clients.refused_count;
        self.report.virtual_ms = self.now_us / 1000;
        self.report.broken = (self.broken.swapped_in.len() as u64, self.broken.given_up.len() as u64);
        self.report.groups = self.nodes.iter().map(|node| node.groups.clone()).collect();
        self.report
    }

    /// Whether a kind of fault happens in this run.
    pub(crate) fn is_on(&self, kind: &str) -> bool {
        !self.off.contains(kind)
    }

    pub(crate) fn log(&self, node: usize, what: impl FnOnce() -> String) {
        self.trace.log(self.now_us, Some(node), what);
    }

    /// What concerns no node alone.
    pub(crate) fn log_all(&self, what: impl FnOnce() -> String) {
        self.trace.log(self.now_us, None, what);
    }

    pub(crate) fn trace_step(
        &mut self,
        node: usize,
        durable: &[moult_core::Persist],
        release: &[moult_core::Effect],
    ) {
        self.trace.step(self.now_us, node, durable, release);
    }

    pub(crate) fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_running()).collect()
    }

    pub(crate) fn crash_later(&mut self, node: usize, at_us: u64, kept: Kept) {
        self.queue.push(at_us, Event::Crash { node, kept });
    }
}

/// The node that an event belongs to, and the life it is for.
fn owner(event: &Event) -> Option<(usize, Option<u64>)> {
    match event {
        Event::Deliver { to, .. } => Some((*to, None)),
        Event::Process { node, life }
        | Event::Wake { node, life }
        | Event::StoreSynced { node, life }
        | Event::GuardSynced { node, life }
        | Event::Answer { node, life, .. }
        | Event::RetryEngine { node, life }
        | Event::Executed { node, life } => Some((*node, Some(*life))),
        _ => None,
    }
}
