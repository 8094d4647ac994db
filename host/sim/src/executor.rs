//! The executor: applies final blocks one by one, and hands the state to a new application.

use std::sync::Arc;

use moult_core::execution::{self, Executed};
use moult_core::io::{EpochStart, Input};
use moult_types::state::StateReader;
use moult_types::{BlockRecord, GlobalIndex, HeldBatch, World as Role};

use crate::disk::StoreOp;
use crate::planted::Bug;
use crate::queue::Event;
use crate::report::Violation;
use crate::world::World;

impl World {
    /// An epoch begins here, or the process starts within one.
    pub(crate) fn take_up_application(&mut self, node: usize, start: &EpochStart) -> Result<(), Violation> {
        let Some(pin) = start.manifest.pin(Role::Application).cloned() else { return Ok(()) };
        let wrong = |what: String| Violation::new("application", format!("node {node}: {what}"));
        let new = self.modules.application(pin.hash).ok_or_else(|| wrong("it does not exist".into()))?;
        let image = &self.nodes[node].disk.now;
        let (installed, number) = (image.installed, start.manifest.number.0);
        if installed.is_none_or(|(epoch, _)| epoch < number) {
            if image.applied != start.base {
                return Err(wrong(format!(
                    "block {} is applied at the start of epoch {number}",
                    image.applied
                )));
            }
            let from = match installed {
                Some((_, hash)) => self.modules.application(hash).and_then(|former| former.describe().ok()),
                None => None,
            };
            let same = installed.is_some_and(|(_, hash)| hash == pin.hash);
            let (writes, accumulator) = if same {
                (Default::default(), image.accumulator.clone())
            } else {
                let base: Arc<dyn StateReader> = image.state.clone();
                let upgraded =
                    execution::upgrade(&*new, &pin.config, &base, &image.accumulator, from.as_ref());
                let Executed { writes, accumulator, .. } =
                    upgraded.map_err(|e| wrong(e.to_string()))?.map_err(wrong)?;
                (writes, Arc::new(accumulator))
            };
            let writes = Arc::new(writes);
            self.write(node, StoreOp::Installed { epoch: number, module: pin.hash, writes, accumulator })?;
        }
        let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
        let executor = &mut process.executor;
        executor.application = Some(new);
        executor.config.clone_from(&pin.config);
        executor.limits = start.manifest.limits.clone();
        if !executor.is_started {
            executor.is_started = true;
            self.replay(node);
        }
        Ok(())
    }

    /// At a start: blocks that are final and not applied yet come first.
    fn replay(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let image = &it.disk.now;
        let (applied, root) = (image.applied, image.applied_root);
        let Some(process) = it.process.as_mut() else { return };
        let from = if self.plan.has_bug(Bug::ReplayFromApplied) { applied } else { applied.next() };
        let waiting = std::mem::take(&mut process.executor.queue);
        let until = process.executor.replay_to.next().max(from);
        for (_, record) in image.blocks.range(from..until) {
            let batches =
                record.block.batches.iter().filter_map(|digest| image.batches.get(digest).cloned()).collect();
            process.executor.queue.push_back((record.clone(), batches));
        }
        process.executor.queue.extend(waiting);
        if let Some(state_root) = root {
            self.give(node, Input::Executed { global: applied, state_root });
        }
        self.work(node);
    }

    pub(crate) fn execute(&mut self, node: usize, record: Arc<BlockRecord>, batches: Vec<Arc<HeldBatch>>) {
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.executor.queue.push_back((record, batches));
        }
        self.work(node);
    }

    fn work(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let (life, slow) = (it.life, it.slow_factor);
        let Some(process) = it.process.as_mut() else { return };
        let executor = &mut process.executor;
        if executor.is_started && !executor.is_busy && !executor.queue.is_empty() {
            executor.is_busy = true;
            let at_us = self.now_us + self.rng.range(50, 2_000) * slow;
            self.queue.push(at_us, Event::Executed { node, life });
        }
    }

    pub(crate) fn executed(&mut self, node: usize) -> Result<(), Violation> {
        let it = &mut self.nodes[node];
        let Some(process) = it.process.as_mut() else { return Ok(()) };
        process.executor.is_busy = false;
        let Some((record, batches)) = process.executor.queue.pop_front() else { return Ok(()) };
        if self.plan.has_bug(Bug::BlockSkipped) && self.rng.chance(5) {
            self.work(node);
            return Ok(());
        }
        let it = &mut self.nodes[node];
        let Some(process) = it.process.as_mut() else { return Ok(()) };
        if record.global <= it.disk.now.applied && !self.plan.has_bug(Bug::ReplayFromApplied) {
            // On the engine's word, before the process started.
            self.work(node);
            return Ok(());
        }
        let executor = &process.executor;
        let Some(application) = executor.application.clone() else { return Ok(()) };
        let image = &it.disk.now;
        let base: Arc<dyn StateReader> = image.state.clone();
        let done = execution::execute_block(
            &*application,
            &executor.config,
            &executor.limits,
            &base,
            &image.accumulator,
            &record,
            &batches,
        );
        drop(base);
        let Executed { mut writes, receipts, mut accumulator } =
            done.map_err(|e| Violation::new("execution", format!("node {node}: {e}")))?;
        if self.plan.has_bug(Bug::StateOfNode) || it.is_spoilt {
            let (key, value) = (vec![execution::APPLICATION_PREFIX, 0xff], vec![node as u8]);
            accumulator.replace(&key, image.state.get(&key).map(Vec::as_slice), Some(&value));
            writes.insert(key, Some(value));
        }
        let (global, state_root) = (record.global, accumulator.root());
        if global > self.nodes[node].disk.now.last_final {
            self.report.note("executed on the engine's word");
        }
        self.log(node, || format!("executed {global}"));
        let op = StoreOp::Applied { global, writes: Arc::new(writes), accumulator: Arc::new(accumulator) };
        self.write(node, op)?;
        self.checks.executed(node, &self.nodes[node], &record, &batches, &receipts, state_root)?;
        let authority = self.nodes[node].authority;
        self.clients.executed(authority, node, &receipts, self.now_us, &mut self.report)?;
        self.give(node, Input::Executed { global, state_root });
        self.serve_reads(node);
        self.work(node);
        Ok(())
    }

    /// The replica says from which block on a read is current.
    pub(crate) fn read_at(
        &mut self,
        node: usize,
        ids: Vec<u64>,
        global: GlobalIndex,
    ) -> Result<(), Violation> {
        for id in &ids {
            self.checks.reads.placed(node, *id, global)?;
        }
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.reads.extend(ids.into_iter().map(|id| (global, id)));
        }
        self.serve_reads(node);
        Ok(())
    }

    fn serve_reads(&mut self, node: usize) {
        let is_early = self.plan.has_bug(Bug::ReadsServedEarly);
        let it = &mut self.nodes[node];
        let image = &it.disk.now;
        let applied = if is_early { GlobalIndex(u64::MAX) } else { image.applied };
        let Some(process) = it.process.as_mut() else { return };
        let before = process.reads.len();
        process.reads.retain(|(global, id)| {
            let served = *global <= applied;
            if served {
                self.checks.reads.served(*id);
                self.clients.read_served(*id, &image.state, self.now_us);
            }
            !served
        });
        self.report.reads += (before - process.reads.len()) as u64;
    }
}
