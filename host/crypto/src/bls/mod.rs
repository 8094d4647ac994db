//! BLS signatures over BLS12-381 (draft-irtf-cfrg-bls-signature): keys of 48 bytes, signatures of
//! 96, in the ciphersuite with proofs of possession.
//!
//! One signature stands for many: those of several keys are added up, and one check is made for
//! all. That is safe only among keys whose holders have proven that they hold them, so keys are
//! added up as [`ProvenKey`] alone. What was read is of the right subgroup and not infinity, as its
//! type says; [`UncheckedSignature`] is what may be added up before it is checked. Threshold
//! signatures are in [`threshold`]. Arithmetic is blst's, without threads.

mod batch;
mod keys;
mod scalar;
mod signature;
pub mod threshold;

pub use batch::{BatchItem, BatchSeed, verify_batch};
pub use keys::{Possession, ProvenKey, PublicKey, SecretKey};
pub use signature::{Signature, UncheckedSignature, verify, verify_aggregate, verify_fast_aggregate};

use thiserror::Error;

/// Domain of signatures.
const SIGNATURE_DOMAIN: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";
/// Domain of proofs of possession.
const POSSESSION_DOMAIN: &[u8] = b"BLS_POP_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// Why something is not accepted. Whoever sent it did not make it with the functions of this module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BlsError {
    /// A secret key is zero or not reduced.
    #[error("the secret key is zero or out of range")]
    BadSecret,
    /// A public key is not encoded as it must be, outside of its subgroup, or infinity.
    #[error("the public key is not a valid BLS key")]
    BadKey,
    /// A signature is not encoded as it must be, outside of its subgroup, or infinity.
    #[error("the signature is not a valid point")]
    BadPoint,
    /// Nothing was given where there must be one or more.
    #[error("there is nothing to aggregate")]
    Empty,
    /// The signature does not hold.
    #[error("the signature does not verify")]
    BadSignature,
    /// A proof of possession does not hold.
    #[error("the proof of possession does not verify")]
    BadPossession,
}

#[cfg(test)]
#[path = "../bls_vectors_test.rs"]
mod vectors_test;

#[cfg(test)]
#[path = "../bls_test.rs"]
mod tests;
