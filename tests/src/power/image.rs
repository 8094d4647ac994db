//! The content of a file.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes up to the last one that was written; zeros follow up to the length. Files that are
/// made long in advance take no memory.
#[derive(Clone, Default, Debug)]
pub(super) struct Image {
    bytes: Vec<u8>,
    length: u64,
}

impl Image {
    pub(super) fn read(path: &Path) -> Self {
        let mut bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let length = bytes.len() as u64;
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        bytes.shrink_to_fit();
        Self { bytes, length }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { at, bytes } => {
                let start = usize::try_from(*at).expect("files of tests fit into memory");
                let end = start + bytes.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                self.bytes[start..end].copy_from_slice(bytes);
                self.length = self.length.max(end as u64);
            }
            Change::Length(length) => {
                self.bytes.truncate(usize::try_from(*length).unwrap_or(usize::MAX));
                self.length = *length;
            }
        }
    }

    pub(super) fn write(&self, path: &Path) {
        let mut file = File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        file.write_all(&self.bytes).and_then(|()| file.set_len(self.length)).expect("written");
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        let common = self.bytes.len().min(other.bytes.len());
        let rest = self.bytes[common..].iter().chain(&other.bytes[common..]);
        self.length == other.length
            && self.bytes[..common] == other.bytes[..common]
            && rest.into_iter().all(|byte| *byte == 0)
    }
}

/// A change of a file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Length(u64),
}

impl Change {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Write { bytes, .. } => bytes.len() as u64,
            Self::Length(_) => 0,
        }
    }
}

/// All files, sorted.
pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort_unstable();
    files
}
