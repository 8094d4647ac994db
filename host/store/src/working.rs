//! The executor's working copy of the replicated map: the state on disk, the writes of
//! blocks that were executed and are not applied to it yet, and a bounded memory of entries
//! that were read or written lately. Several blocks become one write of the database, and
//! what a busy client or key needs is not looked up there again. One executor owns it; other
//! readers take snapshots of the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moult_types::GlobalIndex;
use moult_types::state::{StateReader, scan_merged};
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use crate::error::StoreError;
use crate::state::StateStore;

/// What an entry of the memory costs beside its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 96;
/// For sizing the memory's tables.
const ENTRY_BYTES_USUAL: usize = 256;

/// See the module's documentation.
pub struct WorkingState {
    store: StateStore,
    inner: Mutex<Inner>,
}

struct Inner {
    applied: Arc<dyn StateReader>,
    pending: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pending_bytes: usize,
    recent: Cache<Vec<u8>, Option<Vec<u8>>, EntryWeight>,
}

#[derive(Clone)]
struct EntryWeight;

impl Weighter<Vec<u8>, Option<Vec<u8>>> for EntryWeight {
    fn weight(&self, key: &Vec<u8>, value: &Option<Vec<u8>>) -> u64 {
        (key.len() + value.as_ref().map_or(0, Vec::len) + ENTRY_OVERHEAD_BYTES) as u64
    }
}

impl WorkingState {
    /// Over the state as it is now, with a memory of so many bytes.
    pub fn new(store: StateStore, memory_bytes: usize) -> Self {
        let recent = Cache::with_weighter(memory_bytes / ENTRY_BYTES_USUAL, memory_bytes as u64, EntryWeight);
        let applied = store.snapshot();
        let inner = Inner { applied, pending: BTreeMap::new(), pending_bytes: 0, recent };
        Self { store, inner: Mutex::new(inner) }
    }

    /// Takes the writes of one executed block up: every later read sees them.
    pub fn take_up(&self, writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        let mut inner = self.inner();
        for (key, value) in writes {
            inner.pending_bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            inner.recent.insert(key.clone(), value.clone());
            inner.pending.insert(key, value);
        }
    }

    /// Bytes taken up and not applied.
    pub fn pending_bytes(&self) -> usize {
        self.inner().pending_bytes
    }

    /// Applies what was taken up to the state on disk, at once with the position.
    ///
    /// # Errors
    /// As [`StateStore::apply`].
    pub fn apply(&self, global: GlobalIndex, accumulator: &[u8]) -> Result<(), StoreError> {
        let mut inner = self.inner();
        self.store.apply(global, &inner.pending, accumulator)?;
        inner.pending.clear();
        inner.pending_bytes = 0;
        inner.applied = self.store.snapshot();
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateReader for WorkingState {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut inner = self.inner();
        if let Some(known) = inner.recent.get(key) {
            return known.clone();
        }
        let value = match inner.pending.get(key) {
            Some(written) => written.clone(),
            None => inner.applied.get(key),
        };
        inner.recent.insert(key.to_vec(), value.clone());
        value
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let inner = self.inner();
        scan_merged(inner.applied.as_ref(), &inner.pending, start, end, limit)
    }
}
