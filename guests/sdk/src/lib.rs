//! What an author of a Moult module imports: the contracts of `wit/` as plain Rust.
//!
//! Here live the data types and the traits `Engine`, `ApprovalPolicy` and `Application`.
//! The same implementation builds natively (for tests and tools) and, with the
//! `export_*!` macros on `wasm32`, as a component. Nothing here knows of a host, of
//! signatures or of a network; the host's own types build on these.

pub mod application;
pub mod approval;
#[cfg(all(target_arch = "wasm32", feature = "component"))]
pub mod component;
pub mod engine;
mod export;
mod types;

pub use types::{
    AuthorityIndex, Batch, CommitIndex, Committee, Digest, FaultModel, NowMs, Slot, Stake, Statement,
};
