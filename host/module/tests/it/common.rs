//! Hosts, modules and hand-written guests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moult_core::ports::{ApplicationInstance, Fault};
use moult_module::{Compile, CompileWorker, HostConfig, Limits, ModuleError, ModuleHost, Prepared};
use moult_sdk::application::{Block, Receipt};
use moult_types::state::Overlay;
use moult_types::{ModuleHash, World};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

pub(crate) const BLOCK: Block = Block { global_index: 7, epoch: 1, time_ms: 1_700_000_000_000 };

/// Compiles in this process and keeps nothing.
pub(crate) fn host() -> ModuleHost {
    host_with(Limits::default())
}

pub(crate) fn host_with(limits: Limits) -> ModuleHost {
    ModuleHost::new(HostConfig { cache_dir: None, cache_key: [7; 32], compile: Compile::InProcess, limits })
        .expect("a host")
}

/// The true worker.
pub(crate) fn worker() -> Compile {
    Compile::Worker(CompileWorker {
        program: env!("CARGO_BIN_EXE_moult-compile-worker").into(),
        args: vec![],
    })
}

/// A module of this repository: as checked in, or from MOULT_MODULES_DIR.
pub(crate) fn module(name: &str) -> Arc<[u8]> {
    let folder = std::env::var_os("MOULT_MODULES_DIR").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules"));
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

pub(crate) fn prepare(host: &ModuleHost, bytes: &[u8], world: World) -> Result<Prepared, ModuleError> {
    host.prepare(bytes.into(), ModuleHash::of(bytes), world)
}

pub(crate) fn application(host: &ModuleHost, bytes: &[u8]) -> Arc<dyn ApplicationInstance> {
    let prepared = prepare(host, bytes, World::Application).expect("an application");
    prepared.application().expect("an application")
}

pub(crate) fn empty_state() -> Overlay {
    Overlay::new(Arc::new(BTreeMap::new()), 1)
}

/// Executes over an empty state.
pub(crate) fn execute(
    application: &dyn ApplicationInstance,
    transactions: &[Vec<u8>],
) -> Result<Vec<Receipt>, Fault> {
    application.execute(empty_state(), &[], BLOCK, transactions).1
}

/// A component of a world, made of a core module in text form.
pub(crate) fn component(world: World, core: &str) -> Vec<u8> {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut resolve = Resolve::default();
    let mut package = None;
    let packages: &[&str] = match world {
        World::Engine => &["types", "engine"],
        World::Application => &["application"],
        World::Approval => panic!("no guest of this world is written by hand"),
    };
    for name in packages {
        package = Some(resolve.push_path(wit.join(name)).expect("a package").0);
    }
    let world = resolve.select_world(&[package.expect("a package")], None).expect("a world");
    let mut module = wat::parse_str(core).expect("text");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("metadata");
    let mut encoder = ComponentEncoder::default().validate(true).module(&module).expect("a module");
    encoder.encode().expect("a component")
}

/// An application whose functions have the given bodies; those left out trap. At address 0
/// there are 64 zero bytes, which read as an empty list and as `ok`.
#[derive(Clone, Copy, Default)]
pub(crate) struct BadApplication<'a> {
    /// Parameters: config (0, 1), block (2, 3, 4), transactions (5, 6).
    pub(crate) execute: &'a str,
    pub(crate) query: &'a str,
    /// More items of the module.
    pub(crate) items: &'a str,
}

impl BadApplication<'_> {
    pub(crate) fn build(&self) -> Vec<u8> {
        let or_trap = |body: &str| if body.is_empty() { "unreachable".to_owned() } else { body.to_owned() };
        let (execute, query, items) = (or_trap(self.execute), or_trap(self.query), self.items);
        let memory = if items.contains("(memory") { "" } else { "(memory (export \"memory\") 2)" };
        let core = format!(
            r#"(module
              (import "moult:application/state@0.1.0" "get" (func $get (param i32 i32 i32)))
              (import "moult:application/state@0.1.0" "put" (func $put (param i32 i32 i32 i32)))
              {memory}
              {items}
              (global $next (mut i32) (i32.const 4096))
              (data (i32.const 64) "bad1")
              (data (i32.const 128) "\40\00\00\00\03\00\00\00\43\00\00\00\01\00\00\00")
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.set $next (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
              (func (export "moult:application/application@0.1.0#describe") (result i32) (i32.const 128))
              (func (export "moult:application/application@0.1.0#execute")
                (param i32 i32 i64 i64 i64 i32 i32) (result i32) {execute})
              (func (export "moult:application/application@0.1.0#query")
                (param i32 i32 i32 i32) (result i32) {query})
              (func (export "moult:application/application@0.1.0#upgrade")
                (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (unreachable)))"#
        );
        component(World::Application, &core)
    }
}

/// An engine whose `step` and `judge` have the given bodies; `init` answers nothing to do.
pub(crate) fn bad_engine(step: &str, judge: &str) -> Vec<u8> {
    let core = format!(
        r#"(module
          (memory (export "memory") 2)
          (global $next (mut i32) (i32.const 4096))
          (data (i32.const 64) "bad1")
          (data (i32.const 128) "\40\00\00\00\03\00\00\00\43\00\00\00\01\00\00\00")
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.set $next (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
          (func (export "moult:engine/engine@0.1.0#describe") (result i32) (i32.const 128))
          (func (export "moult:engine/engine@0.1.0#init") (param i32) (result i32) (i32.const 0))
          (func (export "moult:engine/engine@0.1.0#judge")
            (param i64 i32 i32 i32 i64 i64 i32 i32 i32 i32) (result i32) {judge})
          (func (export "moult:engine/engine@0.1.0#step") (param i64 i32 i32) (result i32) {step}))"#
    );
    component(World::Engine, &core)
}
