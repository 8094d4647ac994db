//! The replicated ordered map on disk.
//!
//! The executor writes one block after the other, each at once with its position. Nothing is
//! synced here: a state that is lost is computed again from the blocks. It lies in the
//! chain's database, whose journal is one, so that a sync of the chain covers it too.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use borsh::{BorshDeserialize, BorshSerialize};
use fjall::{Keyspace, Readable, Snapshot};
use moult_types::GlobalIndex;
use moult_types::state::{KEY_BYTES_MAX, StateReader};

use crate::error::StoreError;
use crate::store::META_APPLIED;
use crate::tables::{Table, Tables, seal, unseal};

/// How far the state is.
#[derive(Clone, PartialEq, Eq, Debug, Default, BorshSerialize, BorshDeserialize)]
pub struct Applied {
    /// The last block applied; 0 before the first.
    pub global: GlobalIndex,
    /// What the executor needs to go on with the state root; empty before the first block.
    pub accumulator: Vec<u8>,
}

/// The replicated map; written by one executor.
#[derive(Clone)]
pub struct StateStore {
    tables: Tables,
    /// A read through a snapshot failed, and what was computed from it is worthless.
    failed: Arc<AtomicBool>,
}

impl StateStore {
    pub(crate) fn new(tables: Tables) -> Self {
        Self { tables, failed: Arc::new(AtomicBool::new(false)) }
    }

    /// Writes what blocks up to `global` changed (full keys; `None` removes), at once with
    /// the position. Several blocks may be merged into one call. Not synced.
    ///
    /// # Errors
    /// The database, or a read through a snapshot that failed before: the writes may be
    /// wrong, none was made. The executor must end either way.
    pub fn apply<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        global: GlobalIndex,
        writes: &BTreeMap<K, Option<V>>,
        accumulator: &[u8],
    ) -> Result<(), StoreError> {
        if self.has_failed() {
            return Err(StoreError::Poisoned { path: self.tables.path.clone() });
        }
        let mut batch = self.tables.db.batch();
        let state = self.tables.keyspace(Table::State);
        for (key, value) in writes {
            let key = key.as_ref();
            // One byte more: the prefix. The database does not take empty keys.
            if key.is_empty() || key.len() > KEY_BYTES_MAX + 1 {
                let reason = format!("a key of {} bytes was written", key.len());
                return Err(StoreError::corrupt(&self.tables.path, "the replicated state", reason));
            }
            match value {
                Some(value) => batch.insert(state, key, value.as_ref()),
                None => batch.remove(state, key),
            }
        }
        let applied = Applied { global, accumulator: accumulator.to_vec() };
        batch.insert(
            self.tables.keyspace(Table::Meta),
            META_APPLIED,
            seal(Table::Meta, META_APPLIED, &applied),
        );
        batch.commit().map_err(|e| StoreError::database(&self.tables.path, "commit", e))
    }

    /// How far the state is.
    ///
    /// # Errors
    /// The database, or a damaged record.
    pub fn applied(&self) -> Result<Applied, StoreError> {
        Ok(self.tables.get(Table::Meta, META_APPLIED)?.unwrap_or_default())
    }

    /// The state as it is now, whatever is applied later. Not to be held for long: what it
    /// can see is kept on disk.
    ///
    /// A read that fails on the disk finds nothing and makes every later
    /// [`StateStore::apply`] fail, so that nothing computed from it is kept; see
    /// [`StateStore::has_failed`].
    pub fn snapshot(&self) -> Arc<dyn StateReader> {
        Arc::new(StateSnapshot {
            snapshot: self.tables.db.snapshot(),
            state: self.tables.keyspace(Table::State).clone(),
            failed: Arc::clone(&self.failed),
        })
    }

    /// [`StateStore::snapshot`], with the last block that is in it.
    ///
    /// # Errors
    /// The database, or a damaged record of the position.
    pub fn snapshot_at(&self) -> Result<(GlobalIndex, Arc<dyn StateReader>), StoreError> {
        let snapshot = self.tables.db.snapshot();
        let sealed = snapshot
            .get(self.tables.keyspace(Table::Meta), META_APPLIED)
            .map_err(|e| self.tables.read_failed(e))?;
        let applied: Option<Applied> = sealed
            .map(|sealed| unseal(Table::Meta, META_APPLIED, &sealed))
            .transpose()
            .map_err(|e| self.tables.corrupt(Table::Meta, META_APPLIED, e))?;
        let state = self.tables.keyspace(Table::State).clone();
        let reader = Arc::new(StateSnapshot { snapshot, state, failed: Arc::clone(&self.failed) });
        Ok((applied.unwrap_or_default().global, reader))
    }

    /// Whether a read through a snapshot failed. To be asked before anything that was
    /// computed from snapshots leaves the node.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

struct StateSnapshot {
    snapshot: Snapshot,
    state: Keyspace,
    failed: Arc<AtomicBool>,
}

impl StateSnapshot {
    fn fail(&self, e: &fjall::Error) {
        tracing::error!(error = %e, "the replicated state cannot be read");
        self.failed.store(true, Ordering::Release);
    }
}

impl StateReader for StateSnapshot {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.snapshot.get(&self.state, key) {
            Ok(value) => value.map(|v| v.to_vec()),
            Err(e) => {
                self.fail(&e);
                None
            }
        }
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        if end.is_some_and(|end| end <= start) || limit == 0 {
            return Vec::new();
        }
        let range = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        let mut found = Vec::new();
        for entry in self.snapshot.range::<&[u8], _>(&self.state, range).take(limit) {
            match entry.into_inner() {
                Ok((key, value)) => found.push((key.to_vec(), value.to_vec())),
                Err(e) => {
                    self.fail(&e);
                    return Vec::new();
                }
            }
        }
        found
    }
}
