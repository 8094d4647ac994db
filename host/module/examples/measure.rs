//! What a module costs on this machine: `cargo run --release -p moult-module --example measure`.

#![allow(clippy::disallowed_methods, reason = "measures time")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use moult_core::ports::ApplicationInstance;
use moult_kv::{Command, Kv};
use moult_module::{Compile, HostConfig, Limits, ModuleHost, NativeApplication, Prepared};
use moult_sdk::application::Block;
use moult_types::state::Overlay;
use moult_types::{ModuleHash, World};

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let host = ModuleHost::new(HostConfig {
        cache_dir: Some(folder.path().to_owned()),
        cache_key: [1; 32],
        compile: Compile::InProcess,
        limits: Limits::default(),
    })
    .expect("a host");
    for (name, world) in [
        ("kv", World::Application),
        ("null", World::Application),
        ("approve-valid", World::Approval),
        ("pbft", World::Engine),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../modules/{name}.wasm"));
        let Ok(bytes) = std::fs::read(path) else { continue };
        let bytes: Arc<[u8]> = bytes.into();
        let prepare = || host.prepare(bytes.clone(), ModuleHash::of(&bytes), world).expect("it is good");
        let cold = time(1, || drop(prepare()));
        let warm = time(20, || drop(prepare()));
        println!(
            "{name}: {} bytes, prepare {cold:.0} us compiling, {warm:.0} us from the cache",
            bytes.len()
        );
        match world {
            World::Application => blocks(name, &prepare()),
            World::Engine => {
                let prepared = prepare();
                println!(
                    "  instantiate {:.1} us",
                    time(2000, || drop(prepared.engine().expect("an engine")))
                );
                let mut engine = prepared.engine().expect("an engine");
                println!("  call of describe {:.2} us", time(2000, || drop(engine.describe())));
            }
            World::Approval => {
                let mut policy = prepare().approval().expect("a policy");
                println!("  instance and call of describe {:.1} us", time(2000, || drop(policy.describe())));
            }
        }
    }
}

fn blocks(name: &str, prepared: &Prepared) {
    let wasm = prepared.application().expect("an application");
    println!("  instance and call of describe {:.1} us", time(2000, || drop(wasm.describe())));
    for size in [1, 16, 1024] {
        let transactions: Vec<_> = (0..size)
            .map(|n: u32| Command::Put { key: n.to_be_bytes().to_vec(), value: vec![1; 256] }.encode())
            .collect();
        let wasm = time(200, || execute(&*wasm, &transactions));
        let native = time(200, || execute(&NativeApplication::<Kv>::new(), &transactions));
        println!(
            "  execute of {size} transactions: {wasm:.1} us in Wasm ({name}), {native:.1} us natively (kv)"
        );
    }
}

fn execute(application: &dyn ApplicationInstance, transactions: &[Vec<u8>]) {
    let overlay = Overlay::new(Arc::new(BTreeMap::new()), 1);
    let block = Block { global_index: 1, epoch: 1, time_ms: 1 };
    application.execute(overlay, &[], block, transactions).1.expect("no fault");
}

/// Microseconds a run.
fn time(runs: u32, mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..runs {
        run();
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(runs)
}
