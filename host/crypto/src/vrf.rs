//! A verifiable random function: ECVRF-EDWARDS25519-SHA512-TAI of RFC 9381.
//!
//! The holder of a key computes one output for each input and proves it; nobody else can tell it
//! from random before, everybody can check it afterwards. Every encoding is strict: a point that
//! is not the canonical one of its bytes, a scalar that is not reduced and a key of small order are
//! refused (`validate_key` of the RFC is TRUE). The proof is still no identity: several proofs of
//! one output exist. What may be hashed, compared and drawn from is the output.

use std::fmt;

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use sha2::{Digest, Sha512};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// `suite_string` of the RFC (section 5.5).
const SUITE: u8 = 0x03;
/// Domain separators of the RFC: first byte after the suite, and the last one of every hash.
const ENCODE: u8 = 0x01;
const CHALLENGE: u8 = 0x02;
const OUTPUT: u8 = 0x03;
const BACK: u8 = 0x00;
/// `cLen` of the RFC, in bytes.
const CHALLENGE_BYTES: usize = 16;

/// Why a key or a proof is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum VrfError {
    /// The key is no point in canonical encoding, or one of small order.
    #[error("the key is not a valid VRF key")]
    BadKey,
    /// The proof holds a point or a scalar that is not in canonical encoding.
    #[error("the proof is not well encoded")]
    BadEncoding,
    /// The proof does not hold for this key and input.
    #[error("the proof does not hold")]
    BadProof,
}

/// A proof: a point, a challenge of 16 bytes and a scalar.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VrfProof(pub [u8; 80]);

impl fmt::Debug for VrfProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VrfProof({}..)", hex::encode(&self.0[..4]))
    }
}

/// What the function gives for one key and input: uniform to whoever has not the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VrfOutput(pub [u8; 64]);

impl fmt::Debug for VrfOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VrfOutput({}..)", hex::encode(&self.0[..4]))
    }
}

/// A key that was checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VrfPublicKey {
    bytes: [u8; 32],
    point: EdwardsPoint,
}

impl fmt::Debug for VrfPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VrfPublicKey({}..)", hex::encode(&self.bytes[..4]))
    }
}

impl VrfPublicKey {
    /// Reads a key of 32 bytes.
    ///
    /// # Errors
    /// [`VrfError::BadKey`].
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, VrfError> {
        let point = canonical_point(bytes).ok_or(VrfError::BadKey)?;
        if point.is_small_order() { Err(VrfError::BadKey) } else { Ok(Self { bytes: *bytes, point }) }
    }

    /// Its encoding.
    pub fn to_bytes(self) -> [u8; 32] {
        self.bytes
    }

    /// Checks a proof, and what it proves: the output for this input.
    ///
    /// # Errors
    /// [`VrfError::BadEncoding`] and [`VrfError::BadProof`]: whoever sent it did not make it with
    /// the functions of this module.
    pub fn verify(&self, input: &[u8], proof: &VrfProof) -> Result<VrfOutput, VrfError> {
        let Decoded { gamma, challenge, s } = Decoded::of(proof)?;
        let h = encode_to_curve(&self.bytes, input);
        let c = scalar_of(&challenge);
        // The points are negated, not the challenge: on a key with a part of small order
        // -(c Y) is not (q - c) Y.
        let u = EdwardsPoint::vartime_double_scalar_mul_basepoint(&c, &-self.point, &s);
        let v = EdwardsPoint::vartime_multiscalar_mul([s, c], [h, -gamma]);
        if challenge_of(&self.bytes, &[h, gamma, u, v]) == challenge {
            Ok(output_of(&gamma))
        } else {
            Err(VrfError::BadProof)
        }
    }
}

/// A secret key; wiped from memory when it is dropped.
///
/// Its seed must serve for nothing else. The nonce of a proof is derived as that of an ed25519
/// signature is, so one seed in both roles gives the key away if a chosen 32 bytes get signed:
/// take [`VrfSecretKey::beside`] where only a signing seed is at hand.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct VrfSecretKey {
    scalar: Scalar,
    prefix: [u8; 32],
    #[zeroize(skip)]
    public: VrfPublicKey,
}

impl fmt::Debug for VrfSecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VrfSecretKey({:?})", self.public)
    }
}

impl VrfSecretKey {
    /// The key of a 32-byte seed (`SK` of the RFC).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let mut hash: [u8; 64] = Sha512::digest(seed).into();
        let (mut half, mut prefix) = ([0; 32], [0; 32]);
        half.copy_from_slice(&hash[..32]);
        prefix.copy_from_slice(&hash[32..]);
        hash.zeroize();
        let mut clamped = clamp_integer(half);
        // The points that it multiplies are of prime order: reducing it changes none of them.
        let scalar = Scalar::from_bytes_mod_order(clamped);
        half.zeroize();
        clamped.zeroize();
        let point = EdwardsPoint::mul_base(&scalar);
        Self { scalar, prefix, public: VrfPublicKey { bytes: point.compress().to_bytes(), point } }
    }

    /// The key that goes with the seed of an ed25519 key, independent of it.
    pub fn beside(seed: &[u8; 32]) -> Self {
        let mut hash: [u8; 64] =
            Sha512::new().chain_update(b"moult vrf key 1\n").chain_update(seed).finalize().into();
        let mut own = Zeroizing::new([0; 32]);
        own.copy_from_slice(&hash[..32]);
        hash.zeroize();
        Self::from_seed(&own)
    }

    /// The key that checks what this proves.
    pub fn public_key(&self) -> VrfPublicKey {
        self.public
    }

    /// The output for an input, with its proof. The same input gives the same proof.
    ///
    /// The key is handled in constant time; how long it takes depends on the input, which is public.
    pub fn prove(&self, input: &[u8]) -> (VrfOutput, VrfProof) {
        let public = &self.public.bytes;
        let h = encode_to_curve(public, input);
        let gamma = h * self.scalar;
        let mut wide: [u8; 64] =
            Sha512::new().chain_update(self.prefix).chain_update(h.compress().as_bytes()).finalize().into();
        let nonce = Zeroizing::new(Scalar::from_bytes_mod_order_wide(&wide));
        wide.zeroize();
        let commitments = [h, gamma, EdwardsPoint::mul_base(&nonce), h * *nonce];
        let challenge = challenge_of(public, &commitments);
        let s = *nonce + scalar_of(&challenge) * self.scalar;
        let mut proof = [0; 80];
        proof[..32].copy_from_slice(gamma.compress().as_bytes());
        proof[32..48].copy_from_slice(&challenge);
        proof[48..].copy_from_slice(s.as_bytes());
        (output_of(&gamma), VrfProof(proof))
    }
}

/// The output that a proof claims, without a check that it holds.
///
/// # Errors
/// [`VrfError::BadEncoding`].
pub fn proof_to_hash(proof: &VrfProof) -> Result<VrfOutput, VrfError> {
    Ok(output_of(&Decoded::of(proof)?.gamma))
}

struct Decoded {
    gamma: EdwardsPoint,
    challenge: [u8; CHALLENGE_BYTES],
    s: Scalar,
}

impl Decoded {
    fn of(proof: &VrfProof) -> Result<Self, VrfError> {
        let (mut gamma, mut challenge, mut s) = ([0; 32], [0; CHALLENGE_BYTES], [0; 32]);
        gamma.copy_from_slice(&proof.0[..32]);
        challenge.copy_from_slice(&proof.0[32..48]);
        s.copy_from_slice(&proof.0[48..]);
        let gamma = canonical_point(&gamma).ok_or(VrfError::BadEncoding)?;
        // A valid one is a multiple of a point of prime order; the RFC leaves it to the check.
        if gamma.is_small_order() {
            return Err(VrfError::BadEncoding);
        }
        let s = Option::from(Scalar::from_canonical_bytes(s)).ok_or(VrfError::BadEncoding)?;
        Ok(Self { gamma, challenge, s })
    }
}

/// `string_to_point` (RFC 8032, section 5.1.3): other than the library's, it refuses a coordinate
/// that is not reduced and the sign of a zero.
fn canonical_point(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    let point = CompressedEdwardsY(*bytes).decompress()?;
    (point.compress().as_bytes() == bytes).then_some(point)
}

/// `ECVRF_encode_to_curve_try_and_increment` (section 5.4.1.1), salted with the key.
fn encode_to_curve(public: &[u8; 32], input: &[u8]) -> EdwardsPoint {
    let common = Sha512::new().chain_update([SUITE, ENCODE]).chain_update(public).chain_update(input);
    let mut attempt: u8 = 0;
    loop {
        let hash = common.clone().chain_update([attempt, BACK]).finalize();
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&hash[..32]);
        let point = canonical_point(&bytes).map(|point| point.mul_by_cofactor());
        match point.filter(|point| !point.is_identity()) {
            Some(point) => return point,
            // Every second attempt does. The RFC gives up after 256, which has a chance of one in
            // 2^256: nobody will see the counter begin anew.
            None => attempt = attempt.wrapping_add(1),
        }
    }
}

/// `ECVRF_challenge_generation` (section 5.4.3).
fn challenge_of(public: &[u8; 32], points: &[EdwardsPoint; 4]) -> [u8; CHALLENGE_BYTES] {
    let mut hasher = Sha512::new().chain_update([SUITE, CHALLENGE]).chain_update(public);
    for point in EdwardsPoint::compress_batch(points) {
        hasher.update(point.as_bytes());
    }
    let hash = hasher.chain_update([BACK]).finalize();
    let mut challenge = [0; CHALLENGE_BYTES];
    challenge.copy_from_slice(&hash[..CHALLENGE_BYTES]);
    challenge
}

fn scalar_of(challenge: &[u8; CHALLENGE_BYTES]) -> Scalar {
    Scalar::from(u128::from_le_bytes(*challenge))
}

/// `ECVRF_proof_to_hash` (section 5.2).
fn output_of(gamma: &EdwardsPoint) -> VrfOutput {
    let point = gamma.mul_by_cofactor().compress();
    let hasher = Sha512::new().chain_update([SUITE, OUTPUT]).chain_update(point.as_bytes());
    VrfOutput(hasher.chain_update([BACK]).finalize().into())
}

#[cfg(test)]
#[path = "vrf_test.rs"]
mod tests;
