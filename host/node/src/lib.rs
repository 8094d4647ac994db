//! The node: wires the replica to modules, store, network, timers, executor and the API.
//!
//! Here live threads, clocks and queues, and no decision that another node must share: those
//! are the replica's (`moult-core`). `docs/OPERATING.md` is the manual for those who run it.
#![allow(clippy::disallowed_methods, reason = "the shell has the clocks that the core is given")]

pub mod api_types;
pub mod config;
pub mod files;
pub mod genesis;
