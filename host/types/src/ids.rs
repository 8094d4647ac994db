//! Newtypes for what must not be mixed up, and their written forms.

use std::fmt;
use std::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::Digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Text that is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("`{text}` is not a {what}: {reason}")]
pub struct ParseError {
    /// What was expected.
    pub what: &'static str,
    /// What was given, shortened.
    pub text: String,
    /// Why it does not do.
    pub reason: String,
}

fn parse_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], ParseError> {
    let fail = |reason: String| ParseError { what, text: text.chars().take(80).collect(), reason };
    if text.len() != 2 * N {
        return Err(fail(format!("expected {} hex digits, got {} characters", 2 * N, text.len())));
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|e| fail(e.to_string()))?;
    Ok(bytes)
}

/// A byte-array newtype that is written as a prefix and hex digits.
macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}..", $prefix, hex::encode(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                parse_hex($what, text.strip_prefix($prefix).unwrap_or(text)).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <String as Deserialize>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_newtype!(
    /// An ed25519 public key (RFC 8032).
    PublicKey, 32, "public key", ""
);
hex_newtype!(
    /// An ed25519 signature (RFC 8032).
    Signature, 64, "signature", ""
);
hex_newtype!(
    /// Who an authority is, whatever key it has: the hash of its first public key.
    AuthorityId, 32, "authority id", ""
);
hex_newtype!(
    /// Names a chain: the hash of its genesis.
    ChainId, 32, "chain id", ""
);
hex_newtype!(
    /// Names an epoch and everything it fixes: the hash of its manifest. What is signed in
    /// one epoch is worthless in any other.
    EpochIdentity, 32, "epoch identity", ""
);
hex_newtype!(
    /// SHA-256 of a module's bytes, written `sha256:<hex>`.
    ModuleHash, 32, "module hash", "sha256:"
);

hex_newtype!(
    /// Of runs of the simulator: of what they depend on, or of everything that happened in them.
    TraceHash, 32, "trace hash", ""
);

impl EpochIdentity {
    /// The identity as a digest, where it starts a hash chain.
    pub fn digest(self) -> Digest {
        Digest(self.0)
    }
}

impl ModuleHash {
    /// The hash of a module's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(crate::codec::sha256(bytes).0)
    }
}

impl AuthorityId {
    /// The identity that belongs to a first public key.
    pub fn of(first_key: &PublicKey) -> Self {
        Self(crate::codec::hash_of("moult authority", first_key).0)
    }
}

/// A counter newtype.
macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, BorshSerialize, BorshDeserialize,
            Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this. Panics on overflow, which 2^64 steps do not reach.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// Number of an epoch, from 0.
    EpochNumber
);
counter!(
    /// Number of a block since the chain began, from 1, without a gap over all epochs.
    /// Never mixed with [`moult_sdk::CommitIndex`], which starts anew in each epoch.
    GlobalIndex
);
