//! The signer guard's file: outside the database and outside every backup.
//!
//! [`GuardFile::append`] collects updates in memory, [`GuardFile::commit`] writes what was
//! collected, with what the same group writes into the store, and returns once it is durable;
//! the layout is in `guard_format`. Opening rewrites the file (a new file, synced, renamed
//! over the old one), so that everything that was read is durable before anything is written
//! after it, and damage in one half is healed.
//!
//! # Failure semantics
//! After a failed write or sync nobody knows what is on the disk. The file refuses every
//! later call; the process must end. Nothing is retried.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use moult_core::guard::GuardState;
use moult_core::io::GuardUpdate;
use moult_types::{ChainId, PublicKey};
use thiserror::Error;

use crate::guard_format::{
    Entry, FORMAT, Image, ImageError, Record, SLOT_BYTES, StoreWrites, decode_image, encode_image,
    half_bytes, is_logged, region_offset,
};

/// Least room of a log; the file is a little larger than four times this. What a group
/// writes into the store goes through the log, and whenever it is full the store is synced.
pub const LOG_BYTES_MIN: usize = 4 << 20;
/// What an entry takes beside its bytes, at most.
const ENTRY_OVERHEAD_BYTES: usize = 64;
/// A larger file was not written by this program.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why the guard's file cannot be used.
#[derive(Debug, Error)]
pub enum GuardFileError {
    /// No file: the node must not sign in an epoch in which it may have signed before.
    #[error(
        "the signer guard {path} is missing: without it this node signs nothing; restore no backup of it, start as an observer until an epoch change gives the node a new key"
    )]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// A new guard would forget what was signed.
    #[error("the signer guard {path} exists already: it is never overwritten")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The guard of another chain.
    #[error(
        "the signer guard {path} belongs to chain {found}, not to {expected}: check data directory and genesis file"
    )]
    OtherChain {
        /// Where.
        path: PathBuf,
        /// The chain found.
        found: ChainId,
        /// The chain asked for.
        expected: ChainId,
    },
    /// The guard of another key.
    #[error("the signer guard {path} guards key {found}, not {expected}: check data directory and key file")]
    OtherKey {
        /// Where.
        path: PathBuf,
        /// The key found.
        found: PublicKey,
        /// The key asked for.
        expected: PublicKey,
    },
    /// Written by another version of the program.
    #[error(
        "the signer guard {path} has format {found}; this version reads format {FORMAT}: use the version that wrote it"
    )]
    OtherFormat {
        /// Where.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// Both copies are damaged.
    #[error(
        "the signer guard {path} is damaged: {reason}; this node signs nothing, start as an observer until an epoch change gives the node a new key"
    )]
    Corrupt {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system refused. After a write: the process must end.
    #[error(
        "could not {action} the signer guard {path}: {source}; stop the node and look at the disk (space, kernel log)"
    )]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// An earlier write failed.
    #[error("an earlier write to the signer guard {path} failed: the process must end")]
    Poisoned {
        /// Where.
        path: PathBuf,
    },
}

/// The guard's file, open for writing. The caller holds the lock of the data directory.
#[derive(Debug)]
pub struct GuardFile {
    path: PathBuf,
    file: File,
    /// With every update that was appended.
    state: GuardState,
    /// The last record written.
    record: Record,
    hasher: blake3::Hasher,
    /// Encoded updates that are not written yet.
    pending: Vec<u8>,
    /// As found when the file was opened.
    store_writes: Vec<StoreWrites>,
    dirty: bool,
    poisoned: bool,
    log_bytes_min: usize,
}

impl GuardFile {
    /// Writes a new guard. Refuses to replace one.
    ///
    /// # Errors
    /// [`GuardFileError::Exists`], [`GuardFileError::Io`].
    pub fn create(path: &Path, state: GuardState) -> Result<Self, GuardFileError> {
        Self::create_with_log(path, state, LOG_BYTES_MIN)
    }

    /// Likewise, with other room for the log, in bytes: tests want small files.
    ///
    /// # Errors
    /// As [`GuardFile::create`].
    pub fn create_with_log(
        path: &Path,
        state: GuardState,
        log_bytes_min: usize,
    ) -> Result<Self, GuardFileError> {
        match path.try_exists() {
            Ok(false) => Self::write_new(path, Image::fresh(state), log_bytes_min),
            Ok(true) => Err(GuardFileError::Exists { path: path.to_owned() }),
            Err(e) => Err(failed(path, "look for", e)),
        }
    }

    /// Writes a guard that was brought from elsewhere, in the place of whatever is there: the
    /// caller has merged that into `state` (see `GuardState::raised_by`) and settled the store
    /// with it. `sequence`: of the file that it came from, or of the one that is there, whichever
    /// is higher; a store that saw less is older than the guard.
    ///
    /// # Errors
    /// [`GuardFileError::Io`].
    pub fn import(path: &Path, state: GuardState, sequence: u64) -> Result<Self, GuardFileError> {
        let sequence = sequence.max(1);
        let image = Image { sequence, store_sequence: sequence, ..Image::fresh(state) };
        Self::write_new(path, image, LOG_BYTES_MIN)
    }

    /// Reads the guard of a chain and key.
    ///
    /// # Errors
    /// One variant for each reason why the node may not sign with it.
    pub fn open(path: &Path, chain: ChainId, key: PublicKey) -> Result<(Self, GuardState), GuardFileError> {
        let image = read_image(path)?;
        let found = &image.state;
        if found.chain != chain {
            return Err(GuardFileError::OtherChain {
                path: path.to_owned(),
                found: found.chain,
                expected: chain,
            });
        }
        if found.key != key {
            return Err(GuardFileError::OtherKey { path: path.to_owned(), found: found.key, expected: key });
        }
        if image.halves_differ {
            tracing::warn!(path = %path.display(), sequence = image.sequence, "the halves of the signer guard differ: a torn write or healed damage");
        }
        let state = image.state.clone();
        // The same content under the same number: a crash around this changes nothing.
        let guard = Self::write_new(path, image, LOG_BYTES_MIN)?;
        Ok((guard, state))
    }

    /// Takes updates up; they are durable after the next [`GuardFile::commit`].
    ///
    /// # Errors
    /// [`GuardFileError::Poisoned`].
    pub fn append(&mut self, updates: &[GuardUpdate]) -> Result<(), GuardFileError> {
        self.check()?;
        for update in updates {
            self.state.apply(update);
            self.dirty = true;
            if is_logged(update) {
                self.pending.extend_from_slice(&moult_types::encode(&Entry::Guard(update.clone())));
            }
        }
        Ok(())
    }

    /// Whether the log has room for what was appended and so many bytes for the store.
    pub fn has_room(&self, store_bytes: usize) -> bool {
        (self.pending.len() + store_bytes + ENTRY_OVERHEAD_BYTES) as u64 <= self.room_bytes()
    }

    fn room_bytes(&self) -> u64 {
        self.record.log_capacity.saturating_sub(self.record.log_bytes)
    }

    /// Returns when everything appended is durable, and with it what the group writes into
    /// the store (in the store's encoding; empty: nothing). There is room for it.
    ///
    /// # Errors
    /// [`GuardFileError::Io`]: the process must end; nothing appended may be relied on.
    pub fn commit(&mut self, store_writes: Vec<u8>) -> Result<(), GuardFileError> {
        self.check()?;
        if !self.dirty && store_writes.is_empty() {
            return Ok(());
        }
        // Whatever happens from here on leaves by success or stays poisoned.
        self.poisoned = true;
        if !store_writes.is_empty() {
            let writes = StoreWrites { sequence: self.record.sequence + 1, writes: store_writes };
            self.pending.extend_from_slice(&moult_types::encode(&Entry::Store(writes)));
        }
        if self.pending.len() as u64 > self.room_bytes() {
            let full = io::Error::other("its log is full");
            return Err(failed(&self.path, "write", full));
        }
        self.write_group().map_err(|e| failed(&self.path, "write", e))?;
        self.settle();
        Ok(())
    }

    /// Begins the log anew with everything appended. The store was synced with all that this
    /// and all former groups write into it.
    ///
    /// # Errors
    /// As [`GuardFile::commit`].
    pub fn begin_anew(&mut self) -> Result<(), GuardFileError> {
        self.check()?;
        self.poisoned = true;
        let snapshot = moult_types::encode(&self.state);
        let sequence = self.record.sequence + 1;
        if snapshot.len() as u64 * 4 > self.record.log_capacity {
            let image = Image { sequence, store_sequence: sequence, ..Image::fresh(self.state.clone()) };
            *self = Self::write_new(&self.path, image, self.log_bytes_min)?;
            return Ok(());
        }
        self.record.region = 1 - self.record.region;
        self.record.snapshot_bytes = snapshot.len() as u64;
        self.record.log_bytes = 0;
        self.record.store_sequence = sequence;
        self.hasher = blake3::Hasher::new();
        self.pending = snapshot;
        self.write_group().map_err(|e| failed(&self.path, "write", e))?;
        self.settle();
        Ok(())
    }

    fn settle(&mut self) {
        self.pending.clear();
        self.store_writes.clear();
        self.dirty = false;
        self.poisoned = false;
    }

    /// What was found at opening: the store was synced up to the group of this number, and
    /// these groups wrote into it since, by rising number.
    pub fn store_writes(&self) -> (u64, &[StoreWrites]) {
        (self.record.store_sequence, &self.store_writes)
    }

    /// Rises by one with every group that is written. A file whose number is below one that was
    /// seen is an old copy.
    pub fn sequence(&self) -> u64 {
        self.record.sequence
    }

    /// Whether no group was ever written.
    pub fn is_new(&self) -> bool {
        self.record.sequence == 1
    }

    /// The state with everything appended.
    pub fn state(&self) -> &GuardState {
        &self.state
    }

    fn check(&self) -> Result<(), GuardFileError> {
        if self.poisoned { Err(GuardFileError::Poisoned { path: self.path.clone() }) } else { Ok(()) }
    }

    fn write_group(&mut self) -> io::Result<()> {
        let at = self.record.log_bytes;
        self.hasher.update(&self.pending);
        self.record.sequence += 1;
        self.record.log_bytes += self.pending.len() as u64;
        self.record.log_hash = *self.hasher.finalize().as_bytes();
        self.record.start_count = self.state.start_count;
        self.record.prepared = self.state.prepared;
        self.record.final_mark = self.state.final_mark;
        let capacity = self.record.log_capacity;
        let region = usize::try_from(capacity).ok().and_then(|c| region_offset(self.record.region, c));
        let region = region.ok_or_else(|| io::Error::other("no such region"))? as u64;
        for half in 0..2_u8 {
            let start = u64::from(half) * half_bytes(capacity);
            self.record.half = half;
            self.file.write_all_at(&self.pending, start + region + at)?;
            self.file
                .write_all_at(&self.record.encode(), start + (self.record.slot() * SLOT_BYTES) as u64)?;
        }
        // The size and the blocks of the file do not change: no metadata has to be synced.
        self.file.sync_data()
    }

    fn write_new(path: &Path, image: Image, log_bytes_min: usize) -> Result<Self, GuardFileError> {
        let (bytes, record, hasher) = encode_image(&image, log_bytes_min);
        let file = replace(path, &bytes).map_err(|e| failed(path, "write", e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            state: image.state,
            record,
            hasher,
            pending: Vec::new(),
            store_writes: image.store_writes,
            dirty: false,
            poisoned: false,
            log_bytes_min,
        })
    }
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> GuardFileError {
    GuardFileError::Io { path: path.to_owned(), action, source }
}

fn read_image(path: &Path) -> Result<Image, GuardFileError> {
    let corrupt = |reason: String| GuardFileError::Corrupt { path: path.to_owned(), reason };
    match path.metadata() {
        Ok(meta) if meta.len() > FILE_BYTES_MAX => {
            return Err(corrupt(format!("it has {} bytes", meta.len())));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(GuardFileError::Missing { path: path.to_owned() });
        }
        Err(e) => return Err(failed(path, "look for", e)),
    }
    let bytes = std::fs::read(path).map_err(|e| failed(path, "read", e))?;
    decode_image(&bytes).map_err(|e| match e {
        ImageError::OtherFormat(found) => GuardFileError::OtherFormat { path: path.to_owned(), found },
        ImageError::Damaged(reason) => corrupt(reason),
    })
}

/// Writes a whole file: either the old content or the new one is there, whatever happens.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
    // A page at a time: from a large write the kernel makes large folios, and each small write
    // into such a folio later goes through all of its blocks (ext4).
    bytes.chunks(SLOT_BYTES).try_for_each(|page| file.write_all(page))?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(parent) = path.parent() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
#[path = "guard_file_test.rs"]
mod tests;
