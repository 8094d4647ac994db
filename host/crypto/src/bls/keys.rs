use std::fmt;

use blst::min_pk;
use zeroize::Zeroizing;

use super::signature::verify_in;
use super::{BlsError, POSSESSION_DOMAIN, SIGNATURE_DOMAIN, Signature};

/// A secret key; wiped from memory when it is dropped.
#[derive(Clone)]
pub struct SecretKey(min_pk::SecretKey);

impl SecretKey {
    /// The key of 32 bytes of randomness (`KeyGen` of the draft, with `info` for several from one).
    pub fn from_randomness(randomness: &[u8; 32], info: &[u8]) -> Self {
        let made = min_pk::SecretKey::key_gen(randomness, info);
        // Refused is only what is shorter than 32 bytes.
        Self(made.expect("32 bytes are enough"))
    }

    /// Reads a key: 32 bytes, big endian.
    ///
    /// # Errors
    /// [`BlsError::BadSecret`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, BlsError> {
        min_pk::SecretKey::from_bytes(bytes).map(Self).map_err(|_| BlsError::BadSecret)
    }

    /// Its encoding, to be kept.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The key that verifies what this signs.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.sk_to_pk())
    }

    /// Signs a message, which must name its own domain. The same message gives the same signature.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature::of(self.0.sign(message, SIGNATURE_DOMAIN, &[]))
    }

    /// Proves that this key is held by whoever shows it.
    pub fn prove_possession(&self) -> Possession {
        let key = self.public_key().to_bytes();
        Possession(Signature::of(self.0.sign(&key, POSSESSION_DOMAIN, &[])))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bls::SecretKey({:?})", self.public_key())
    }
}

/// A public key: a point of the subgroup, not infinity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(min_pk::PublicKey);

impl PublicKey {
    /// Reads a key (`KeyValidate` of the draft).
    ///
    /// # Errors
    /// [`BlsError::BadKey`].
    pub fn from_bytes(bytes: &[u8; 48]) -> Result<Self, BlsError> {
        let key = min_pk::PublicKey::uncompress(bytes).map_err(|_| BlsError::BadKey)?;
        Self::checked(key)
    }

    /// Its encoding.
    pub fn to_bytes(&self) -> [u8; 48] {
        self.0.compress()
    }

    pub(super) fn checked(key: min_pk::PublicKey) -> Result<Self, BlsError> {
        key.validate().map_err(|_| BlsError::BadKey)?;
        Ok(Self(key))
    }

    pub(super) fn point(&self) -> &min_pk::PublicKey {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bls::PublicKey({}..)", hex::encode(&self.to_bytes()[..4]))
    }
}

/// A proof that somebody holds a key (`PopProve` of the draft). It says nothing of who: a proof can
/// be shown by others, so a committee must not have one key twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Possession(Signature);

impl Possession {
    /// Reads a proof.
    ///
    /// # Errors
    /// [`BlsError::BadPoint`].
    pub fn from_bytes(bytes: &[u8; 96]) -> Result<Self, BlsError> {
        Signature::from_bytes(bytes).map(Self)
    }

    /// Its encoding.
    pub fn to_bytes(&self) -> [u8; 96] {
        self.0.to_bytes()
    }
}

/// A key of which it is proven that it is held: it was not made out of the keys of others. Only
/// such keys are added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProvenKey(PublicKey);

impl ProvenKey {
    /// Checks the proof (`PopVerify` of the draft).
    ///
    /// # Errors
    /// [`BlsError::BadPossession`].
    pub fn new(key: PublicKey, proof: &Possession) -> Result<Self, BlsError> {
        let held = verify_in(POSSESSION_DOMAIN, &key, &key.to_bytes(), &proof.0);
        if held { Ok(Self(key)) } else { Err(BlsError::BadPossession) }
    }

    /// The key.
    pub fn key(&self) -> &PublicKey {
        &self.0
    }

    /// For test vectors, which have no proofs.
    #[cfg(test)]
    pub(super) fn assumed(key: PublicKey) -> Self {
        Self(key)
    }
}
