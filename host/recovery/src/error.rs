//! Why a chain is not carried on.

use std::fmt;
use std::path::{Path, PathBuf};

use moult_audit::AuditError;
use moult_core::governance::ProposalError;
use moult_keys::KeyError;
use moult_module::ModuleError;
use moult_node::genesis::GenesisError;
use moult_store::{BackupError, GuardFileError, StoreError};
use moult_types::{AuthorityId, ChainId, Digest, GlobalIndex};
use thiserror::Error;

/// A state root, and where it was computed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "its names say it")]
pub struct Computed {
    pub root: Digest,
    pub path: PathBuf,
}

impl fmt::Display for Computed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.root, self.path.display())
    }
}

/// Why a chain is not carried on. Unless it says otherwise, nothing was changed.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RecoveryError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Guard(#[from] GuardFileError),
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("could not {action} {path}: {source}")]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    #[error("{0} holds no store: name the folder `data_dir` of a node")]
    NoStore(PathBuf),
    #[error("the backup {path} is of chain {found}, not of {expected}")]
    OtherBackup { path: PathBuf, found: ChainId, expected: ChainId },
    #[error("no store or backup of a survivor was given")]
    Nobody,
    #[error("the stores that were given hold no final block: there is nothing to carry on")]
    Empty,
    #[error("the chain in {path} does not hold: {problem}. Leave that store out")]
    Audit { path: PathBuf, problem: Box<AuditError> },
    #[error("{0} is declared lost and is no member of the present committee")]
    NotAMember(AuthorityId),
    #[error("{0} is declared lost, and its store was given as a survivor's")]
    LostAndThere(AuthorityId),
    #[error(
        "the survivors computed different states after block {global}: {first} and {other}. One of them is damaged, or the application is not deterministic: leave the wrong one out"
    )]
    StateDiffers { global: GlobalIndex, first: Box<Computed>, other: Box<Computed> },
    #[error("no survivor's state can be brought to block {global}: {reason}")]
    NoState { global: GlobalIndex, reason: String },
    #[error("the new committee cannot begin a chain: {0}")]
    Committee(#[from] ProposalError),
    #[error("{0} exists: name a folder that does not")]
    Exists(PathBuf),
    #[error("this genesis carries on no chain: it is not one of `moult recover plan`")]
    NoOrigin,
    #[error("{path} is the genesis of chain {found}; what is to be installed carries on chain {expected}")]
    OtherGenesis { path: PathBuf, found: ChainId, expected: ChainId },
    #[error(
        "the signer guard {path} cannot be read, and it may be that of the new chain: {problem}. A node that forgets what it signed can break a promise: give this authority a new key (`moult keys rotate` at another node) instead"
    )]
    UnreadableGuard { path: PathBuf, problem: GuardFileError },
}

impl RecoveryError {
    pub(crate) fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }

    /// Whether the configuration or its files are at fault (exit code 78).
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Key(_) | Self::Genesis(_))
    }
}
