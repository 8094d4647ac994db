//! Hosts, and the way from a guest to the fault that it ends in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moult_core::ports::{ApplicationInstance, EngineInstance, Fault};
use moult_hostile::{guest, module};
use moult_module::{Compile, CompileWorker, HostConfig, Limits, ModuleError, ModuleHost, Prepared};
use moult_sdk::application::{Block, Receipt};
use moult_sdk::engine::Settings;
use moult_sdk::{AuthorityIndex, Committee, Digest, FaultModel};
use moult_types::state::Overlay;
use moult_types::{ModuleHash, World};

/// Fuel of a call: 1e9 is some 1.5 s, so that a loop ends within 0.1 s.
pub(crate) const FUEL: u64 = 50_000_000;
/// How long a call with that fuel may take on a machine that does other things as well.
const CALL_TIME: Duration = Duration::from_secs(3);

/// The limits of a node, but for fuel.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    for world in [&mut limits.engine, &mut limits.approval, &mut limits.application] {
        world.call.fuel = FUEL;
    }
    limits.upgrade.fuel = FUEL;
    limits
}

/// Compiles in this process and keeps nothing.
pub(crate) fn host() -> ModuleHost {
    host_with(limits())
}

pub(crate) fn host_with(limits: Limits) -> ModuleHost {
    ModuleHost::new(HostConfig { cache_dir: None, cache_key: [7; 32], compile: Compile::InProcess, limits })
        .expect("a host")
}

/// A child process that compiles, as a node has one.
pub(crate) fn worker() -> Compile {
    let program = env!("CARGO_BIN_EXE_fuzz-modules").into();
    Compile::Worker(CompileWorker { program, args: vec!["compile-worker".into()] })
}

/// The same host loads a good module and runs it: nothing of what came before is left.
pub(crate) fn lives(host: &ModuleHost) {
    let receipts = execute(&*application(host, &module("null")), &[vec![1]]).expect("null runs");
    assert_eq!(receipts.len(), 1);
}

pub(crate) fn prepare(host: &ModuleHost, bytes: &[u8], world: World) -> Result<Prepared, ModuleError> {
    host.prepare(bytes.into(), ModuleHash::of(bytes), world)
}

pub(crate) fn application(host: &ModuleHost, bytes: &[u8]) -> Arc<dyn ApplicationInstance> {
    let prepared = prepare(host, bytes, World::Application).expect("it comes up");
    prepared.application().expect("an application")
}

pub(crate) fn engine(host: &ModuleHost, name: &str) -> Box<dyn EngineInstance> {
    let prepared = prepare(host, &guest(name), World::Engine).expect("it comes up");
    prepared.engine().expect("an engine")
}

pub(crate) fn empty_state() -> Overlay {
    Overlay::new(Arc::new(BTreeMap::new()), 1)
}

pub(crate) const BLOCK: Block = Block { global_index: 7, epoch: 1, time_ms: 1_700_000_000_000 };

/// Executes over an empty state.
pub(crate) fn execute(
    application: &dyn ApplicationInstance,
    transactions: &[Vec<u8>],
) -> Result<Vec<Receipt>, Fault> {
    application.execute(empty_state(), &[], BLOCK, transactions).1
}

/// The fault of a guest's `execute`, within the time of its budget.
pub(crate) fn fault_of(host: &ModuleHost, guest: &[u8]) -> Fault {
    let application = application(host, guest);
    let fault = timed(|| execute(&*application, &[vec![1]])).expect_err("it misbehaves");
    lives(host);
    fault
}

/// Why a guest is not even taken, within the time of its budget.
pub(crate) fn refusal_of(host: &ModuleHost, guest: &[u8], world: World) -> ModuleError {
    let refusal = timed(|| prepare(host, guest, world)).err().expect("it is bad");
    lives(host);
    refusal
}

/// A call that may not take longer than its fuel.
pub(crate) fn timed<T>(call: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = call();
    let took = started.elapsed();
    assert!(took < CALL_TIME, "it took {took:?}");
    result
}

pub(crate) fn committee() -> Committee {
    Committee {
        epoch: 1,
        fault_model: FaultModel::Byzantine,
        stakes: vec![1; 4],
        quorum: 3,
        validity: 2,
        me: Some(AuthorityIndex(0)),
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        committee: committee(),
        config: vec![],
        seed: Digest::ZERO,
        schedule: vec![AuthorityIndex(0)],
        max_message_bytes: 1 << 20,
        max_batches_in_commit: 10,
    }
}

/// A started engine.
pub(crate) fn started(host: &ModuleHost, name: &str) -> Box<dyn EngineInstance> {
    let mut engine = engine(host, name);
    engine.init(&settings(), None).expect("no fault").expect("no refusal");
    engine
}
