//! G9: modules that are short to write and long to compile. The child process that compiles
//! ends at its limit; the host says which limit it was.

use std::time::{Duration, Instant};

use moult_hostile::{component, fill, module};
use moult_module::{Compile, CompileWorker, HostConfig, Limits, ModuleError, ModuleHost};
use moult_types::World;

use crate::common::*;

/// What a bomb may take here; a node allows a minute and two gibibytes.
const COMPILE_MS: u64 = 1_500;

fn with_worker(limits: Limits) -> ModuleHost {
    ModuleHost::new(HostConfig { cache_dir: None, cache_key: [0; 32], compile: worker(), limits })
        .expect("a host")
}

/// An application with more fields.
fn with(fields: &str) -> Vec<u8> {
    component(World::Application, fill(World::Application, fields))
}

/// Blocks in blocks, each with a branch out of it.
fn deep_blocks() -> Vec<u8> {
    let depth = 30_000;
    let open = "(block (br_if 0 (local.get 0)) ".repeat(depth);
    with(&format!("(func $bomb (param i32) {open}{})", ")".repeat(depth)))
}

/// A function of very many live values.
fn many_values() -> Vec<u8> {
    let mut text = String::from("(func $bomb (param i64) (result i64) (local ");
    text.push_str(&"i64 ".repeat(3_000));
    text.push_str(")\n");
    for round in 0..40 {
        for n in 1..3_000_u32 {
            let from = (n * 7 + round * 13) % 3_000;
            text.push_str(&format!(
                "(local.set {n} (i64.add (local.get {from}) (i64.mul (local.get {n}) (local.get 0))))\n"
            ));
        }
        text.push_str("(if (i64.eqz (local.get 5)) (then (local.set 0 (local.get 7))))\n");
    }
    text.push_str("(local.get 2999))");
    with(&text)
}

/// Very many functions.
fn many_functions() -> Vec<u8> {
    with(&"(func (param i64 i64) (result i64) (i64.div_u (local.get 0) (local.get 1)))".repeat(200_000))
}

/// One jump with very many goals.
fn wide_table() -> Vec<u8> {
    let goals: String = (0..200_000).map(|n| if n % 2 == 0 { " 0" } else { " 1" }).collect();
    with(&format!("(func (param i32) (block (block (br_table {goals} (local.get 0)))))").repeat(20))
}

#[test]
fn compile_bombs_end_at_their_limit() {
    let limits = Limits { compile_ms: COMPILE_MS, compile_memory_bytes: 1 << 30, ..limits() };
    let host = with_worker(limits);
    let mut stopped = 0;
    for (name, bytes) in [
        ("deep blocks", deep_blocks()),
        ("many values", many_values()),
        ("many functions", many_functions()),
        ("wide table", wide_table()),
    ] {
        let checked = Instant::now();
        host.check(&bytes, World::Application).unwrap_or_else(|error| panic!("{name}: {error}"));
        let checked = checked.elapsed();
        let started = Instant::now();
        let result = prepare(&host, &bytes, World::Application);
        let took = started.elapsed();
        println!(
            "{name}: {} bytes, checked in {checked:?}, {took:?}: {:?}",
            bytes.len(),
            result.as_ref().err()
        );
        // The check of the form comes first, in this process; then the limit, and little more.
        assert!(took < checked * 3 + Duration::from_millis(COMPILE_MS + 1_000), "{name} took {took:?}");
        match result {
            // A faster machine may get it done.
            Ok(_) => {}
            Err(ModuleError::CompileTimeout { limit_ms: COMPILE_MS, .. } | ModuleError::Compile { .. }) => {
                stopped += 1;
            }
            Err(other) => panic!("{name}: {other}"),
        }
        lives(&host);
    }
    assert!(stopped >= 2, "only {stopped} of them were bombs");
}

#[test]
fn each_limit_has_its_name() {
    let refused = |limits| {
        let host = with_worker(limits);
        prepare(&host, &module("kv"), World::Application).err().expect("the limit is tiny")
    };
    let error = refused(Limits { compile_ms: 1, ..limits() });
    assert!(matches!(error, ModuleError::CompileTimeout { limit_ms: 1, .. }), "{error}");
    let error = refused(Limits { compile_memory_bytes: 4 << 20, ..limits() });
    assert!(matches!(error, ModuleError::Compile { .. }), "{error}");
    let error = refused(Limits { artefact_bytes: 1000, ..limits() });
    assert!(error.to_string().contains("over 1000 bytes"), "{error}");
}

#[test]
fn a_worker_that_is_not_there_or_answers_nonsense() {
    let refused = |program: &str, args: &[&str]| {
        let args = args.iter().map(Into::into).collect();
        let compile = Compile::Worker(CompileWorker { program: program.into(), args });
        let config = HostConfig { cache_dir: None, cache_key: [0; 32], compile, limits: limits() };
        let host = ModuleHost::new(config).expect("a host");
        prepare(&host, &module("kv"), World::Application).err().expect("there is no worker")
    };
    let error = refused("/nowhere/worker", &[]);
    assert!(matches!(error, ModuleError::Worker { .. }), "{error}");
    for program in ["cat", "true", "false"] {
        let error = refused(program, &[]);
        assert!(matches!(error, ModuleError::Compile { .. }), "{program}: {error}");
    }
    // One that says that it is done, and sends no machine code.
    let error = refused("printf", &["moult-compiled\\nnothing"]);
    assert!(matches!(error, ModuleError::Compile { .. }), "{error}");
}
