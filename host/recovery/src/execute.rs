//! The state after a block, computed from what a survivor has: as its node would at a start, but
//! in memory. Its store is left as it is.

use std::sync::Arc;

use moult_core::execution::{self, StateAccumulator};
use moult_core::io::EpochStart;
use moult_core::ports::ApplicationInstance;
use moult_module::{ModuleHost, ModuleInfo};
use moult_node::{OWN_KEY, Own};
use moult_sdk::application::Info;
use moult_store::{Store, WorkingState, accumulator_of};
use moult_types::state::StateReader;
use moult_types::{BlockRecord, Digest, EpochNumber, GlobalIndex, ModulePin, World, decode};

use crate::decide::Point;
use crate::survivor::Survivor;

/// For entries that are read again and again.
const MEMORY_BYTES: usize = 64 << 20;

/// A state with its accumulator.
pub(crate) struct StateAt {
    pub(crate) state: Arc<WorkingState>,
    pub(crate) accumulator: StateAccumulator,
}

impl StateAt {
    pub(crate) fn root(&self) -> Digest {
        self.accumulator.root()
    }
}

/// The state of a survivor after the block of a point, checked against its own accumulator.
/// An error is a text: another survivor may do.
pub(crate) fn state_at(survivor: &Survivor, point: &Point, host: &ModuleHost) -> Result<StateAt, String> {
    let mut run = Run::new(&survivor.store, host)?;
    if run.executed > point.global {
        return Err(format!("its state is that after block {}, which is past it", run.executed));
    }
    for global in run.executed.0 + 1..=point.global.0 {
        run.block(GlobalIndex(global))?;
    }
    if run.hash != point.hash {
        return Err(format!("its block {} is another one", point.global));
    }
    // Where the block is the last one of its epoch, and the next has begun.
    run.enter(point.epoch.clone())?;
    let sum = accumulator_of(run.state.as_ref());
    if run.state.has_failed() || sum != run.accumulator {
        return Err("its state is not what its accumulator says: it is damaged".into());
    }
    Ok(StateAt { state: run.state, accumulator: run.accumulator })
}

struct Run<'a> {
    store: &'a Store,
    host: &'a ModuleHost,
    state: Arc<WorkingState>,
    accumulator: StateAccumulator,
    executed: GlobalIndex,
    /// Of the block `executed`.
    hash: Digest,
    upgraded: Option<u64>,
    epoch: Option<(EpochStart, Arc<dyn ApplicationInstance>)>,
}

impl<'a> Run<'a> {
    fn new(store: &'a Store, host: &'a ModuleHost) -> Result<Self, String> {
        let applied = store.state().applied().map_err(|e| e.to_string())?;
        let accumulator = if applied.accumulator.is_empty() {
            StateAccumulator::default()
        } else {
            StateAccumulator::from_bytes(&applied.accumulator).ok_or("its accumulator is damaged")?
        };
        let state = WorkingState::new(store.state(), MEMORY_BYTES).map_err(|e| e.to_string())?;
        let own: Option<Own> = match StateReader::get(&state, OWN_KEY) {
            Some(bytes) => Some(decode(&bytes).map_err(|e| e.to_string())?),
            None => None,
        };
        let (upgraded, hash) = own.map_or((None, Digest::ZERO), |(number, _, hash)| (Some(number), hash));
        let (executed, state) = (applied.global, Arc::new(state));
        Ok(Self { store, host, state, accumulator, executed, hash, upgraded, epoch: None })
    }

    fn block(&mut self, global: GlobalIndex) -> Result<(), String> {
        let record = self.store.block(global).map_err(|e| e.to_string())?;
        let record: BlockRecord = record.ok_or_else(|| format!("it does not hold block {global}"))?;
        let mut batches = Vec::with_capacity(record.block.batches.len());
        for digest in &record.block.batches {
            let held = self.store.held_batch(*digest).map_err(|e| e.to_string())?;
            batches.push(Arc::new(held.ok_or_else(|| format!("it does not hold all of block {global}"))?));
        }
        self.enter(self.start_of(record.epoch)?)?;
        let Some((start, application)) = &self.epoch else { return Err("no application runs".into()) };
        let pin = application_of(start)?;
        let base: Arc<dyn StateReader> = self.state.clone();
        let done = execution::execute_block(
            application.as_ref(),
            &pin.config,
            &start.manifest.limits,
            &base,
            &self.accumulator,
            &record,
            &batches,
        )
        .map_err(|e| e.to_string())?;
        self.state.take_up(global, done.writes);
        self.accumulator = done.accumulator;
        (self.executed, self.hash) = (global, record.hash);
        Ok(())
    }

    fn start_of(&self, number: EpochNumber) -> Result<EpochStart, String> {
        let start = self.store.epoch(number).map_err(|e| e.to_string())?;
        start.ok_or_else(|| format!("it does not hold epoch {number}"))
    }

    /// Lets the epoch's application take the state over, where it has not yet.
    fn enter(&mut self, start: EpochStart) -> Result<(), String> {
        if self.epoch.as_ref().is_some_and(|(present, _)| present.manifest.number == start.manifest.number) {
            return Ok(());
        }
        let number = start.manifest.number.0;
        let pin = application_of(&start)?.clone();
        let (application, _) = self.load(&pin)?;
        if self.upgraded.is_none_or(|upgraded| upgraded < number) {
            let former = match number.checked_sub(1) {
                Some(former) => Some(application_of(&self.start_of(EpochNumber(former))?)?.clone()),
                None => None,
            };
            if former.as_ref() != Some(&pin) {
                let from = former.map(|former| self.load(&former)).transpose()?.map(|(_, info)| info);
                let base: Arc<dyn StateReader> = self.state.clone();
                let done = execution::upgrade(
                    application.as_ref(),
                    &pin.config,
                    &base,
                    &self.accumulator,
                    from.as_ref(),
                )
                .map_err(|fault| format!("the application's upgrade failed: {fault}"))?
                .map_err(|refusal| format!("the application refuses the state: {refusal}"))?;
                self.state.take_up(self.executed, done.writes);
                self.accumulator = done.accumulator;
            }
            self.upgraded = Some(number);
        }
        self.epoch = Some((start, application));
        Ok(())
    }

    fn load(&self, pin: &ModulePin) -> Result<(Arc<dyn ApplicationInstance>, Info), String> {
        let bytes = self.store.modules().get(pin.hash).map_err(|e| e.to_string())?;
        let bytes = bytes.ok_or_else(|| format!("it does not hold the application {}", pin.hash))?;
        let prepared =
            self.host.prepare(bytes.into(), pin.hash, World::Application).map_err(|e| e.to_string())?;
        let ModuleInfo::Application(info) = prepared.info().clone() else {
            return Err(format!("module {} is no application", pin.hash));
        };
        Ok((prepared.application().map_err(|e| e.to_string())?, info))
    }
}

fn application_of(start: &EpochStart) -> Result<&ModulePin, String> {
    start.manifest.pin(World::Application).ok_or_else(|| "the epoch pins no application".into())
}
