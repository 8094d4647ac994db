//! A node's disk: a store with one journal, and the guard's file beside it.
//!
//! Each exists twice: as the running process sees it, and as a crash would leave it. The
//! store is synced before the guard is, so the guard never knows of what the store can lose.
//! (A real node writes both with one sync. Here a crash may come between the two, as it can
//! there when the guard's log begins anew: every crash of a real node is one of these.)
//!
//! What is damaged is known by its seal: it is not read, whoever asks. A node that needs it to
//! start refuses, by its name; an operator then replaces the store, and the guard, which saw
//! more than that store holds, signs nothing until peers have given it back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moult_core::Recovery;
use moult_core::execution::StateAccumulator;
use moult_core::governance::Ledger;
use moult_core::guard::GuardState;
use moult_core::io::{EngineRecord, EpochStart, GuardUpdate, Persist, PhaseRecord, hash_on_disk};
use moult_types::phase::{FinalityProof, Phase};
use moult_types::{
    BlockRecord, ChainId, CommitIndex, Digest, EpochNumber, Finality, Genesis, GlobalIndex, HeldBatch,
    ModuleHash,
};

use crate::rng::Rng;

/// What is written into the store.
#[derive(Clone)]
pub(crate) enum StoreOp {
    /// By the replica.
    Persist(Box<Persist>),
    /// The first of two halves of a switch: a bug to plant.
    EpochAlone(Box<EpochStart>),
    /// By the executor, after a block.
    Applied { global: GlobalIndex, writes: Arc<Writes>, accumulator: Arc<StateAccumulator> },
    /// By the executor, at the start of an epoch.
    Installed { epoch: u64, module: ModuleHash, writes: Arc<Writes>, accumulator: Arc<StateAccumulator> },
}

type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The content of a store.
#[derive(Clone, Default)]
pub(crate) struct Image {
    pub(crate) epochs: Vec<EpochStart>,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) last_final: GlobalIndex,
    pub(crate) blocks: BTreeMap<GlobalIndex, Arc<BlockRecord>>,
    pub(crate) proofs: BTreeMap<GlobalIndex, FinalityProof>,
    /// By number of the epoch and phase.
    pub(crate) phases: BTreeMap<(EpochNumber, Phase), PhaseRecord>,
    /// Blocks of the present phase up to its resume block.
    side: BTreeMap<CommitIndex, Arc<BlockRecord>>,
    pub(crate) batches: BTreeMap<Digest, Arc<HeldBatch>>,
    pub(crate) pending: BTreeSet<Digest>,
    pub(crate) records: BTreeMap<u64, EngineRecord>,
    /// The replicated map, and the block that it is the state of.
    pub(crate) state: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
    pub(crate) accumulator: Arc<StateAccumulator>,
    pub(crate) applied: GlobalIndex,
    /// State root after block `applied`, before any application that was installed since.
    pub(crate) applied_root: Option<Digest>,
    /// The application that last took over the state, and in which epoch that was looked at.
    pub(crate) installed: Option<(u64, ModuleHash)>,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    Nothing,
    Prefix,
    Everything,
    /// So many writes to the store, and so many updates of the guard.
    Exactly(usize, usize),
}

/// What a crash did to what was not synced.
pub(crate) struct Lost {
    pub(crate) writes: usize,
    /// A part of a group is on disk and a part is not.
    pub(crate) is_torn: bool,
}

/// A record that can be damaged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Record {
    Block(GlobalIndex),
    Batch(Digest),
}

/// Why a process cannot start from a disk.
pub(crate) enum LoadError {
    /// A record is damaged: the operator is told which.
    Damaged(Record),
    /// Something is not there that a crash cannot take.
    Lost(String),
}

/// The store and the guard's file of one node.
pub(crate) struct Disk {
    /// As the process sees it.
    pub(crate) now: Image,
    synced: Image,
    unsynced: Vec<StoreOp>,
    guard: GuardState,
    /// Written, not synced.
    guard_written: Vec<GuardUpdate>,
    /// Not even written: waits for the next sync of the store.
    guard_waiting: Vec<GuardUpdate>,
    /// Records whose bits have changed on the medium.
    rotten: BTreeSet<Record>,
    /// The store is a new one, and may hold less than the guard saw.
    is_replaced: bool,
    /// All of it is new: nobody knows what was signed.
    is_lost: bool,
}

impl Disk {
    pub(crate) fn new(guard: GuardState) -> Self {
        Self {
            now: Image::default(),
            synced: Image::default(),
            unsynced: Vec::new(),
            guard,
            guard_written: Vec::new(),
            guard_waiting: Vec::new(),
            rotten: BTreeSet::new(),
            is_replaced: false,
            is_lost: false,
        }
    }

    /// A record's bits change, where they lie.
    pub(crate) fn rot(&mut self, record: Record) {
        self.rotten.insert(record);
    }

    /// A record that may be damaged: a final block or its batch, a few from the end.
    pub(crate) fn pick_record(&self, rng: &mut Rng) -> Option<Record> {
        let blocks: Vec<_> = self.synced.blocks.values().rev().take(40).collect();
        let record = *blocks.get(rng.below(blocks.len() as u64) as usize)?;
        let batch = rng.pick(&record.block.batches).filter(|_| rng.chance(500));
        Some(batch.map_or(Record::Block(record.global), Record::Batch))
    }

    /// The operator puts a new store in the place of the damaged one. The guard stays.
    pub(crate) fn replace_store(&mut self) {
        (self.now, self.synced) = (Image::default(), Image::default());
        self.unsynced.clear();
        self.guard_waiting.clear();
        self.rotten.clear();
        self.is_replaced = true;
    }

    /// The operator puts a new disk in the place of this one: guard and store are gone.
    pub(crate) fn replace(&mut self, guard: GuardState) {
        *self = Self { is_lost: true, ..Self::new(guard) };
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether a start would find a damaged record.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged().is_some()
    }

    /// Everything that was to be synced is gone: a bug to plant.
    pub(crate) fn forget_unsynced(&mut self) {
        self.unsynced.clear();
        self.guard_waiting.clear();
        self.guard_written.clear();
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced
    }

    /// Whether all that the guard saw final is there again.
    pub(crate) fn is_repaired(&self) -> bool {
        let epoch = self.now.epochs.last().map_or(EpochNumber(0), |start| start.manifest.number);
        let phase = self.now.phases_of(epoch).last().map_or(0, |record| record.phase);
        self.guard.final_mark.0 <= self.now.last_final
            && (self.guard.epoch, self.guard.phase) <= (epoch.0, phase)
    }

    #[cfg(feature = "planted")]
    pub(crate) fn guard(&self) -> &GuardState {
        &self.guard
    }

    /// Puts another guard's file in the place of this one.
    #[cfg(feature = "planted")]
    pub(crate) fn put_guard(&mut self, guard: GuardState) {
        self.guard = guard;
    }

    /// A batch, unless it is damaged.
    pub(crate) fn batch(&self, digest: &Digest) -> Option<&Arc<HeldBatch>> {
        self.now.batches.get(digest).filter(|_| !self.rotten.contains(&Record::Batch(*digest)))
    }

    /// A block, unless it is damaged.
    pub(crate) fn block(&self, global: GlobalIndex) -> Option<&Arc<BlockRecord>> {
        self.now.blocks.get(&global).filter(|_| !self.rotten.contains(&Record::Block(global)))
    }

    /// Takes up writes; they are durable after the next sync that begins from now on.
    pub(crate) fn write(&mut self, op: StoreOp) -> Result<(), String> {
        if let StoreOp::Persist(persist) = &op
            && let Persist::Guard(update) = persist.as_ref()
        {
            self.guard_waiting.push(update.clone());
            return Ok(());
        }
        self.now.apply(&op)?;
        self.unsynced.push(op);
        Ok(())
    }

    /// How far a sync that begins now will reach: (writes to the store, updates of the guard).
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.unsynced.len(), self.guard_waiting.len())
    }

    /// The store is synced up to a mark; the guard's updates up to it are written.
    pub(crate) fn sync_store(&mut self, mark: (usize, usize)) -> Result<(), String> {
        for op in self.unsynced.drain(..mark.0.min(self.unsynced.len())) {
            self.synced.apply(&op)?;
        }
        let waiting = self.guard_waiting.len();
        self.guard_written.extend(self.guard_waiting.drain(..mark.1.min(waiting)));
        Ok(())
    }

    /// The guard's file is synced.
    pub(crate) fn sync_guard(&mut self) {
        for update in self.guard_written.drain(..) {
            self.guard.apply(&update);
        }
    }

    /// The process is gone.
    pub(crate) fn crash(&mut self, kept: Kept, rng: &mut Rng) -> Lost {
        let (unsynced, written) = (self.unsynced.len(), self.guard_written.len());
        let keep = |length: usize, exactly: usize, rng: &mut Rng| match kept {
            Kept::Nothing => 0,
            Kept::Prefix => rng.below(length as u64 + 1) as usize,
            Kept::Everything => length,
            Kept::Exactly(..) => exactly.min(length),
        };
        let (of_store, of_guard) = if let Kept::Exactly(s, g) = kept { (s, g) } else { (0, 0) };
        let store = keep(unsynced, of_store, rng);
        // The guard's file is written only behind a synced store.
        let guard = keep(written, of_guard, rng);
        let writes = unsynced - store + written - guard + self.guard_waiting.len();
        for op in self.unsynced.drain(..).take(store) {
            // Was applied to `now` before without an error.
            let _ = self.synced.apply(&op);
        }
        for update in self.guard_written.drain(..).take(guard) {
            self.guard.apply(&update);
        }
        self.guard_waiting.clear();
        self.now = self.synced.clone();
        Lost { writes, is_torn: (0 < store && store < unsynced) || (0 < guard && guard < written) }
    }

    /// The guard as a crash would leave it.
    pub(crate) fn durable_guard(&self) -> &GuardState {
        &self.guard
    }

    /// Batches of final blocks, oldest first.
    pub(crate) fn final_batches(&self) -> Vec<Digest> {
        let blocks = self.now.blocks.range(..=self.now.last_final);
        blocks.flat_map(|(_, record)| record.block.batches.iter().copied()).collect()
    }

    /// What a process that starts finds.
    pub(crate) fn load(&mut self, genesis: &Genesis, chain: ChainId) -> Result<Recovery, LoadError> {
        let guard = self.guard.clone();
        let (mark, have) = (guard.final_mark.0, self.now.last_final);
        let shorter = format!("the guard saw block {mark} final, the store ends at {have}");
        if mark > have && !self.is_replaced {
            return Err(LoadError::Lost(shorter));
        }
        let epoch = self.now.epochs.last().map_or(genesis.manifest.number, |start| start.manifest.number);
        let phase = self.now.phases_of(epoch).last().map_or(0, |record| record.phase);
        self.is_replaced &= mark > have || (guard.epoch, guard.phase) > (epoch.0, phase);
        if let Some(damaged) = self.damaged() {
            return Err(LoadError::Damaged(damaged));
        }
        let image = &self.now;
        let first = EpochStart {
            manifest: genesis.manifest.clone(),
            base: GlobalIndex(0),
            state_root: None,
            time_ms: genesis.time_ms,
            switched_at_ms: genesis.time_ms,
        };
        let epoch = image.epochs.last().cloned().unwrap_or(first);
        let former = image.epochs.iter().rev().nth(1).map(|start| start.manifest.clone());
        let tail: Vec<_> =
            image.blocks.range(image.last_final.next()..).map(|(_, record)| record.clone()).collect();
        let phases = image.phases_of(epoch.manifest.number);
        let identity = phases.last().map_or_else(|| epoch.manifest.identity(), |record| record.identity);
        let is_resuming = phases.last().is_some_and(|record| record.resumption.is_none());
        let side: Vec<_> = image
            .side
            .values()
            .filter(|record| is_resuming && record.identity == identity)
            .cloned()
            .collect();
        let block = |record: Option<&Arc<BlockRecord>>| {
            Ok::<_, LoadError>(record.map(|record| record.as_ref().clone()))
        };
        let prepared_on_chain = hash_on_disk(
            &epoch,
            &phases,
            guard.prepared.0,
            |global| block(image.blocks.get(&global)),
            |index| block(image.side.get(&index)),
        )?;
        Ok(Recovery {
            chain,
            fresh: image.epochs.is_empty(),
            former,
            ledger: image.ledger.clone(),
            batches: {
                let of_tail =
                    tail.iter().chain(&side).flat_map(|record: &Arc<BlockRecord>| &record.block.batches);
                let held: BTreeSet<_> = image.pending.iter().chain(of_tail).collect();
                held.into_iter().filter_map(|digest| image.batches.get(digest).cloned()).collect()
            },
            tail,
            side,
            phases,
            prepared_on_chain: prepared_on_chain.filter(|_| guard.identity == identity),
            guard,
            signing_stopped: match self.is_lost {
                true => Some("the signer guard is missing".into()),
                false => (mark > have).then_some(shorter),
            },
            epoch,
        })
    }

    /// The first damaged record among those that are read at a start: the chain's last thousand
    /// blocks, which is all of them here, and the batches that are not final or not executed.
    fn damaged(&self) -> Option<Record> {
        let image = &self.now;
        let unexecuted = image.blocks.range(image.applied.min(image.last_final).next()..);
        let batches = unexecuted.flat_map(|(_, record)| &record.block.batches).chain(&image.pending);
        let mut read =
            image.blocks.keys().copied().map(Record::Block).chain(batches.copied().map(Record::Batch));
        read.find(|record| self.rotten.contains(record))
    }
}

impl Image {
    fn apply(&mut self, op: &StoreOp) -> Result<(), String> {
        match op {
            StoreOp::Persist(persist) => self.persist(persist),
            StoreOp::EpochAlone(start) => {
                self.epochs.push(start.as_ref().clone());
                Ok(())
            }
            StoreOp::Applied { global, writes, accumulator } => {
                if *global != self.applied.next() || *global > self.executable() {
                    let (applied, last_final) = (self.applied, self.last_final);
                    return Err(format!("block {global} applied after {applied}; final is {last_final}"));
                }
                self.applied = *global;
                self.applied_root = Some(accumulator.root());
                self.write(writes, accumulator);
                Ok(())
            }
            StoreOp::Installed { epoch, module, writes, accumulator } => {
                self.installed = Some((*epoch, *module));
                self.write(writes, accumulator);
                Ok(())
            }
        }
    }

    /// The last block that may be executed: the last final one; in a graduated epoch one that is
    /// held, a window ahead of it at most.
    fn executable(&self) -> GlobalIndex {
        let manifest = self.epochs.last().map(|start| &start.manifest);
        let graduated = manifest.filter(|manifest| manifest.finality == Finality::Graduated);
        let ahead = graduated.map_or(0, |manifest| manifest.limits.window_blocks);
        let held = self.blocks.last_key_value().map_or(self.last_final, |(global, _)| *global);
        held.min(GlobalIndex(self.last_final.0 + ahead)).max(self.last_final)
    }

    fn write(&mut self, writes: &Writes, accumulator: &Arc<StateAccumulator>) {
        let state = Arc::make_mut(&mut self.state);
        for (key, value) in writes {
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
        self.accumulator = accumulator.clone();
    }

    fn persist(&mut self, persist: &Persist) -> Result<(), String> {
        match persist {
            Persist::Batch(batch) => {
                self.batches.insert(batch.digest, batch.clone());
                self.pending.insert(batch.digest);
            }
            Persist::Block(record) => {
                let is_other = self.blocks.get(&record.global).is_some_and(|known| known.hash != record.hash);
                if record.global <= self.last_final || record.global <= self.applied && is_other {
                    return Err(format!(
                        "block {} is written again, final is {}, applied {}",
                        record.global, self.last_final, self.applied
                    ));
                }
                self.blocks.insert(record.global, record.clone());
            }
            Persist::SideBlock(record) => {
                self.side.insert(record.block.index, record.clone());
            }
            Persist::PhaseOpened(record) => {
                let key = (record.number, record.phase);
                // A crash may tear the opening off the resumption that was followed into the phase; then
                // it is entered anew.
                let is_torn = |at: &(EpochNumber, Phase), known: &PhaseRecord| {
                    *at == key && known.opened.is_none() && known.resumption.is_none()
                };
                let mut later = self.phases.range(key..).filter(|((number, _), _)| *number == record.number);
                if later.any(|(at, known)| !is_torn(at, known)) {
                    return Err(format!(
                        "phase {} of epoch {} is entered again",
                        record.phase, record.number
                    ));
                }
                self.phases.insert(key, record.as_ref().clone());
                self.side.clear();
                self.records.clear();
            }
            Persist::PhaseResumed { record, ledger, batches } => {
                self.phases.insert((record.number, record.phase), record.as_ref().clone());
                self.ledger = Some(ledger.as_ref().clone());
                batches.iter().for_each(|digest| {
                    self.pending.remove(digest);
                });
            }
            Persist::DropBlocksAbove(global) => {
                if *global < self.last_final.max(self.applied) {
                    let Self { applied, last_final, .. } = self;
                    return Err(format!(
                        "blocks above {global} are dropped, final is {last_final}, applied {applied}"
                    ));
                }
                self.blocks.split_off(&global.next());
            }
            Persist::Record(record) => {
                if self.records.last_key_value().is_some_and(|(id, _)| *id >= record.record.id) {
                    return Err(format!("engine record {} does not rise", record.record.id));
                }
                self.records.insert(record.record.id, record.clone());
            }
            Persist::TruncateRecords(id) => self.records = self.records.split_off(&(id + 1)),
            Persist::Final { global, proof, ledger, batches } => {
                let held =
                    (self.last_final.0 + 1..=global.0).all(|g| self.blocks.contains_key(&GlobalIndex(g)));
                if *global <= self.last_final || !held || ledger.global != *global {
                    return Err(format!(
                        "final {global} after final {}, blocks held: {held}",
                        self.last_final
                    ));
                }
                self.last_final = *global;
                self.proofs.insert(*global, proof.as_ref().clone());
                self.ledger = Some(ledger.as_ref().clone());
                batches.iter().for_each(|digest| {
                    self.pending.remove(digest);
                });
            }
            Persist::Epoch { start, expired, ledger } => {
                if start.base != self.last_final || self.applied < self.last_final {
                    let Self { applied, last_final, .. } = self;
                    return Err(format!(
                        "epoch {} begins at {}, final is {last_final}, applied {applied}",
                        start.manifest.number, start.base
                    ));
                }
                self.blocks.split_off(&start.base.next());
                self.side.clear();
                self.records.clear();
                self.ledger = Some(ledger.as_ref().clone());
                if self.epochs.last() != Some(start.as_ref()) {
                    self.epochs.push(start.as_ref().clone());
                }
                for digest in expired {
                    self.pending.remove(digest);
                    self.batches.remove(digest);
                }
            }
            Persist::Guard(_) | Persist::History(_) => {}
        }
        Ok(())
    }

    /// Fallbacks of an epoch, by rising phase.
    pub(crate) fn phases_of(&self, number: EpochNumber) -> Vec<PhaseRecord> {
        let of_epoch = (number, 0)..=(number, Phase::MAX);
        self.phases.range(of_epoch).map(|(_, record)| record.clone()).collect()
    }
}
