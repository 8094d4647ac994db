//! Store and guard as the two places of one log.

use moult_core::io::Persist;

use crate::error::StoreError;
use crate::guard_file::GuardFile;
use crate::write::StoreWriter;
use crate::writer::Sink;

/// The sink of a node: the guard's file and the store.
///
/// The store is synced first. So the guard never knows of a final block or of a prepared
/// block that the store can have lost in a crash, and every difference found at start is
/// damage. A crash between the two syncs leaves an engine's record whose statements the
/// guard does not know; none of their signatures has left the node. Whoever takes up stored
/// records must therefore ask the guard again before it sends a stored signature.
pub struct DurableLog {
    store: StoreWriter,
    guard: GuardFile,
}

impl DurableLog {
    /// Joins the two.
    pub fn new(store: StoreWriter, guard: GuardFile) -> Self {
        Self { store, guard }
    }
}

impl Sink for DurableLog {
    fn apply(&mut self, writes: &[Persist]) -> Result<(), StoreError> {
        for write in writes {
            match write {
                Persist::Guard(update) => self.guard.append(std::slice::from_ref(update))?,
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
        if !self.store.is_empty() {
            // What the guard has synced before; this group's number comes with the next one.
            self.store.note_guard(self.guard.sequence());
        }
        self.store.commit(true)?;
        self.guard.sync()?;
        Ok(())
    }
}
