//! Starting, stepping and ending a node's process, and its writer: what a step makes
//! durable is synced before anything of it is released, and steps are released in order.

use moult_core::Replica;
use moult_core::guard::GuardState;
use moult_core::io::{Effect, GuardUpdate, Input, Persist, Step};
use moult_core::replica::Settings;
use moult_types::{GlobalIndex, SlotKind};

use crate::disk::{Kept, LoadError, StoreOp};
use crate::node::{Executor, Process, Writer};
use crate::plan::Phase;
use crate::planted::Bug;
use crate::queue::Event;
use crate::report::{Group, Violation};
use crate::world::World;

/// How often the replica may be woken at one instant without answering anything.
const IDLE_WAKES_MAX: u32 = 3;
/// How often an operator looks after a node that gets its chain back.
const LOOK_AFTER_US: u64 = 500_000;

impl World {
    /// Starts a node's process from its disk, if it can be read.
    pub(crate) fn start(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].is_running() {
            return Ok(());
        }
        let now_us = self.now_us;
        let (settings, chain) = (self.settings_of(node), self.chain);
        if self.nodes[node].reads_fail_until_us > now_us {
            self.refuse_to_start(node, "its store cannot be read");
            return Ok(());
        }
        #[cfg(feature = "planted")]
        self.spoil(node);
        let it = &mut self.nodes[node];
        let mut recovery = match it.disk.load(&self.genesis, chain) {
            Ok(recovery) => recovery,
            Err(LoadError::Damaged(record)) => {
                self.refuse_to_start(node, &format!("{record:?} in its store is damaged"));
                let at_us = now_us + self.rng.range(300_000, 1_500_000);
                self.queue.push(at_us, Event::Repair { node });
                return Ok(());
            }
            Err(LoadError::Lost(what)) => {
                return Err(Violation::new("recovery", format!("node {node}: {what}")));
            }
        };
        let signs = if it.disk.is_lost() { Bug::LostFolderSigns } else { Bug::ReplacedStoreSigns };
        if self.plan.has_bug(signs) {
            recovery.signing_stopped = None;
        }
        it.life += 1;
        let has_forked = recovery.guard.stopped.is_some();
        let replay_to = recovery.ledger.as_ref().map_or(GlobalIndex(0), |ledger| ledger.global);
        self.checks.started(node, it, &recovery)?;
        let is_repairing = it.disk.is_replaced();
        let clock = it.clock(now_us);
        let signer = self.scheme.signer(&it.keys);
        let (mut replica, step) =
            Replica::new(recovery, settings, signer, moult_core::Now { mono_ms: 0, ..clock })
                .map_err(|e| Violation::new("recovery", format!("node {node}: {e}")))?;
        replica.remember_final(it.disk.final_batches());
        it.process = Some(Process {
            replica,
            started_us: now_us,
            inbox: Vec::new(),
            is_scheduled: false,
            wake_at_us: u64::MAX,
            idle_wakes: 0,
            writer: Writer::default(),
            verify: None,
            has_forked,
            announced: Default::default(),
            linked: Default::default(),
            executor: Executor { replay_to, ..Executor::default() },
            reads: Vec::new(),
            wanted_engine: None,
            runs_broken: false,
        });
        self.log(node, || "starts".into());
        if is_repairing {
            self.queue.push(now_us + LOOK_AFTER_US, Event::Repair { node });
        }
        self.take_step(node, step)?;
        self.plan_wake(node);
        Ok(())
    }

    /// The process says what is wrong and ends; its supervisor tries again.
    fn refuse_to_start(&mut self, node: usize, why: &str) {
        self.report.fault("refused-to-start");
        self.log(node, || format!("does not start: {why}"));
        let at_us = self.now_us + self.rng.range(100_000, 500_000);
        self.queue.push(at_us, Event::Restart { node });
    }

    /// An operator looks after a node: a damaged store is replaced, and a node that got its
    /// chain back from peers is started again, so that it signs.
    pub(crate) fn repair(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.process.is_none() && it.disk.is_damaged() {
            let is_on = !self.plan.without.contains("folder-lost");
            if is_on && self.nemesis.chance(500) {
                self.lose_folder(node);
                return;
            }
            let it = &mut self.nodes[node];
            it.disk.replace_store();
            self.report.fault("store-replaced");
            self.log(node, || "its store is replaced by an empty one".into());
        } else if it.process.is_some() && it.disk.is_replaced() {
            if it.disk.is_repaired() {
                self.log(node, || "has its chain again and is started anew".into());
                self.crash_later(node, self.now_us, Kept::Everything);
                self.queue.push(self.now_us + 1_000, Event::Restart { node });
            } else {
                self.queue.push(self.now_us + LOOK_AFTER_US, Event::Repair { node });
            }
        }
    }

    /// The disk with everything on it is replaced: guard, store, and whatever else could say what
    /// the node's key has signed. It follows from now on.
    fn lose_folder(&mut self, node: usize) {
        let (chain, identity) = (self.chain, self.genesis.manifest.identity());
        let it = &mut self.nodes[node];
        it.disk.replace(GuardState::new(chain, it.public, identity));
        self.report.fault("folder-lost");
        self.log(node, || "its folder is lost, guard and store".into());
    }

    fn settings_of(&self, node: usize) -> Settings {
        let it = &self.nodes[node];
        let mut settings = Settings::new(it.authority);
        settings.observers = self.nodes.iter().map(|peer| (peer.public, None)).collect();
        // A key in two places is what some of them are there for.
        settings.minds_traces = !it.byzantine;
        settings.batch_delay_ms = self.tuning.batch_delay_ms;
        settings.batches_in_flight_max = self.tuning.batches_in_flight_max;
        #[cfg(feature = "planted")]
        crate::planted::apply(self.plan.planted, &mut settings);
        settings
    }

    /// Ends a node's process; what was not synced is lost, as far as `kept` says.
    pub(crate) fn crash(&mut self, node: usize, kept: Kept) {
        let it = &mut self.nodes[node];
        if it.process.take().is_none() {
            return;
        }
        it.life += 1;
        it.paused_until_us = 0;
        let lost = it.disk.crash(kept, &mut self.rng);
        self.report.fault("crash");
        if lost.writes > 0 {
            self.report.fault("unsynced-lost");
        }
        if lost.is_torn {
            self.report.fault("torn-write");
        }
        self.checks.crashed(node);
        self.clients.crashed(node);
        let writes = lost.writes;
        self.log(node, || format!("ends, {kept:?} of what is not synced is kept, {writes} writes are lost"));
        self.refresh_links();
    }

    /// Puts an input before the replica, which takes it a little later with others.
    pub(crate) fn give(&mut self, node: usize, input: Input) {
        let delay_us = 10 + self.rng.below(400);
        let it = &mut self.nodes[node];
        let (life, slow) = (it.life, it.slow_factor);
        let Some(process) = it.process.as_mut() else { return };
        process.inbox.push(input);
        if !process.is_scheduled {
            process.is_scheduled = true;
            self.queue.push(self.now_us + delay_us * slow, Event::Process { node, life });
        }
    }

    /// An answer from outside the replica, after a while.
    pub(crate) fn answer(&mut self, node: usize, after_us: (u64, u64), input: Input) {
        let at_us = self.now_us + self.rng.range(after_us.0, after_us.1);
        let life = self.nodes[node].life;
        self.queue.push(at_us, Event::Answer { node, life, input: Box::new(input) });
    }

    pub(crate) fn process(&mut self, node: usize) -> Result<(), Violation> {
        let now_us = self.now_us;
        let it = &mut self.nodes[node];
        let clock = it.clock(now_us);
        let Some(process) = it.process.as_mut() else { return Ok(()) };
        process.is_scheduled = false;
        let inputs = std::mem::take(&mut process.inbox);
        if inputs.is_empty() {
            return Ok(());
        }
        let step = process.replica.step(clock, inputs);
        self.take_step(node, step)?;
        self.plan_wake(node);
        Ok(())
    }

    pub(crate) fn wake(&mut self, node: usize) -> Result<(), Violation> {
        let now_us = self.now_us;
        let it = &mut self.nodes[node];
        let clock = it.clock(now_us);
        let Some(process) = it.process.as_mut() else { return Ok(()) };
        if process.wake_at_us > now_us {
            return Ok(());
        }
        process.wake_at_us = u64::MAX;
        let step = process.replica.step(clock, vec![Input::Wake]);
        let idle = step.durable.is_empty() && step.release.is_empty();
        process.idle_wakes = if idle { process.idle_wakes + 1 } else { 0 };
        if idle && process.idle_wakes > IDLE_WAKES_MAX && process.replica.next_wake_ms() <= clock.mono_ms {
            return Err(Violation::new(
                "no busy loop",
                format!("node {node} wants to be woken at once, again and again"),
            ));
        }
        self.take_step(node, step)?;
        self.plan_wake(node);
        Ok(())
    }

    fn plan_wake(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let (life, now_us) = (it.life, self.now_us);
        let Some(process) = it.process.as_ref() else { return };
        let span_us = process.replica.next_wake_ms().saturating_mul(1000);
        let (started_us, wake_at_us) = (process.started_us, process.wake_at_us);
        let at_us = (started_us + it.true_span_us(span_us)).max(now_us + 1);
        if at_us < wake_at_us {
            if let Some(process) = it.process.as_mut() {
                process.wake_at_us = at_us;
            }
            self.queue.push(at_us, Event::Wake { node, life });
        }
    }

    /// Carries out a step: writes, sync, release.
    fn take_step(&mut self, node: usize, step: Step) -> Result<(), Violation> {
        let Step { durable, release } = step;
        if durable.is_empty() && release.is_empty() {
            return Ok(());
        }
        self.checks.stepped(node, &self.nodes[node], &durable, &release)?;
        self.trace_step(node, &durable, &release);
        if self.crash_is_due(node, Phase::Before, durable.iter().any(|p| !p.is_lazy())) {
            return Ok(());
        }
        let needs_sync = durable.iter().any(|persist| !persist.is_lazy());
        for persist in durable {
            self.note_write(node, &persist);
            if let Persist::Epoch { start, .. } = &persist
                && self.plan.has_bug(Bug::EpochInTwoRecords)
            {
                self.write(node, StoreOp::EpochAlone(start.clone()))?;
            }
            self.write(node, StoreOp::Persist(Box::new(persist)))?;
        }
        if self.plan.has_bug(Bug::ReleasedBeforeSync) {
            self.release(node, release)?;
            let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
            process.writer.steps.push_back((Vec::new(), needs_sync));
            return self.release_what_may_be(node);
        }
        let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
        process.writer.steps.push_back((release, needs_sync));
        self.release_what_may_be(node)
    }

    /// Whether the group that is to be synced next changes what the node stands for.
    fn note_write(&mut self, node: usize, persist: &Persist) {
        let is_change = match persist {
            Persist::Epoch { .. } | Persist::Guard(GuardUpdate::Epoch { .. }) => true,
            Persist::Guard(GuardUpdate::Signed { slot, .. }) => {
                matches!(slot.kind, SlotKind::VOTE | SlotKind::READY | SlotKind::PROPOSE)
            }
            _ => false,
        };
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.writer.is_change |= is_change;
        }
    }

    pub(crate) fn write(&mut self, node: usize, op: StoreOp) -> Result<(), Violation> {
        if let StoreOp::Persist(persist) = &op
            && !matches!(persist.as_ref(), Persist::Guard(_))
        {
            self.log(node, || format!("writes {}", describe(persist)));
        }
        self.nodes[node].disk.write(op).map_err(|e| Violation::new("store", format!("node {node}: {e}")))
    }

    /// Releases steps that wait for nothing, and begins a sync for the first that does.
    fn release_what_may_be(&mut self, node: usize) -> Result<(), Violation> {
        loop {
            let it = &mut self.nodes[node];
            let Some(process) = it.process.as_mut() else { return Ok(()) };
            if process.writer.syncing.is_some() {
                return Ok(());
            }
            match process.writer.steps.front() {
                None => return Ok(()),
                Some((_, true)) => break,
                Some((_, false)) => {
                    let Some((effects, _)) = process.writer.steps.pop_front() else { return Ok(()) };
                    self.release(node, effects)?;
                }
            }
        }
        let it = &mut self.nodes[node];
        let (life, mark) = (it.life, it.disk.mark());
        let sync_us = self.rng.range(it.sync_us.0, it.sync_us.1) * it.slow_factor;
        let at_us = (self.now_us + sync_us).max(it.disk_stalls_until_us);
        let Some(process) = it.process.as_mut() else { return Ok(()) };
        process.writer.syncing = Some((process.writer.steps.len(), mark));
        let is_change = std::mem::take(&mut process.writer.is_change);
        process.writer.group = Group { store: mark.0, guard: mark.1, is_change };
        self.queue.push(at_us, Event::StoreSynced { node, life });
        Ok(())
    }

    /// A write or a sync fails: the process says so and ends, and retries nothing.
    fn fails_to_write(&mut self, node: usize) -> bool {
        let it = &mut self.nodes[node];
        let is_full = it.disk_full_until_us > self.now_us;
        if !is_full && !it.next_write_fails {
            return false;
        }
        it.next_write_fails = false;
        self.report.fault(if is_full { "full-disk" } else { "write-error" });
        if self.plan.has_bug(Bug::WriteErrorIgnored) {
            // What was to be written is gone, and nobody notices.
            self.nodes[node].disk.forget_unsynced();
            return false;
        }
        self.log(node, || "stops: a write did not reach the disk".into());
        self.crash(node, Kept::Prefix);
        let back_us = self.now_us + self.rng.range(50_000, 500_000);
        self.queue.push(back_us, Event::Restart { node });
        true
    }

    pub(crate) fn store_synced(&mut self, node: usize) -> Result<(), Violation> {
        if self.fails_to_write(node) || self.crash_is_due(node, Phase::Torn, true) {
            return Ok(());
        }
        let it = &mut self.nodes[node];
        let Some((_, mark)) = it.process.as_ref().and_then(|process| process.writer.syncing) else {
            return Ok(());
        };
        if !self.plan.has_bug(Bug::StoreUnsynced) {
            it.disk.sync_store(mark).map_err(|e| Violation::new("store", format!("node {node}: {e}")))?;
        }
        if self.crash_is_due(node, Phase::StoreSynced, true) {
            return Ok(());
        }
        let it = &self.nodes[node];
        let sync_us =
            if mark.1 > 0 { self.rng.range(it.sync_us.0, it.sync_us.1) * it.slow_factor } else { 0 };
        self.queue.push(self.now_us + sync_us, Event::GuardSynced { node, life: it.life });
        Ok(())
    }

    pub(crate) fn guard_synced(&mut self, node: usize) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        if !self.plan.has_bug(Bug::GuardUnsynced) {
            it.disk.sync_guard();
        }
        let Some((steps, _)) = it.process.as_mut().and_then(|process| process.writer.syncing.take()) else {
            return Ok(());
        };
        if self.crash_is_due(node, Phase::Synced, true) {
            return Ok(());
        }
        for _ in 0..steps {
            let effects = self.nodes[node].process.as_mut().and_then(|p| p.writer.steps.pop_front());
            let Some((effects, _)) = effects else { break };
            self.release(node, effects)?;
        }
        if self.crash_is_due(node, Phase::Released, true) {
            return Ok(());
        }
        let it = &mut self.nodes[node];
        it.groups.extend(it.process.as_ref().map(|process| process.writer.group));
        self.release_what_may_be(node)
    }

    fn release(&mut self, node: usize, effects: Vec<Effect>) -> Result<(), Violation> {
        for effect in effects {
            self.carry_out(node, effect)?;
        }
        Ok(())
    }

    /// Crashes where the plan, or chance, wants it; whether it did.
    fn crash_is_due(&mut self, node: usize, phase: Phase, is_synced: bool) -> bool {
        let planned = self.plan.crash_point.is_some_and(|point| {
            let here = point.node.unwrap_or(0) == node;
            here && is_synced
                && point.phase == phase
                && point.group == self.nodes[node].groups.len() as u64
                && !self.crash_point_hit
        });
        let by_chance = is_synced && self.crash_in_sync == Some((node, phase));
        if !planned && !by_chance {
            return false;
        }
        self.crash_in_sync = None;
        self.report.fault("crash-in-sync");
        let exactly = self.plan.crash_point.and_then(|point| point.kept).filter(|_| planned);
        let kept = match exactly {
            Some((store, guard)) => Kept::Exactly(store, guard),
            None if phase == Phase::Before => Kept::Nothing,
            None => Kept::Prefix,
        };
        let all = planned && self.plan.crash_point.is_some_and(|point| point.node.is_none());
        let nodes = if all { 0..self.nodes.len() } else { node..node + 1 };
        self.crash_point_hit |= planned;
        for crashed in nodes {
            self.crash(crashed, kept);
            let back_us = self.now_us + self.rng.range(1_000, 300_000);
            self.queue.push(back_us, Event::Restart { node: crashed });
        }
        true
    }
}

fn describe(persist: &Persist) -> String {
    match persist {
        Persist::Guard(update) => format!("guard {update:?}"),
        Persist::Batch(batch) => format!("batch {:?}", batch.digest),
        Persist::Block(record) => format!("block {} {:?}", record.global, record.hash),
        Persist::SideBlock(record) => format!("side block {:?} {:?}", record.block.index, record.hash),
        Persist::PhaseOpened(record) => format!("phase {} opens", record.phase),
        Persist::PhaseResumed { record, .. } => format!("phase {} resumes", record.phase),
        Persist::DropBlocksAbove(global) => format!("drop above {global}"),
        Persist::Record(record) => format!("engine record {}", record.record.id),
        Persist::TruncateRecords(id) => format!("truncate records to {id}"),
        Persist::Final { global, .. } => format!("final {global}"),
        Persist::Epoch { start, .. } => format!("epoch {} at {}", start.manifest.number, start.base),
        Persist::History(record) => format!("proposal {} {:?}", record.id, record.state),
    }
}
