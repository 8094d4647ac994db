//! Runs of whole committees, and the messages that a replica must refuse.

mod attack;
mod bench;
mod host;
mod hostile;
#[cfg(feature = "planted")]
mod planted;
mod rng;
mod runs;
mod sim;
mod views;
mod votes;
