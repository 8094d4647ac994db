//! Raft as a Moult consensus engine.
//!
//! placeholder

pub mod codec;
mod config;
mod election;
mod follower;
mod leader;
mod log;
mod pool;
mod progress;
mod raft;
mod records;
mod recovery;
mod timing;
mod types;

#[cfg(feature = "planted")]
pub use config::Planted;
pub use config::{Config, Preset};
pub use raft::Raft;
pub use types::{Batches, Entry, Position, Term};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_engine!(Raft);
