//! G8: what is no module of the world. Each refusal has its own name and says which module,
//! which rule and what broke it, before anything of it is compiled.

use std::sync::atomic::Ordering::Relaxed;

use moult_hostile::module;
use moult_module::{Limits, ModuleError};
use moult_types::{ModuleHash, World};

use crate::common::*;

/// The refusal of a module in text form.
fn refusal(text: &str, world: World) -> ModuleError {
    let bytes = wat::parse_str(text).expect("text");
    let host = host();
    let error = timed(|| host.check(&bytes, world)).expect_err("it is bad");
    lives(&host);
    error
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
    damaged[2000..2100].fill(0xff);
    assert!(matches!(refused(&damaged), ModuleError::Invalid { .. }));
    assert_eq!(host.stats().refused.load(Relaxed), 7);
    lives(&host);
}

#[test]
fn every_prefix_is_refused() {
    let host = host();
    for name in ["kv", "pbft", "approve-valid"] {
        let bytes = module(name);
        for cut in (0..bytes.len()).step_by(997) {
            for world in World::ALL {
                host.check(&bytes[..cut], world).expect_err("it is cut");
            }
        }
    }
    lives(&host);
}

#[test]
fn a_file_of_200_mebibytes() {
    let host = host();
    let mut bytes = module("pbft").to_vec();
    bytes.resize(200 << 20, 0);
    let error = timed(|| host.check(&bytes, World::Engine)).expect_err("it is large");
    assert!(matches!(error, ModuleError::TooLarge { bytes: 209_715_200, limit: 33_554_432, .. }), "{error}");
    lives(&host);
}

#[test]
fn a_byte_over_the_limit() {
    let kv = module("kv");
    let at = |limit| host_with(Limits { module_bytes: limit, ..limits() });
    at(kv.len()).check(&kv, World::Application).expect("as large as may be");
    let error = at(kv.len() - 1).check(&kv, World::Application).expect_err("it is large");
    assert!(matches!(error, ModuleError::TooLarge { .. }), "{error}");
}

#[test]
fn bytes_of_another_hash() {
    let error = host().prepare(module("kv"), ModuleHash([1; 32]), World::Application);
    let error = error.err().expect("the hash is another");
    let ModuleError::HashMismatch { expected, found } = error else { panic!("{error}") };
    assert_eq!((expected, found), (ModuleHash([1; 32]), ModuleHash::of(&module("kv"))));
}

#[test]
fn another_world_and_another_version() {
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

/// What is exported under the right name is no instance, lacks functions, or has other types.
#[test]
fn exports_of_the_right_name_and_the_wrong_kind() {
    let function = r#"(component
        (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f"))) (export "moult:engine/engine@0.1.0" (func $f)))"#;
    // The text format itself knows that such a name is for instances.
    assert!(wat::parse_str(function).map_or(true, |bytes| host().check(&bytes, World::Engine).is_err()));
    let empty = r#"(component (instance $i) (export "moult:engine/engine@0.1.0" (instance $i)))"#;
    let typed = r#"(component
        (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $e (export "describe" (func $f)) (export "init" (func $f)) (export "judge" (func $f))
            (export "step" (func $f)))
        (export "moult:engine/engine@0.1.0" (instance $e)))"#;
    let host = host();
    for text in [empty, typed] {
        let bytes = wat::parse_str(text).expect("text");
        host.check(&bytes, World::Engine).expect("the name is right");
        let error = refusal_of(&host, &bytes, World::Engine);
        assert!(matches!(error, ModuleError::Contract { world: World::Engine, .. }), "{error}");
        assert!(error.to_string().contains("describe") || error.to_string().contains("init"), "{error}");
    }
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
    let module = r#"(component (import "m" (core module)) (instance $i) (export "moult:engine/engine@0.1.0" (instance $i)))"#;
    assert!(matches!(refusal(module, World::Engine), ModuleError::ImportNotGranted { .. }));
}

#[test]
fn a_state_with_more_functions_than_this_host_has() {
    let text = r#"(component
      (import "moult:application/state@0.1.0" (instance (export "clock" (func (result u64)))))
      (instance $i) (export "moult:application/application@0.1.0" (instance $i)))"#;
    let error = refusal_of(&host(), &wat::parse_str(text).expect("text"), World::Application);
    assert!(matches!(error, ModuleError::Contract { .. }) && error.to_string().contains("clock"), "{error}");
}

/// Names as long as they may be, and very many of them: what is told stays short.
#[test]
fn names_that_would_fill_a_log() {
    let long = "a".repeat(90_000);
    let text = format!(
        r#"(component (import "{long}" (func)) (instance $i) (export "moult:engine/engine@0.1.0" (instance $i)))"#
    );
    let error = refusal(&text, World::Engine).to_string();
    assert!(error.len() < 500 && error.contains("aaaa"), "{} bytes", error.len());
    let many: String =
        (0..900).map(|n| format!(r#"(export "n{n}-{}" (func $f))"#, "b".repeat(900))).collect();
    let text = format!(
        r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
          (func $f (canon lift (core func $i "f"))) {many})"#
    );
    let error = refusal(&text, World::Engine).to_string();
    assert!(error.len() < 2_000 && error.contains("and 892 more"), "{error}");
}
