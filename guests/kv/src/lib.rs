//! The default application: a key-value store.
//!
//! A transaction is one [`Command`]; its receipt is a [`Reply`]. A read is a [`Query`]. The
//! codecs here are for clients as well as for the module. State: user keys under `k`, the
//! schema version under `m` (see [`keys`]).

mod codec;
pub mod keys;
mod store;

pub use codec::{
    Command, DecodeError, KEY_BYTES_MAX, Query, Reply, VALUE_BYTES_MAX, decode_count, decode_value,
    encode_value,
};
pub use store::{Kv, answer, apply, check_takeover};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_application!(Kv);
