//! The vectors of RFC 8032 and Wycheproof, against the one predicate that decides.

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use serde::Deserialize;
use sha2::{Digest, Sha512};

use super::*;
use crate::vectors::{bytes, fixed};

fn holds(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    let Ok(signature) = signature.try_into() else { return false };
    parse_key(key).is_ok_and(|key| verify_raw(&key, message, &Signature(signature)).is_ok())
}

#[test]
fn the_tests_of_the_rfc_hold() {
    #[derive(Deserialize)]
    struct Test {
        name: String,
        seed: String,
        pk: String,
        msg: String,
        sig: String,
    }
    let tests: Vec<Test> =
        serde_json::from_str(include_str!("../vectors/rfc8032_ed25519.json")).expect("vectors");
    assert_eq!(tests.len(), 5);
    for test in tests {
        let (keys, message) = (KeyPair::from_seed(&fixed(&test.seed)), bytes(&test.msg));
        assert_eq!(keys.public_key(), PublicKey(fixed(&test.pk)), "{}", test.name);
        assert_eq!(keys.sign_raw(&message), Signature(fixed(&test.sig)), "{}", test.name);
        assert!(holds(&keys.public_key(), &message, &bytes(&test.sig)), "{}", test.name);
        let mut other = message;
        other.push(0);
        assert!(!holds(&keys.public_key(), &other, &bytes(&test.sig)), "{}", test.name);
    }
}

#[test]
fn wycheproof() {
    #[derive(Deserialize)]
    struct Test {
        id: u32,
        comment: String,
        pk: String,
        msg: String,
        sig: String,
        result: String,
    }
    let tests: Vec<Test> =
        serde_json::from_str(include_str!("../vectors/wycheproof_ed25519.json")).expect("vectors");
    assert_eq!(tests.len(), 151);
    let mut refused = 0;
    for test in tests {
        let holds = holds(&PublicKey(fixed(&test.pk)), &bytes(&test.msg), &bytes(&test.sig));
        assert_eq!(holds, test.result == "valid", "test {}: {}", test.id, test.comment);
        refused += u32::from(!holds);
    }
    assert_eq!(refused, 63);
}

/// The left side of what a batch checks: the sum of `z (s B - k A - R)`, which is zero if all hold.
fn batched(key: &PublicKey, message: &[u8], signature: &Signature, weight: Scalar) -> EdwardsPoint {
    let point = |bytes| curve25519_dalek::edwards::CompressedEdwardsY(bytes).decompress().expect("a point");
    let (r, s): ([u8; 32], [u8; 32]) =
        (fixed(&hex::encode(&signature.0[..32])), fixed(&hex::encode(&signature.0[32..])));
    let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(s)).expect("reduced");
    let k = challenge(&r, key, message);
    let (a, r) = (point(key.0), point(r));
    EdwardsPoint::mul_base(&(weight * s)) - (weight * k) * a - weight * r
}

fn challenge(r: &[u8; 32], key: &PublicKey, message: &[u8]) -> Scalar {
    let hash = Sha512::new().chain_update(r).chain_update(key.0).chain_update(message).finalize();
    Scalar::from_bytes_mod_order_wide(&hash.into())
}

/// Why there is no batch check. The author of a signature may add a point of small order to its
/// `R`: the strict check refuses it always, a batch takes it whenever its weight is a multiple of
/// that order, one time in eight. Nodes with weights of their own would disagree of what is signed.
/// To see it, each `R` would have to be looked at, and that costs what the batch saves.
#[test]
fn a_batch_would_take_what_the_strict_check_refuses() {
    let keys = KeyPair::from_seed(&[1; 32]);
    let key = keys.public_key();
    let hash: [u8; 64] = Sha512::digest(*keys.seed()).into();
    let mut half = [0; 32];
    half.copy_from_slice(&hash[..32]);
    let secret = Scalar::from_bytes_mod_order(curve25519_dalek::scalar::clamp_integer(half));
    let nonce = Scalar::from(77u64);
    // Of order 8.
    let r = (EdwardsPoint::mul_base(&nonce) + EIGHT_TORSION[1]).compress().to_bytes();
    let s = nonce + challenge(&r, &key, b"m") * secret;
    let crafted = Signature(fixed(&hex::encode([r, s.to_bytes()].concat())));
    assert!(!holds(&key, b"m", &crafted.0));
    let is_taken = |weight: u64| batched(&key, b"m", &crafted, Scalar::from(weight)).is_identity();
    assert_eq!((1..=24).filter(|weight| is_taken(*weight)).collect::<Vec<_>>(), [8, 16, 24]);
    // An honest one passes either way.
    let honest = keys.sign_raw(b"m");
    assert!(holds(&key, b"m", &honest.0));
    assert!((1..=24u64).all(|weight| batched(&key, b"m", &honest, Scalar::from(weight)).is_identity()));
}
