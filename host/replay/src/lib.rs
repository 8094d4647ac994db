//! What an engine was fed, written down, run again, and fed to another engine beside it.
//!
//! - [`Recorder`]: writes all inputs of running engines into files, beside their threads.
//! - [`RecordReader`]: reads such a record, and knows a torn tail from damage.
//! - [`replay()`]: runs a record again, bit for bit, and finds the first answer that differs.
//! - [`Shadow`]: feeds an engine what another one was fed, carries out nothing of its answers,
//!   and compares. [`Taps`] does that with the events of a live engine.
//!
//! Nothing here can change what a live engine is given or answers. What decides anything lives
//! in `moult-core`.
#![allow(
    clippy::disallowed_methods,
    reason = "measures how long calls take and writes files; no decision depends on it"
)]

mod entry;
mod error;
mod live;
mod log;
mod reader;
mod recorder;
mod rerun;
mod shadow;
mod usage;

pub use entry::{Answer, EndReason, EngineLimits, Entry, FaultRecord, Start};
pub use error::RecordError;
pub use live::{Made, Publish, ShadowLimits, ShadowState, ShadowView, Tapped, Taps};
pub use reader::{Ending, RecordReader};
pub use recorder::{RecordLimits, RecordStats, Recorder, Recording};
pub use rerun::{Beside, Difference, Replayed, Teller, replay};
pub use shadow::{CommitDifference, Commits, LiveStep, MakeEngine, Sent, Shadow, ShadowEnd, ShadowReport};
pub use usage::{Usage, UsageReport};
