//! What it costs that an engine is a component: the boundary by itself, and whole engines in a
//! committee of four, as components and natively in turns in one run.
//! `cargo bench -p moult-module --bench engines` takes about a minute.
//!
//! One thread computes and waits for nothing, so its time is CPU time; of each measurement the
//! shortest of many turns counts, which whatever else ran on the machine lengthened least.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

mod boundary;
mod committee;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moult_core::ports::EngineInstance;
use moult_module::{Compile, HostConfig, Limits, ModuleHost, NativeEngine, Prepared};
use moult_pbft::Pbft;
use moult_raft::Raft;
use moult_sdk::FaultModel;
use moult_sdk::engine::Engine;
use moult_types::{ModuleHash, World};

use crate::committee::{Plan, Recording};

/// Turns of each measurement.
const TURNS: usize = 25;
/// Events a step, and how many times the native engine's CPU time a component's may be.
const TARGETS: [(usize, f64); 2] = [(16, 4.5), (128, 3.5)];

fn main() {
    let host = host();
    println!("shortest of {TURNS} turns each");
    boundary::measure(&host);
    println!("\nengine CPU per commit and node, committee of {}, four batches a commit", committee::NODES);
    println!(
        "  {:<6}{:>12}{:>14}{:>16}{:>12}{:>12}{:>8}",
        "", "events/step", "events/commit", "component us", "native us", "ns/event*", "ratio"
    );
    engine::<Pbft>(&host, "pbft", FaultModel::Byzantine, 1, |in_flight| {
        format!("pipeline={in_flight}\nwindow={}\npace_ms=0\n", 4 * in_flight.max(64))
    });
    // A commit has an eighth of the events, so more of them are on their way.
    engine::<Raft>(&host, "raft", FaultModel::Crash, 8, |in_flight| format!("pipeline={in_flight}\n"));
    println!("  * component less native: the boundary, and code that Wasm makes slower");
}

/// Measures one engine at each size of a step, with so many commits on their way for each event.
fn engine<E: Engine + Send + 'static>(
    host: &ModuleHost,
    name: &str,
    fault_model: FaultModel,
    commits_an_event: u64,
    config: fn(u64) -> String,
) {
    let prepared = prepare(host, &module(name));
    let component = || prepared.engine().expect("a place in the pool");
    let native = || -> Box<dyn EngineInstance> { Box::new(NativeEngine::<E>::new()) };
    for (step_events, allowed) in TARGETS {
        let in_flight = commits_an_event * step_events as u64;
        let plan = Plan { step_events, in_flight, fault_model, config: config(in_flight) };
        let run = Recording::of(&plan, &native);
        run.verify(&component);
        let [ours, theirs] = in_turns([&mut || run.replay(&component), &mut || run.replay(&native)]);
        let us_per_commit = |time: Duration| time.as_secs_f64() * 1e6 / run.commits as f64;
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        println!(
            "  {name:<6}{:>12.1}{:>14.1}{:>16.2}{:>12.2}{:>12.0}{ratio:>8.2}  {} (at most {allowed} at {step_events})",
            run.events as f64 / run.steps() as f64,
            run.events as f64 / run.commits as f64,
            us_per_commit(ours),
            us_per_commit(theirs),
            (ours.as_secs_f64() - theirs.as_secs_f64()) * 1e9 / run.events as f64,
            verdict(ratio <= allowed),
        );
    }
}

/// Runs one after the other, turn by turn; the shortest time of each.
fn in_turns<const N: usize>(mut runs: [&mut dyn FnMut() -> Duration; N]) -> [Duration; N] {
    let mut shortest = [Duration::MAX; N];
    for _ in 0..TURNS {
        for (shortest, run) in shortest.iter_mut().zip(&mut runs) {
            *shortest = (*shortest).min(run());
        }
    }
    shortest
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

fn host() -> ModuleHost {
    let (compile, limits) = (Compile::InProcess, Limits::default());
    ModuleHost::new(HostConfig { cache_dir: None, cache_key: [1; 32], compile, limits }).expect("a host")
}

fn prepare(host: &ModuleHost, bytes: &[u8]) -> Prepared {
    host.prepare(bytes.into(), ModuleHash::of(bytes), World::Engine).expect("an engine")
}

/// A module of this repository, as checked in.
fn module(name: &str) -> Arc<[u8]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../modules/{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}
