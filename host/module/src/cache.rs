//! Machine code on disk, authenticated with a key of this node.
//!
//! A file is `MAGIC`, a 32-byte tag and the machine code. The tag is a keyed hash over the
//! module's hash, the compatibility digest and the code: a file that another node, another
//! compiler or another hand wrote does not verify and is compiled anew. The file is read
//! once, and what was verified in memory is what is loaded.

use std::io::Write;
use std::path::{Path, PathBuf};

use moult_types::ModuleHash;

use crate::limits::Limits;

const MAGIC: &[u8; 16] = b"moult-code-v1\0\0\n";
const TAG_BYTES: usize = 32;

pub(crate) struct Cache {
    folder: PathBuf,
    key: [u8; 32],
    compatibility: [u8; 32],
    file_bytes_max: u64,
}

/// What was found for a module.
pub(crate) enum Found {
    Code(Vec<u8>),
    Nothing,
    /// A file that is damaged or not this node's.
    Rejected,
}

impl Cache {
    pub(crate) fn new(folder: PathBuf, key: [u8; 32], compatibility: [u8; 32], limits: &Limits) -> Self {
        let file_bytes_max = (limits.artefact_bytes + MAGIC.len() + TAG_BYTES) as u64;
        Self { folder, key, compatibility, file_bytes_max }
    }

    pub(crate) fn path(&self, module: ModuleHash) -> PathBuf {
        let short = hex::encode(&self.compatibility[..8]);
        self.folder.join(format!("{}-{short}.code", hex::encode(module.0)))
    }

    pub(crate) fn load(&self, module: ModuleHash) -> Found {
        let path = self.path(module);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() <= self.file_bytes_max => {}
            Ok(_) => return Found::Rejected,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Found::Nothing,
            Err(_) => return Found::Rejected,
        }
        let Ok(file) = std::fs::read(&path) else { return Found::Rejected };
        match self.verify(module, &file) {
            Some(code) => Found::Code(code.to_vec()),
            None => Found::Rejected,
        }
    }

    /// Puts the file in place at once, or not at all.
    pub(crate) fn store(&self, module: ModuleHash, code: &[u8]) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(MAGIC)?;
        file.write_all(self.tag(module, code).as_bytes())?;
        file.write_all(code)?;
        file.persist(self.path(module)).map_err(|error| error.error)?;
        Ok(())
    }

    fn verify<'a>(&self, module: ModuleHash, file: &'a [u8]) -> Option<&'a [u8]> {
        let rest = file.strip_prefix(MAGIC)?;
        let (tag, code) = rest.split_at_checked(TAG_BYTES)?;
        let tag: [u8; TAG_BYTES] = tag.try_into().ok()?;
        // Comparison of `blake3::Hash` takes the same time wherever the tags differ.
        (self.tag(module, code) == tag).then_some(code)
    }

    fn tag(&self, module: ModuleHash, code: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(MAGIC).update(&module.0).update(&self.compatibility).update(code);
        hasher.finalize()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}
