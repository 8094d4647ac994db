//! A deterministic simulator of a whole cluster: real replicas and real engines on a virtual
//! network, virtual disks and virtual clocks, with faults, clients and epoch changes drawn
//! from one seed, and checkers that judge every step.
//!
//! The shell's duties are done as the node does them: what a step makes durable is synced
//! before anything of it is released, and a process that starts knows nothing but its disk.
//! [`run`] is the whole interface, [`minimise`] makes a failing run smaller; one seed always gives one run.

mod audit;
mod byzantine;
mod calm;
mod check;
mod clients;
mod disk;
mod executor;
mod minimise;
mod modules;
mod nemesis;
mod network;
mod node;
mod operator;
mod plan;
mod planted;
mod process;
mod queue;
mod report;
mod rng;
mod setup;
mod shell;
mod signing;
mod trace;
mod verified;
mod world;

pub use minimise::{Minimal, minimise};
pub use modules::{EngineModule, Meter, Modules};
#[cfg(feature = "planted")]
pub use moult_core::replica::Planted as ReplicaBug;
pub use plan::{CrashPoint, Hostile, Phase, Plan, Replace, WHOLE_GROUPS};
pub use planted::Bug;
#[cfg(feature = "planted")]
pub use planted::Planted;
pub use report::{CHANGE_KINDS, FAULT_KINDS, Group, INVARIANTS, Report, Violation};
pub use rng::Rng;
pub use world::{run, run_seed};
