use std::fmt;

use blst::{BLST_ERROR, MultiPoint as _, blst_p2_affine, min_pk};

use super::{BlsError, ProvenKey, PublicKey, SIGNATURE_DOMAIN};

/// A signature: a point of the subgroup, not infinity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(min_pk::Signature);

impl Signature {
    /// Reads a signature.
    ///
    /// # Errors
    /// [`BlsError::BadPoint`].
    pub fn from_bytes(bytes: &[u8; 96]) -> Result<Self, BlsError> {
        UncheckedSignature::from_bytes(bytes)?.check()
    }

    /// Its encoding.
    pub fn to_bytes(&self) -> [u8; 96] {
        self.0.compress()
    }

    /// Adds signatures up (`Aggregate` of the draft).
    ///
    /// # Errors
    /// [`BlsError::Empty`], or [`BlsError::BadPoint`] where the sum is infinity: some of them undo
    /// each other.
    pub fn aggregate(signatures: &[Self]) -> Result<Self, BlsError> {
        let points: Vec<UncheckedSignature> = signatures.iter().map(|s| UncheckedSignature(s.0)).collect();
        UncheckedSignature::aggregate(&points)
    }

    pub(super) fn of(signature: min_pk::Signature) -> Self {
        Self(signature)
    }

    pub(super) fn point(&self) -> &min_pk::Signature {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bls::Signature({}..)", hex::encode(&self.to_bytes()[..4]))
    }
}

/// A point of the curve that may lie outside of the subgroup. To look costs more than to add it
/// up: many are added up, and the sum is looked at and verified once.
#[derive(Clone, Copy)]
pub struct UncheckedSignature(min_pk::Signature);

impl UncheckedSignature {
    /// Reads a point.
    ///
    /// # Errors
    /// [`BlsError::BadPoint`]: it is none of the curve, or infinity.
    pub fn from_bytes(bytes: &[u8; 96]) -> Result<Self, BlsError> {
        let point = min_pk::Signature::uncompress(bytes).map_err(|_| BlsError::BadPoint)?;
        let is_infinity = bytes[0] & 0x40 != 0;
        if is_infinity { Err(BlsError::BadPoint) } else { Ok(Self(point)) }
    }

    /// Its encoding.
    pub fn to_bytes(&self) -> [u8; 96] {
        self.0.compress()
    }

    /// Looks whether it is of the subgroup.
    ///
    /// # Errors
    /// [`BlsError::BadPoint`].
    pub fn check(self) -> Result<Signature, BlsError> {
        self.0.validate(true).map_err(|_| BlsError::BadPoint)?;
        Ok(Signature(self.0))
    }

    /// Adds points up and looks at the sum. That it is of the subgroup says nothing of each point;
    /// what [`verify_fast_aggregate`] says of the sum holds all the same.
    ///
    /// # Errors
    /// [`BlsError::Empty`], or [`BlsError::BadPoint`] for the sum.
    pub fn aggregate(points: &[Self]) -> Result<Signature, BlsError> {
        let all: Vec<&min_pk::Signature> = points.iter().map(|s| &s.0).collect();
        let sum = min_pk::AggregateSignature::aggregate(&all, false).map_err(|_| BlsError::Empty)?;
        Self(sum.to_signature()).check()
    }

    /// The sum of points, each times its scalar: 32 bytes each, little endian.
    pub(super) fn weighted_sum(points: &[Self], scalars: &[u8]) -> Result<Signature, BlsError> {
        weighted(points.iter().map(|s| s.0), scalars, 32).and_then(|sum| Self(sum).check())
    }
}

impl From<Signature> for UncheckedSignature {
    fn from(signature: Signature) -> Self {
        Self(signature.0)
    }
}

impl fmt::Debug for UncheckedSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bls::UncheckedSignature({}..)", hex::encode(&self.to_bytes()[..4]))
    }
}

/// The sum of points, each times a scalar of so many bytes, little endian.
pub(super) fn weighted(
    points: impl Iterator<Item = min_pk::Signature>,
    scalars: &[u8],
    scalar_bytes: usize,
) -> Result<min_pk::Signature, BlsError> {
    let points: Vec<blst_p2_affine> = points.map(Into::into).collect();
    if points.is_empty() || scalars.len() != points.len() * scalar_bytes {
        return Err(BlsError::Empty);
    }
    let sum = points.mult(scalars, 8 * scalar_bytes);
    Ok(min_pk::AggregateSignature::from(sum).to_signature())
}

/// Checks the signature of one key (`Verify` of the draft).
///
/// # Errors
/// [`BlsError::BadSignature`].
pub fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), BlsError> {
    if verify_in(SIGNATURE_DOMAIN, key, message, signature) { Ok(()) } else { Err(BlsError::BadSignature) }
}

pub(super) fn verify_in(domain: &[u8], key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    // Both were validated when they were read.
    signature.0.verify(false, message, domain, &[], key.point(), false) == BLST_ERROR::BLST_SUCCESS
}

/// Checks one signature of many keys over one message (`FastAggregateVerify` of the draft).
///
/// # Errors
/// [`BlsError::Empty`], [`BlsError::BadSignature`].
pub fn verify_fast_aggregate(
    keys: &[ProvenKey],
    message: &[u8],
    signature: &Signature,
) -> Result<(), BlsError> {
    if keys.is_empty() {
        return Err(BlsError::Empty);
    }
    let keys: Vec<&min_pk::PublicKey> = keys.iter().map(|key| key.key().point()).collect();
    judged(signature.0.fast_aggregate_verify(false, message, SIGNATURE_DOMAIN, &keys))
}

/// Checks one signature of many keys, each over a message of its own (`AggregateVerify` of the draft).
///
/// # Errors
/// [`BlsError::Empty`], [`BlsError::BadSignature`].
pub fn verify_aggregate(signed: &[(ProvenKey, &[u8])], signature: &Signature) -> Result<(), BlsError> {
    if signed.is_empty() {
        return Err(BlsError::Empty);
    }
    let (keys, messages): (Vec<_>, Vec<_>) =
        signed.iter().map(|(key, message)| (key.key().point(), *message)).unzip();
    judged(signature.0.aggregate_verify(false, &messages, SIGNATURE_DOMAIN, &keys, false))
}

pub(super) fn judged(verdict: BLST_ERROR) -> Result<(), BlsError> {
    if verdict == BLST_ERROR::BLST_SUCCESS { Ok(()) } else { Err(BlsError::BadSignature) }
}
