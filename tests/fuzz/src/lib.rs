//! Fuzz targets: what decodes bytes of peers, clients, files and configurations, and the
//! state machines behind.
//!
//! A target is a function of bytes that asserts properties and panics where one does not
//! hold. `tests/replay.rs` runs them over the committed corpora; `cargo xtask fuzz` lets
//! libFuzzer search (`libfuzzer/`, not part of the program's workspace).

#[allow(dead_code, unreachable_pub, reason = "the file of the node as it is; only a part is used")]
#[path = "../../../host/node/src/api_types.rs"]
mod api_types;
mod certificates;
mod config;
#[allow(dead_code, unreachable_pub, reason = "the file of the node as it is; only a part is used")]
#[path = "../../../host/node/src/config.rs"]
mod config_file;
mod engine;
mod frames;
#[allow(dead_code, unreachable_pub, reason = "the file of the node as it is; only a part is used")]
#[path = "../../../host/node/src/genesis.rs"]
mod genesis;
mod guard;
mod input;
mod kv;
mod memory;
mod pbft;
mod raft;
mod replica;
mod sample;
mod text;
mod types;

/// A fuzz target.
pub struct Target {
    /// The name of its folders under `corpus` and `findings`.
    pub name: &'static str,
    /// Panics where a property does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with: real encodings, or scripts of usual runs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "types", run: types::run, seeds: types::seeds },
    Target { name: "frames", run: frames::run, seeds: frames::seeds },
    Target { name: "replica", run: replica::run, seeds: replica::seeds },
    Target { name: "certificates", run: certificates::run, seeds: certificates::seeds },
    Target { name: "pbft", run: pbft::run, seeds: pbft::seeds },
    Target { name: "raft", run: raft::run, seeds: raft::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
    Target { name: "guard", run: guard::run, seeds: guard::seeds },
    Target { name: "kv", run: kv::run, seeds: kv::seeds },
    Target { name: "text", run: text::run, seeds: text::seeds },
];

/// Every replicated, signed, sent or stored type of the host, as it is encoded: name, encodings
/// looked at, hash.
pub fn formats() -> Vec<(&'static str, usize, String)> {
    types::formats()
}

/// The target of a name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
