//! For which chains a key has had a signer guard: a file beside the key, made with it.
//!
//! A node that finds no guard cannot know what its key has signed. It may begin an empty one only
//! where the key is new to the chain, and nothing in a folder that may have been lost can say so.
//! This file does: it is made with the key and lists each chain before anything is signed on it.
//! A key without it (brought along, or given back by a backup of the key alone) is not new.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use moult_keys::{KeyError, KeyFile, write_secret};
use moult_types::{ChainId, PublicKey};

use crate::key_switch::named;

/// First line of the file.
const HEADER: &str = "moult chains of a key 1";

/// Where it is.
pub fn chains_path(key_file: &Path) -> PathBuf {
    named(key_file, ".chains")
}

/// Writes the file of a key that was made just now, for a node: it has signed nothing anywhere.
///
/// # Errors
/// One of the files exists, or the system refuses.
pub fn write_new_key(file: &KeyFile) -> Result<(), KeyError> {
    file.write()?;
    mark_new(file)
}

/// The same for one whose file is written.
///
/// # Errors
/// There is such a mark, or the system refuses.
pub fn mark_new(file: &KeyFile) -> Result<(), KeyError> {
    write_secret(&chains_path(file.path()), &format!("{HEADER}\n{}\n", file.public_key()))
}

/// Whether a key has certainly had no guard for a chain.
///
/// # Errors
/// The file is there and cannot be read.
pub(crate) fn is_unused(key_file: &Path, key: PublicKey, chain: ChainId) -> Result<bool, KeyError> {
    Ok(chains_of(key_file, key)?.is_some_and(|chains| !chains.contains(&chain.to_string())))
}

/// Lists a chain, durably. A file that is not there, or another key's, stays so: that key is new
/// nowhere.
///
/// # Errors
/// The file cannot be read or written.
pub(crate) fn note(key_file: &Path, key: PublicKey, chain: ChainId) -> Result<(), KeyError> {
    if !is_unused(key_file, key, chain)? {
        return Ok(());
    }
    let path = chains_path(key_file);
    let failed = |source| KeyError::Io { path: path.clone(), source };
    let mut file = OpenOptions::new().append(true).open(&path).map_err(failed)?;
    file.write_all(format!("{chain}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// The chains that are listed for a key. A line that was torn off is none, and hides none: nothing
/// is signed on a chain before its line is synced.
fn chains_of(key_file: &Path, key: PublicKey) -> Result<Option<Vec<String>>, KeyError> {
    let path = chains_path(key_file);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeyError::Io { path, source }),
    };
    let mut lines = text.lines();
    let is_of_key = lines.next() == Some(HEADER) && lines.next() == Some(key.to_string().as_str());
    Ok(is_of_key.then(|| lines.map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use moult_crypto::{KeyPair, Signer as _};
    use moult_types::AuthorityId;

    use super::*;

    const CHAIN: ChainId = ChainId([1; 32]);

    fn file(path: &Path, keys: &KeyPair) -> KeyFile {
        KeyFile::plain(path, keys, AuthorityId::of(&keys.public_key()))
    }

    #[test]
    fn a_key_is_new_to_a_chain_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.key");
        let keys = KeyPair::from_seed(&[9; 32]);
        let key = keys.public_key();
        write_new_key(&file(&path, &keys)).expect("written");
        let is_unused = |chain| is_unused(&path, key, chain).expect("readable");
        assert!(is_unused(CHAIN));
        note(&path, key, CHAIN).expect("noted");
        note(&path, key, CHAIN).expect("once is enough");
        assert!(!is_unused(CHAIN) && is_unused(ChainId([2; 32])));
        let text = std::fs::read_to_string(chains_path(&path)).expect("readable");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn a_key_that_was_brought_along_is_new_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.key");
        let (keys, other) = (KeyPair::from_seed(&[9; 32]), KeyPair::from_seed(&[8; 32]));
        write_new_key(&file(&path, &keys)).expect("written");
        // Another key in its place, with this one's file.
        assert!(!is_unused(&path, other.public_key(), CHAIN).expect("readable"));
        note(&path, other.public_key(), CHAIN).expect("nothing to note");
        assert!(is_unused(&path, keys.public_key(), CHAIN).expect("readable"));
        std::fs::remove_file(chains_path(&path)).expect("removed");
        assert!(!is_unused(&path, keys.public_key(), CHAIN).expect("readable"));
    }
}
