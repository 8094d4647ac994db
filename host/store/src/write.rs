//! What the replica persists, as writes to the tables.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_core::io::{EngineRecord, EpochStart, GuardUpdate, Persist};
use moult_types::{Signed, Statement};

use crate::error::StoreError;
use crate::store::{META_GUARD, META_LEDGER};
use crate::tables::{Changes, Table, Tables, number_key, phase_number};

/// What the store knows of the guard's last group.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub(crate) enum GuardNote {
    /// The guard has it.
    Written {
        /// Its number.
        sequence: u64,
    },
    /// The guard gets it next, with these updates.
    ToBeWritten {
        /// Its number.
        sequence: u64,
        /// What the guard takes up with it.
        updates: Vec<GuardUpdate>,
    },
}

/// How an engine record is stored under its id.
pub(crate) type StoredRecord = (Vec<u8>, Vec<Statement>, Vec<Signed>);

/// The writer of the chain. There is one: it knows what is stored by what it wrote.
pub struct StoreWriter {
    tables: Tables,
    changes: Changes,
    /// Ids of the engine records that are stored or about to be.
    records: BTreeSet<u64>,
    /// Something was committed and not synced since.
    unsynced: bool,
    poisoned: bool,
}

impl StoreWriter {
    pub(crate) fn new(tables: Tables) -> Result<Self, StoreError> {
        let mut records = BTreeSet::new();
        for record in tables.numbered::<StoredRecord>(Table::Records, 0) {
            records.insert(record?.0);
        }
        let writer = Self { tables, changes: Changes::default(), records, unsynced: false, poisoned: false };
        writer.note_first_record();
        Ok(writer)
    }

    /// Collects a write; nothing is stored before [`StoreWriter::commit`]. Updates of the
    /// guard are not the store's and are passed over.
    ///
    /// # Errors
    /// The database cannot be read. The process must end.
    pub fn apply(&mut self, write: &Persist) -> Result<(), StoreError> {
        let changes = &mut self.changes;
        match write {
            Persist::Guard(_) => {}
            Persist::Batch(batch) => {
                changes.put(Table::Batches, &batch.digest.0, (&*batch.encoded).into());
                changes.put(Table::Pending, &batch.digest.0, [].into());
            }
            Persist::Block(record) => {
                changes.put_sealed(Table::Blocks, &number_key(record.global.0), &**record)
            }
            Persist::SideBlock(record) => {
                changes.put_sealed(Table::Side, &number_key(record.block.index.0), &**record)
            }
            Persist::PhaseOpened(record) => {
                let key = number_key(phase_number(record.number.0, record.phase));
                changes.put_sealed(Table::Phases, &key, &**record);
                changes.remove_from(&self.tables, Table::Side, 0)?;
                self.remove_records(u64::MAX);
            }
            Persist::PhaseResumed { record, ledger, batches } => {
                let key = number_key(phase_number(record.number.0, record.phase));
                changes.put_sealed(Table::Phases, &key, &**record);
                changes.put_sealed(Table::Meta, META_LEDGER, &**ledger);
                for digest in batches {
                    changes.remove(Table::Pending, &digest.0);
                }
            }
            Persist::DropBlocksAbove(global) => {
                changes.remove_from(&self.tables, Table::Blocks, global.0.saturating_add(1))?;
            }
            Persist::Record(record) => self.put_record(record),
            Persist::TruncateRecords(id) => self.remove_records(*id),
            Persist::Final { global, proof, ledger, batches } => {
                changes.put_sealed(Table::Certificates, &number_key(global.0), &**proof);
                changes.put_sealed(Table::Meta, META_LEDGER, &**ledger);
                for digest in batches {
                    changes.remove(Table::Pending, &digest.0);
                }
            }
            Persist::Epoch { start, expired, ledger } => {
                changes.put_sealed::<EpochStart>(Table::Epochs, &number_key(start.manifest.number.0), start);
                changes.put_sealed(Table::Meta, META_LEDGER, &**ledger);
                changes.remove_from(&self.tables, Table::Blocks, start.base.0.saturating_add(1))?;
                changes.remove_from(&self.tables, Table::Side, 0)?;
                for digest in expired {
                    changes.remove(Table::Batches, &digest.0);
                    changes.remove(Table::Pending, &digest.0);
                }
                self.remove_records(u64::MAX);
            }
            Persist::History(record) => {
                changes.put_sealed(Table::History, &number_key(record.id.0), &**record)
            }
        }
        Ok(())
    }

    /// Notes the group of the guard's file that this commit belongs to.
    pub(crate) fn note_guard(&mut self, note: &GuardNote) {
        self.changes.put_sealed(Table::Meta, META_GUARD, note);
    }

    /// Appends what was collected since the last commit, encoded.
    pub(crate) fn encode_changes(&self, to: &mut Vec<u8>) {
        self.changes.encode(to);
    }

    /// Stores what was collected, all of it or nothing; `durable`: returns when this and
    /// everything committed before is synced.
    ///
    /// # Errors
    /// The disk. The process must end; later calls are refused.
    pub fn commit(&mut self, durable: bool) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned { path: self.tables.path.clone() });
        }
        if self.changes.is_empty() && !(durable && self.unsynced) {
            return Ok(());
        }
        self.poisoned = true;
        self.changes.commit(&self.tables, durable)?;
        self.unsynced = !durable;
        self.poisoned = false;
        Ok(())
    }

    fn put_record(&mut self, record: &EngineRecord) {
        let EngineRecord { record, signed } = record;
        let stored = (&record.body, &record.statements, signed);
        self.changes.put_sealed(Table::Records, &number_key(record.id), &stored);
        self.records.insert(record.id);
        self.note_first_record();
    }

    fn remove_records(&mut self, to: u64) {
        while let Some(id) = self.records.first().copied().filter(|id| *id <= to) {
            self.records.remove(&id);
            self.changes.remove(Table::Records, &number_key(id));
        }
        self.note_first_record();
    }

    fn note_first_record(&self) {
        let first = self.records.first().copied().unwrap_or(u64::MAX);
        self.tables.records_from.store(first, Ordering::Release);
    }
}
