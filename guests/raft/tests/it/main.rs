//! Runs of whole committees, scenarios of the paper, and messages that must be refused.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod cluster;
mod host;
mod hostile;
mod net;
mod paper;
#[cfg(feature = "planted")]
mod planted;
mod rng;
mod runs;
