//! Runs of whole committees, and the messages that a replica must refuse.

mod attack;
mod rng;
mod runs;
mod sim;
