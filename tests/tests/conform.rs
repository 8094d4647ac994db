//! The conformance suite over the components in `modules/`, as a node runs them.
//!
//! Natively the same engines run it in `tests/conformance`; here it is shown that the
//! component behaves alike, under the limits of the module host. `MOULT_CONFORM_SEEDS` sets
//! how many seeds run.

use std::path::Path;

use moult_conformance::{Plan, PortFactory, Seeds, conform};
use moult_module::{Compile, HostConfig, Limits, ModuleHost, Prepared};
use moult_types::{ModuleHash, World};

/// Seeds where nobody asks for more.
const SEEDS: u64 = 60;

fn prepared(name: &str) -> Prepared {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../modules").join(format!("{name}.wasm"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let config = HostConfig {
        cache_dir: None,
        cache_key: [7; 32],
        compile: Compile::InProcess,
        limits: Limits::default(),
    };
    let host = ModuleHost::new(config).expect("a host");
    let hash = ModuleHash::of(&bytes);
    host.prepare(bytes.into(), hash, World::Engine).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn conforms(name: &str) {
    let seeds = std::env::var("MOULT_CONFORM_SEEDS").ok().and_then(|text| text.parse().ok());
    let plan = Plan { seeds: Some(Seeds::new(0, seeds.unwrap_or(SEEDS))), ..Plan::default() };
    let prepared = prepared(name);
    let report = conform(&PortFactory(|| prepared.engine()), &plan, &mut |_| {});
    assert!(report.passed(), "{report}");
}

#[test]
fn pbft_conforms_as_a_component() {
    conforms("pbft");
}

#[test]
fn pbft_reverse_conforms_as_a_component() {
    conforms("pbft-reverse");
}

#[test]
fn raft_conforms_as_a_component() {
    conforms("raft");
}
