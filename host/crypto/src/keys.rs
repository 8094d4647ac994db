use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey};
use moult_types::statement::signing_bytes;
use moult_types::{ChainId, Committee, PublicKey, Scope, Signature, Statement};
use zeroize::Zeroizing;

use crate::node_key::SignError;
use crate::verify::{Keyring, VerifyError};

/// Signs statements with one key. Deterministic: the same bytes give the same signature.
///
/// A key in memory always signs. One that lies elsewhere may not be able to: then the signature is
/// none, [`Signer::failure`] says why from then on, and whoever asked must let nothing out that was
/// made since it looked last.
pub trait Signer: Send + Sync {
    /// The key that verifies what this signs.
    fn public_key(&self) -> PublicKey;

    /// Signs a statement. The caller has asked the signer guard first.
    fn sign_statement(&self, chain: ChainId, scope: Scope, statement: &Statement) -> Signature;

    /// Why this key could not sign, once it could not.
    fn failure(&self) -> Option<SignError> {
        None
    }

    /// The keys of a committee, for checking what its members sign: strict ed25519, unless the
    /// signer is a simulator's, whose signatures are none.
    ///
    /// # Errors
    /// A key is not valid.
    fn keyring(&self, chain: ChainId, committee: &Committee) -> Result<Keyring, VerifyError> {
        Keyring::new(chain, committee)
    }
}

/// An ed25519 key pair; the secret is wiped from memory when it is dropped.
#[derive(Clone)]
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of a 32-byte seed (RFC 8032 section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for writing it to a key file.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Signs raw bytes: only for proofs of possession and the transport's handshake, which
    /// have domains of their own.
    pub fn sign_raw(&self, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(bytes).to_bytes())
    }
}

impl Signer for KeyPair {
    fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    fn sign_statement(&self, chain: ChainId, scope: Scope, statement: &Statement) -> Signature {
        self.sign_raw(&signing_bytes(chain, scope, statement))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?})", self.public_key())
    }
}
