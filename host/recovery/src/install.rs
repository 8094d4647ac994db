//! A node of the former chain, or a new one, becomes one of the chain that carries it on.
//!
//! The steps, each durable before the next: the new store under another name, whole and its state
//! root computed again; the new genesis in the place of the former one; guard, backups and store of
//! the former chain put aside; the new store in its place. Cut off between any two, no node starts
//! there: its genesis says one chain and its store another, or there is no store for a genesis that
//! needs one. The same again completes it. Nothing is deleted but an unfinished copy.
//!
//! The guard begins anew, since what it keeps is bound to the chain's id: nothing that the key signed
//! in the former chain means anything in this one, and the other way round.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use moult_keys::KeyFile;
use moult_node::config::NodeConfig;
use moult_node::genesis::GenesisFile;
use moult_node::guard_transfer::guard_path;
use moult_store::{
    Backup, DirLock, GuardFile, GuardFileError, Store, StoreError, StoreOptions, build_carried,
    refuse_half_restored,
};
use moult_types::{Genesis, PublicKey};

use crate::error::RecoveryError;
use crate::plan::own_record;

const STORE: &str = "store";
const UNFINISHED: &str = "store.recovering";
const ASIDE: &str = ".before-recovery-";

/// What is done next; for tests that cut it off there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstallStep {
    /// The new store is written and checked.
    Build,
    /// The new genesis gets its place.
    Genesis,
    /// The former guard gets another name.
    PutGuardAside,
    /// The former chain's backups get another name.
    PutBackupsAside,
    /// The former store gets another name.
    PutStoreAside,
    /// The new store gets its name.
    PutInPlace,
}

/// What is in a node's folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A node of the former chain.
    Former,
    /// No store: a new node, or one where an installation was cut off.
    Nothing,
    /// A store of the new chain: there is nothing to do.
    Installed,
}

/// What became of what was there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Installed {
    /// What was put aside, by the names that it has now.
    pub aside: Vec<PathBuf>,
}

/// A node's folder, in which nothing runs.
pub struct Installation<'a> {
    /// What is there.
    pub found: Found,
    /// Of the new chain.
    pub genesis: Genesis,
    /// The node's key.
    pub key: PublicKey,
    config: &'a NodeConfig,
    file: &'a GenesisFile,
    guard_is_former: bool,
    _lock: DirLock,
}

impl<'a> Installation<'a> {
    /// Looks at a node's folder.
    ///
    /// # Errors
    /// A node runs there; genesis, store or guard are of another chain than the one that is carried
    /// on; the disk.
    pub fn open(config: &'a NodeConfig, file: &'a GenesisFile) -> Result<Self, RecoveryError> {
        let genesis = file.to_genesis()?;
        let origin = genesis.origin.ok_or(RecoveryError::NoOrigin)?;
        let key = KeyFile::read(&config.key_file)?.public_key();
        let lock = DirLock::acquire(&config.data_dir)?;
        refuse_half_restored(&config.data_dir)?;
        if config.genesis.exists() {
            let found = GenesisFile::load(&config.genesis)?.to_genesis()?.chain();
            if found != genesis.chain() && found != origin.chain {
                let path = config.genesis.clone();
                return Err(RecoveryError::OtherGenesis { path, found, expected: origin.chain });
            }
        }
        let store = config.data_dir.join(STORE);
        let found = if Store::exists(&store) {
            match Store::open_to_read(&store, genesis.chain(), StoreOptions::default()) {
                Ok(_) => Found::Installed,
                Err(StoreError::OtherChain { found, .. }) if found == origin.chain => Found::Former,
                Err(e) => return Err(e.into()),
            }
        } else {
            Found::Nothing
        };
        let guard = guard_path(&config.data_dir);
        let guard_is_former = match GuardFile::open(&guard, genesis.chain(), key) {
            Ok(_) => false,
            Err(GuardFileError::Missing { .. }) => found == Found::Former,
            Err(GuardFileError::OtherChain { found, .. }) if found == origin.chain => true,
            Err(_) if found == Found::Former => true,
            Err(problem) => return Err(RecoveryError::UnreadableGuard { path: guard, problem }),
        };
        Ok(Self { found, genesis, key, config, file, guard_is_former, _lock: lock })
    }

    /// Installs the state that the genesis carries on. `before` is called before each step, and its
    /// error ends it there.
    ///
    /// # Errors
    /// The backup does not hold that state; the disk. The same again goes on.
    pub fn install(
        &self,
        backup: &Backup,
        before: &mut dyn FnMut(InstallStep) -> io::Result<()>,
    ) -> Result<Installed, RecoveryError> {
        let (data_dir, mut done) = (&self.config.data_dir, Installed::default());
        if self.found == Found::Installed {
            return Ok(done);
        }
        let mut step = |step| before(step).map_err(|e| RecoveryError::io(data_dir, "install into", e));
        let (store, unfinished) = (data_dir.join(STORE), data_dir.join(UNFINISHED));
        step(InstallStep::Build)?;
        build_carried(&unfinished, &self.genesis, self.key, &backup.path, own_record(&self.genesis))?;
        sync(data_dir)?;
        step(InstallStep::Genesis)?;
        done.aside.extend(self.replace_genesis()?);
        let guards = guard_path(data_dir).parent().map(Path::to_owned).filter(|_| self.guard_is_former);
        let backups = self.config.backup.dir.clone().unwrap_or_else(|| data_dir.join("backups"));
        let backups = (self.found == Found::Former || self.guard_is_former).then_some(backups);
        let stores = (self.found == Found::Former).then(|| store.clone());
        let moves = [
            (InstallStep::PutGuardAside, guards),
            (InstallStep::PutBackupsAside, backups),
            (InstallStep::PutStoreAside, stores),
        ];
        for (what, path) in moves {
            if let Some(path) = path.filter(|path| path.exists()) {
                step(what)?;
                done.aside.push(put_aside(&path)?);
            }
        }
        step(InstallStep::PutInPlace)?;
        std::fs::rename(&unfinished, &store).map_err(|e| RecoveryError::io(&unfinished, "rename", e))?;
        sync(data_dir)?;
        Ok(done)
    }

    /// The former one keeps a second name. At no moment is there none.
    fn replace_genesis(&self) -> Result<Option<PathBuf>, RecoveryError> {
        let path = &self.config.genesis;
        let is_there = path.exists();
        if is_there && GenesisFile::load(path)?.to_genesis()?.chain() == self.genesis.chain() {
            return Ok(None);
        }
        let aside = is_there.then(|| free_name(path));
        if let Some(aside) = &aside {
            std::fs::hard_link(path, aside).map_err(|e| RecoveryError::io(path, "keep", e))?;
        }
        let unfinished = with_ending(path, ".new");
        self.file.save(&unfinished)?;
        File::open(&unfinished)
            .and_then(|file| file.sync_all())
            .map_err(|e| RecoveryError::io(&unfinished, "sync", e))?;
        std::fs::rename(&unfinished, path).map_err(|e| RecoveryError::io(path, "replace", e))?;
        sync(parent(path))?;
        Ok(aside)
    }
}

fn put_aside(path: &Path) -> Result<PathBuf, RecoveryError> {
    let aside = free_name(path);
    std::fs::rename(path, &aside).map_err(|e| RecoveryError::io(path, "put aside", e))?;
    sync(parent(path))?;
    Ok(aside)
}

fn free_name(path: &Path) -> PathBuf {
    let names = (1..).map(|n: u64| with_ending(path, &format!("{ASIDE}{n}")));
    let free = names.into_iter().find(|name| !name.exists());
    free.unwrap_or_else(|| unreachable!("a folder holds fewer names"))
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(dir: &Path) -> Result<(), RecoveryError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| RecoveryError::io(dir, "sync", e))
}
