//! The node's key as TLS and QUIC want it.

use std::fmt;
use std::sync::Arc;

use moult_crypto::{NodeKey, SignError, Signer as _};
use moult_types::PublicKey;
use moult_types::codec::sha256;
use quinn::crypto::{CryptoError, HmacKey};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

/// The constant part of an ed25519 SubjectPublicKeyInfo (RFC 8410): SEQUENCE of 42 bytes,
/// the algorithm 1.3.101.112 without parameters, BIT STRING of 33 bytes without unused bits.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The raw public key as it goes over the wire: 44 bytes.
pub fn spki_of(key: &PublicKey) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), &key.0].concat()
}

/// The inverse of [`spki_of`]; any other length, algorithm or encoding is `None`.
pub fn key_of_spki(der: &[u8]) -> Option<PublicKey> {
    let key = der.strip_prefix(SPKI_PREFIX.as_slice())?;
    Some(PublicKey(key.try_into().ok()?))
}

/// Whether anyone could sign for this key: no point of the curve, or of small order.
pub(crate) fn is_weak(key: &PublicKey) -> bool {
    ed25519_dalek::VerifyingKey::from_bytes(&key.0).map_or(true, |k| k.is_weak())
}

/// The node's key with its raw public key as certificate.
pub(crate) fn certified_key(keys: &NodeKey) -> Arc<CertifiedKey> {
    let certificate = CertificateDer::from(spki_of(&keys.public_key()));
    Arc::new(CertifiedKey::new(vec![certificate], Arc::new(TlsKey::new(keys))))
}

/// A token is asked once for each handshake, on the thread that makes it.
struct TlsKey {
    keys: NodeKey,
    spki: Vec<u8>,
}

impl TlsKey {
    fn new(keys: &NodeKey) -> Self {
        Self { keys: keys.clone(), spki: spki_of(&keys.public_key()) }
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys.fmt(f)
    }
}

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let known = offered.contains(&SignatureScheme::ED25519);
        known.then(|| Box::new(Self { keys: self.keys.clone(), spki: self.spki.clone() }) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.spki.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for TlsKey {
    /// TLS 1.3 prefixes 64 spaces and its own context string, so that what is signed here
    /// is never a statement.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signed = self.keys.sign_handshake(message);
        signed.map(|s| s.0.to_vec()).map_err(|e| rustls::Error::General(format!("the key cannot sign: {e}")))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Derives QUIC's stateless reset tokens from the node's secret.
///
/// The tokens outlive the process: a restarted node can tell its peers at the first packet
/// of a forgotten connection that it is gone, and they need not wait for the idle timeout.
pub(crate) struct ResetKey([u8; 32]);

impl ResetKey {
    /// # Errors
    /// The key lies in a token, which does not sign.
    pub(crate) fn new(keys: &NodeKey) -> Result<Self, SignError> {
        Ok(Self(*keys.local_secret("moult stateless reset 1")?))
    }
}

impl HmacKey for ResetKey {
    /// A hash over a fixed-length secret and a connection id, of which quinn shows half:
    /// it cannot be extended.
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let digest = sha256(&[self.0.as_slice(), data].concat());
        for (out, byte) in signature_out.iter_mut().zip(digest.0) {
            *out = byte;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut expected = [0; 32];
        self.sign(data, &mut expected);
        if signature == expected { Ok(()) } else { Err(CryptoError) }
    }
}

#[cfg(test)]
mod tests {
    use moult_crypto::KeyPair;

    use super::*;

    #[test]
    fn a_key_survives_the_round_trip() {
        let key = KeyPair::from_seed(&[3; 32]).public_key();
        assert_eq!(spki_of(&key).len(), 44);
        assert_eq!(key_of_spki(&spki_of(&key)), Some(key));
    }

    #[test]
    fn every_other_encoding_is_refused() {
        let spki = spki_of(&KeyPair::from_seed(&[3; 32]).public_key());
        assert_eq!(key_of_spki(&[]), None);
        assert_eq!(key_of_spki(&spki[..43]), None);
        assert_eq!(key_of_spki(&[spki.as_slice(), &[0]].concat()), None);
        for i in 0..SPKI_PREFIX.len() {
            let mut other = spki.clone();
            other[i] ^= 1;
            assert_eq!(key_of_spki(&other), None, "byte {i}");
        }
    }

    #[test]
    fn keys_anyone_can_sign_for_are_weak() {
        assert!(is_weak(&PublicKey([0; 32])));
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(is_weak(&PublicKey(identity)));
        assert!(!is_weak(&KeyPair::from_seed(&[3; 32]).public_key()));
    }

    fn reset_key(seed: u8) -> ResetKey {
        ResetKey::new(&KeyPair::from_seed(&[seed; 32]).into()).expect("a key in memory")
    }

    #[test]
    fn reset_tokens_outlive_the_process_and_differ_by_node() {
        let sign = |seed: u8| {
            let mut out = [0; 32];
            reset_key(seed).sign(b"12345678", &mut out);
            out
        };
        assert_eq!(sign(1), sign(1));
        assert_ne!(sign(1), sign(2));
        assert!(reset_key(1).verify(b"12345678", &sign(1)).is_ok());
        assert!(reset_key(1).verify(b"12345678", &sign(2)).is_err());
    }
}
