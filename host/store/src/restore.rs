//! Bringing a store back from a backup, so that it can be cut off anywhere.
//!
//! The steps, each durable before the next one: a note that a restore is under way; the new store
//! under another name, whole and checked; the old store put aside; the new one in its place; the
//! note removed. While there is the note no node starts in the directory, and the same command
//! run again completes what was begun. Nothing is ever deleted but an unfinished copy.
//!
//! The guard is not touched. What it and the restored store say together is looked at by the next
//! start, as after any loss: see [`GuardCheck`](crate::GuardCheck).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use moult_types::{ChainId, Digest, PublicKey};

use crate::backup::{Backup, BackupError, Frames, Part};
use crate::error::StoreError;
use crate::guard_file::replace;
use crate::modules::ModuleFiles;
use crate::store::{Store, StoreOptions};
use crate::tables::{Table, Tables, seal, unseal};

const NOTE: &str = "RESTORING";
const STORE: &str = "store";
const UNFINISHED: &str = "store.restoring";
const ASIDE: &str = "store.before-restore-";

/// That a restore is under way.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
struct Note {
    /// Of the backup.
    hash: [u8; 32],
    /// Name that the old store gets; none where there was no store.
    aside: Option<String>,
}

/// What is done next; for tests that cut a restore off there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoreStep {
    /// The note is written.
    Note,
    /// A part of the new store is written.
    Build,
    /// The new store is checked.
    Check,
    /// The old store gets another name.
    PutAside,
    /// The new store gets its name.
    PutInPlace,
    /// The note is removed.
    End,
}

/// How a restore ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// Hash of the backup that the store comes from.
    pub hash: Digest,
    /// Where the former store is now.
    pub aside: Option<PathBuf>,
}

/// Refuses a data directory in which a restore was cut off: what is there may be half of it.
///
/// # Errors
/// [`StoreError::HalfRestored`], or the system.
pub fn refuse_half_restored(data_dir: &Path) -> Result<(), StoreError> {
    let path = data_dir.join(NOTE);
    match path.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(StoreError::HalfRestored { path: data_dir.to_owned() }),
        Err(e) => Err(StoreError::io(&path, "look for", e)),
    }
}

/// Puts the store of a backup in the place of the one that is there. The caller holds the lock of
/// the data directory and has checked the whole backup. A restore that was cut off after the old
/// store was put aside is completed first, whatever backup that was: see the answer's hash.
/// `before` is called before each step, and its error ends the restore there.
///
/// # Errors
/// The backup is not this node's or damaged, or the disk. Run again, it goes on.
pub fn restore(
    data_dir: &Path,
    (chain, node): (ChainId, PublicKey),
    backup: &Backup,
    before: &mut dyn FnMut(RestoreStep) -> io::Result<()>,
) -> Result<Restored, BackupError> {
    let mut restore = Restore { data_dir, before };
    let header = &backup.header;
    if (header.chain, header.node) != (chain, node) {
        let (path, chain, node) = (backup.path.clone(), header.chain, header.node);
        return Err(BackupError::OtherNode { path, chain, node });
    }
    if let Some(note) = restore.note()?
        && restore.is_past_return(&note)
    {
        return restore.put_in_place(note);
    }
    let had_store = restore.path(STORE).exists();
    let note = Note { hash: backup.hash.0, aside: had_store.then(|| restore.free_name()) };
    restore.step(RestoreStep::Note)?;
    let path = restore.path(NOTE);
    replace(&path, &seal(Table::Meta, NOTE.as_bytes(), &note))
        .map_err(|e| BackupError::io(&path, "write", e))?;
    restore.build(&backup.path)?;
    restore.step(RestoreStep::Check)?;
    let options = StoreOptions::default();
    Store::open(&restore.path(UNFINISHED), chain, node, options)?.load()?;
    restore.put_in_place(note)
}

struct Restore<'a> {
    data_dir: &'a Path,
    before: &'a mut dyn FnMut(RestoreStep) -> io::Result<()>,
}

impl Restore<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.data_dir.join(name)
    }

    fn step(&mut self, step: RestoreStep) -> Result<(), BackupError> {
        (self.before)(step).map_err(|e| BackupError::io(self.data_dir, "restore into", e))
    }

    fn note(&self) -> Result<Option<Note>, BackupError> {
        let path = self.path(NOTE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(BackupError::io(&path, "read", e)),
        };
        let note = unseal(Table::Meta, NOTE.as_bytes(), &bytes);
        note.map(Some).map_err(|e| StoreError::corrupt(&path, "the note of a restore", e).into())
    }

    /// Whether the new store is whole and the old one is not in its place any more.
    fn is_past_return(&self, note: &Note) -> bool {
        match &note.aside {
            Some(aside) => self.path(aside).exists(),
            // No node starts while there is the note: the restore put it there.
            None => self.path(STORE).exists(),
        }
    }

    fn free_name(&self) -> String {
        let names = (1..).map(|n: u64| format!("{ASIDE}{n}"));
        let free = names.into_iter().find(|name| !self.path(name).exists());
        free.unwrap_or_else(|| unreachable!("a folder holds fewer names"))
    }

    fn build(&mut self, backup: &Path) -> Result<(), BackupError> {
        let dir = self.path(UNFINISHED);
        self.step(RestoreStep::Build)?;
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(BackupError::io(&dir, "remove", e));
            }
            _ => {}
        }
        std::fs::create_dir_all(&dir).map_err(|e| BackupError::io(&dir, "create", e))?;
        let tables = Tables::open(&dir.join("db"), StoreOptions::default().cache_bytes)?;
        let modules = ModuleFiles::open(&dir.join("modules"))?;
        let mut frames = Frames::open(backup)?;
        while let Some(part) = frames.next_part()? {
            self.step(RestoreStep::Build)?;
            match part {
                Part::Entries(mut changes) => changes.commit(&tables, false)?,
                Part::Module(bytes) => drop(modules.put(&bytes)?),
            }
        }
        self.step(RestoreStep::Build)?;
        crate::tables::Changes::default().commit(&tables, true)?;
        drop(tables);
        sync(&dir)?;
        sync(self.data_dir)
    }

    fn put_in_place(&mut self, note: Note) -> Result<Restored, BackupError> {
        let (store, unfinished) = (self.path(STORE), self.path(UNFINISHED));
        let aside = note.aside.map(|name| self.path(&name));
        if let Some(aside) = &aside
            && !aside.exists()
        {
            self.step(RestoreStep::PutAside)?;
            std::fs::rename(&store, aside).map_err(|e| BackupError::io(&store, "put aside", e))?;
            sync(self.data_dir)?;
        }
        if !store.exists() {
            self.step(RestoreStep::PutInPlace)?;
            std::fs::rename(&unfinished, &store).map_err(|e| BackupError::io(&unfinished, "rename", e))?;
            sync(self.data_dir)?;
        }
        self.step(RestoreStep::End)?;
        let path = self.path(NOTE);
        std::fs::remove_file(&path).map_err(|e| BackupError::io(&path, "remove", e))?;
        sync(self.data_dir)?;
        Ok(Restored { hash: Digest(note.hash), aside })
    }
}

fn sync(dir: &Path) -> Result<(), BackupError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| BackupError::io(dir, "sync", e))
}
