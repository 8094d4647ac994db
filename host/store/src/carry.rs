//! The state of a chain that lost its quorum for good, carried into the store of a new one.
//!
//! A store that holds nothing but a genesis gets the state that the genesis names, is written into
//! a backup, and becomes the store of each node of the new chain from there. The state root is
//! computed again from every pair wherever it is installed. Nothing here decides what is carried.

use std::collections::BTreeMap;
use std::path::Path;

use moult_core::execution::{APPLICATION_PREFIX, SESSION_PREFIX, StateAccumulator};
use moult_types::state::StateReader;
use moult_types::{Digest, Genesis, PublicKey};

use crate::backup::{BackupError, Frames, Part};
use crate::error::StoreError;
use crate::store::{Store, StoreOptions};
use crate::tables::{Changes, Table};

/// Pairs that are read and written at once.
const PAIRS: usize = 1024;

/// Calls back with every pair of the replicated state, rising.
///
/// # Errors
/// That of the call.
pub(crate) fn each_pair<E>(
    state: &dyn StateReader,
    mut take: impl FnMut(Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), E>,
) -> Result<(), E> {
    for prefix in [APPLICATION_PREFIX, SESSION_PREFIX] {
        let mut from = vec![prefix];
        loop {
            let pairs = state.scan(&from, Some(&[prefix + 1]), PAIRS);
            let Some((last, _)) = pairs.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            take(pairs)?;
        }
    }
    Ok(())
}

/// The accumulator of a whole state, computed from its pairs.
pub fn accumulator_of(state: &dyn StateReader) -> StateAccumulator {
    let mut sum = StateAccumulator::default();
    let added: Result<(), std::convert::Infallible> = each_pair(state, |pairs| {
        pairs.iter().for_each(|(key, value)| sum.replace(key, None, Some(value)));
        Ok(())
    });
    match added {
        Ok(()) => sum,
    }
}

impl Store {
    /// Gives a store that holds nothing but its genesis the state that the chain begins with: its
    /// pairs, and the executor's own record. Synced when it returns.
    ///
    /// # Errors
    /// The disk.
    pub fn carry_state(
        &self,
        state: &dyn StateReader,
        accumulator: &StateAccumulator,
        (own_key, own): (&[u8], Vec<u8>),
    ) -> Result<(), StoreError> {
        let (to, bytes, base) = (self.state(), accumulator.to_bytes(), self.base);
        each_pair(state, |pairs| {
            let writes: BTreeMap<_, _> = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
            to.apply(base, &writes, &bytes)
        })?;
        to.apply(base, &BTreeMap::from([(own_key, Some(own))]), &bytes)?;
        Changes::default().commit(&self.tables, true)
    }
}

/// Builds the store of a node of a new chain in a folder of its own: its genesis, and the state
/// which that carries on, pair by pair from a backup that was checked; nothing else of it but its
/// modules. Whatever an earlier attempt left there is removed.
///
/// # Errors
/// [`BackupError::OtherState`], the disk.
pub fn build_carried(
    dir: &Path,
    genesis: &Genesis,
    node: PublicKey,
    backup: &Path,
    (own_key, own): (&[u8], Vec<u8>),
) -> Result<(), BackupError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(BackupError::io(dir, "remove", e));
        }
        _ => {}
    }
    let store = Store::create(dir, genesis, node, StoreOptions::default())?;
    let (state, base) = (store.state(), store.base);
    let mut sum = StateAccumulator::default();
    let mut frames = Frames::open(backup)?;
    while let Some(part) = frames.next_part()? {
        match part {
            Part::Entries(changes) => {
                let is_carried = |key: &[u8]| matches!(key, [APPLICATION_PREFIX | SESSION_PREFIX, _, ..]);
                let mut pairs = BTreeMap::new();
                for (key, value) in changes.puts(Table::State).filter(|(key, _)| is_carried(key)) {
                    sum.replace(&key, None, Some(&value));
                    pairs.insert(key, Some(value));
                }
                state.apply(base, &pairs, &sum.to_bytes())?;
            }
            Part::Module(bytes) => drop(store.modules().put(&bytes)?),
        }
    }
    let expected = genesis.origin.map_or(Digest::ZERO, |origin| origin.state_root);
    if sum.root() != expected {
        return Err(BackupError::OtherState { path: backup.to_owned(), found: sum.root(), expected });
    }
    state.apply(base, &BTreeMap::from([(own_key, Some(own))]), &sum.to_bytes())?;
    Changes::default().commit(&store.tables, true)?;
    drop(store);
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| BackupError::io(dir, "sync", e))
}
