//! The node: wires the replica to modules, store, network, timers, executor and the API.
//!
//! Here live threads, clocks and queues, and no decision that another node must share: those
//! are the replica's (`moult-core`). `docs/OPERATING.md` is the manual for those who run it.
//!
//! ```text
//! network -> verify -> inputs -> replica thread -> log thread (sync) -> effects -> network
//! API ----------------^              ^                                    |-> executor thread
//!                                    '------------- answers <-------------'
//! ```
//! Every queue is bounded; a full one slows down what feeds it, and a client is told
//! `overloaded` before anything of its transaction is kept.
#![allow(clippy::disallowed_methods, reason = "the shell has the clocks that the core is given")]

mod api;
pub mod api_types;
mod backup;
pub mod config;
mod effects;
mod executor;
pub mod genesis;
pub mod guard_json;
pub mod guard_transfer;
mod handle;
mod intake;
mod key_switch;
pub mod key_use;
mod metrics;
mod modules;
mod node;
mod observe;
mod peers;
pub mod proto;
mod shared;
mod submissions;
mod view;
mod watch;

pub use executor::{OWN_KEY, Own};
pub use handle::{NodeHandle, QueryError, ReadError, WriteError};
pub use key_switch::next_key_path;
pub use node::{Exit, Node, NodeError, run};
pub use submissions::{Ended, Submissions};
pub use view::View;
