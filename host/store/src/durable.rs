//! Store and guard as the two places of one log.

use moult_core::io::{GuardUpdate, Persist};

use crate::error::StoreError;
use crate::guard_file::GuardFile;
use crate::write::StoreWriter;
use crate::writer::Sink;

/// The sink of a node: the guard's file and the store.
///
/// The store is synced first, then the guard. So the guard never knows of a final or prepared
/// block that the store can have lost in a crash, and every difference found at start is
/// damage. The other way round, a signature in the store that the guard does not know, is
/// made good at start: the store's write carries the group's updates of the guard; see
/// [`Store::reconcile_guard`](crate::Store::reconcile_guard).
pub struct DurableLog {
    store: StoreWriter,
    guard: GuardFile,
    /// What the guard took up since its last sync.
    updates: Vec<GuardUpdate>,
}

impl DurableLog {
    /// Joins the two.
    pub fn new(store: StoreWriter, guard: GuardFile) -> Self {
        Self { store, guard, updates: Vec::new() }
    }
}

impl Sink for DurableLog {
    fn apply(&mut self, writes: &[Persist]) -> Result<(), StoreError> {
        for write in writes {
            match write {
                Persist::Guard(update) => {
                    self.guard.append(std::slice::from_ref(update))?;
                    self.updates.push(update.clone());
                }
                other => self.store.apply(other)?,
            }
        }
        Ok(())
    }

    fn commit(&mut self, durable: bool) -> Result<(), StoreError> {
        if !durable {
            // The guard keeps lazy updates in memory until the next sync.
            return self.store.commit(false);
        }
        if !self.store.is_empty() && !self.updates.is_empty() {
            self.store.note_guard(self.guard.sequence() + 1, &self.updates);
        }
        self.store.commit(true)?;
        self.guard.sync()?;
        self.updates.clear();
        Ok(())
    }
}
