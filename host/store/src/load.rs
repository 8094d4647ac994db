//! What a node takes up at start, checked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moult_core::Recovery;
use moult_core::governance::Ledger;
use moult_core::guard::GuardState;
use moult_core::io::{EngineRecord, EpochStart, PhaseRecord, hash_on_disk};
use moult_sdk::engine::DurableRecord;
use moult_types::block::link;
use moult_types::phase::FinalityProof;
use moult_types::{
    BlockRecord, CommitIndex, Digest, EpochIdentity, EpochNumber, Genesis, GlobalIndex, HeldBatch, Manifest,
    SignedBatch, decode,
};

use crate::error::StoreError;
use crate::guard_file::GuardFile;
use crate::guard_format::StoreWrites;
use crate::store::{META_GUARD, META_LEDGER, Store};
use crate::tables::{Changes, Table, number_key, phase_number};
use crate::write::{GuardNote, StoredRecord};

/// What is stored, as far as a replica needs it to go on.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where the chain begins.
    pub genesis: Genesis,
    /// Whether nothing but the genesis is stored; `epoch` is then what it says.
    pub fresh: bool,
    /// The latest epoch.
    pub epoch: EpochStart,
    /// What the epoch before fixed.
    pub former: Option<Manifest>,
    /// Replicated state of the host at the last final block, or at the start of the epoch;
    /// `None` if fresh.
    pub ledger: Option<Ledger>,
    /// The last final block with its proof; `None` before the first block of the
    /// chain. The barrier of the former epoch, if the present one has no final block.
    pub last_final: Option<(BlockRecord, FinalityProof)>,
    /// Fallbacks of the latest epoch, by rising phase.
    pub phases: Vec<PhaseRecord>,
    /// The blocks above the last final one, in order.
    pub tail: Vec<Arc<BlockRecord>>,
    /// Blocks of the present phase, where it has not resumed, in order.
    pub side: Vec<Arc<BlockRecord>>,
    /// Batches that are held and not final, and those of `tail`, by rising (author, start, sequence number).
    pub pending: Vec<Arc<HeldBatch>>,
    /// The present epoch's engine records by rising id.
    pub records: Vec<EngineRecord>,
    /// The last block that the state holds; 0 before the first. The executor may be ahead of
    /// the last final block where the journal lost its tail.
    pub applied: GlobalIndex,
}

/// How store and guard fit together. Everything but [`GuardCheck::Fits`] means that the node
/// signs nothing until it has repaired itself from its peers (`Shorter`, `OldStore`), or at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GuardCheck {
    /// The store holds what the guard has seen final.
    Fits,
    /// Final blocks are lost. Fetch them from peers, then check again.
    Shorter {
        /// The last final block in the store.
        have: GlobalIndex,
        /// The last final block that the guard knows of.
        mark: GlobalIndex,
    },
    /// The store holds another chain than the guard has seen: it is not this node's, or forged.
    OtherBlock {
        /// At which index.
        global: GlobalIndex,
        /// The hash in the store.
        have: Digest,
        /// The hash that the guard knows of.
        mark: Digest,
    },
    /// The store lost more than a crash can take: it was restored or replaced. Fetch the
    /// chain from peers, then check again.
    OldStore {
        /// The guard's group that the store has seen last.
        have: u64,
        /// The one that it must have seen.
        needed: u64,
    },
    /// The guard is older than the store: it was restored or replaced. It has forgotten
    /// signatures.
    OldGuard {
        /// The sequence number of the guard.
        have: u64,
        /// The sequence number that the store knows of.
        noted: u64,
    },
}

impl Store {
    /// Reads everything a replica needs and checks it: seals, the hash chain over the last
    /// final blocks and all above, the certificate's hash, the batches' digests. Signatures
    /// are not checked.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the record; the disk.
    pub fn load(&self) -> Result<Loaded, StoreError> {
        let tables = &self.tables;
        let missing = |what: &str| StoreError::corrupt(&tables.path, what, "it is missing");
        let genesis = self.genesis()?;
        let number = tables.last_number(Table::Epochs)?.map(EpochNumber);
        let epoch = match number {
            Some(number) => self.epoch(number)?.ok_or_else(|| missing("the last epoch"))?,
            None => first_epoch(&genesis),
        };
        let former = match number.and_then(|n| n.0.checked_sub(1)).filter(|n| *n >= genesis.manifest.number.0)
        {
            Some(n) => Some(
                self.epoch(EpochNumber(n))?.ok_or_else(|| missing("the epoch before the last"))?.manifest,
            ),
            None => None,
        };
        let ledger = tables.get(Table::Meta, META_LEDGER)?;
        if ledger.is_none() && number.is_some() {
            return Err(missing("the ledger"));
        }
        let (last_final, tail) = self.verified_tail(&epoch)?;
        if number.is_none() && (last_final.is_some() || !tail.is_empty()) {
            return Err(missing("the first epoch"));
        }
        let phases = self.phases(epoch.manifest.number)?;
        let is_resuming = phases.last().is_some_and(|record| record.resumption.is_none());
        let side = if is_resuming { self.side()? } else { Vec::new() };
        Ok(Loaded {
            genesis,
            fresh: number.is_none(),
            epoch,
            former,
            ledger,
            last_final,
            pending: self.pending(tail.iter().chain(&side))?,
            tail,
            phases,
            side,
            records: self.engine_records()?,
            applied: self.state().applied()?.global,
        })
    }

    /// What the replica takes up. `guard`: as it is after [`Store::reconcile_guard`];
    /// `signing_stopped`: why the node must not sign, if so. The engine's records are not
    /// part of it: they come with the engine.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn recovery(
        &self,
        loaded: &Loaded,
        guard: GuardState,
        signing_stopped: Option<String>,
    ) -> Result<Recovery, StoreError> {
        let present = loaded.phases.last().map(|record| record.identity);
        let identity = present.unwrap_or_else(|| loaded.epoch.manifest.identity());
        let prepared_on_chain = if guard.identity == identity {
            let side = |index: CommitIndex| self.tables.get(Table::Side, &number_key(index.0));
            hash_on_disk(&loaded.epoch, &loaded.phases, guard.prepared.0, |global| self.block(global), side)?
        } else {
            None
        };
        Ok(Recovery {
            chain: loaded.genesis.chain(),
            epoch: loaded.epoch.clone(),
            fresh: loaded.fresh,
            former: loaded.former.clone(),
            ledger: loaded.ledger.clone(),
            phases: loaded.phases.clone(),
            tail: loaded.tail.clone(),
            side: loaded.side.clone(),
            batches: loaded.pending.clone(),
            guard,
            prepared_on_chain,
            signing_stopped,
        })
    }

    /// Whether a guard's file was ever written beside this store.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn knows_guard(&self) -> Result<bool, StoreError> {
        Ok(self.tables.get::<GuardNote>(Table::Meta, META_GUARD)?.is_some())
    }

    /// Notes, durably, that there is a guard's file: from now on this store without one is
    /// that of a node that has forgotten what it signed.
    ///
    /// # Errors
    /// The disk.
    pub fn note_new_guard(&self, guard: &GuardFile) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        let note = GuardNote::Written { sequence: guard.sequence() };
        changes.put_sealed(Table::Meta, META_GUARD, &note);
        changes.commit(&self.tables, true)
    }

    /// Gives the store what it lost in a crash and the guard's file has, or the guard what
    /// only the store has (see [`DurableLog`](crate::DurableLog)); then compares the two. To
    /// be called at every start, before anything else is read.
    ///
    /// The guard comes back unless it may have forgotten signatures: that one is not written
    /// any more, or the next start would find the two in step.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn reconcile_guard(
        &self,
        mut guard: GuardFile,
    ) -> Result<(GuardCheck, Option<GuardFile>), StoreError> {
        let found = self.reconcile(&mut guard)?;
        let is_usable = match found {
            GuardCheck::Fits | GuardCheck::Shorter { .. } | GuardCheck::OldStore { .. } => true,
            GuardCheck::OldGuard { .. } | GuardCheck::OtherBlock { .. } => false,
        };
        Ok((found, is_usable.then_some(guard)))
    }

    fn reconcile(&self, guard: &mut GuardFile) -> Result<GuardCheck, StoreError> {
        let have = guard.sequence();
        let noted = match self.tables.get::<GuardNote>(Table::Meta, META_GUARD)? {
            None => 1,
            Some(GuardNote::Written { sequence }) if sequence > have => {
                return Ok(GuardCheck::OldGuard { have, noted: sequence });
            }
            Some(GuardNote::Written { sequence }) => sequence,
            Some(GuardNote::ToBeWritten { sequence, .. }) if sequence > have + 1 => {
                return Ok(GuardCheck::OldGuard { have, noted: sequence });
            }
            Some(GuardNote::ToBeWritten { sequence, updates }) => {
                if sequence > have {
                    guard.append(&updates)?;
                    guard.begin_anew()?;
                }
                sequence
            }
        };
        let (from, groups) = guard.store_writes();
        if noted < from {
            return Ok(GuardCheck::OldStore { have: noted, needed: from });
        }
        for group in groups.iter().filter(|group| group.sequence > noted) {
            self.take_back(group)?;
        }
        self.compare_with_guard(guard)
    }

    fn take_back(&self, group: &StoreWrites) -> Result<(), StoreError> {
        let Some(mut changes) = Changes::decode(&group.writes) else {
            let what = format!("group {} of the signer guard's log", group.sequence);
            return Err(StoreError::corrupt(&self.tables.path, what, "it cannot be read"));
        };
        let note = GuardNote::Written { sequence: group.sequence };
        changes.put_sealed(Table::Meta, META_GUARD, &note);
        changes.commit(&self.tables, false)
    }

    fn compare_with_guard(&self, guard: &GuardFile) -> Result<GuardCheck, StoreError> {
        let guard = guard.state();
        let have = self.last_final()?;
        let (mark, hash) = guard.final_mark;
        if have < mark {
            return Ok(GuardCheck::Shorter { have, mark });
        }
        if mark == GlobalIndex(0) {
            return Ok(GuardCheck::Fits);
        }
        match self.block(mark)? {
            None => Err(self.tables.corrupt(Table::Blocks, &number_key(mark.0), "it is missing")),
            Some(block) if block.hash == hash => Ok(GuardCheck::Fits),
            Some(block) => Ok(GuardCheck::OtherBlock { global: mark, have: block.hash, mark: hash }),
        }
    }

    /// The last final block of the chain; before the first that of the genesis, 0 mostly.
    ///
    /// # Errors
    /// The disk.
    pub fn last_final(&self) -> Result<GlobalIndex, StoreError> {
        Ok(self.tables.last_number(Table::Certificates)?.map_or(self.base, GlobalIndex))
    }

    #[allow(clippy::type_complexity, reason = "two results of one walk")]
    fn verified_tail(
        &self,
        epoch: &EpochStart,
    ) -> Result<(Option<(BlockRecord, FinalityProof)>, Vec<Arc<BlockRecord>>), StoreError> {
        let tables = &self.tables;
        let bad = |global: u64, reason: &str| tables.corrupt(Table::Blocks, &number_key(global), reason);
        let last = self.last_final()?;
        if last < epoch.base {
            return Err(bad(epoch.base.0, "the barrier before the epoch has no certificate"));
        }
        let first = last.0.saturating_sub(self.options.verify_blocks).max(self.base.0 + 1);
        let (mut tail, mut barrier) = (Vec::new(), None);
        let mut parent: Option<BlockRecord> = None;
        let mut expected = first;
        for entry in tables.numbered::<BlockRecord>(Table::Blocks, first) {
            let (number, record) = entry?;
            if number != expected || record.global.0 != number {
                return Err(bad(expected, "it is missing"));
            }
            if record.hash != link(record.parent, record.block.body()) {
                return Err(bad(number, "its hash is not that of its content"));
            }
            let follows = match &parent {
                Some(parent) if parent.identity == record.identity => {
                    record.parent == parent.hash && record.block.index == parent.block.index.next()
                }
                // The first of an epoch, or the first that is looked at.
                _ => self.begins(&record, parent.is_none())?,
            };
            if !follows {
                return Err(bad(number, "it does not follow the block before it"));
            }
            if record.global == last {
                barrier = Some(record.clone());
            } else if record.global > last {
                tail.push(Arc::new(record.clone()));
            }
            parent = Some(record);
            expected += 1;
        }
        if last == self.base {
            return Ok((None, tail));
        }
        let block = barrier.ok_or_else(|| bad(expected, "it is missing"))?;
        let proof = tables.get::<FinalityProof>(Table::Certificates, &number_key(last.0))?;
        if !proof.as_ref().is_some_and(|proof| is_about(proof, &block)) {
            return Err(tables.corrupt(Table::Certificates, &number_key(last.0), "it is not for the block"));
        }
        Ok((proof.map(|proof| (block, proof)), tail))
    }

    /// Whether a block without a parent in its epoch stands where its epoch says.
    fn begins(&self, record: &BlockRecord, first_looked_at: bool) -> Result<bool, StoreError> {
        let Some(start) = self.epoch(record.epoch)? else { return Ok(false) };
        let phases = self.phases(record.epoch)?;
        if let Some(phase) = phases.iter().find(|phase| phase.identity == record.identity) {
            let Some(resumption) = &phase.resumption else { return Ok(false) };
            let resumed = phase.resumed();
            let index = record.block.index;
            let is_placed = resumed.and_then(|resumed| resumed.global_of(index)) == Some(record.global);
            let is_linked =
                index == resumption.block.block.index.next() && record.parent == resumption.block.hash;
            return Ok(is_placed && (is_linked || first_looked_at));
        }
        let identity = start.manifest.identity();
        let placed = record.identity == identity && record.global.0 == start.base.0 + record.block.index.0;
        let linked = record.block.index == CommitIndex(1) && record.parent == EpochIdentity::digest(identity);
        Ok(placed && (linked || (first_looked_at && record.block.index > CommitIndex(1))))
    }

    /// Batches that are not final; and those of the tail, which may name one that is, if they are
    /// there.
    fn pending<'a>(
        &self,
        tail: impl Iterator<Item = &'a Arc<BlockRecord>>,
    ) -> Result<Vec<Arc<HeldBatch>>, StoreError> {
        let of_tail = tail.flat_map(|record| &record.block.batches);
        let mut digests: BTreeMap<Vec<u8>, bool> = of_tail.map(|digest| (digest.0.to_vec(), false)).collect();
        for entry in self.tables.keyspace(Table::Pending).iter() {
            let digest = entry.key().map_err(|e| self.tables.read_failed(e))?;
            digests.insert(digest.to_vec(), true);
        }
        let mut pending = Vec::new();
        for (digest, is_pending) in digests {
            let bad = |reason: String| self.tables.corrupt(Table::Batches, &digest, reason);
            let bytes = match self.tables.get_raw(Table::Batches, &digest)? {
                Some(bytes) => bytes,
                None if is_pending => return Err(bad("it is missing".into())),
                None => continue,
            };
            let signed: SignedBatch = decode(&bytes).map_err(|e| bad(e.to_string()))?;
            let held = HeldBatch::new(signed);
            if held.digest.0[..] != digest[..] {
                return Err(bad("its digest does not match".into()));
            }
            pending.push(Arc::new(held));
        }
        pending.sort_by_key(|held| (held.batch().author, held.batch().start, held.batch().seq));
        Ok(pending)
    }

    /// Fallbacks of an epoch, by rising phase.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn phases(&self, number: EpochNumber) -> Result<Vec<PhaseRecord>, StoreError> {
        let records = self.tables.numbered::<PhaseRecord>(Table::Phases, phase_number(number.0, 0));
        let records = records.map(|entry| entry.map(|(_, record)| record));
        records.take_while(|entry| entry.as_ref().map_or(true, |record| record.number == number)).collect()
    }

    fn side(&self) -> Result<Vec<Arc<BlockRecord>>, StoreError> {
        let blocks = self.tables.numbered::<BlockRecord>(Table::Side, 0);
        blocks.map(|entry| entry.map(|(_, record)| Arc::new(record))).collect()
    }

    /// The present epoch's engine records by rising id, with the signatures kept with them.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn engine_records(&self) -> Result<Vec<EngineRecord>, StoreError> {
        let from = self.tables.records_from.load(Ordering::Acquire);
        let records = self.tables.numbered::<StoredRecord>(Table::Records, from);
        let whole = |(id, (body, statements, signed)): (u64, StoredRecord)| EngineRecord {
            record: DurableRecord { id, body, statements },
            signed,
        };
        records.map(|entry| entry.map(whole)).collect()
    }
}

/// Whether a proof is about a block; its signatures are not checked.
fn is_about(proof: &FinalityProof, block: &BlockRecord) -> bool {
    match proof {
        FinalityProof::Committed(certificate) => {
            certificate.hash == block.hash && certificate.identity == block.identity
        }
        FinalityProof::Resumed { bodies, resumption } => {
            let hash = bodies.iter().fold(block.hash, |hash, body| link(hash, *body));
            resumption.block.block.resumed.is_some_and(|resumed| resumed.point.hash == hash)
        }
    }
}

fn first_epoch(genesis: &Genesis) -> EpochStart {
    EpochStart {
        manifest: genesis.manifest.clone(),
        base: genesis.base(),
        state_root: None,
        time_ms: genesis.time_ms,
        switched_at_ms: genesis.time_ms,
    }
}
