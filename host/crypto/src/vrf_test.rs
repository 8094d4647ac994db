use curve25519_dalek::constants::EIGHT_TORSION;
use serde::Deserialize;

use super::*;
use crate::vectors::{bytes, fixed};

/// Examples 16 to 18 of RFC 9381, appendix B.3.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    example: u32,
    sk: String,
    pk: String,
    alpha: String,
    x: String,
    h: String,
    pi: String,
    beta: String,
}

fn examples() -> Vec<Example> {
    let all: Vec<Example> =
        serde_json::from_str(include_str!("../vectors/rfc9381_edwards25519_sha512_tai.json"))
            .expect("examples");
    assert_eq!(all.iter().map(|e| e.example).collect::<Vec<_>>(), [16, 17, 18]);
    all
}

/// The order of the group, little endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[test]
fn the_examples_of_the_rfc_hold() {
    for example in examples() {
        let seed = fixed(&example.sk);
        let key = VrfSecretKey::from_seed(&seed);
        let (public, alpha) = (fixed::<32>(&example.pk), bytes(&example.alpha));
        assert_eq!(key.public_key().to_bytes(), public);
        let mut half = [0; 32];
        half.copy_from_slice(&Sha512::digest(seed)[..32]);
        assert_eq!(clamp_integer(half), fixed::<32>(&example.x));
        assert_eq!(encode_to_curve(&public, &alpha).compress().to_bytes(), fixed::<32>(&example.h));
        let (proof, output) = (VrfProof(fixed(&example.pi)), VrfOutput(fixed(&example.beta)));
        assert_eq!(key.prove(&alpha), (output, proof), "example {}", example.example);
        assert_eq!(proof_to_hash(&proof), Ok(output));
        let checker = VrfPublicKey::from_bytes(&public).expect("a key");
        assert_eq!(checker.verify(&alpha, &proof), Ok(output));
    }
}

#[test]
fn a_proof_holds_for_its_key_input_and_bytes_alone() {
    for example in examples() {
        let alpha = bytes(&example.alpha);
        let key = VrfPublicKey::from_bytes(&fixed(&example.pk)).expect("a key");
        let proof = VrfProof(fixed(&example.pi));
        let other = VrfSecretKey::from_seed(&[5; 32]).public_key();
        assert_eq!(other.verify(&alpha, &proof), Err(VrfError::BadProof));
        assert_eq!(key.verify(&[&alpha[..], &[0]].concat(), &proof), Err(VrfError::BadProof));
        for bit in 0..640 {
            let mut changed = proof;
            changed.0[bit / 8] ^= 1 << (bit % 8);
            assert!(key.verify(&alpha, &changed).is_err(), "bit {bit} of example {}", example.example);
        }
    }
}

/// The sum of the scalar and the order says the same to arithmetic, and has other bytes.
#[test]
fn a_scalar_that_is_not_reduced_is_refused() {
    for example in examples() {
        let key = VrfPublicKey::from_bytes(&fixed(&example.pk)).expect("a key");
        let mut proof = VrfProof(fixed(&example.pi));
        let mut carry = 0;
        for (byte, order) in proof.0[48..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        assert_eq!(carry, 0);
        assert_eq!(key.verify(&bytes(&example.alpha), &proof), Err(VrfError::BadEncoding));
        assert_eq!(proof_to_hash(&proof), Err(VrfError::BadEncoding));
    }
}

/// p - 19 + n for n below 19 is n once more, and a zero has no sign.
fn not_canonical() -> Vec<[u8; 32]> {
    let p_plus = |n: u8, top: u8| {
        let mut bytes = [0xff; 32];
        bytes[0] = 0xed + n;
        bytes[31] = top;
        bytes
    };
    let mut all: Vec<_> = (0..19).flat_map(|n| [p_plus(n, 0x7f), p_plus(n, 0xff)]).collect();
    for (low, rest, high) in [(1, 0, 0x80), (0xec, 0xff, 0xff)] {
        let mut signed_zero = [rest; 32];
        signed_zero[0] = low;
        signed_zero[31] = high;
        all.push(signed_zero);
    }
    all
}

#[test]
fn points_in_other_encodings_are_refused() {
    let decoded = not_canonical().iter().filter(|b| CompressedEdwardsY(**b).decompress().is_some()).count();
    assert!(decoded > 10, "the library takes them: {decoded}");
    let (_, good) = VrfSecretKey::from_seed(&[1; 32]).prove(b"input");
    for encoding in not_canonical() {
        assert_eq!(VrfPublicKey::from_bytes(&encoding), Err(VrfError::BadKey));
        let mut proof = good;
        proof.0[..32].copy_from_slice(&encoding);
        assert_eq!(proof_to_hash(&proof), Err(VrfError::BadEncoding));
    }
}

#[test]
fn points_of_small_order_are_refused() {
    let (_, good) = VrfSecretKey::from_seed(&[1; 32]).prove(b"input");
    for point in EIGHT_TORSION {
        let encoding = point.compress().to_bytes();
        assert_eq!(VrfPublicKey::from_bytes(&encoding), Err(VrfError::BadKey));
        let mut proof = good;
        proof.0[..32].copy_from_slice(&encoding);
        assert_eq!(proof_to_hash(&proof), Err(VrfError::BadEncoding));
    }
    // No point at all: y = 2 is not on the curve.
    let mut off_the_curve = [0; 32];
    off_the_curve[0] = 2;
    assert_eq!(VrfPublicKey::from_bytes(&off_the_curve), Err(VrfError::BadKey));
}

/// A part of small order in the point changes the proof and never the output: proofs are no
/// identities, and nobody has a second draw.
#[test]
fn a_part_of_small_order_gives_no_second_output() {
    let key = VrfSecretKey::from_seed(&[1; 32]);
    let (output, proof) = key.prove(b"input");
    let mut gamma = [0; 32];
    gamma.copy_from_slice(&proof.0[..32]);
    let gamma = canonical_point(&gamma).expect("a point");
    for part in &EIGHT_TORSION[1..] {
        let mut other = proof;
        other.0[..32].copy_from_slice((gamma + part).compress().as_bytes());
        assert_eq!(proof_to_hash(&other), Ok(output));
        assert_eq!(key.public_key().verify(b"input", &other), Err(VrfError::BadProof));
    }
}

#[test]
fn the_key_beside_a_signing_key_is_another() {
    let seed = [3; 32];
    let beside = VrfSecretKey::beside(&seed).public_key();
    assert_ne!(beside, VrfSecretKey::from_seed(&seed).public_key());
    assert_eq!(beside, VrfSecretKey::beside(&seed).public_key());
    assert!(!format!("{:?}", VrfSecretKey::beside(&seed)).contains(&hex::encode(seed)));
}
