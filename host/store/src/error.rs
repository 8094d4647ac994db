//! What can go wrong on disk, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use moult_types::{ChainId, PublicKey};
use thiserror::Error;

use crate::guard_file::GuardFileError;

/// Why the store or the log cannot go on. After an error of a write the process must end:
/// what reached the disk is known only after a restart.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database failed. Caused by the disk; stop the node, nothing is retried.
    #[error(
        "the database {path} failed to {action}: {source}; stop the node and look at the disk (space, kernel log)"
    )]
    Database {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the database says.
        source: Box<fjall::Error>,
    },
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
    /// Another process runs on this directory.
    #[error("the data directory {path} is locked by {holder}: stop that process first")]
    Locked {
        /// Where.
        path: PathBuf,
        /// `pid N`, if it can be told.
        holder: String,
    },
    /// There is no store here. Create one from a genesis.
    #[error("there is no store in {path}: create one from a genesis file first")]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// A store is here already.
    #[error("there is a store in {path} already: choose an empty directory")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Written by another version of the program.
    #[error(
        "{path} has format {found}; this version reads format {supported}: use the version that wrote it"
    )]
    OtherFormat {
        /// Where.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The one known here.
        supported: u32,
    },
    /// The directory of another chain.
    #[error(
        "{path} belongs to chain {found}, not to {expected}: choose another data directory or genesis file"
    )]
    OtherChain {
        /// Where.
        path: PathBuf,
        /// The chain found.
        found: ChainId,
        /// The chain asked for.
        expected: ChainId,
    },
    /// The directory of another node.
    #[error(
        "{path} belongs to the node with key {found}, not to {expected}: choose another data directory or key file"
    )]
    OtherNode {
        /// Where.
        path: PathBuf,
        /// The key found.
        found: PublicKey,
        /// The key asked for.
        expected: PublicKey,
    },
    /// What is on disk is not what was written. Move the directory away and let the node
    /// fetch the chain from its peers; the guard's file stays.
    #[error(
        "{what} in {path} is damaged: {reason}; move the store away and let the node fetch the chain from its peers, but keep the guard's file"
    )]
    Corrupt {
        /// Where.
        path: PathBuf,
        /// Which record.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A restore was cut off.
    #[error(
        "a restore into {path} was cut off: run the same `moult restore` again, it completes what was begun"
    )]
    HalfRestored {
        /// The data directory.
        path: PathBuf,
    },
    /// The guard's file failed.
    #[error(transparent)]
    Guard(#[from] GuardFileError),
    /// An earlier write failed; everything after it is refused.
    #[error("an earlier write to {path} failed: the process must end")]
    Poisoned {
        /// Where.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn database(path: &Path, action: &'static str, source: fjall::Error) -> Self {
        Self::Database { path: path.to_owned(), action, source: Box::new(source) }
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn corrupt(path: &Path, what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Corrupt { path: path.to_owned(), what: what.into(), reason: reason.to_string() }
    }
}
