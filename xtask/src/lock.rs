//! `modules/modules.lock`: what the checked-in modules are and what built them.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    /// Rising by name.
    #[serde(rename = "module", default)]
    pub(crate) modules: Vec<Entry>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// The file is `<name>.wasm`.
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) world: String,
    pub(crate) hash: String,
    pub(crate) bytes: u64,
    pub(crate) compiler: String,
}

const HEADER: &str = "# Written by `cargo xtask modules`; checked by `cargo xtask modules --check`.\n\n";

impl Lock {
    /// The lock of the repository; empty where there is none.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("cannot parse {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = format!("{HEADER}{}", toml::to_string(self)?);
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        self.modules.iter().find(|entry| entry.name == name)
    }

    pub(crate) fn set(&mut self, entry: Entry) {
        self.modules.retain(|other| other.name != entry.name);
        self.modules.push(entry);
        self.modules.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// As the host names modules.
pub(crate) fn hash(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
