//! The gRPC interface in Rust: messages, stubs, and a client's connection.
//!
//! Messages and stubs are generated from `host/node/proto` by `cargo xtask proto`; a test of
//! `xtask` holds them to it.

mod channel;

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::use_self,
    clippy::large_futures,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
#[rustfmt::skip]
#[path = "moult.v1.rs"]
mod generated;

pub use channel::Channel;
pub use generated::*;

/// The interface's description, as reflection tells it.
pub const DESCRIPTION: &[u8] = include_bytes!("moult.v1.bin");
