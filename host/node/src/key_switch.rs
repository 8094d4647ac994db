//! An authority's next key: kept beside the present one until an epoch has it, then taken up.
//!
//! `moult keys rotate` makes it and proposes the epoch. When that epoch begins, the node stops and
//! starts anew, and [`take_up`] is the first thing that it does. Each step is durable before the
//! next, and all of them can be done again: a crash leaves a node that takes the key up at its
//! next start. The new key has signed nothing, so its guard begins empty; the former guard and key
//! are kept under other names.

use std::path::{Path, PathBuf};

use moult_core::guard::GuardState;
use moult_core::stop::StopCause;
use moult_keys::KeyFile;
use moult_store::{GuardFile, GuardFileError, Store, StoreError, StoreOptions};
use moult_types::{AuthorityId, ChainId, Genesis, Manifest, PublicKey};

use crate::config::NodeConfig;
use crate::guard_transfer::guard_path;
use crate::node::NodeError;

/// Where the next key of a node waits.
pub fn next_key_path(key_file: &Path) -> PathBuf {
    named(key_file, ".next")
}

/// What stays of a former key.
fn retired(path: &Path, key: PublicKey) -> PathBuf {
    let short: String = key.to_string().chars().take(8).collect();
    named(path, &format!(".retired-{short}"))
}

pub(crate) fn named(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Whether a node with this configuration has a next key that an epoch has given its authority.
pub(crate) fn is_due(config: &NodeConfig, authority: AuthorityId, manifest: &Manifest) -> bool {
    let path = next_key_path(&config.key_file);
    path.exists()
        && KeyFile::read(&path).is_ok_and(|next| {
            let key = next.public_key();
            next.authority() == authority
                && manifest.members.iter().any(|m| m.id == authority && m.key == key)
        })
}

/// Takes the next key up if the epoch that the store is in has it. The caller holds the lock of
/// the data directory.
///
/// # Errors
/// A key file, the store, the disk. Nothing was signed; the next start tries again.
pub(crate) fn take_up(config: &NodeConfig, genesis: &Genesis) -> Result<(), NodeError> {
    let next_path = next_key_path(&config.key_file);
    let dir = config.data_dir.join("store");
    if !next_path.exists() || !Store::exists(&dir) {
        return Ok(());
    }
    let (old, next) = (KeyFile::read(&config.key_file)?, KeyFile::read(&next_path)?);
    let first = old.authority();
    let (old, next, chain) = (old.public_key(), next.public_key(), genesis.chain());
    let failed = |e: StoreError| NodeError::Store(e.to_string());
    let store = Store::open_to_read(&dir, chain, StoreOptions::default()).map_err(failed)?;
    let authority = config.authority.unwrap_or(first);
    let epoch = store.present_epoch().map_err(failed)?;
    if !epoch.is_some_and(|epoch| is_due(config, authority, &epoch.manifest)) {
        return Ok(());
    }
    // A former guard that is lost or damaged is why there is a new key.
    let path = guard_path(&config.data_dir);
    let former = open_former(&path, chain, old).map_err(failed)?;
    let in_place = former.is_some();
    let former = match former {
        Some(guard) => Some(guard),
        None => open_former(&retired(&path, old), chain, old).map_err(failed)?,
    };
    let start_count = former.as_ref().map_or(0, |guard| guard.state().start_count);
    // A stop for what the key signed ends with it; one for what the store holds does not.
    let stopped = former.as_ref().and_then(|guard| guard.state().stopped.clone());
    let stopped = stopped.filter(|stop| stop.cause != StopCause::Key);
    if store.node().map_err(failed)? == old {
        if let Some(guard) = former.filter(|_| in_place) {
            store.settle_guard(guard).map_err(failed)?;
        }
        store.give_to(next).map_err(failed)?;
    }
    drop(store);
    put_aside(&path, &retired(&path, old), chain, next).map_err(failed)?;
    if !path.exists() {
        let fresh = GuardState::new(chain, next, genesis.manifest.identity());
        let state = GuardState { start_count, stopped, ..fresh };
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.map_err(|e| failed(io(&path, "make the folder of", e)))?;
        GuardFile::create(&path, state).map_err(|e| failed(e.into()))?;
    }
    replace_key(&config.key_file, &next_path, &retired(&config.key_file, old)).map_err(failed)?;
    tracing::info!(target: "startup", %authority, former = %old, key = %next, "the authority's new key was taken up");
    Ok(())
}

/// The guard of the former key, if it is of any use.
fn open_former(path: &Path, chain: ChainId, key: PublicKey) -> Result<Option<GuardFile>, StoreError> {
    match GuardFile::open(path, chain, key) {
        Ok((guard, _)) => Ok(Some(guard)),
        Err(e @ (GuardFileError::Io { .. } | GuardFileError::OtherFormat { .. })) => Err(e.into()),
        Err(_) => Ok(None),
    }
}

/// Whatever is in the place of the new key's guard and is not that.
fn put_aside(path: &Path, aside: &Path, chain: ChainId, next: PublicKey) -> Result<(), StoreError> {
    if !path.exists() || GuardFile::open(path, chain, next).is_ok() {
        return Ok(());
    }
    std::fs::rename(path, aside).map_err(|e| io(path, "put aside", e))?;
    sync_parent(path)
}

/// At no moment is there no key.
fn replace_key(key_file: &Path, next: &Path, retired: &Path) -> Result<(), StoreError> {
    match std::fs::hard_link(key_file, retired) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(io(key_file, "keep", e)),
        _ => {}
    }
    std::fs::rename(next, key_file).map_err(|e| io(next, "rename", e))?;
    sync_parent(key_file)
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| io(parent, "sync", e))
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), action, source }
}

#[cfg(test)]
#[path = "key_switch_test.rs"]
mod tests;
