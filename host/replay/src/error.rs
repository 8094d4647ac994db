//! Why a record cannot be read.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a record cannot be read.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The file or folder cannot be read or written.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file does not begin as a record does.
    #[error("{path} is no record of an engine")]
    NotARecord {
        /// Which file.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("{path} is of format {found}; this program reads format {supported}: use a newer one")]
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// What it is.
        found: u32,
        /// What is read here.
        supported: u32,
    },
    /// A part is not there.
    #[error(
        "part {part} of the record in {folder} is missing: a record is run from its beginning, without a gap"
    )]
    MissingPart {
        /// Where.
        folder: PathBuf,
        /// Which part, from 0.
        part: u32,
    },
    /// A part does not go on where the one before it ended.
    #[error(
        "{path} does not go on where the part before it ended: it is of another record, or one of them was changed"
    )]
    OtherPart {
        /// Which file.
        path: PathBuf,
    },
    /// Bytes in the midst of a record are not what was written.
    #[error("{path} is damaged at byte {offset}: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The entries are in no order that a recorder writes.
    #[error("{path}, byte {offset}: {what} where {expected} belongs")]
    Order {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is there.
        what: &'static str,
        /// What should be.
        expected: &'static str,
    },
}

impl RecordError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}
