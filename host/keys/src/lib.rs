//! Where a node's key lies, and how it is got at.
//!
//! Here live key files (plain, encrypted, or naming a key in a PKCS#11 token), what unlocks them,
//! the token itself, and the tokens of interfaces. What a key signs, and whether it may, is not decided
//! here: this makes a `moult_crypto::NodeKey`, the only thing that the rest of a node sees.

mod file;
mod pkcs11;
mod sealed;
mod secret;

pub use file::{KeyFile, Kind, read_key, write_key, write_key_of};
pub use pkcs11::TokenPlace;
pub use sealed::Cost;
pub use secret::{KeyError, Unlock, new_token, read_secret, read_token, write_secret};
