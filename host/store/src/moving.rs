//! What a store has to do with a node that moves to another machine, or gets another key.

use moult_core::io::EpochStart;
use moult_types::{EpochNumber, PublicKey};

use crate::error::StoreError;
use crate::guard_file::GuardFile;
use crate::load::GuardCheck;
use crate::store::{META_GUARD, META_HEADER, Store, header_bytes};
use crate::tables::{Changes, Table};
use crate::write::GuardNote;

/// The number of the group that a new guard's file begins with.
const FIRST_SEQUENCE: u64 = 1;

impl Store {
    /// Gives the store what only the guard's log has, and syncs it: from then on nothing but the
    /// guard's state and number is needed of its file. Answers as [`Store::reconcile_guard`].
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn settle_guard(&self, guard: GuardFile) -> Result<(GuardCheck, Option<GuardFile>), StoreError> {
        let (found, guard) = self.reconcile_guard(guard)?;
        let mut changes = Changes::default();
        if let (GuardCheck::Fits, Some(guard)) = (&found, &guard) {
            let note = GuardNote::Written { sequence: guard.sequence() };
            changes.put_sealed(Table::Meta, META_GUARD, &note);
        }
        changes.commit(&self.tables, true)?;
        Ok((found, guard))
    }

    /// Makes this the store of another key of the same node, beside a guard that is new: at once
    /// and durably. Whatever the former guard's log had for it must be in it (see
    /// [`Store::settle_guard`]).
    ///
    /// # Errors
    /// The disk.
    pub fn give_to(&self, node: PublicKey) -> Result<(), StoreError> {
        let chain = self.header()?.chain;
        let mut changes = Changes::default();
        changes.put(Table::Meta, META_HEADER, header_bytes(chain, node).into());
        changes.put_sealed(Table::Meta, META_GUARD, &GuardNote::Written { sequence: FIRST_SEQUENCE });
        changes.commit(&self.tables, true)
    }

    /// The epoch that the chain is in here; none before the first was begun.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn present_epoch(&self) -> Result<Option<EpochStart>, StoreError> {
        match self.tables.last_number(Table::Epochs)? {
            Some(number) => self.epoch(EpochNumber(number)),
            None => Ok(None),
        }
    }

    /// The key of the node that it belongs to.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn node(&self) -> Result<PublicKey, StoreError> {
        Ok(self.header()?.node)
    }
}
