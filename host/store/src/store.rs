//! Opening and creating the store; who it belongs to.

use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use moult_types::{ChainId, Genesis, GlobalIndex, PublicKey};

use crate::error::StoreError;
use crate::modules::ModuleFiles;
use crate::state::StateStore;
use crate::tables::{Changes, Table, Tables, unseal};
use crate::write::StoreWriter;

/// The newest format this program reads and the one it writes.
pub const STORE_FORMAT: u32 = 3;

pub(crate) const META_HEADER: &[u8] = b"header";
pub(crate) const META_GENESIS: &[u8] = b"genesis";
pub(crate) const META_LEDGER: &[u8] = b"ledger";
pub(crate) const META_APPLIED: &[u8] = b"applied";
pub(crate) const META_GUARD: &[u8] = b"guard";

/// Name of a database that is being created.
const UNFINISHED: &str = "db.new";

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Memory for blocks of the database that were read.
    pub cache_bytes: u64,
    /// So many final blocks below the last one are checked at open, besides all blocks above.
    pub verify_blocks: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, verify_blocks: 1000 }
    }
}

/// Whose store it is. The format comes first and in a fixed place in all formats to come.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub(crate) struct Header {
    pub(crate) chain: ChainId,
    pub(crate) node: PublicKey,
}

/// The header as it is stored.
pub(crate) fn header_bytes(chain: ChainId, node: PublicKey) -> Vec<u8> {
    let mut bytes = STORE_FORMAT.to_le_bytes().to_vec();
    bytes.extend_from_slice(&crate::tables::seal(Table::Meta, META_HEADER, &Header { chain, node }));
    bytes
}

/// The chain, the batches, the engine's records and the replicated state of one node. Cheap
/// to clone; all clones are one store. Reading is possible from everywhere, writing from
/// one [`StoreWriter`] and one [`StateStore`].
#[derive(Clone)]
pub struct Store {
    pub(crate) tables: Tables,
    pub(crate) modules: ModuleFiles,
    pub(crate) options: StoreOptions,
    /// Where it is.
    pub(crate) dir: PathBuf,
    /// The block before the chain's first one.
    pub(crate) base: GlobalIndex,
}

impl Store {
    /// Creates the store of a node that knows nothing but its genesis, and makes it durable.
    /// The first epoch is written by the replica.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or the system.
    pub fn create(
        dir: &Path,
        genesis: &Genesis,
        node: PublicKey,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        if Self::exists(dir) {
            return Err(StoreError::Exists { path: dir.to_owned() });
        }
        // Made under another name: a node that dies here has no store, and makes one again.
        let (unfinished, database) = (dir.join(UNFINISHED), dir.join("db"));
        match std::fs::remove_dir_all(&unfinished) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(&unfinished, "remove", e));
            }
            _ => {}
        }
        std::fs::create_dir_all(dir).map_err(|e| StoreError::io(dir, "create", e))?;
        let tables = Tables::open(&unfinished, options.cache_bytes)?;
        let mut changes = Changes::default();
        changes.put(Table::Meta, META_HEADER, header_bytes(genesis.chain(), node).into());
        changes.put_sealed(Table::Meta, META_GENESIS, genesis);
        changes.commit(&tables, true)?;
        drop(tables);
        std::fs::rename(&unfinished, &database).map_err(|e| StoreError::io(&database, "rename", e))?;
        std::fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| StoreError::io(dir, "sync", e))?;
        Ok(Self { base: genesis.base(), ..Self::open_tables(dir, options)? })
    }

    /// Opens the store of a chain and node. The caller holds the lock of the data directory.
    ///
    /// # Errors
    /// One variant for each reason why it is not theirs, is newer, or cannot be read.
    pub fn open(
        dir: &Path,
        chain: ChainId,
        node: PublicKey,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        let (store, header) = Self::open_any(dir, options)?;
        let path = || dir.to_owned();
        if header.chain != chain {
            return Err(StoreError::OtherChain { path: path(), found: header.chain, expected: chain });
        }
        if header.node != node {
            return Err(StoreError::OtherNode { path: path(), found: header.node, expected: node });
        }
        Ok(store)
    }

    /// Opens the store of a chain, whatever node's it is: to read it. The caller holds the lock
    /// of the data directory.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_to_read(dir: &Path, chain: ChainId, options: StoreOptions) -> Result<Self, StoreError> {
        let (store, header) = Self::open_any(dir, options)?;
        if header.chain != chain {
            return Err(StoreError::OtherChain {
                path: dir.to_owned(),
                found: header.chain,
                expected: chain,
            });
        }
        Ok(store)
    }

    fn open_any(dir: &Path, options: StoreOptions) -> Result<(Self, Header), StoreError> {
        if !Self::exists(dir) {
            return Err(StoreError::Missing { path: dir.to_owned() });
        }
        let mut store = Self::open_tables(dir, options)?;
        let header = store.header()?;
        store.base = store.genesis()?.base();
        Ok((store, header))
    }

    /// What the chain begins with.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn genesis(&self) -> Result<Genesis, StoreError> {
        let missing = || StoreError::corrupt(&self.tables.path, "the genesis", "it is missing");
        self.tables.get(Table::Meta, META_GENESIS)?.ok_or_else(missing)
    }

    pub(crate) fn header(&self) -> Result<Header, StoreError> {
        let dir = &self.dir;
        let Some(bytes) = self.tables.get_raw(Table::Meta, META_HEADER)? else {
            return Err(StoreError::corrupt(dir, "the store's header", "it is missing"));
        };
        let Some((format, sealed)) = bytes.split_first_chunk::<4>() else {
            return Err(StoreError::corrupt(dir, "the store's header", "it is short"));
        };
        let found = u32::from_le_bytes(*format);
        if found != STORE_FORMAT {
            return Err(StoreError::OtherFormat { path: dir.to_owned(), found, supported: STORE_FORMAT });
        }
        unseal(Table::Meta, META_HEADER, sealed)
            .map_err(|e| StoreError::corrupt(dir, "the store's header", e))
    }

    /// Whether a database was ever created here.
    pub fn exists(dir: &Path) -> bool {
        dir.join("db").is_dir()
    }

    /// The one writer of the chain; see [`crate::LogWriter`].
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn writer(&self) -> Result<StoreWriter, StoreError> {
        StoreWriter::new(self.tables.clone())
    }

    /// The replicated state; written by the executor.
    pub fn state(&self) -> StateStore {
        StateStore::new(self.tables.clone())
    }

    /// Modules by hash.
    pub fn modules(&self) -> &ModuleFiles {
        &self.modules
    }

    /// Bytes on disk, modules excepted.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.tables.db.disk_space().map_err(|e| self.tables.read_failed(e))
    }

    fn open_tables(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| StoreError::io(dir, "create", e))?;
        let database: PathBuf = dir.join("db");
        let tables = Tables::open(&database, options.cache_bytes)?;
        let modules = ModuleFiles::open(&dir.join("modules"))?;
        Ok(Self { tables, modules, options, dir: dir.to_owned(), base: GlobalIndex(0) })
    }
}
