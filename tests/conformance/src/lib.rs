//! What every consensus engine must pass.
//!
//! Here live a seeded world of nodes, links and disks, scenarios as text, runs of drawn
//! faults, and hostile input; engines come through [`Factory`], native or behind the
//! host's port, and are known by nothing but their contract. [`conform`] runs a [`Plan`]
//! and gives a [`Report`]. No wasmtime here, no clock, no files: what runs follows from the
//! plan alone.

mod engine;
mod hostile;
mod plan;
#[cfg(feature = "port")]
mod port;
mod probes;
mod report;
mod rng;
pub mod scenario;
mod seeds;
mod tuning;
mod world;

pub use engine::{Factory, Fault, Instance, Native};
pub use plan::{Plan, Progress, conform};
#[cfg(feature = "port")]
pub use port::PortFactory;
pub use report::{Item, Report, SeedFailure, SeedsReport, Tally};
pub use rng::Rng;
pub use seeds::{Drawn, FaultModelName, Run, Seeds, Stakes, draw, run_seed};
pub use tuning::Tuning;
pub use world::{
    Attack, Check, Counts, Drop, EPOCH, Kind, Lie, Point, Quality, Setup, Violation, World, committee,
};
