//! The thread that executes final blocks: in order, each exactly once, also after a crash.
//!
//! Clients are told when their block is executed; its effects reach the disk later, together
//! with those of others and with the position, in one batch of the store. On start, the blocks
//! between that position and the last final one are executed first; the position rules where
//! this begins and is never guessed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use moult_core::execution::{self, Receipt, StateAccumulator};
use moult_core::io::EpochStart;
use moult_core::ports::ApplicationInstance;
use moult_sdk::application::Info;
use moult_store::WorkingState;
use moult_types::state::StateReader;
use moult_types::{
    BlockRecord, Digest, EpochNumber, GlobalIndex, HeldBatch, ModulePin, TransactionId, World, decode, encode,
};

use crate::shared::Shared;

/// What the executor is given, in order.
pub(crate) enum Work {
    /// A final block.
    Block(Arc<BlockRecord>, Vec<Arc<HeldBatch>>),
    /// An epoch has begun.
    Epoch(Box<EpochStart>),
    /// Reads that may be served once this block is applied.
    ReadAt(Vec<u64>, GlobalIndex),
}

/// Key of the executor's own record in the replicated map; not part of the state root.
pub const OWN_KEY: &[u8] = &[3];

/// The record: number of the epoch up to which upgrades are in the state, the state root before
/// any upgrade that followed the last block, that block's hash.
pub type Own = (u64, Digest, Digest);

/// Memory for entries of the state that were used lately.
pub(crate) const STATE_MEMORY_BYTES: usize = 64 << 20;
/// Clients are told after so many receipts at the latest, also in the midst of many blocks.
const RECEIPTS_MAX: usize = 4096;
/// Effects of executed blocks are written to disk after so many bytes: enough that most of
/// what changes again and again is written once, little enough to be done in milliseconds,
const UNWRITTEN_BYTES_MAX: usize = 2 << 20;
/// or when there was nothing to execute for so long.
const IDLE: Duration = Duration::from_millis(200);

/// The application that runs, for queries.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) instance: Arc<dyn ApplicationInstance>,
    pub(crate) config: Vec<u8>,
    pub(crate) info: Info,
    /// Whether it is a key-value store (interface `kv/1`).
    pub(crate) is_kv: bool,
}

pub(crate) struct Executor {
    shared: Arc<Shared>,
    state: Arc<WorkingState>,
    runtime: tokio::runtime::Handle,
    /// The last block that was executed.
    executed: GlobalIndex,
    accumulator: StateAccumulator,
    /// State root after `executed`, before any upgrade that followed it.
    root: Digest,
    /// Hash of the block `executed`; zero before the first.
    hash: Digest,
    /// Whom to tell what was executed.
    receipts: Vec<(TransactionId, Receipt)>,
    /// Blocks that nobody was told of, with the root after each.
    roots: Vec<(GlobalIndex, Digest)>,
    /// Something executed is not on disk.
    is_unwritten: bool,
    /// The epoch whose application has taken the state over; none before genesis.
    epoch: Option<(EpochStart, Running)>,
    /// Number of the epoch up to which upgrades are in the state.
    upgraded: Option<u64>,
    waiting_reads: BTreeMap<GlobalIndex, Vec<u64>>,
}

impl Executor {
    /// Takes up the position that is in the state.
    pub(crate) fn new(shared: Arc<Shared>, runtime: tokio::runtime::Handle) -> Result<Self, String> {
        let applied = shared.store.state().applied().map_err(|e| e.to_string())?;
        let accumulator = if applied.accumulator.is_empty() {
            StateAccumulator::default()
        } else {
            StateAccumulator::from_bytes(&applied.accumulator).ok_or("the state's accumulator is damaged")?
        };
        let state = shared.state.clone();
        let own = StateReader::get(state.as_ref(), OWN_KEY);
        let (upgraded, root, hash) = match own {
            Some(bytes) => {
                let (number, root, hash): Own = decode(&bytes).map_err(|e| e.to_string())?;
                (Some(number), root, hash)
            }
            None => (None, StateAccumulator::default().root(), Digest::ZERO),
        };
        Ok(Self {
            shared,
            state,
            runtime,
            executed: applied.global,
            accumulator,
            root,
            hash,
            receipts: Vec::new(),
            roots: Vec::new(),
            is_unwritten: false,
            epoch: None,
            upgraded,
            waiting_reads: BTreeMap::new(),
        })
    }

    /// Executes everything that is final in the store and not in the state.
    pub(crate) fn replay(&mut self) -> Result<u64, String> {
        let store = self.shared.store.clone();
        let last = store.last_final().map_err(|e| e.to_string())?;
        if self.executed > last {
            // In a graduated epoch; or the chain's tail was lost: then peers have the blocks, and
            // they are skipped when they come (they were executed).
            tracing::info!(target: "executor", executed = self.executed.0, last_final = last.0, "the state is ahead of the last final block");
        }
        let first = self.executed;
        while self.executed < last {
            let blocks = store.final_blocks(self.executed.next(), 1 << 20).map_err(|e| e.to_string())?;
            if blocks.is_empty() {
                return Err(format!("block {} is final but not in the store", self.executed.next()));
            }
            for record in blocks {
                let mut batches = Vec::with_capacity(record.block.batches.len());
                for digest in &record.block.batches {
                    let bytes = store.batch(*digest).map_err(|e| e.to_string())?;
                    let bytes = bytes
                        .ok_or_else(|| format!("batch {digest} of block {} is missing", record.global))?;
                    batches.push(Arc::new(HeldBatch::new(decode(&bytes).map_err(|e| e.to_string())?)));
                }
                self.block(&record, &batches)?;
            }
        }
        self.write()?;
        Ok(self.executed.0 - first.0)
    }

    /// Runs until the queue is closed. An error is fatal for the node: it is returned and
    /// nothing later is executed.
    pub(crate) fn run(mut self, work: &Receiver<Work>) -> Result<(), String> {
        if self.roots.is_empty() {
            self.roots.push((self.executed, self.root));
        }
        self.tell()?;
        loop {
            let wait = if self.is_unwritten { IDLE } else { Duration::MAX };
            let mut next = match work.recv_timeout(wait) {
                Ok(item) => Some(item),
                Err(end) => {
                    self.write()?;
                    if end == RecvTimeoutError::Disconnected {
                        return Ok(());
                    }
                    continue;
                }
            };
            // What has queued up is told at once.
            while let Some(item) = next {
                match item {
                    Work::Block(record, batches) => self.block(&record, &batches)?,
                    Work::Epoch(start) => self.enter(*start)?,
                    Work::ReadAt(ids, global) => self.waiting_reads.entry(global).or_default().extend(ids),
                }
                next = work.try_recv().ok();
            }
            self.tell()?;
            self.serve_reads();
            if self.state.pending_bytes() >= UNWRITTEN_BYTES_MAX {
                self.write()?;
            }
        }
    }

    /// Clients learn of what was executed; what they are told is what a query finds.
    fn tell(&mut self) -> Result<(), String> {
        if self.roots.is_empty() {
            return Ok(());
        }
        if self.state.has_failed() {
            return Err("the state cannot be read".into());
        }
        self.shared.finish_writes(std::mem::take(&mut self.receipts));
        self.shared.note_executed(std::mem::take(&mut self.roots));
        Ok(())
    }

    /// Writes what was executed to disk.
    fn write(&mut self) -> Result<(), String> {
        if !self.is_unwritten {
            return Ok(());
        }
        self.state
            .flush(&self.accumulator.to_bytes())
            .map_err(|e| format!("the state cannot be written: {e}"))?;
        self.is_unwritten = false;
        Ok(())
    }

    fn serve_reads(&mut self) {
        let later = self.waiting_reads.split_off(&self.executed.next());
        for id in std::mem::replace(&mut self.waiting_reads, later).into_values().flatten() {
            self.shared.finish_read(id);
        }
    }

    fn block(&mut self, record: &BlockRecord, batches: &[Arc<HeldBatch>]) -> Result<(), String> {
        if record.global == self.executed && record.hash != self.hash {
            // On the engine's word, in a graduated epoch, before the node started.
            return Err(format!("block {} was executed with other content: the chain forked", record.global));
        }
        if record.global <= self.executed {
            return Ok(());
        }
        if record.global != self.executed.next() {
            return Err(format!(
                "block {} after block {}: a gap in the executed chain",
                record.global, self.executed
            ));
        }
        if self.epoch.as_ref().is_none_or(|(start, _)| start.manifest.number != record.epoch) {
            let start = self.start_of(record.epoch)?;
            self.enter(start)?;
        }
        let Some((start, running)) = &self.epoch else { return Err("no application runs".into()) };
        let base: Arc<dyn StateReader> = self.state.clone();
        let done = execution::execute_block(
            running.instance.as_ref(),
            &running.config,
            &start.manifest.limits,
            &base,
            &self.accumulator,
            record,
            batches,
        )
        .map_err(|e| e.to_string())?;
        let number = start.manifest.number.0;
        let mut writes = done.writes;
        self.root = done.accumulator.root();
        self.hash = record.hash;
        writes.insert(OWN_KEY.to_vec(), Some(encode::<Own>(&(number, self.root, self.hash))));
        self.state.take_up(record.global, writes);
        self.executed = record.global;
        self.accumulator = done.accumulator;
        self.is_unwritten = true;
        self.shared.metrics.executed(record, done.receipts.len());
        self.receipts.extend(done.receipts);
        self.roots.push((self.executed, self.root));
        if self.receipts.len() >= RECEIPTS_MAX {
            self.tell()?;
        }
        if self.state.pending_bytes() >= UNWRITTEN_BYTES_MAX {
            self.write()?;
        }
        Ok(())
    }

    fn start_of(&self, number: EpochNumber) -> Result<EpochStart, String> {
        let start = self.shared.store.epoch(number).map_err(|e| e.to_string())?;
        start.ok_or_else(|| format!("epoch {number} is not in the store"))
    }

    /// Makes the epoch's application the one that runs; upgrades the state once where the
    /// pin changed.
    fn enter(&mut self, start: EpochStart) -> Result<(), String> {
        self.tell()?;
        let number = start.manifest.number.0;
        let pin = start.manifest.pin(World::Application).cloned().ok_or("the epoch pins no application")?;
        let running = self.load(&pin)?;
        if self.upgraded.is_none_or(|upgraded| upgraded < number) {
            let former = match number.checked_sub(1) {
                Some(former) => Some(self.start_of(EpochNumber(former))?),
                None => None,
            };
            let former_pin = former.as_ref().and_then(|f| f.manifest.pin(World::Application)).cloned();
            let mut writes = BTreeMap::new();
            if former_pin.as_ref() != Some(&pin) {
                let from = former_pin.map(|former| self.load(&former)).transpose()?.map(|former| former.info);
                let base: Arc<dyn StateReader> = self.state.clone();
                let done = execution::upgrade(
                    running.instance.as_ref(),
                    &running.config,
                    &base,
                    &self.accumulator,
                    from.as_ref(),
                )
                .map_err(|fault| format!("the application's upgrade failed: {fault}"))?
                .map_err(|refusal| format!("the application refuses the state: {refusal}"))?;
                writes = done.writes;
                self.accumulator = done.accumulator;
                tracing::info!(target: "executor", epoch = number, application = running.info.name, version = running.info.version, "the application has taken the state over");
            }
            writes.insert(OWN_KEY.to_vec(), Some(encode::<Own>(&(number, self.root, self.hash))));
            self.state.take_up(self.executed, writes);
            self.is_unwritten = true;
            self.write()?;
            self.upgraded = Some(number);
        }
        self.shared.view_mut(|view| {
            view.application =
                (format!("{} {}", running.info.name, running.info.version), running.info.interfaces.clone());
        });
        self.shared.set_running(running.clone());
        self.epoch = Some((start, running));
        Ok(())
    }

    /// The application of a pin; waits for a module that is not here, and says so.
    fn load(&self, pin: &ModulePin) -> Result<Running, String> {
        loop {
            match self.runtime.block_on(self.shared.modules.get(pin.hash, World::Application)) {
                Ok(prepared) => {
                    let moult_module::ModuleInfo::Application(info) = prepared.info().clone() else {
                        return Err(format!("module {} is no application", pin.hash));
                    };
                    let instance = prepared.application().map_err(|e| e.to_string())?;
                    let is_kv = info.interfaces.iter().any(|interface| interface == "kv/1");
                    return Ok(Running { instance, config: pin.config.clone(), info, is_kv });
                }
                Err(problem) if self.shared.is_stopping() => return Err(problem),
                Err(problem) => {
                    tracing::error!(target: "executor", module = %pin.hash, problem, "the pinned application cannot be loaded; trying again");
                    self.runtime.block_on(tokio::time::sleep(Duration::from_secs(1)));
                }
            }
        }
    }
}
