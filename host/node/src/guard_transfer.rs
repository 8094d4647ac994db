//! A signer guard leaves one machine and arrives on another.
//!
//! An export takes the guard out of use where it is: its file gets another name, under which no
//! node runs with it, before anything of it is given away. An import puts what it brings together
//! with what is there, and only ever raises it. Both want the lock of the data directory, so
//! neither meets a running node. What the form looks like is in `guard_json`.

use std::path::{Path, PathBuf};

use moult_core::GuardConflict;
pub use moult_core::guard::GuardState;
use moult_core::io::GuardUpdate;
pub use moult_core::stop::Stop;
use moult_keys::{KeyError, KeyFile};
use moult_store::{
    DirLock, GuardCheck, GuardFile, GuardFileError, Store, StoreError, StoreOptions, refuse_half_restored,
};
use moult_types::{ChainId, PublicKey};
use thiserror::Error;

use crate::config::NodeConfig;
use crate::genesis::{GenesisError, GenesisFile};
use crate::guard_json::{GuardExport, GuardJsonError};

/// Why a guard does not move.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The key's file.
    #[error(transparent)]
    File(#[from] KeyError),
    /// The genesis.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The store, the lock or the guard's file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The guard's file.
    #[error(transparent)]
    Guard(#[from] GuardFileError),
    /// What is to be imported is no guard.
    #[error("{0}")]
    Json(#[from] GuardJsonError),
    /// There is nothing to export.
    #[error("{0} is not there: this node has no signer guard to export")]
    Nothing(PathBuf),
    /// It was exported before.
    #[error(
        "this guard was exported before: {0} is out of use. If the node has signed anywhere since, the state here is old, and a node that signs with it can break a promise. `--again` exports it all the same, where what was exported got lost before it was imported"
    )]
    Exported(PathBuf),
    /// The guard may have forgotten signatures.
    #[error(
        "this guard must not be moved: it is older than its store, or not of the same chain ({0:?}). Give this authority a new key instead (`moult keys rotate`)"
    )]
    Unfit(GuardCheck),
    /// Of another chain.
    #[error("the exported guard belongs to chain {found}; this node's genesis is that of chain {expected}")]
    OtherChain {
        /// The chain in the file.
        found: ChainId,
        /// The node's.
        expected: ChainId,
    },
    /// Of another key.
    #[error(
        "the exported guard is that of key {found}; this node's key is {expected}: bring the key file along first"
    )]
    OtherKey {
        /// The key in the file.
        found: PublicKey,
        /// The node's.
        expected: PublicKey,
    },
    /// The key signed on two machines.
    #[error(
        "the exported guard contradicts the one that is here: {0}. This key was in use on two machines: start neither, and give the authority a new key (`moult keys rotate`)"
    )]
    Conflict(#[from] GuardConflict),
}

impl TransferError {
    /// Whether the configuration or its files are at fault (exit code 78).
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::File(_) | Self::Genesis(_))
    }
}

/// Why a stop is not lifted.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// The folder is not fit.
    #[error(transparent)]
    Place(#[from] TransferError),
    /// Nothing is stopped.
    #[error("this node's signer guard holds no stop: there is nothing to lift")]
    NotStopped,
    /// The key has signed what nobody here remembers.
    #[error("this stop cannot be lifted: {0}")]
    ForGood(Stop),
}

/// What an import did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// What was there.
    pub before: Option<GuardState>,
    /// What is there now.
    pub after: GuardState,
}

/// The guard's file in a data directory.
pub fn guard_path(data_dir: &Path) -> PathBuf {
    data_dir.join("guard").join("guard")
}

/// The name that a guard has once it was exported: no node runs with it.
pub(crate) fn exported_path(data_dir: &Path) -> PathBuf {
    data_dir.join("guard").join("guard.exported")
}

/// Takes the guard of a node that is stopped out of use, and gives its content. `again`: also
/// where that has happened before.
///
/// # Errors
/// A node runs here, there is no guard, or it must not be moved.
pub fn export(config: &NodeConfig, again: bool) -> Result<GuardExport, TransferError> {
    let place = Place::open(config)?;
    let (path, exported) = (guard_path(&config.data_dir), exported_path(&config.data_dir));
    if !exists(&path)? {
        if !exists(&exported)? {
            return Err(TransferError::Nothing(path));
        }
        if !again {
            return Err(TransferError::Exported(exported));
        }
        let (guard, state) = GuardFile::open(&exported, place.chain, place.key)?;
        return Ok(GuardExport { state, sequence: guard.sequence() });
    }
    let (guard, _) = GuardFile::open(&path, place.chain, place.key)?;
    let guard = place.settle(guard)?;
    let export = GuardExport { state: guard.state().clone(), sequence: guard.sequence() };
    drop(guard);
    // Out of use first: whoever has the content knows that nobody else signs with it.
    rename(&path, &exported)?;
    Ok(export)
}

/// Takes up an exported guard, given as JSON, where the node is stopped.
///
/// # Errors
/// A node runs here; it is no guard, one of another chain or key, or one that contradicts what
/// is here. Nothing was changed then.
pub fn import(config: &NodeConfig, json: &[u8]) -> Result<Imported, TransferError> {
    let brought = GuardExport::parse(json)?;
    let place = Place::open(config)?;
    let (chain, key) = (place.chain, place.key);
    if brought.state.chain != chain {
        return Err(TransferError::OtherChain { found: brought.state.chain, expected: chain });
    }
    if brought.state.key != key {
        return Err(TransferError::OtherKey { found: brought.state.key, expected: key });
    }
    let (path, exported) = (guard_path(&config.data_dir), exported_path(&config.data_dir));
    let before = if exists(&path)? {
        let (guard, _) = GuardFile::open(&path, chain, key)?;
        Some(place.settle(guard)?)
    } else if exists(&exported)? {
        Some(GuardFile::open(&exported, chain, key)?.0)
    } else {
        None
    };
    let (after, sequence) = match &before {
        Some(guard) => (guard.state().raised_by(&brought.state)?, guard.sequence().max(brought.sequence)),
        None => (brought.state, brought.sequence),
    };
    let before = before.map(|guard| guard.state().clone());
    let dir = config.data_dir.join("guard");
    std::fs::create_dir_all(&dir).map_err(|e| io(&dir, "create", e))?;
    GuardFile::import(&path, after.clone(), sequence)?;
    // All of it is in the new one.
    if exists(&exported)? {
        std::fs::remove_file(&exported).map_err(|e| io(&exported, "remove", e))?;
        sync_parent(&exported)?;
    }
    Ok(Imported { before, after })
}

/// Lifts the stop of a node that is not running, after its operator has put in order what was
/// found. `really`: else it only says what it would lift.
///
/// # Errors
/// A node runs here, there is no guard or no stop in it, or it is one for good.
pub fn resume(config: &NodeConfig, really: bool) -> Result<Stop, ResumeError> {
    let place = Place::open(config)?;
    let path = guard_path(&config.data_dir);
    if !exists(&path)? {
        return Err(TransferError::Nothing(path).into());
    }
    let (guard, _) = GuardFile::open(&path, place.chain, place.key).map_err(TransferError::from)?;
    let stop = guard.state().stopped.clone().ok_or(ResumeError::NotStopped)?;
    if !stop.may_be_lifted() {
        return Err(ResumeError::ForGood(stop));
    }
    if really {
        // A store that was brought back, or replaced, is no reason to forget the stop's end.
        let mut guard = guard;
        guard.append(&[GuardUpdate::Resumed]).map_err(TransferError::from)?;
        guard.commit(Vec::new()).map_err(TransferError::from)?;
    }
    Ok(stop)
}

/// A node's directory, locked, and whose it is.
struct Place {
    chain: ChainId,
    key: PublicKey,
    store: Option<Store>,
    _lock: DirLock,
}

impl Place {
    fn open(config: &NodeConfig) -> Result<Self, TransferError> {
        let key = KeyFile::read(&config.key_file)?.public_key();
        let chain = GenesisFile::load(&config.genesis)?.to_genesis()?.chain();
        let lock = DirLock::acquire(&config.data_dir)?;
        refuse_half_restored(&config.data_dir)?;
        let dir = config.data_dir.join("store");
        let store = if Store::exists(&dir) {
            Some(Store::open(&dir, chain, key, StoreOptions::default())?)
        } else {
            None
        };
        Ok(Self { chain, key, store, _lock: lock })
    }

    /// Gives the store what only the guard's file has: that is not written anew.
    fn settle(&self, guard: GuardFile) -> Result<GuardFile, TransferError> {
        let Some(store) = &self.store else { return Ok(guard) };
        if guard.is_new() && !store.knows_guard()? {
            return Ok(guard);
        }
        match store.settle_guard(guard)? {
            (_, Some(guard)) => Ok(guard),
            (found, None) => Err(TransferError::Unfit(found)),
        }
    }
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> TransferError {
    TransferError::Store(StoreError::Io { path: path.to_owned(), action, source })
}

fn exists(path: &Path) -> Result<bool, TransferError> {
    path.try_exists().map_err(|e| io(path, "look for", e))
}

fn rename(from: &Path, to: &Path) -> Result<(), TransferError> {
    std::fs::rename(from, to).map_err(|e| io(from, "rename", e))?;
    sync_parent(to)
}

fn sync_parent(path: &Path) -> Result<(), TransferError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| io(parent, "sync", e))
}

#[cfg(test)]
#[path = "guard_transfer_test.rs"]
pub(crate) mod tests;
