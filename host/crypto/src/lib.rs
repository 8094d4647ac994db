//! Keys and signatures of the host.
//!
//! Here live key pairs, the one predicate that decides whether a signature holds (strict
//! ed25519, single verification: batch and single checks can disagree on crafted
//! signatures, so there is exactly one), proofs of possession and the checks of signed
//! types. No key file format, no network.

mod keys;
mod verify;

pub use keys::{KeyPair, Signer};
pub use verify::{
    Keyring, Substitute, VerifyError, check_possession, check_report, possession, sign_report,
    verify_statement,
};
