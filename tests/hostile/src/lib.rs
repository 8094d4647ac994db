//! Modules that attack their host: guests in text form, what turns them into components,
//! and what generates and mutates modules from a seed.
//!
//! The tests of this package are the list of attacks (`docs/TESTING.md` has it as a table):
//! each attack ends in an error with a name, within its budget, and the same host then loads
//! and runs a good module. Nothing here is part of the program.
#![allow(clippy::disallowed_methods, reason = "budgets are held against the clock")]

mod calls;
mod engines;
mod fuzz;
mod guest;

pub use engines::{BROKEN, Bench, Tally as EngineTally};
pub use fuzz::{Finding, Kind, Tally, limits as fuzz_limits, run_seed};
pub use guest::{component, fill, guest, guest_with, module, skeleton};
