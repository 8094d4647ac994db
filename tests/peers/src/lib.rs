//! Other systems beside Moult, under the same load in the same run.
//!
//! `cargo xtask bench-etcd` builds the program `bench-etcd` of this package and runs it: three
//! nodes of each system on loopback and real disks, loaded in turns by the same clients. It
//! links no part of a node, so that it builds in seconds.
#![allow(
    clippy::disallowed_methods,
    reason = "measures and waits in wall-clock time: nothing of it is replicated"
)]

pub mod cluster;
pub mod cpu;
pub mod load;
pub mod report;
pub mod run;
mod stream;
pub mod wire;
pub mod work;

// The interface as the node has it. A dependency on `moult-node` would bring all of a node.
#[path = "../../../host/node/src/proto/mod.rs"]
pub mod proto;
