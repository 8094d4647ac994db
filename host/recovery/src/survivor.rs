//! What is left of a node: its data folder, or a backup of its store.

use std::path::{Path, PathBuf};

use moult_core::guard::GuardState;
use moult_node::guard_transfer::guard_path;
use moult_store::{
    DirLock, GuardCheck, GuardFile, Loaded, Store, StoreOptions, check_backup, refuse_half_restored, restore,
};
use moult_types::{ChainId, PublicKey};
use tempfile::TempDir;

use crate::error::RecoveryError;

/// Where a survivor is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// The data folder of a node that is stopped.
    DataDir(PathBuf),
    /// A backup of a node's store. Without its guard: what its key has signed is not known.
    Backup(PathBuf),
}

/// A survivor, opened: nothing else runs there meanwhile.
pub struct Survivor {
    /// Its data folder or backup.
    pub path: PathBuf,
    /// Its key.
    pub node: PublicKey,
    /// Its store.
    pub store: Store,
    /// What is in it.
    pub loaded: Loaded,
    /// What its key has signed; or why that is not known.
    pub guard: Result<GuardState, String>,
    #[allow(dead_code, reason = "held")]
    lock: Option<DirLock>,
    /// Where a backup was unpacked.
    unpacked: Option<TempDir>,
}

impl Survivor {
    /// Opens what is left of a node of a chain. A store gets what its guard's log has for it, as
    /// at any start; nothing else is written.
    ///
    /// # Errors
    /// A node runs there; it is of another chain, or damaged; the disk.
    pub fn open(source: &Source, chain: ChainId) -> Result<Self, RecoveryError> {
        match source {
            Source::DataDir(dir) => Self::of_data_dir(dir, chain),
            Source::Backup(file) => Self::of_backup(file, chain),
        }
    }

    #[cfg(test)]
    pub(crate) fn of_parts(
        path: PathBuf,
        node: PublicKey,
        store: Store,
        loaded: Loaded,
        guard: Result<GuardState, String>,
    ) -> Self {
        Self { path, node, store, loaded, guard, lock: None, unpacked: None }
    }

    /// Whether this is what a node left behind, not a node.
    pub fn is_backup(&self) -> bool {
        self.unpacked.is_some()
    }

    fn of_data_dir(dir: &Path, chain: ChainId) -> Result<Self, RecoveryError> {
        let folder = dir.join("store");
        if !Store::exists(&folder) {
            return Err(RecoveryError::NoStore(dir.to_owned()));
        }
        let lock = DirLock::acquire(dir)?;
        refuse_half_restored(dir)?;
        let store = Store::open_to_read(&folder, chain, StoreOptions::default())?;
        let node = store.node()?;
        let guard = match GuardFile::open(&guard_path(dir), chain, node) {
            Err(problem) => Err(problem.to_string()),
            Ok((guard, _)) => match store.settle_guard(guard)? {
                (GuardCheck::Fits, Some(guard)) => Ok(guard.state().clone()),
                (found, _) => Err(format!("it does not fit the store: {found:?}")),
            },
        };
        let loaded = store.load()?;
        Ok(Self { path: dir.to_owned(), node, store, loaded, guard, lock: Some(lock), unpacked: None })
    }

    fn of_backup(file: &Path, chain: ChainId) -> Result<Self, RecoveryError> {
        let backup = check_backup(file)?;
        let (found, node) = (backup.header.chain, backup.header.node);
        if found != chain {
            return Err(RecoveryError::OtherBackup { path: file.to_owned(), found, expected: chain });
        }
        // Beside the backup: there is room for a store.
        let beside = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder =
            tempfile::tempdir_in(beside).map_err(|e| RecoveryError::io(beside, "make a folder in", e))?;
        restore(folder.path(), (chain, node), &backup, &mut |_| Ok(()))?;
        let store = Store::open_to_read(&folder.path().join("store"), chain, StoreOptions::default())?;
        let loaded = store.load()?;
        let guard = Err("a backup holds none".to_owned());
        Ok(Self { path: file.to_owned(), node, store, loaded, guard, lock: None, unpacked: Some(folder) })
    }
}
