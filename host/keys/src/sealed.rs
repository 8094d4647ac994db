//! A secret under a passphrase: argon2id makes a key of it, XChaCha20-Poly1305 seals the secret.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use zeroize::Zeroizing;

/// What argon2id costs. Files of other costs are read if these are within bounds: a file must not
/// make the program take all memory, nor be as good as not encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Memory, in KiB: 8 MiB to 4 GiB.
    pub memory_kib: u32,
    /// Passes over it: 1 to 64.
    pub passes: u32,
    /// Lanes: 1 to 64.
    pub lanes: u32,
}

impl Default for Cost {
    /// The second choice of RFC 9106: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl Cost {
    pub(crate) fn is_in_bounds(&self) -> bool {
        (8 << 10..=4 << 20).contains(&self.memory_kib)
            && (1..=64).contains(&self.passes)
            && (1..=64).contains(&self.lanes)
    }
}

pub(crate) const SALT_BYTES: usize = 16;
pub(crate) const NONCE_BYTES: usize = 24;
/// The seed and the seal's tag.
pub(crate) const SEALED_BYTES: usize = 32 + 16;

/// With what a seed is sealed; salt and nonce are new for each file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lock {
    pub(crate) cost: Cost,
    pub(crate) salt: [u8; SALT_BYTES],
    pub(crate) nonce: [u8; NONCE_BYTES],
}

impl Lock {
    /// Seals a seed; `about` is what the file says in the clear, and cannot be changed afterwards.
    pub(crate) fn seal(&self, passphrase: &str, about: &[u8], seed: &[u8; 32]) -> Option<[u8; SEALED_BYTES]> {
        let payload = Payload { msg: seed, aad: about };
        self.cipher(passphrase)?.encrypt(&self.nonce.into(), payload).ok()?.try_into().ok()
    }

    /// The seed; none if the passphrase is another, or anything was changed.
    pub(crate) fn open(
        &self,
        passphrase: &str,
        about: &[u8],
        sealed: &[u8; SEALED_BYTES],
    ) -> Option<Zeroizing<[u8; 32]>> {
        let payload = Payload { msg: sealed, aad: about };
        let seed = Zeroizing::new(self.cipher(passphrase)?.decrypt(&self.nonce.into(), payload).ok()?);
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(seed.get(..32)?);
        Some(bytes)
    }

    fn cipher(&self, passphrase: &str) -> Option<XChaCha20Poly1305> {
        let Cost { memory_kib, passes, lanes } = self.cost;
        let params = Params::new(memory_kib, passes, lanes, Some(32)).ok()?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.as_bytes(), &self.salt, key.as_mut_slice())
            .ok()?;
        Some(XChaCha20Poly1305::new((&*key).into()))
    }
}
