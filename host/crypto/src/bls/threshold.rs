//! t-of-n threshold signatures: any t holders of shares make the signature of the group, t - 1 of
//! them learn nothing of its key.
//!
//! A *dealer* makes the shares ([`deal`]). Who trusts the signature trusts the dealer: it knows the
//! group's key while it deals and could keep it, so it must be a machine that is wiped, or a party
//! that may sign alone anyway. What it need not be trusted with is the shares: it commits to the
//! polynomial (Feldman), and each holder checks its share against the commitments, which are
//! public, with [`KeyShare::check`]. There is no distributed generation of keys here.
//!
//! The group's signature is that of an ordinary key: one of 96 bytes, checked with
//! [`super::verify`], the same whichever t holders made it. Weights are not known: who counts
//! twice holds two shares.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;

use blst::{MultiPoint as _, blst_p1_affine, min_pk};
use thiserror::Error;

use super::scalar::Scalar;
use super::{BlsError, Possession, PublicKey, SecretKey, Signature, UncheckedSignature, verify};

/// Most shares of a group.
pub const SHARES_MAX: u32 = 65_535;

/// Which share: 1 to the number of them. The key itself would be share 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ShareIndex(pub NonZeroU32);

impl fmt::Display for ShareIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why there are no shares, or no signature of the group.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ThresholdError {
    /// A group cannot be like this.
    #[error("{threshold} of {shares} shares cannot be: 1 to {SHARES_MAX} shares, and at most all of them")]
    Group {
        /// How many are needed.
        threshold: u32,
        /// How many there are.
        shares: u32,
    },
    /// The group has no such share.
    #[error("the group has no share {0}")]
    UnknownShare(ShareIndex),
    /// Two partial signatures of one share.
    #[error("share {0} is there twice")]
    Duplicate(ShareIndex),
    /// The share is not what the dealer committed to: do not use it, and tell the others.
    #[error("share {0} does not fit the dealer's commitments")]
    BadShare(ShareIndex),
    /// A share or a coefficient came out as zero, which has a chance of one in 2^255.
    #[error("this seed gives a key that is zero: deal with another")]
    Zero,
    /// Too few partial signatures hold.
    #[error("{have} partial signatures hold, {need} are needed")]
    NotEnough {
        /// How many hold.
        have: u32,
        /// The threshold.
        need: u32,
        /// Those that do not hold.
        refused: Vec<ShareIndex>,
    },
    /// A commitment is not a valid point.
    #[error(transparent)]
    Bls(#[from] BlsError),
}

/// What everybody knows of a group: commitments to the coefficients of the dealer's polynomial, the
/// lowest first. There are as many as shares are needed, and the first is the group's key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commitments {
    coefficients: Vec<PublicKey>,
    shares: u32,
}

impl Commitments {
    /// Commitments as they were received.
    ///
    /// # Errors
    /// [`ThresholdError::Group`].
    pub fn new(coefficients: Vec<PublicKey>, shares: u32) -> Result<Self, ThresholdError> {
        let threshold = u32::try_from(coefficients.len()).unwrap_or(u32::MAX);
        check_group(threshold, shares)?;
        Ok(Self { coefficients, shares })
    }

    /// The commitments, the lowest coefficient's first.
    pub fn coefficients(&self) -> &[PublicKey] {
        &self.coefficients
    }

    /// How many shares are needed.
    pub fn threshold(&self) -> u32 {
        self.coefficients.len() as u32
    }

    /// How many there are.
    pub fn shares(&self) -> u32 {
        self.shares
    }

    /// The key of the group.
    pub fn group_key(&self) -> &PublicKey {
        // There is at least one.
        &self.coefficients[0]
    }

    /// The key of one share: the polynomial at its place, in the exponent.
    ///
    /// # Errors
    /// [`ThresholdError::UnknownShare`], or [`BlsError::BadKey`] where the dealer chose commitments
    /// that leave this share without a key.
    pub fn share_key(&self, index: ShareIndex) -> Result<PublicKey, ThresholdError> {
        self.check_index(index)?;
        let x = Scalar::from_u32(index.0.get());
        let mut power = Scalar::from_u32(1);
        let mut scalars = Vec::with_capacity(32 * self.coefficients.len());
        for _ in &self.coefficients {
            scalars.extend_from_slice(&power.to_le_bytes());
            power = power.times(&x);
        }
        let points: Vec<blst_p1_affine> = self.coefficients.iter().map(|key| (*key.point()).into()).collect();
        let sum = min_pk::AggregatePublicKey::from(points.mult(&scalars, 256)).to_public_key();
        Ok(PublicKey::checked(sum)?)
    }

    fn check_index(&self, index: ShareIndex) -> Result<(), ThresholdError> {
        if index.0.get() > self.shares { Err(ThresholdError::UnknownShare(index)) } else { Ok(()) }
    }
}

fn check_group(threshold: u32, shares: u32) -> Result<(), ThresholdError> {
    let fits = threshold >= 1 && threshold <= shares && shares <= SHARES_MAX;
    if fits { Ok(()) } else { Err(ThresholdError::Group { threshold, shares }) }
}

/// One holder's secret.
#[derive(Clone, Debug)]
pub struct KeyShare {
    index: ShareIndex,
    secret: SecretKey,
}

impl KeyShare {
    /// A share as it was received. [`KeyShare::check`] it before it is used.
    pub fn new(index: ShareIndex, secret: SecretKey) -> Self {
        Self { index, secret }
    }

    /// Which one.
    pub fn index(&self) -> ShareIndex {
        self.index
    }

    /// The secret, to be kept.
    pub fn secret(&self) -> &SecretKey {
        &self.secret
    }

    /// Whether it is the share that the dealer committed to.
    ///
    /// # Errors
    /// [`ThresholdError::BadShare`], or as [`Commitments::share_key`].
    pub fn check(&self, commitments: &Commitments) -> Result<(), ThresholdError> {
        let fits = commitments.share_key(self.index)? == self.secret.public_key();
        if fits { Ok(()) } else { Err(ThresholdError::BadShare(self.index)) }
    }

    /// This holder's part of the group's signature.
    pub fn sign(&self, message: &[u8]) -> PartialSignature {
        PartialSignature { index: self.index, signature: self.secret.sign(message).into() }
    }
}

/// One holder's part of a signature.
#[derive(Clone, Copy, Debug)]
pub struct PartialSignature {
    /// Of which share.
    pub index: ShareIndex,
    /// As it was received: what comes out of it is checked.
    pub signature: UncheckedSignature,
}

/// What a dealer hands out.
pub struct Dealing {
    /// To everybody.
    pub commitments: Commitments,
    /// To everybody: that the dealer held the group's key.
    pub possession: Possession,
    /// One to each holder, in secret, in order.
    pub shares: Vec<KeyShare>,
}

/// Makes the shares of a new group key. The seed is 32 bytes of randomness that nobody else knows;
/// whoever has it has the group's key, so it is wiped afterwards.
///
/// # Errors
/// [`ThresholdError::Group`], [`ThresholdError::Zero`].
pub fn deal(seed: &[u8; 32], threshold: u32, shares: u32) -> Result<Dealing, ThresholdError> {
    check_group(threshold, shares)?;
    let coefficient = |place: u32| {
        let info = [b"moult threshold coefficient ".as_slice(), &place.to_be_bytes()].concat();
        SecretKey::from_randomness(seed, &info)
    };
    let secrets: Vec<SecretKey> = (0..threshold).map(coefficient).collect();
    let commitments =
        Commitments { coefficients: secrets.iter().map(SecretKey::public_key).collect(), shares };
    let possession = secrets[0].prove_possession();
    let scalars: Vec<Scalar> = secrets.iter().map(Scalar::of_key).collect();
    let share = |index: NonZeroU32| -> Result<KeyShare, ThresholdError> {
        let x = Scalar::from_u32(index.get());
        let zero = Scalar::from_u32(0);
        let value = scalars.iter().rev().fold(zero, |sum, coefficient| sum.times(&x).plus(coefficient));
        let secret = value.to_key().ok_or(ThresholdError::Zero)?;
        Ok(KeyShare { index: ShareIndex(index), secret })
    };
    let indices = (1..=shares).filter_map(NonZeroU32::new);
    Ok(Dealing { commitments, possession, shares: indices.map(share).collect::<Result<_, _>>()? })
}

/// A signature of the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Combined {
    /// The signature; it holds.
    pub signature: Signature,
    /// Shares whose partial signatures do not hold. Looked for only when they were in the way:
    /// others may be wrong too.
    pub refused: Vec<ShareIndex>,
}

/// Makes the group's signature out of those of its holders.
///
/// The first t are put together and the result is checked, at the price of one check. Only where it
/// does not hold is each of them checked by itself.
///
/// # Errors
/// [`ThresholdError::Duplicate`], [`ThresholdError::UnknownShare`], [`ThresholdError::NotEnough`].
pub fn combine(
    commitments: &Commitments,
    message: &[u8],
    partials: &[PartialSignature],
) -> Result<Combined, ThresholdError> {
    let mut seen = BTreeSet::new();
    for partial in partials {
        commitments.check_index(partial.index)?;
        if !seen.insert(partial.index) {
            return Err(ThresholdError::Duplicate(partial.index));
        }
    }
    let need = commitments.coefficients.len();
    let too_few =
        |have: usize, refused| ThresholdError::NotEnough { have: have as u32, need: need as u32, refused };
    let first = partials.get(..need).ok_or_else(|| too_few(partials.len(), Vec::new()))?;
    let key = commitments.group_key();
    if let Some(signature) = interpolate(first).filter(|sum| verify(key, message, sum).is_ok()) {
        return Ok(Combined { signature, refused: Vec::new() });
    }
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for partial in partials {
        let holds = commitments.share_key(partial.index).is_ok_and(|share| {
            partial.signature.check().is_ok_and(|checked| verify(&share, message, &checked).is_ok())
        });
        if holds { good.push(*partial) } else { refused.push(partial.index) }
    }
    let enough = good.get(..need).and_then(interpolate);
    match enough.filter(|sum| verify(key, message, sum).is_ok()) {
        Some(signature) => Ok(Combined { signature, refused }),
        None => Err(too_few(good.len(), refused)),
    }
}

/// The value at 0 of the polynomial through these points (Lagrange), in the group of signatures.
fn interpolate(partials: &[PartialSignature]) -> Option<Signature> {
    let places: Vec<Scalar> = partials.iter().map(|p| Scalar::from_u32(p.index.0.get())).collect();
    let mut scalars = Vec::with_capacity(32 * places.len());
    for (i, place) in places.iter().enumerate() {
        let (mut above, mut below) = (Scalar::from_u32(1), Scalar::from_u32(1));
        for (_, other) in places.iter().enumerate().filter(|(j, _)| *j != i) {
            above = above.times(other);
            below = below.times(&other.minus(place));
        }
        scalars.extend_from_slice(&above.times(&below.inverse()).to_le_bytes());
    }
    let points: Vec<UncheckedSignature> = partials.iter().map(|partial| partial.signature).collect();
    UncheckedSignature::weighted_sum(&points, &scalars).ok()
}

#[cfg(test)]
#[path = "../threshold_test.rs"]
mod tests;
