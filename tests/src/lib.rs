//! End-to-end tests of Moult over real processes, real QUIC and real disks.
//!
//! The tests know the program from outside only: its command line, its files, its HTTP
//! interface, its exit codes, its signals. They share no code with it, so they also pin what
//! its users see.
//!
//! ```sh
//! cargo build --release -p moult
//! cargo test --release -p moult-tests
//! ```
//!
//! `MOULT_BIN` names another program to test. `MOULT_TESTS_KEEP=1` leaves the nodes' folders
//! in place. Scenarios run one at a time, whatever the runner does: each starts four or more
//! nodes.
#![allow(
    clippy::disallowed_methods,
    reason = "polls real processes: time and pauses here bound waiting and order nothing"
)]

pub mod api;
pub mod blocks;
pub mod cluster;
pub mod http;
pub mod load;
pub mod power;
pub mod process;
pub mod program;
pub mod rng;
pub mod wait;
