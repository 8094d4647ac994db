//! What a node takes up at start, checked.

use moult_core::governance::Ledger;
use moult_core::guard::GuardState;
use moult_core::io::{EngineRecord, EpochStart};
use moult_sdk::engine::DurableRecord;
use moult_types::block::link;
use moult_types::{
    BlockRecord, Certificate, CommitIndex, Digest, EpochIdentity, EpochNumber, Genesis, GlobalIndex, HeldBatch,
    SignedBatch, decode,
};

use crate::error::StoreError;
use crate::store::{META_GENESIS, META_GUARD, META_LEDGER, Store};
use crate::tables::{Table, number_key};
use crate::write::StoredRecord;

/// What is stored, as far as a replica needs it to go on.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where the chain begins.
    pub genesis: Genesis,
    /// The latest epoch.
    pub epoch: EpochStart,
    /// Replicated state of the host at the last final block, or at the start of the epoch.
    pub ledger: Ledger,
    /// The last final block with its certificate; `None` before the first block of the
    /// chain. The barrier of the former epoch, if the present one has no final block.
    pub last_final: Option<(BlockRecord, Certificate)>,
    /// The blocks above the last final one, in order.
    pub tail: Vec<BlockRecord>,
    /// Batches that are held and not final.
    pub pending: Vec<HeldBatch>,
    /// The present epoch's engine records by rising id.
    pub records: Vec<EngineRecord>,
    /// The last block that the state holds; 0 before the first.
    pub applied: GlobalIndex,
    /// The guard's sequence number as it was noted last.
    pub guard_sequence: u64,
}

/// How store and guard fit together. Everything but [`GuardCheck::Fits`] means that the node
/// signs nothing until it has repaired itself from its peers (`Shorter`), or at all.
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
    /// The guard is older than the store: it was restored or replaced. It has forgotten
    /// signatures.
    OldGuard {
        /// The sequence number of the guard, or its epoch.
        have: u64,
        /// What the store knows of.
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
        let genesis: Genesis = tables.get(Table::Meta, META_GENESIS)?.ok_or_else(|| missing("the genesis"))?;
        let number = tables.last_number(Table::Epochs)?.ok_or_else(|| missing("the first epoch"))?;
        let epoch = self.epoch(EpochNumber(number))?.ok_or_else(|| missing("the last epoch"))?;
        let ledger = tables.get(Table::Meta, META_LEDGER)?.ok_or_else(|| missing("the ledger"))?;
        let (last_final, tail) = self.verified_tail(&epoch)?;
        Ok(Loaded {
            genesis,
            epoch,
            ledger,
            last_final,
            tail,
            pending: self.pending()?,
            records: self.engine_records()?,
            applied: self.state().applied()?.global,
            guard_sequence: tables.get(Table::Meta, META_GUARD)?.unwrap_or(0),
        })
    }

    /// Compares with the guard; see [`GuardCheck`].
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn check_guard(&self, guard: &GuardState, guard_sequence: u64) -> Result<GuardCheck, StoreError> {
        let noted = self.tables.get(Table::Meta, META_GUARD)?.unwrap_or(0_u64);
        if guard_sequence < noted {
            return Ok(GuardCheck::OldGuard { have: guard_sequence, noted });
        }
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

    /// The last final block of the chain; 0 before the first.
    ///
    /// # Errors
    /// The disk.
    pub fn last_final(&self) -> Result<GlobalIndex, StoreError> {
        Ok(GlobalIndex(self.tables.last_number(Table::Certificates)?.unwrap_or(0)))
    }

    #[allow(clippy::type_complexity, reason = "two results of one walk")]
    fn verified_tail(
        &self,
        epoch: &EpochStart,
    ) -> Result<(Option<(BlockRecord, Certificate)>, Vec<BlockRecord>), StoreError> {
        let tables = &self.tables;
        let bad = |global: u64, reason: &str| tables.corrupt(Table::Blocks, &number_key(global), reason);
        let last = self.last_final()?;
        if last < epoch.base {
            return Err(bad(epoch.base.0, "the barrier before the epoch has no certificate"));
        }
        let first = last.0.saturating_sub(self.options.verify_blocks).max(1);
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
                tail.push(record.clone());
            }
            parent = Some(record);
            expected += 1;
        }
        if last == GlobalIndex(0) {
            return Ok((None, tail));
        }
        let block = barrier.ok_or_else(|| bad(expected, "it is missing"))?;
        let certificate = tables.get::<Certificate>(Table::Certificates, &number_key(last.0))?;
        if certificate.as_ref().is_none_or(|c| c.hash != block.hash || c.identity != block.identity) {
            return Err(tables.corrupt(Table::Certificates, &number_key(last.0), "it is not for the block"));
        }
        Ok((certificate.map(|c| (block, c)), tail))
    }

    /// Whether a block without a parent in its epoch stands where its epoch says.
    fn begins(&self, record: &BlockRecord, first_looked_at: bool) -> Result<bool, StoreError> {
        let Some(start) = self.epoch(record.epoch)? else { return Ok(false) };
        let identity = start.manifest.identity();
        let placed = record.identity == identity && record.global.0 == start.base.0 + record.block.index.0;
        let linked = record.block.index == CommitIndex(1) && record.parent == EpochIdentity::digest(identity);
        Ok(placed && (linked || (first_looked_at && record.block.index > CommitIndex(1))))
    }

    fn pending(&self) -> Result<Vec<HeldBatch>, StoreError> {
        let mut pending = Vec::new();
        for entry in self.tables.keyspace(Table::Pending).iter() {
            let digest = entry.key().map_err(|e| self.tables.read_failed(e))?;
            let bad = |reason: String| self.tables.corrupt(Table::Batches, &digest, reason);
            let bytes = self.tables.get_raw(Table::Batches, &digest)?.ok_or_else(|| bad("it is missing".into()))?;
            let signed: SignedBatch = decode(&bytes).map_err(|e| bad(e.to_string()))?;
            let held = HeldBatch::new(signed);
            if held.digest.0 != *digest {
                return Err(bad("its digest does not match".into()));
            }
            pending.push(held);
        }
        Ok(pending)
    }

    fn engine_records(&self) -> Result<Vec<EngineRecord>, StoreError> {
        let records = self.tables.numbered::<StoredRecord>(Table::Records, 0);
        let whole = |(id, (body, statements, signed)): (u64, StoredRecord)| EngineRecord {
            record: DurableRecord { id, body, statements },
            signed,
        };
        records.map(|entry| entry.map(whole)).collect()
    }
}
