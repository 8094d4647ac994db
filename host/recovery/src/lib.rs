//! When more than f authorities are gone for good: what is left of a chain begins a new one.
//!
//! No quorum can decide anything any more, so people do: those who operate what is left look at
//! the stores of the survivors ([`Plan`]), agree on a genesis that names the former chain, its last
//! block that is carried on and the state after it, and start from that ([`Installation`]). The new
//! chain has another id: no key, vote or certificate of the former one counts in it. Here lives
//! what the two commands do; what they print is in `moult recover`.

mod decide;
mod error;
mod execute;
mod install;
mod plan;
mod survivor;

pub use decide::Point;
pub use error::{Computed, RecoveryError};
pub use install::{Found, InstallStep, Installation, Installed};
pub use plan::{Plan, Report, Request, SurvivorReport};
pub use survivor::{Source, Survivor};
