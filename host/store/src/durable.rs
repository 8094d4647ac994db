//! Store and guard as the two places of one log.

use moult_core::io::{GuardUpdate, Persist};

use crate::error::StoreError;
use crate::guard_file::GuardFile;
use crate::write::{GuardNote, StoreWriter};
use crate::writer::Sink;

/// Lazy writes that wait for a synced group, at most; then they are a group of their own.
const LAZY_BYTES_MAX: usize = 1 << 20;

/// The sink of a node: the guard's file and the store.
///
/// A group is one sync: its updates of the guard and all that it writes into the store, with
/// the lazy writes since the last group, go into the guard's file; then the store takes its
/// part, unsynced, and notes the group's number. What the store loses of that in a crash it
/// gets back at start; see [`Store::reconcile_guard`](crate::Store::reconcile_guard). Where
/// the guard's log has no room, the store is synced with the group first, and the log begins
/// anew; a crash between these two is made good in the other direction.
///
/// So neither ever knows of a block or a signature that the other can have lost in a crash,
/// and every difference found at start is damage.
///
/// A node without a guard signs nothing and acknowledges nothing; its store is synced by
/// itself, and knows of the guard's groups what it knew.
pub struct DurableLog {
    store: StoreWriter,
    guard: Option<GuardFile>,
    /// What the guard took up since the last group.
    updates: Vec<GuardUpdate>,
    /// What was written into the store since the last group, encoded.
    writes: Vec<u8>,
    times_anew: u64,
}

impl DurableLog {
    /// Joins the two.
    pub fn new(store: StoreWriter, guard: Option<GuardFile>) -> Self {
        Self { store, guard, updates: Vec::new(), writes: Vec::new(), times_anew: 0 }
    }

    fn commit_group(&mut self) -> Result<(), StoreError> {
        let Some(guard) = &mut self.guard else {
            self.writes.clear();
            return self.store.commit(true);
        };
        if guard.has_room(self.writes.len()) {
            guard.commit(std::mem::take(&mut self.writes))?;
            self.store.note_guard(&GuardNote::Written { sequence: guard.sequence() });
            self.store.commit(false)?;
        } else {
            let sequence = guard.sequence() + 1;
            let updates = std::mem::take(&mut self.updates);
            self.store.note_guard(&GuardNote::ToBeWritten { sequence, updates });
            self.store.commit(true)?;
            guard.begin_anew()?;
            self.times_anew += 1;
            self.writes.clear();
        }
        self.updates.clear();
        Ok(())
    }
}

impl Sink for DurableLog {
    fn apply(&mut self, writes: &[Persist]) -> Result<(), StoreError> {
        for write in writes {
            match (write, &mut self.guard) {
                (Persist::Guard(update), Some(guard)) => {
                    guard.append(std::slice::from_ref(update))?;
                    self.updates.push(update.clone());
                }
                (other, _) => self.store.apply(other)?,
            }
        }
        Ok(())
    }

    fn commit(&mut self, durable: bool) -> Result<(), StoreError> {
        self.store.encode_changes(&mut self.writes);
        if !durable && self.writes.len() < LAZY_BYTES_MAX {
            // The guard keeps lazy updates in memory until the next group.
            return self.store.commit(false);
        }
        if self.writes.is_empty() && self.updates.is_empty() {
            return Ok(());
        }
        self.commit_group()
    }

    fn times_anew(&self) -> u64 {
        self.times_anew
    }
}
