//! The module host: from the bytes of a component to a running instance.
//!
//! 1. [`ModuleHost::check`] looks at the bytes: size, form, and whether the exports and
//!    imports are those of a world. It runs nothing.
//! 2. [`ModuleHost::prepare`] also checks the hash, compiles in a child process under limits
//!    (or takes the machine code from an authenticated cache), and instantiates once.
//! 3. [`Prepared`] makes instances: [`EngineInstance`](moult_core::ports::EngineInstance),
//!    [`ApprovalInstance`](moult_core::ports::ApprovalInstance) and
//!    [`ApplicationInstance`](moult_core::ports::ApplicationInstance).
//!
//! # Invariants
//! - The bytes that were hashed are the bytes that are checked and compiled: they are read
//!   once, by the caller, and shared.
//! - Machine code is loaded only if this node's key authenticates it for exactly these
//!   module bytes, this compiler, these settings and this processor.
//! - What decides replicated state (settings of the compiler, limits on memory and tables)
//!   is the same on every node: [`deterministic_config`] and the memory limits of
//!   [`Limits`] must not be tuned node by node.
//! - A store is dropped after any fault; no instance is entered again.
//!
//! Absent on purpose: WASI, clocks, randomness, threads, and any way to load machine code
//! that this node did not compile itself. A build with the feature `native-engines` runs
//! engines outside of all this, to measure what it costs; no release has it.
#![allow(
    clippy::disallowed_methods,
    reason = "compiles under a wall-clock limit and stops runaway calls: nothing of it is replicated"
)]

mod bindings;
mod cache;
mod check;
mod compile;
mod config;
mod error;
mod host;
mod instance;
mod limits;
pub mod native;
mod output;
mod prepared;
mod state;
mod stats;
mod worker;

pub use check::ModuleReport;
pub use compile::{Compile, CompileWorker};
pub use config::deterministic_config;
pub use error::ModuleError;
pub use host::{HostConfig, ModuleHost};
pub use limits::{CallLimits, Limits, WorldLimits};
pub use native::{NativeApplication, NativeApproval, NativeEngine};
pub use prepared::{ModuleInfo, Prepared};
pub use stats::{ModuleStats, WorldStats};
pub use worker::worker_main;
