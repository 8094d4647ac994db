//! Keys and signatures of the host.
//!
//! Here live key pairs and what stands for one that lies in a token; the one predicate that decides
//! whether an ed25519 signature holds (strict, single verification: batch and single checks can
//! disagree on crafted signatures, so there is exactly one); proofs of possession and the checks of
//! signed types; BLS signatures with aggregates, batches and thresholds ([`bls`]); a verifiable random
//! function ([`vrf`]). No clock, no randomness but for new keys, no file, no network. Published
//! vectors are in `vectors`.

pub mod bls;
mod keys;
mod node_key;
#[cfg(test)]
mod vectors;
mod verify;
pub mod vrf;

pub use keys::{KeyPair, Signer};
pub use node_key::{NodeKey, SignError, Token, TokenKey};
pub use verify::{
    Keyring, Substitute, VerifyError, check_possession, check_report, possession, sign_report,
    verify_statement,
};
