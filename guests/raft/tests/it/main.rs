//! Runs of whole committees, scenarios of the paper, and messages that must be refused.

mod bench;
mod cluster;
mod host;
mod net;
mod paper;
mod rng;
mod runs;
