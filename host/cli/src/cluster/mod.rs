//! A cluster on this machine: its folders, its processes, and when it is ready.

mod layout;
mod processes;
mod ready;

pub(crate) use layout::{Layout, Plan, read_devnet};
pub(crate) use processes::Cluster;
pub(crate) use ready::wait_ready;

/// Tells a node which process started it, and that it must not outlive that one.
pub(crate) const PARENT_ENV: &str = "MOULT_PARENT_PID";
