//! Secret files: the node's key and the API token.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use moult_crypto::{KeyPair, Signer};
use moult_types::AuthorityId;
use thiserror::Error;

/// First line of a key file.
const KEY_HEADER: &str = "moult ed25519 secret key 1";
/// Begins the line that says for which authority a key was made, if not for its own.
const AUTHORITY: &str = "authority ";

/// What is wrong with a secret file.
#[derive(Debug, Error)]
pub enum FileError {
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
    #[error("{0} is not a key file of this program (it starts with `{KEY_HEADER}`)")]
    NotAKey(PathBuf),
    /// It holds no usable token.
    #[error("{0} holds no token of at least 16 characters")]
    NoToken(PathBuf),
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> FileError + '_ {
    move |source| FileError::Io { path: path.to_owned(), source }
}

/// Writes a file that only its owner can read; never over another one.
///
/// # Errors
/// It exists, or the system refuses.
pub fn write_secret(path: &Path, text: &str) -> Result<(), FileError> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(FileError::Exists(path.to_owned()));
        }
        Err(e) => return Err(io(path)(e)),
    };
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io(path))
}

fn read_secret(path: &Path) -> Result<String, FileError> {
    let mode = std::fs::metadata(path).map_err(io(path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Open { path: path.to_owned(), mode });
    }
    std::fs::read_to_string(path).map_err(io(path))
}

/// Writes a key.
///
/// # Errors
/// It exists, or the system refuses.
pub fn write_key(path: &Path, keys: &KeyPair) -> Result<(), FileError> {
    write_secret(path, &format!("{KEY_HEADER}\n{}\n", hex::encode(*keys.seed())))
}

/// Writes a later key of an authority.
///
/// # Errors
/// It exists, or the system refuses.
pub fn write_key_of(path: &Path, keys: &KeyPair, authority: AuthorityId) -> Result<(), FileError> {
    write_secret(path, &format!("{KEY_HEADER}\n{}\n{AUTHORITY}{authority}\n", hex::encode(*keys.seed())))
}

/// Reads a key.
///
/// # Errors
/// It cannot be read, others can read it, or it is no key.
pub fn read_key(path: &Path) -> Result<KeyPair, FileError> {
    Ok(read_identity(path)?.0)
}

/// Reads a key, and for which authority it was made.
///
/// # Errors
/// As [`read_key`].
pub fn read_identity(path: &Path) -> Result<(KeyPair, AuthorityId), FileError> {
    let text = read_secret(path)?;
    identity_in(&text).ok_or_else(|| FileError::NotAKey(path.to_owned()))
}

fn identity_in(text: &str) -> Option<(KeyPair, AuthorityId)> {
    let mut lines = text.lines();
    let mut seed = [0; 32];
    lines.next().filter(|line| *line == KEY_HEADER)?;
    hex::decode_to_slice(lines.next()?.trim(), &mut seed).ok()?;
    let keys = KeyPair::from_seed(&seed);
    let authority = match lines.next() {
        Some(line) => line.strip_prefix(AUTHORITY)?.parse().ok()?,
        None => AuthorityId::of(&keys.public_key()),
    };
    lines.next().is_none().then_some((keys, authority))
}

/// Makes a token and writes it.
///
/// # Errors
/// It exists, or the system refuses (its randomness included).
pub fn new_token(path: &Path) -> Result<String, FileError> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|e| io(path)(std::io::Error::other(e.to_string())))?;
    let token = hex::encode(bytes);
    write_secret(path, &token)?;
    Ok(token)
}

/// Reads a token.
///
/// # Errors
/// It cannot be read, others can read it, or it is too short.
pub fn read_token(path: &Path) -> Result<String, FileError> {
    let token = read_secret(path)?.trim().to_owned();
    if token.len() < 16 { Err(FileError::NoToken(path.to_owned())) } else { Ok(token) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_and_is_guarded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.key");
        let keys = KeyPair::from_seed(&[9; 32]);
        write_key(&path, &keys).expect("written");
        assert_eq!(*read_key(&path).expect("read").seed(), *keys.seed());
        assert!(matches!(write_key(&path, &keys), Err(FileError::Exists(_))));
        let own = AuthorityId::of(&keys.public_key());
        assert_eq!(read_identity(&path).expect("read").1, own);
        let (later, other) = (folder.path().join("later.key"), AuthorityId([7; 32]));
        write_key_of(&later, &keys, other).expect("written");
        let (read, whose) = read_identity(&later).expect("read");
        assert_eq!((*read.seed(), whose), (*keys.seed(), other));
        let text = std::fs::read_to_string(&later).expect("read");
        for bad in
            [format!("{text}more\n"), text.replace("authority ", "author "), text.replace("0707", "07")]
        {
            std::fs::write(&later, bad).expect("written");
            assert!(matches!(read_key(&later), Err(FileError::NotAKey(_))));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(read_key(&path), Err(FileError::Open { mode: 0o644, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&path, "something else").expect("written");
        assert!(matches!(read_key(&path), Err(FileError::NotAKey(_))));
    }
}
