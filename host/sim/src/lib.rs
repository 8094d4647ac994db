//! A deterministic simulator of a whole cluster: real replicas and real engines on a virtual
//! network, virtual disks and virtual clocks, with faults, clients and epoch changes drawn
//! from one seed, and checkers that judge every step.
//!
//! The shell's duties are done as the node does them: what a step makes durable is synced
//! before anything of it is released, and a process that starts knows nothing but its disk.
//! [`run_seed`] is the whole interface; one seed always gives one run.

mod byzantine;
mod check;
mod clients;
mod disk;
mod executor;
mod modules;
mod nemesis;
mod network;
mod node;
mod operator;
mod plan;
#[cfg(feature = "planted")]
mod planted;
mod process;
mod queue;
mod report;
mod rng;
mod setup;
mod shell;
mod trace;
mod verified;
mod world;

pub use modules::{EngineFactory, module_hash, native_engines};
#[cfg(feature = "planted")]
pub use plan::Planted;
pub use plan::{CrashPoint, Hostile, Phase, Plan, Replace};
pub use report::{CHANGE_KINDS, FAULT_KINDS, Report, Violation};
pub use rng::Rng;
pub use world::{run, run_seed};
