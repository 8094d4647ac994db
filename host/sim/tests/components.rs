//! The components that a node would run, in the module host that it would run them in.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use moult_module::{Compile, HostConfig, Limits, ModuleHost, Prepared};
use moult_sim::{EngineModule, Modules, Plan, run};
use moult_types::{ModuleHash, World};

fn prepared(host: &ModuleHost, name: &str, world: World) -> Prepared {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules").join(format!("{name}.wasm"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let hash = ModuleHash::of(&bytes);
    host.prepare(bytes.into(), hash, world).unwrap()
}

#[test]
fn the_same_seed_with_components_and_as_native_code() {
    let limits = Limits { instances: 128, ..Limits::default() };
    let config = HostConfig { cache_dir: None, cache_key: [7; 32], compile: Compile::InProcess, limits };
    let host = ModuleHost::new(config).unwrap();
    let engine = |name: &str| EngineModule::component(name, prepared(&host, name, World::Engine)).unwrap();
    for (names, native) in [(["pbft", "pbft-reverse"], Modules::pbft()), (["raft", "pbft"], Modules::raft())]
    {
        let kv = ["kv", "kv2"].map(|name| prepared(&host, name, World::Application));
        let policy = prepared(&host, "approve-valid", World::Approval);
        let modules = Modules::components(names.map(engine).into(), kv, policy).unwrap();
        for seed in 0..3 {
            let once = run(seed, &Plan::short(), &modules, false).unwrap();
            assert_eq!(once, run(seed, &Plan::short(), &modules, false).unwrap(), "two runs of seed {seed}");
            // Modules are pinned by their hashes, so the two are different chains; all that is
            // drawn before anything is hashed is the same.
            let native = run(seed, &Plan::short(), &native, false).unwrap();
            assert!(once.blocks > 20 && native.blocks > 20, "{} and {} blocks", once.blocks, native.blocks);
        }
    }
}
