//! One encoding a value: borsh with strict decoding, and domain-separated hashes over it.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::Digest;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Bytes that are no canonical encoding of the type asked for.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("not a canonical {what}: {reason}")]
pub struct DecodeError {
    /// The type, for a person.
    pub what: &'static str,
    /// What is wrong.
    pub reason: String,
}

/// The canonical encoding.
pub fn encode<T: BorshSerialize>(value: &T) -> Vec<u8> {
    // Writing into a Vec cannot fail, and none of our types has a fallible encoder.
    borsh::to_vec(value).unwrap_or_default()
}

/// The inverse of [`encode`].
///
/// # Errors
/// The bytes are short, have a tail, or are another encoding than [`encode`] gives.
pub fn decode<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, DecodeError> {
    T::try_from_slice(bytes).map_err(|e| DecodeError { what: short_name::<T>(), reason: e.to_string() })
}

fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.rsplit("::").next().unwrap_or(name)
}

/// SHA-256 over the length of the domain, the domain and the encoding: hashes of different
/// purposes never meet.
pub fn hash_of<T: BorshSerialize>(domain: &'static str, value: &T) -> Digest {
    let mut hasher = domain_hasher(domain);
    // Hashing cannot fail.
    let _ = value.serialize(&mut HashWriter(&mut hasher));
    Digest(hasher.finalize().into())
}

/// SHA-256 of raw bytes, as module hashes are written.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn domain_hasher(domain: &'static str) -> Sha256 {
    let mut hasher = Sha256::new();
    hasher.update([domain.len() as u8]);
    hasher.update(domain.as_bytes());
    hasher
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
