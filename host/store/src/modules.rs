//! Modules as plain files, named by their hash.

use std::path::{Path, PathBuf};

use moult_types::ModuleHash;

use crate::error::StoreError;
use crate::guard_file::replace;

/// A directory of modules. Files are written whole or not at all and checked when read.
#[derive(Clone, Debug)]
pub struct ModuleFiles {
    dir: PathBuf,
}

impl ModuleFiles {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| StoreError::io(dir, "create", e))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Keeps a module durably; returns its hash. Writing one again changes nothing.
    ///
    /// # Errors
    /// The disk.
    pub fn put(&self, bytes: &[u8]) -> Result<ModuleHash, StoreError> {
        let hash = ModuleHash::of(bytes);
        let path = self.path(hash);
        if matches!(self.get(hash), Ok(Some(_))) {
            return Ok(hash);
        }
        replace(&path, bytes).map_err(|e| StoreError::io(&path, "write", e))?;
        Ok(hash)
    }

    /// A module's bytes, if it is here.
    ///
    /// # Errors
    /// The disk; [`StoreError::Corrupt`] where the file has another hash than its name: put
    /// the module again.
    pub fn get(&self, hash: ModuleHash) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(hash);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io(&path, "read", e)),
        };
        if ModuleHash::of(&bytes) != hash {
            return Err(StoreError::corrupt(&path, format!("module {hash}"), "its hash does not match"));
        }
        Ok(Some(bytes))
    }

    /// The modules that are here, rising by hash; they are checked when read.
    ///
    /// # Errors
    /// The disk.
    pub fn list(&self) -> Result<Vec<ModuleHash>, StoreError> {
        let entries = std::fs::read_dir(&self.dir).map_err(|e| StoreError::io(&self.dir, "list", e))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| StoreError::io(&self.dir, "list", e))?;
            let name = entry.file_name();
            // What is no module's name is not ours: a temporary file, or an operator's.
            found.extend(
                name.to_str()
                    .and_then(|n| n.strip_suffix(".wasm"))
                    .and_then(|n| n.parse::<ModuleHash>().ok()),
            );
        }
        found.sort_unstable();
        Ok(found)
    }

    fn path(&self, hash: ModuleHash) -> PathBuf {
        let hex: String = hash.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(format!("{hex}.wasm"))
    }
}
