use std::collections::BTreeMap;

use blst::{MultiPoint as _, blst_p1_affine, min_pk};
use sha2::{Digest, Sha256};

use super::signature::{judged, weighted};
use super::{BlsError, PublicKey, SIGNATURE_DOMAIN, Signature};

/// Bytes of a weight: a wrong signature passes with a chance of one in 2^127.
const WEIGHT_BYTES: usize = 16;

/// What the caller adds to the weights of a batch. They are drawn from a hash of all that is
/// checked and of this, so even one that everybody knows lets nobody choose signatures to fit; one
/// that nobody foresees leaves nothing to the hash.
#[derive(Clone, Copy, Debug)]
pub struct BatchSeed(pub [u8; 32]);

/// One signature of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchItem<'a> {
    /// Of whom.
    pub key: PublicKey,
    /// Over what.
    pub message: &'a [u8],
    /// The signature.
    pub signature: Signature,
}

/// Checks many signatures at once; says of a batch only whether all of them hold.
///
/// Costs a pairing for each message, not for each signature. Other than with aggregates nobody
/// needs to have proven possession: each signature has its own weight.
///
/// # Errors
/// [`BlsError::Empty`], or [`BlsError::BadSignature`]: check them one by one to learn which.
pub fn verify_batch(items: &[BatchItem<'_>], seed: BatchSeed) -> Result<(), BlsError> {
    let weights = weights(items, seed);
    let signatures = items.iter().map(|item| *item.signature.point());
    let sum = weighted(signatures, weights.as_flattened(), WEIGHT_BYTES)?;
    let mut by_message: BTreeMap<&[u8], (Vec<blst_p1_affine>, Vec<u8>)> = BTreeMap::new();
    for (item, weight) in items.iter().zip(&weights) {
        let (keys, scalars) = by_message.entry(item.message).or_default();
        keys.push((*item.key.point()).into());
        scalars.extend_from_slice(weight);
    }
    let (messages, keys): (Vec<&[u8]>, Vec<min_pk::PublicKey>) = by_message
        .into_iter()
        .map(|(message, (keys, scalars))| {
            let sum = keys.mult(&scalars, 8 * WEIGHT_BYTES);
            (message, min_pk::AggregatePublicKey::from(sum).to_public_key())
        })
        .unzip();
    let keys: Vec<&min_pk::PublicKey> = keys.iter().collect();
    judged(sum.aggregate_verify(false, &messages, SIGNATURE_DOMAIN, &keys, false))
}

fn weights(items: &[BatchItem<'_>], seed: BatchSeed) -> Vec<[u8; WEIGHT_BYTES]> {
    let mut all = Sha256::new().chain_update(b"moult bls batch 1\n").chain_update(seed.0);
    for item in items {
        all.update(item.key.to_bytes());
        all.update(item.signature.to_bytes());
        all.update((item.message.len() as u64).to_le_bytes());
        all.update(item.message);
    }
    let all = all.finalize();
    let one = |place: u64| {
        let hash = Sha256::new().chain_update(all).chain_update(place.to_le_bytes()).finalize();
        let mut weight = [0; WEIGHT_BYTES];
        weight.copy_from_slice(&hash[..WEIGHT_BYTES]);
        // Never zero.
        weight[0] |= 1;
        weight
    };
    (0..items.len() as u64).map(one).collect()
}
