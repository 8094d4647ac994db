//! Backups: the whole store as it was at one moment, in one file, made while the node runs.
//!
//! The file is read from a snapshot of the database: no writer waits for it. It holds every table
//! and the modules, and neither the guard nor a key. It is a row of frames, each with a hash over
//! itself and all before it, so that damage is found and named by its place:
//!
//! ```text
//! "moultbak" | format u32 | frame ...        frame: kind u8 | length u32 | payload | hash [32]
//! header, entries ..., module ..., end       (numbers little-endian)
//! ```
//! It is written under another name, synced as it grows, and renamed when it is whole. What it
//! takes to bring a store back from one is in `restore`.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use borsh::{BorshDeserialize, BorshSerialize};
use fjall::Readable;
use moult_types::{ChainId, Digest, EpochNumber, GlobalIndex, PublicKey};
use thiserror::Error;

use crate::error::StoreError;
use crate::store::{STORE_FORMAT, Store};
use crate::tables::{Changes, Table};

/// The format that this program reads and writes.
pub const BACKUP_FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"moultbak";
const EXTENSION: &str = "backup";
/// Entries are gathered up to this size; one may be larger.
const ENTRIES_BYTES: usize = 1 << 20;
/// A longer frame was not written by this program: a module of the largest size and its hash.
const FRAME_BYTES_MAX: u32 = (256 << 20) + (1 << 20);
/// So much is synced at once: the sync of a large file would hold up those of the guard.
const SYNC_BYTES: u64 = 4 << 20;

const HEADER: u8 = 0;
const ENTRIES: u8 = 1;
const MODULE: u8 = 2;
const END: u8 = 3;

/// Why there is no backup, or why one cannot be used.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file operation failed.
    #[error("could not {action} {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// It would be larger than what the configuration allows.
    #[error("the backup would take more than {bytes_max} bytes (`backup.bytes_max`): none was made")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// It was given up: the node stops.
    #[error("the backup was given up, because the node stops")]
    Cancelled,
    /// Not a backup, or not what was written.
    #[error("the backup {path} is damaged at byte {at}: {reason}; use another one")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where the frame begins.
        at: u64,
        /// What is wrong.
        reason: String,
    },
    /// Written by another version of the program.
    #[error(
        "the backup {path} has format {found}, store format {store}; this version reads {BACKUP_FORMAT} and {STORE_FORMAT}: use the version that wrote it"
    )]
    OtherFormat {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// That of the store in it.
        store: u32,
    },
    /// Not the state that a genesis carries on.
    #[error(
        "the state in {path} has the root {found}, but the genesis carries on the one with root {expected}: both have to come from one `moult recover plan`"
    )]
    OtherState {
        /// Which.
        path: PathBuf,
        /// Of the state in it.
        found: Digest,
        /// In the genesis.
        expected: Digest,
    },
    /// Of another chain or node.
    #[error(
        "the backup {path} is that of key {node} on chain {chain}: a store is restored only where it came from; any other node fetches the chain from its peers"
    )]
    OtherNode {
        /// Which.
        path: PathBuf,
        /// Its chain.
        chain: ChainId,
        /// Its node's key.
        node: PublicKey,
    },
}

impl BackupError {
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }
}

/// How far a backup under way is, and whether it is to go on.
#[derive(Debug, Default)]
pub struct BackupProgress {
    written: AtomicU64,
    cancelled: AtomicBool,
}

impl BackupProgress {
    /// Bytes of the backup under way, or of the last one.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Ends the backup under way with [`BackupError::Cancelled`], and all later ones.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// What a backup says of itself.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct BackupHeader {
    /// Of the store in it.
    pub store_format: u32,
    /// The chain.
    pub chain: ChainId,
    /// The key of the node that it was made on.
    pub node: PublicKey,
    /// Number of the epoch that it was made in.
    pub epoch: EpochNumber,
    /// The last final block in it; 0 before the first.
    pub last_final: GlobalIndex,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// A backup that is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backup {
    /// Its file.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: BackupHeader,
    /// Records in it.
    pub entries: u64,
    /// Modules in it.
    pub modules: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Over everything in it.
    pub hash: Digest,
}

impl Store {
    /// Writes a backup into a folder, as the store is now. Writers go on meanwhile, and nothing of
    /// what they write is in it.
    ///
    /// # Errors
    /// The disk, a damaged store, a backup of more than `bytes_max` bytes. Nothing is left then.
    pub fn back_up(
        &self,
        folder: &Path,
        created_ms: u64,
        bytes_max: u64,
        progress: &BackupProgress,
    ) -> Result<Backup, BackupError> {
        std::fs::create_dir_all(folder).map_err(|e| BackupError::io(folder, "create", e))?;
        let unfinished = folder.join("unfinished.tmp");
        let made = self.write_backup(&unfinished, created_ms, bytes_max, progress);
        let mut backup = match made {
            Ok(backup) => backup,
            Err(e) => {
                // The first error is the one to tell.
                drop(std::fs::remove_file(&unfinished));
                return Err(e);
            }
        };
        let BackupHeader { epoch, last_final, .. } = backup.header;
        let name = format!("block-{:012}-epoch-{}.{EXTENSION}", last_final.0, epoch.0);
        backup.path = folder.join(name);
        std::fs::rename(&unfinished, &backup.path)
            .and_then(|()| File::open(folder)?.sync_all())
            .map_err(|e| BackupError::io(&backup.path, "rename", e))?;
        Ok(backup)
    }

    fn write_backup(
        &self,
        path: &Path,
        created_ms: u64,
        bytes_max: u64,
        progress: &BackupProgress,
    ) -> Result<Backup, BackupError> {
        let tables = &self.tables;
        let snapshot = tables.db.snapshot();
        let owner = self.header()?;
        let last = |table| -> Result<Option<u64>, BackupError> {
            let Some(entry) = snapshot.last_key_value(tables.keyspace(table)) else { return Ok(None) };
            let key = entry.key().map_err(|e| tables.read_failed(e))?;
            let number = <[u8; 8]>::try_from(&*key).map(u64::from_be_bytes);
            Ok(Some(number.map_err(|_| tables.corrupt(table, &key, "its key is no number"))?))
        };
        let header = BackupHeader {
            store_format: STORE_FORMAT,
            chain: owner.chain,
            node: owner.node,
            epoch: EpochNumber(last(Table::Epochs)?.unwrap_or(0)),
            last_final: last(Table::Certificates)?.map_or(self.base, GlobalIndex),
            created_ms,
        };
        let mut frames = FrameWriter::create(path, bytes_max, progress)?;
        frames.frame(HEADER, &moult_types::encode(&header))?;
        let (mut entries, mut modules) = (0, 0);
        let mut gathered = Vec::with_capacity(2 * ENTRIES_BYTES);
        for table in Table::ALL {
            for entry in snapshot.iter(tables.keyspace(table)) {
                let (key, value) = entry.into_inner().map_err(|e| tables.read_failed(e))?;
                Changes::encode_put(&mut gathered, table, &key, &value);
                entries += 1;
                if gathered.len() >= ENTRIES_BYTES {
                    frames.frame(ENTRIES, &gathered)?;
                    gathered.clear();
                }
            }
        }
        if !gathered.is_empty() {
            frames.frame(ENTRIES, &gathered)?;
        }
        drop(snapshot);
        for hash in self.modules.list()? {
            // A damaged one is as good as none: it is fetched from peers.
            if let Ok(Some(bytes)) = self.modules.get(hash) {
                frames.frame(MODULE, &bytes)?;
                modules += 1;
            }
        }
        frames.frame(END, &moult_types::encode(&(entries, modules)))?;
        let (bytes, hash) = frames.finish()?;
        Ok(Backup { path: path.to_owned(), header, entries, modules, bytes, hash })
    }
}

/// Reads a whole backup and checks every byte of it.
///
/// # Errors
/// [`BackupError::Damaged`] names the place; the disk.
pub fn check_backup(path: &Path) -> Result<Backup, BackupError> {
    let mut frames = Frames::open(path)?;
    while frames.next_part()?.is_some() {}
    frames.summary()
}

/// The backups in a folder, oldest first. Other files are passed over.
///
/// # Errors
/// The folder cannot be read; one that is not there is empty.
pub fn list_backups(folder: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(BackupError::io(folder, "list", e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| BackupError::io(folder, "list", e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("block-") && name.ends_with(&format!(".{EXTENSION}")) {
            found.push(path);
        }
    }
    // Their names begin with the block, in digits of one length.
    found.sort_unstable();
    Ok(found)
}

/// Removes all but the newest so many backups of a folder, and gives those that are left.
///
/// # Errors
/// The disk.
pub fn prune_backups(folder: &Path, keep: usize) -> Result<Vec<PathBuf>, BackupError> {
    let mut found = list_backups(folder)?;
    let too_many = found.len().saturating_sub(keep);
    for path in found.drain(..too_many) {
        std::fs::remove_file(&path).map_err(|e| BackupError::io(&path, "remove", e))?;
    }
    Ok(found)
}

struct FrameWriter<'a> {
    path: &'a Path,
    file: File,
    hash: [u8; 32],
    bytes: u64,
    unsynced: u64,
    bytes_max: u64,
    progress: &'a BackupProgress,
}

impl<'a> FrameWriter<'a> {
    fn create(path: &'a Path, bytes_max: u64, progress: &'a BackupProgress) -> Result<Self, BackupError> {
        let file = File::create(path).map_err(|e| BackupError::io(path, "create", e))?;
        progress.written.store(0, Ordering::Relaxed);
        let start = start();
        let hash = *blake3::hash(&start).as_bytes();
        let mut writer = Self { path, file, hash, bytes: 0, unsynced: 0, bytes_max, progress };
        writer.write(&start)?;
        Ok(writer)
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), BackupError> {
        let head = frame_head(kind, payload.len() as u32);
        self.hash = chained(&self.hash, &head, payload);
        let hash = self.hash;
        self.write(&head)?;
        self.write(payload)?;
        self.write(&hash)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(BackupError::TooLarge { bytes_max: self.bytes_max });
        }
        if self.progress.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        self.file.write_all(bytes).map_err(|e| BackupError::io(self.path, "write", e))?;
        self.progress.written.store(self.bytes, Ordering::Relaxed);
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            self.file.sync_data().map_err(|e| BackupError::io(self.path, "sync", e))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(u64, Digest), BackupError> {
        self.file.sync_all().map_err(|e| BackupError::io(self.path, "sync", e))?;
        Ok((self.bytes, Digest(self.hash)))
    }
}

fn start() -> [u8; 12] {
    let mut start = [0; 12];
    let (magic, format) = start.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    format.copy_from_slice(&BACKUP_FORMAT.to_le_bytes());
    start
}

fn frame_head(kind: u8, len: u32) -> [u8; 5] {
    let [a, b, c, d] = len.to_le_bytes();
    [kind, a, b, c, d]
}

fn chained(before: &[u8; 32], head: &[u8; 5], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(head).update(payload);
    *hasher.finalize().as_bytes()
}

/// What is in a backup, after its header.
pub(crate) enum Part {
    /// Records of tables.
    Entries(Changes),
    /// A module.
    Module(Vec<u8>),
}

/// A backup that is read, frame by frame; each is checked before it is given out.
pub(crate) struct Frames {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the next frame begins.
    at: u64,
    hash: [u8; 32],
    header: BackupHeader,
    entries: u64,
    modules: u64,
    ended: bool,
}

impl Frames {
    pub(crate) fn open(path: &Path) -> Result<Self, BackupError> {
        let file = File::open(path).map_err(|e| BackupError::io(path, "open", e))?;
        let mut file = BufReader::with_capacity(1 << 20, file);
        let damaged =
            |reason: &str| BackupError::Damaged { path: path.to_owned(), at: 0, reason: reason.into() };
        let mut found = [0; 12];
        file.read_exact(&mut found).map_err(|_| damaged("it is no backup"))?;
        let expected = start();
        if found[..MAGIC.len()] != MAGIC {
            return Err(damaged("it is no backup"));
        }
        if found != expected {
            let [.., a, b, c, d] = found;
            let format = u32::from_le_bytes([a, b, c, d]);
            return Err(BackupError::OtherFormat { path: path.to_owned(), found: format, store: 0 });
        }
        let header = BackupHeader {
            store_format: 0,
            chain: ChainId([0; 32]),
            node: PublicKey([0; 32]),
            epoch: EpochNumber(0),
            last_final: GlobalIndex(0),
            created_ms: 0,
        };
        let mut frames = Self {
            path: path.to_owned(),
            file,
            at: found.len() as u64,
            hash: *blake3::hash(&expected).as_bytes(),
            header,
            entries: 0,
            modules: 0,
            ended: false,
        };
        let (kind, payload) = frames.frame()?;
        let header = moult_types::decode::<BackupHeader>(&payload).ok().filter(|_| kind == HEADER);
        frames.header = header.ok_or_else(|| damaged("it has no header"))?;
        if frames.header.store_format != STORE_FORMAT {
            let (found, store) = (BACKUP_FORMAT, frames.header.store_format);
            return Err(BackupError::OtherFormat { path: path.to_owned(), found, store });
        }
        Ok(frames)
    }

    /// The next part; nothing at the end, where everything was found whole.
    pub(crate) fn next_part(&mut self) -> Result<Option<Part>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let (kind, payload) = self.frame()?;
        match kind {
            ENTRIES => {
                let changes = Changes::decode(&payload).filter(Changes::only_puts);
                let changes = changes.ok_or_else(|| self.damaged("its records cannot be read"))?;
                self.entries += changes.len() as u64;
                Ok(Some(Part::Entries(changes)))
            }
            MODULE => {
                self.modules += 1;
                Ok(Some(Part::Module(payload)))
            }
            END => {
                let counts = moult_types::decode::<(u64, u64)>(&payload).ok();
                if counts != Some((self.entries, self.modules)) {
                    return Err(self.damaged("it does not hold as much as it says"));
                }
                let mut more = [0];
                match self.file.read(&mut more) {
                    Ok(0) => self.ended = true,
                    Ok(_) => return Err(self.damaged("it goes on after its end")),
                    Err(e) => return Err(BackupError::io(&self.path, "read", e)),
                }
                Ok(None)
            }
            _ => Err(self.damaged("a part of an unknown kind")),
        }
    }

    /// After the last part.
    pub(crate) fn summary(self) -> Result<Backup, BackupError> {
        if !self.ended {
            return Err(self.damaged("it was not read to its end"));
        }
        let Self { path, at, hash, header, entries, modules, .. } = self;
        Ok(Backup { path, header, entries, modules, bytes: at, hash: Digest(hash) })
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        let mut head = [0; 5];
        self.read(&mut head)?;
        let [kind, a, b, c, d] = head;
        let len = u32::from_le_bytes([a, b, c, d]);
        if len > FRAME_BYTES_MAX {
            return Err(self.damaged("a part is too long"));
        }
        // Not allocated at once: a damaged length would ask for more than the file has.
        let mut payload = Vec::new();
        let read = (&mut self.file).take(len.into()).read_to_end(&mut payload);
        let read = read.map_err(|e| BackupError::io(&self.path, "read", e))?;
        if read != len as usize {
            return Err(self.damaged("it ends early"));
        }
        let mut hash = [0; 32];
        self.read(&mut hash)?;
        if chained(&self.hash, &head, &payload) != hash {
            return Err(self.damaged("its hash does not match"));
        }
        self.hash = hash;
        self.at += (head.len() + payload.len() + hash.len()) as u64;
        Ok((kind, payload))
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), BackupError> {
        match self.file.read_exact(into) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.damaged("it ends early")),
            Err(e) => Err(BackupError::io(&self.path, "read", e)),
        }
    }

    fn damaged(&self, reason: &str) -> BackupError {
        BackupError::Damaged { path: self.path.clone(), at: self.at, reason: reason.into() }
    }
}
