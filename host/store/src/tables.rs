//! The keyspaces of the database, the seal of their records, and writes in order.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use borsh::{BorshDeserialize, BorshSerialize};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, UserValue,
};
use moult_types::codec;

use crate::error::StoreError;

/// A keyspace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Table {
    /// Global index -> block.
    Blocks,
    /// Global index -> certificate.
    Certificates,
    /// Digest -> signed batch, as it is encoded on the wire.
    Batches,
    /// Digests of batches that are held and not final.
    Pending,
    /// Id -> engine record of the present epoch.
    Records,
    /// Number -> epoch start.
    Epochs,
    /// Number of the epoch and phase -> fallback.
    Phases,
    /// Commit index -> block of the present phase, up to its resume block.
    Side,
    /// Id -> proposal that came to its end.
    History,
    /// Name -> single records: header, genesis, ledger, applied position.
    Meta,
    /// The replicated map, as it is.
    State,
}

impl Table {
    pub(crate) const ALL: [Self; 11] = [
        Self::Blocks,
        Self::Certificates,
        Self::Batches,
        Self::Pending,
        Self::Records,
        Self::Epochs,
        Self::Phases,
        Self::Side,
        Self::History,
        Self::Meta,
        Self::State,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Certificates => "certificates",
            Self::Batches => "batches",
            Self::Pending => "pending",
            Self::Records => "records",
            Self::Epochs => "epochs",
            Self::Phases => "phases",
            Self::Side => "side",
            Self::History => "history",
            Self::Meta => "meta",
            Self::State => "state",
        }
    }
}

/// What a keyspace gathers in memory before it is written out. Not more: nodes of one chain
/// fill theirs at the same time, and a long write holds up all of them at once.
const MEMTABLE_BYTES: u64 = 16 << 20;

const SEAL_BYTES: usize = 32;

fn seal_of(table: Table, key: &[u8], bytes: &[u8]) -> [u8; SEAL_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(table.name().as_bytes());
    hasher.update(&[0]);
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

/// The encoding with a hash over table, key and encoding: what was damaged or stands in a
/// wrong place is refused when it is read.
pub(crate) fn seal<T: BorshSerialize>(table: Table, key: &[u8], value: &T) -> UserValue {
    let mut bytes = codec::encode(value);
    let seal = seal_of(table, key, &bytes);
    bytes.extend_from_slice(&seal);
    bytes.into()
}

/// The inverse of [`seal`].
pub(crate) fn unseal<T: BorshDeserialize>(table: Table, key: &[u8], sealed: &[u8]) -> Result<T, String> {
    let Some((bytes, seal)) = sealed.split_last_chunk::<SEAL_BYTES>() else {
        return Err(format!("it has only {} bytes", sealed.len()));
    };
    if seal_of(table, key, bytes) != *seal {
        return Err("its hash does not match".into());
    }
    codec::decode(bytes).map_err(|e| e.to_string())
}

/// A number as a key that sorts like the number.
pub(crate) fn number_key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The key of a phase of an epoch; phases of one epoch are far fewer than there is room for.
pub(crate) fn phase_number(number: u64, phase: u32) -> u64 {
    number << PHASE_BITS | u64::from(phase).min((1 << PHASE_BITS) - 1)
}

const PHASE_BITS: u32 = 8;

/// The database with its keyspaces.
#[derive(Clone)]
pub(crate) struct Tables {
    pub(crate) db: Database,
    pub(crate) path: PathBuf,
    keyspaces: [Keyspace; Table::ALL.len()],
    /// No engine record has an id below this. To read from there spares the marks of what
    /// was removed, which cost milliseconds on the way into an epoch.
    pub(crate) records_from: Arc<AtomicU64>,
}

impl Tables {
    /// Opens the database, or creates it.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        // On some damaged files the database panics instead of refusing them.
        let opened = std::panic::catch_unwind(|| Self::open_unguarded(path, cache_bytes));
        opened.unwrap_or_else(|_| Err(StoreError::corrupt(path, "the database", "reading it panicked")))
    }

    fn open_unguarded(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let failed = |e: fjall::Error| match e {
            fjall::Error::Locked => {
                StoreError::Locked { path: path.to_owned(), holder: "another process".into() }
            }
            fjall::Error::Io(e) => StoreError::io(path, "open the database", e),
            e => StoreError::corrupt(path, "the database", e),
        };
        let db = Database::builder(path)
            .cache_size(cache_bytes)
            // One of them only flushes: with two, it would hand compactions back to the queue without
            // a pause for as long as the other is busy with one.
            .worker_threads(3)
            // What is in the journal is read at a start only, and soon deleted.
            .journal_compression(CompressionType::None)
            .open()
            .map_err(failed)?;
        let open = |table: Table| {
            let options = || {
                let options = KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
                match table {
                    // Large values under random keys: compaction must not copy them again and again.
                    Table::Batches => options.with_kv_separation(Some(KvSeparationOptions::default())),
                    _ => options,
                }
            };
            db.keyspace(table.name(), options).map_err(failed)
        };
        let [a, b, c, d, e, f, g, h, i, j, k] = Table::ALL;
        let (first, rest) = (
            [open(a)?, open(b)?, open(c)?, open(d)?, open(e)?, open(f)?],
            [open(g)?, open(h)?, open(i)?, open(j)?, open(k)?],
        );
        let ([a, b, c, d, e, f], [g, h, i, j, k]) = (first, rest);
        let keyspaces = [a, b, c, d, e, f, g, h, i, j, k];
        Ok(Self { db, path: path.to_owned(), keyspaces, records_from: Arc::default() })
    }

    pub(crate) fn keyspace(&self, table: Table) -> &Keyspace {
        &self.keyspaces[table as usize]
    }

    pub(crate) fn read_failed(&self, e: fjall::Error) -> StoreError {
        StoreError::database(&self.path, "read", e)
    }

    pub(crate) fn corrupt(&self, table: Table, key: &[u8], reason: impl ToString) -> StoreError {
        let key: String = match <[u8; 8]>::try_from(key) {
            Ok(number) => u64::from_be_bytes(number).to_string(),
            Err(_) if table == Table::Meta => String::from_utf8_lossy(key).into_owned(),
            Err(_) => key.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        StoreError::corrupt(&self.path, format!("record {key} of {}", table.name()), reason)
    }

    pub(crate) fn get_raw(&self, table: Table, key: &[u8]) -> Result<Option<UserValue>, StoreError> {
        self.keyspace(table).get(key).map_err(|e| self.read_failed(e))
    }

    /// Bytes of a value, without reading it.
    pub(crate) fn size(&self, table: Table, key: &[u8]) -> Result<Option<usize>, StoreError> {
        let size = self.keyspace(table).size_of(key).map_err(|e| self.read_failed(e))?;
        Ok(size.map(|bytes| bytes as usize))
    }

    pub(crate) fn get<T: BorshDeserialize>(&self, table: Table, key: &[u8]) -> Result<Option<T>, StoreError> {
        match self.get_raw(table, key)? {
            Some(sealed) => unseal(table, key, &sealed).map(Some).map_err(|e| self.corrupt(table, key, e)),
            None => Ok(None),
        }
    }

    /// Sealed records under numbers from `from` on, rising.
    pub(crate) fn numbered<T: BorshDeserialize>(
        &self,
        table: Table,
        from: u64,
    ) -> impl Iterator<Item = Result<(u64, T), StoreError>> + '_ {
        self.keyspace(table).range(number_key(from)..).map(move |entry| {
            let (key, sealed) = entry.into_inner().map_err(|e| self.read_failed(e))?;
            let number =
                <[u8; 8]>::try_from(&*key).map_err(|_| self.corrupt(table, &key, "its key is no number"))?;
            let value = unseal(table, &key, &sealed).map_err(|e| self.corrupt(table, &key, e))?;
            Ok((u64::from_be_bytes(number), value))
        })
    }

    /// The highest number under which there is a record.
    pub(crate) fn last_number(&self, table: Table) -> Result<Option<u64>, StoreError> {
        let Some(entry) = self.keyspace(table).last_key_value() else { return Ok(None) };
        let key = entry.key().map_err(|e| self.read_failed(e))?;
        let number =
            <[u8; 8]>::try_from(&*key).map_err(|_| self.corrupt(table, &key, "its key is no number"))?;
        Ok(Some(u64::from_be_bytes(number)))
    }
}

/// Writes of several steps, to be committed at once; the last write to a key counts. (The
/// database gives all entries of a batch one sequence number, so that two for one key would
/// have no order.)
#[derive(Default)]
pub(crate) struct Changes {
    writes: BTreeMap<(Table, Vec<u8>), Option<UserValue>>,
}

impl Changes {
    pub(crate) fn put(&mut self, table: Table, key: &[u8], value: UserValue) {
        self.writes.insert((table, key.to_vec()), Some(value));
    }

    pub(crate) fn put_sealed<T: BorshSerialize>(&mut self, table: Table, key: &[u8], value: &T) {
        self.put(table, key, seal(table, key, value));
    }

    pub(crate) fn remove(&mut self, table: Table, key: &[u8]) {
        self.writes.insert((table, key.to_vec()), None);
    }

    /// Removes every record under a number of at least `from`, stored or about to be.
    pub(crate) fn remove_from(&mut self, tables: &Tables, table: Table, from: u64) -> Result<(), StoreError> {
        let first = number_key(from);
        for entry in tables.keyspace(table).range(first..) {
            let key = entry.key().map_err(|e| tables.read_failed(e))?;
            self.remove(table, &key);
        }
        let range = (Bound::Included((table, first.to_vec())), Bound::Unbounded);
        for ((_, _), value) in self.writes.range_mut(range).take_while(|((of, _), _)| *of == table) {
            *value = None;
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.writes.len()
    }

    /// What is put into one table, rising.
    pub(crate) fn puts(self, table: Table) -> impl Iterator<Item = (Vec<u8>, UserValue)> {
        let of_table = self.writes.into_iter().filter(move |((of, _), _)| *of == table);
        of_table.filter_map(|((_, key), value)| Some((key, value?)))
    }

    /// Whether nothing is removed.
    pub(crate) fn only_puts(&self) -> bool {
        self.writes.values().all(Option::is_some)
    }

    /// Appends one record to what [`Changes::decode`] reads.
    pub(crate) fn encode_put(to: &mut Vec<u8>, table: Table, key: &[u8], value: &[u8]) {
        to.push(table as u8);
        put_bytes(to, key);
        to.push(1);
        put_bytes(to, value);
    }

    /// Appends the writes to what [`Changes::decode`] reads.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        for ((table, key), value) in &self.writes {
            match value {
                Some(value) => Self::encode_put(to, *table, key, value),
                None => {
                    to.push(*table as u8);
                    put_bytes(to, key);
                    to.push(0);
                }
            }
        }
    }

    /// Writes that were encoded one after the other; `None` if they were not.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut changes = Self::default();
        while let Some((table, rest)) = bytes.split_first() {
            let table = *Table::ALL.get(usize::from(*table))?;
            let (key, rest) = take_bytes(rest)?;
            match rest.split_first()? {
                (0, rest) => {
                    changes.remove(table, key);
                    bytes = rest;
                }
                (1, rest) => {
                    let (value, rest) = take_bytes(rest)?;
                    changes.put(table, key, value.into());
                    bytes = rest;
                }
                _ => return None,
            }
        }
        Some(changes)
    }

    /// Commits at once; `durable`: returns when this and everything before it is synced.
    pub(crate) fn commit(&mut self, tables: &Tables, durable: bool) -> Result<(), StoreError> {
        let mode = if durable { PersistMode::SyncAll } else { PersistMode::Buffer };
        if self.writes.is_empty() {
            return if durable {
                tables.db.persist(mode).map_err(|e| StoreError::database(&tables.path, "sync", e))
            } else {
                Ok(())
            };
        }
        let mut batch = tables.db.batch().durability(Some(mode));
        for ((table, key), value) in std::mem::take(&mut self.writes) {
            match value {
                Some(value) => batch.insert(tables.keyspace(table), key, value),
                None => batch.remove(tables.keyspace(table), key),
            }
        }
        batch.commit().map_err(|e| StoreError::database(&tables.path, "commit", e))
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    // Values are at most a batch or a record: far below the range of the length.
    to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    to.extend_from_slice(bytes);
}

fn take_bytes(from: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = from.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_seal_binds_value_key_and_table() {
        let sealed = seal(Table::Blocks, b"key", &(7_u64, vec![1_u8, 2]));
        let read = |table, key: &[u8], bytes: &[u8]| unseal::<(u64, Vec<u8>)>(table, key, bytes);
        assert_eq!(read(Table::Blocks, b"key", &sealed), Ok((7, vec![1, 2])));
        assert!(read(Table::Blocks, b"kez", &sealed).is_err());
        assert!(read(Table::Records, b"key", &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(Table::Blocks, b"key", &flipped).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn changes_are_read_as_they_were_written(
            writes in proptest::collection::vec((0..11_usize, any::<Vec<u8>>(), any::<Option<Vec<u8>>>()), 0..20),
            noise in any::<Vec<u8>>(),
        ) {
            let (mut changes, mut bytes) = (Changes::default(), Vec::new());
            for (table, key, value) in writes {
                let mut one = Changes::default();
                one.writes.insert((Table::ALL[table], key), value.map(Into::into));
                one.encode(&mut bytes);
                changes.writes.append(&mut one.writes);
            }
            prop_assert_eq!(Changes::decode(&bytes).map(|read| read.writes), Some(changes.writes));
            let _ = Changes::decode(&noise);
        }

        #[test]
        fn unsealing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unseal::<moult_types::BlockRecord>(Table::Blocks, b"k", &bytes);
        }
    }
}
