//! Every refusal has its own name and says which module, which rule and what broke it.

use moult_module::{Limits, ModuleError};
use moult_types::{ModuleHash, World};

use crate::common::{BadApplication, host, host_with, module, prepare, worker};

/// The refusal of a module given in text form.
fn refusal(text: &str, world: World) -> ModuleError {
    let bytes = wat::parse_str(text).expect("text");
    host().check(&bytes, world).expect_err("it is bad")
}

#[test]
fn bytes_that_are_no_component() {
    let host = host();
    let refused = |bytes: &[u8]| host.check(bytes, World::Engine).expect_err("it is bad");
    assert!(matches!(refused(b""), ModuleError::Empty { .. }));
    assert!(matches!(refused(b"(component)"), ModuleError::NotWasm { .. }), "text is not taken");
    assert!(matches!(refused(b"\0as"), ModuleError::Truncated { .. }));
    assert!(matches!(refused(b"\0asm\x01\0\0\0"), ModuleError::CoreModule { .. }));
    assert!(matches!(refused(b"\0asm\x77\0\x01\0"), ModuleError::Invalid { .. }));
    let kv = module("kv");
    assert!(matches!(refused(&kv[..kv.len() - 1000]), ModuleError::Truncated { .. }));
    let mut damaged = kv.to_vec();
    for byte in &mut damaged[2000..2100] {
        *byte = 0xff;
    }
    assert!(matches!(refused(&damaged), ModuleError::Invalid { .. }));
    assert_eq!(host.stats().refused.load(std::sync::atomic::Ordering::Relaxed), 7);
}

#[test]
fn every_prefix_is_refused() {
    let host = host();
    let kv = module("kv");
    for cut in (0..kv.len()).step_by(997) {
        host.check(&kv[..cut], World::Application).expect_err("it is cut");
    }
}

#[test]
fn an_oversized_module() {
    let host = host_with(Limits { module_bytes: 10_000, ..Limits::default() });
    let error = host.check(&module("kv"), World::Application).expect_err("it is large");
    assert!(matches!(error, ModuleError::TooLarge { limit: 10_000, .. }), "{error}");
}

#[test]
fn bytes_of_another_hash() {
    let error = host()
        .prepare(module("kv"), ModuleHash([1; 32]), World::Application)
        .err()
        .expect("the hash is another");
    let ModuleError::HashMismatch { expected, found } = error else { panic!("{error}") };
    assert_eq!((expected, found), (ModuleHash([1; 32]), ModuleHash::of(&module("kv"))));
}

#[test]
fn exports_that_do_not_match() {
    let error = refusal("(component)", World::Engine).to_string();
    assert!(
        error.ends_with(
            "does not export `moult:engine/engine@0.1.0`, which the world `engine` needs; it exports nothing"
        ),
        "{error}"
    );
    let error = host().check(&module("kv"), World::Engine).expect_err("a kv is no engine").to_string();
    assert!(error.contains("it exports `moult:application/application@0.1.0`"), "{error}");
    let error = refusal(
        r#"(component (instance $i) (export "moult:engine/engine@0.2.0" (instance $i)))"#,
        World::Engine,
    );
    let text = error.to_string();
    assert!(matches!(error, ModuleError::WrongVersion { .. }));
    assert!(
        text.contains("exports `moult:engine/engine@0.2.0`; this host serves `moult:engine/engine@0.1.0`"),
        "{text}"
    );
}

#[test]
fn exports_of_the_right_name_and_the_wrong_type() {
    let empty = r#"(component (instance $i) (export "moult:engine/engine@0.1.0" (instance $i)))"#;
    let bytes = wat::parse_str(empty).expect("text");
    let host = host();
    host.check(&bytes, World::Engine).expect("the name is right");
    let error = prepare(&host, &bytes, World::Engine).err().expect("it has no functions");
    assert!(matches!(error, ModuleError::Contract { world: World::Engine, .. }), "{error}");
    assert!(error.to_string().contains("describe") || error.to_string().contains("init"), "{error}");
}

#[test]
fn imports_that_are_not_granted() {
    let with_import = |import: &str, world: &str| {
        format!(
            r#"(component
              (import "{import}" (instance (export "f" (func))))
              (instance $i) (export "moult:{world}@0.1.0" (instance $i)))"#
        )
    };
    for (import, world, export) in [
        ("wasi:cli/environment@0.2.0", World::Engine, "engine/engine"),
        ("wasi:random/random@0.2.0", World::Application, "application/application"),
        // A world grants only its own.
        ("moult:application/state@0.1.0", World::Engine, "engine/engine"),
        // An interface of types may not smuggle a function in.
        ("moult:types/types@0.1.0", World::Approval, "approval/approval"),
        ("moult:application/state@0.2.0", World::Application, "application/application"),
    ] {
        let error = refusal(&with_import(import, export), world);
        let ModuleError::ImportNotGranted { name, .. } = &error else { panic!("{error}") };
        assert_eq!(name, import);
        let end = format!("imports `{import}`, which the world `{world}` does not grant");
        assert!(error.to_string().ends_with(&end), "{error}");
    }
    let function = r#"(component (import "now" (func)) (instance $i) (export "moult:engine/engine@0.1.0" (instance $i)))"#;
    assert!(matches!(refusal(function, World::Engine), ModuleError::ImportNotGranted { .. }));
}

#[test]
fn a_state_with_more_functions_than_this_host_has() {
    let text = r#"(component
      (import "moult:application/state@0.1.0" (instance (export "clock" (func (result u64)))))
      (instance $i) (export "moult:application/application@0.1.0" (instance $i)))"#;
    let bytes = wat::parse_str(text).expect("text");
    let error = prepare(&host(), &bytes, World::Application).err().expect("there is no clock");
    assert!(matches!(error, ModuleError::Contract { .. }) && error.to_string().contains("clock"), "{error}");
}

#[test]
fn features_that_are_turned_off() {
    for core in [
        "(memory i64 1)",
        "(memory 1 1 shared)",
        "(tag)",
        "(type (struct))",
        "(func (param i32) (result i32) local.get 0 memory.atomic.notify offset=0 i32.const 0)",
    ] {
        let text = format!("(component (core module {core}))");
        let error = refusal(&text, World::Engine);
        assert!(matches!(error, ModuleError::Invalid { .. }), "{core}: {error}");
    }
}

#[test]
fn too_many_or_too_large_parts() {
    let many = format!("(component {})", "(core module)".repeat(33));
    let error = refusal(&many, World::Engine);
    assert!(
        matches!(error, ModuleError::Resources { what: "core modules", has: 33, limit: 32, .. }),
        "{error}"
    );
    let refused = |items: &str| {
        let bytes = BadApplication { items, ..Default::default() }.build();
        prepare(&host(), &bytes, World::Application).err().expect("it asks for too much")
    };
    let error = refused(r#"(memory (export "memory") 4097)"#);
    assert!(matches!(error, ModuleError::Resources { what: "bytes of initial memory", .. }), "{error}");
    let error = refused("(table 20001 funcref)");
    assert!(
        matches!(error, ModuleError::Resources { what: "entries in a table", has: 20_001, .. }),
        "{error}"
    );
    let error =
        refused("(memory $a 1) (memory $b 1) (memory $c 1) (memory $d 1) (memory (export \"memory\") 1)");
    assert!(matches!(error, ModuleError::Resources { what: "memories", has: 5, limit: 4, .. }), "{error}");
}

#[test]
fn a_module_that_does_not_come_up() {
    for start in ["(loop br 0)", "unreachable"] {
        let items = format!("(func $start {start}) (start $start)");
        let bytes = BadApplication { items: &items, ..Default::default() }.build();
        let limits = Limits { application: fast(), ..Limits::default() };
        let error = prepare(&host_with(limits), &bytes, World::Application).err().expect("it does not start");
        assert!(matches!(error, ModuleError::Contract { .. }), "{error}");
    }
}

fn fast() -> moult_module::WorldLimits {
    let mut world = Limits::default().application;
    world.call.fuel = 10_000_000;
    world
}

#[test]
fn a_worker_that_is_not_there() {
    use moult_module::{Compile, CompileWorker, HostConfig, ModuleHost};
    let compile = Compile::Worker(CompileWorker { program: "/nowhere/worker".into(), args: vec![] });
    let config = HostConfig { cache_dir: None, cache_key: [0; 32], compile, limits: Limits::default() };
    let host = ModuleHost::new(config).expect("a host");
    let error = prepare(&host, &module("kv"), World::Application).err().expect("there is no worker");
    assert!(matches!(error, ModuleError::Worker { .. }), "{error}");
}

#[test]
fn a_compilation_that_takes_too_much() {
    use moult_module::{HostConfig, ModuleHost};
    let with = |limits| {
        let config = HostConfig { cache_dir: None, cache_key: [0; 32], compile: worker(), limits };
        let host = ModuleHost::new(config).expect("a host");
        prepare(&host, &module("kv"), World::Application).err().expect("the limit is tiny")
    };
    let error = with(Limits { compile_ms: 1, ..Limits::default() });
    assert!(matches!(error, ModuleError::CompileTimeout { limit_ms: 1, .. }), "{error}");
    let error = with(Limits { compile_memory_bytes: 4 << 20, ..Limits::default() });
    assert!(matches!(error, ModuleError::Compile { .. }), "{error}");
    let error = with(Limits { artefact_bytes: 1000, ..Limits::default() });
    assert!(error.to_string().contains("over 1000 bytes"), "{error}");
}

/// Flipped bytes are refused or run; nothing else happens. (Seeded by position, no luck.)
#[test]
fn mutants_do_no_harm() {
    let limits = Limits { application: fast(), ..Limits::default() };
    let host = host_with(limits);
    let null = module("null");
    let mut prepared = 0;
    for round in 0..600_usize {
        let mut mutant = null.to_vec();
        for step in 0..=round % 3 {
            let at = (round * 7919 + step * 104_729) % mutant.len();
            mutant[at] ^= 1 << ((round / 3 + step) % 8);
        }
        let valid = host.check(&mutant, World::Application).is_ok();
        // Compiling takes its time: a few of those that are valid.
        if valid && prepared < 25 {
            prepared += 1;
            if let Ok(mutant) = prepare(&host, &mutant, World::Application) {
                let application = mutant.application().expect("an application");
                drop(crate::common::execute(&*application, &[vec![1], vec![2]]));
            }
        }
    }
    assert!(prepared > 10, "{prepared} mutants were valid");
}
