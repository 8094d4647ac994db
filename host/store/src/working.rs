//! The executor's working copy of the replicated map: the state on disk, the writes of
//! executed blocks that are not on disk yet, and a bounded memory of entries that were read or
//! written lately. Many blocks become one write of the database, so that what changes in each
//! of them (a busy client's receipts, the position) is written once; and what a busy client or
//! key needs is not looked up there again. One executor writes it; others read its views.
//!
//! # Invariants
//! - A view shows the state after one block, whole.
//! - What is on disk is the state after an earlier or the same block, with that position; a
//!   crash loses only what the blocks above it give again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moult_types::GlobalIndex;
use moult_types::state::{StateReader, scan_merged};
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use crate::error::StoreError;
use crate::state::StateStore;

/// What an entry costs beside its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 96;
/// For sizing the memory's tables.
const ENTRY_BYTES_USUAL: usize = 256;

/// Keys and values are shared between a view, the memory and the writes.
type Bytes = Arc<[u8]>;

/// By key; `None` removes.
type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// See the module's documentation.
pub struct WorkingState {
    store: StateStore,
    inner: Mutex<Inner>,
}

struct Inner {
    view: View,
    pending_bytes: usize,
    recent: Cache<Bytes, Option<Bytes>, EntryWeight>,
}

/// The state after one block.
#[derive(Clone)]
struct View {
    global: GlobalIndex,
    on_disk: Arc<dyn StateReader>,
    /// Cloned before it is changed only while somebody else reads it.
    pending: Arc<Writes>,
}

#[derive(Clone)]
struct EntryWeight;

impl Weighter<Bytes, Option<Bytes>> for EntryWeight {
    fn weight(&self, key: &Bytes, value: &Option<Bytes>) -> u64 {
        (key.len() + value.as_ref().map_or(0, |value| value.len()) + ENTRY_OVERHEAD_BYTES) as u64
    }
}

impl WorkingState {
    /// Over the state as it is on disk, with a memory of so many bytes.
    ///
    /// # Errors
    /// As [`StateStore::snapshot_at`].
    pub fn new(store: StateStore, memory_bytes: usize) -> Result<Self, StoreError> {
        let recent = Cache::with_weighter(memory_bytes / ENTRY_BYTES_USUAL, memory_bytes as u64, EntryWeight);
        let (global, on_disk) = store.snapshot_at()?;
        let view = View { global, on_disk, pending: Arc::default() };
        Ok(Self { store, inner: Mutex::new(Inner { view, pending_bytes: 0, recent }) })
    }

    /// Takes the writes of executed blocks up to `global` up: every later read and view shows
    /// them. To be called for whole blocks only.
    pub fn take_up(&self, global: GlobalIndex, writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        let mut inner = self.inner();
        let Inner { view, pending_bytes, recent } = &mut *inner;
        view.global = global;
        let pending = Arc::make_mut(&mut view.pending);
        for (key, value) in writes {
            let (key, value) = (Bytes::from(key), value.map(Bytes::from));
            *pending_bytes += value.as_ref().map_or(0, |value| value.len());
            recent.insert(key.clone(), value.clone());
            match pending.insert(key.clone(), value) {
                Some(former) => *pending_bytes -= former.map_or(0, |former| former.len()),
                None => *pending_bytes += key.len() + ENTRY_OVERHEAD_BYTES,
            }
        }
    }

    /// Bytes that were taken up and are not on disk, with what their entries cost in memory.
    pub fn pending_bytes(&self) -> usize {
        self.inner().pending_bytes
    }

    /// Writes what was taken up to disk, at once with the position.
    ///
    /// # Errors
    /// As [`StateStore::apply`].
    pub fn flush(&self, accumulator: &[u8]) -> Result<(), StoreError> {
        // Readers and views go on meanwhile: only the one executor changes anything.
        let View { global, pending, .. } = self.inner().view.clone();
        self.store.apply(global, &pending, accumulator)?;
        let on_disk = self.store.snapshot();
        let mut inner = self.inner();
        inner.view = View { global, on_disk, pending: Arc::default() };
        inner.pending_bytes = 0;
        Ok(())
    }

    /// The state after the last block that was taken up, with its index, whatever comes
    /// later. Not to be held for long: what it shows is kept in memory and on disk.
    pub fn view(&self) -> (GlobalIndex, Arc<dyn StateReader>) {
        let view = self.inner().view.clone();
        (view.global, Arc::new(view))
    }

    /// See [`StateStore::has_failed`].
    pub fn has_failed(&self) -> bool {
        self.store.has_failed()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateReader for WorkingState {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut inner = self.inner();
        if let Some(known) = inner.recent.get(key) {
            return known.as_deref().map(<[u8]>::to_vec);
        }
        let value = inner.view.get(key);
        // That there is none is not kept: mostly the key is about to be written.
        if let Some(value) = &value {
            inner.recent.insert(key.into(), Some(Arc::from(value.as_slice())));
        }
        value
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        // Not under the lock: a view is whole.
        self.view().1.scan(start, end, limit)
    }
}

impl StateReader for View {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match self.pending.get::<[u8]>(key) {
            Some(written) => written.as_deref().map(<[u8]>::to_vec),
            None => self.on_disk.get(key),
        }
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        scan_merged(self.on_disk.as_ref(), &self.pending, start, end, limit)
    }
}
