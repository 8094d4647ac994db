//! Secret files and passphrases.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

/// What is wrong with a key or with a secret file.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The system refuses.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is there already.
    #[error("{0} exists already: a key is never overwritten. Remove it by hand if it is really not needed")]
    Exists(PathBuf),
    /// Others could read it.
    #[error("{path} can be read by others (mode {mode:o}): run `chmod 600 {path}`")]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is something else.
    #[error("{path} is not a key file of this program: {problem}")]
    NotAKey {
        /// Which.
        path: PathBuf,
        /// In what.
        problem: String,
    },
    /// It is encrypted or in a token, where only a plain one does.
    #[error("{0} is not a plain key file: here the secret itself is needed")]
    NotPlain(PathBuf),
    /// Nothing says the passphrase or the PIN.
    #[error(
        "{path} needs a {what}: set `unlock.file` or `unlock.env` in the configuration, or give \
         --unlock-file or --unlock-env"
    )]
    Locked {
        /// Which.
        path: PathBuf,
        /// A passphrase or a PIN.
        what: &'static str,
    },
    /// The variable is not there.
    #[error("the environment variable {0} of `unlock.env` is not set, or is no text")]
    NoVariable(String),
    /// The passphrase is another, or the file was changed.
    #[error("{0}: the passphrase is wrong, or the file was changed")]
    WrongPassphrase(PathBuf),
    /// A passphrase is too short to be one.
    #[error("the passphrase has {0} characters: take at least {PASSPHRASE_MIN}")]
    ShortPassphrase(usize),
    /// The token does not do what it should.
    #[error("PKCS#11 module {module}, token `{token}`, key `{key}`: {problem}")]
    Token {
        /// The module's library.
        module: PathBuf,
        /// Label of the token.
        token: String,
        /// Label of the key.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// It holds no usable token of the interface.
    #[error("{0} holds no token of at least 16 characters")]
    NoToken(PathBuf),
    /// The system has no randomness to give.
    #[error("the system has no randomness: {0}")]
    Randomness(String),
}

/// Characters of a passphrase, at least.
pub(crate) const PASSPHRASE_MIN: usize = 8;

pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> KeyError + '_ {
    move |source| KeyError::Io { path: path.to_owned(), source }
}

/// Writes a file that only its owner can read; never over another one.
///
/// # Errors
/// It exists, or the system refuses.
pub fn write_secret(path: &Path, text: &str) -> Result<(), KeyError> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(KeyError::Exists(path.to_owned()));
        }
        Err(e) => return Err(io(path)(e)),
    };
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io(path))
}

/// Reads a file that only its owner can read.
///
/// # Errors
/// It cannot be read, or others can read it.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let mode = std::fs::metadata(path).map_err(io(path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(io(path))
}

/// Makes a token for an interface and writes it.
///
/// # Errors
/// It exists, or the system refuses (its randomness included).
pub fn new_token(path: &Path) -> Result<String, KeyError> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|e| KeyError::Randomness(e.to_string()))?;
    let token = hex::encode(bytes);
    write_secret(path, &token)?;
    Ok(token)
}

/// Reads a token for an interface.
///
/// # Errors
/// It cannot be read, others can read it, or it is too short.
pub fn read_token(path: &Path) -> Result<String, KeyError> {
    let token = read_secret(path)?.trim().to_owned();
    if token.len() < 16 { Err(KeyError::NoToken(path.to_owned())) } else { Ok(token) }
}

/// Where the passphrase of an encrypted key, or the PIN of a token, is. One of the two at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Unlock {
    /// In a file that only its owner can read; a line end after it is no part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// In an environment variable of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

impl Unlock {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.file.is_none() && self.env.is_none()
    }

    /// The passphrase or PIN, if it is said where.
    ///
    /// # Errors
    /// It is not there, or others can read it.
    pub fn secret(&self) -> Result<Option<Zeroizing<String>>, KeyError> {
        match (&self.file, &self.env) {
            (Some(path), _) => {
                let text = read_secret(path)?;
                Ok(Some(Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned())))
            }
            (None, Some(name)) => {
                let text = std::env::var(name).map_err(|_| KeyError::NoVariable(name.clone()))?;
                Ok(Some(Zeroizing::new(text)))
            }
            (None, None) => Ok(None),
        }
    }
}
