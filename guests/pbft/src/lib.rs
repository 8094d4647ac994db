//! PBFT
pub mod codec;
mod checkpoint;
mod config;
mod log;
mod normal;
mod pool;
mod records;
mod recovery;
mod replica;
mod retransmit;
mod rotation;
mod view_change;

pub use config::Config;
pub use replica::{Pbft, Replica};
pub use rotation::{Forward, Rotation};
