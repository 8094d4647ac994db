//! G6: what could differ from node to node. Features with more than one result are off, or
//! have one result here; nothing of an earlier call or of another module can be read.

use moult_hostile::guest;
use moult_module::ModuleError;
use moult_types::World;

use crate::common::*;

fn codes(name: &str) -> Vec<u32> {
    let host = host();
    let receipts = execute(&*application(&host, &guest(name)), &[vec![], vec![]]).expect("no fault");
    receipts.iter().map(|receipt| receipt.code).collect()
}

#[test]
fn nan_has_one_pattern() {
    assert_eq!(codes("nan-bits"), [0x7fc0_0000, 0x7fc0_0000]);
}

/// The results that the specification's deterministic profile gives: what does not fit
/// saturates, and the multiplication is not fused.
#[test]
fn relaxed_instructions_have_one_result() {
    let x = f32::from_bits(0x3f80_0001);
    let addend = -f32::from_bits(0x3f80_0002);
    let fused = x.mul_add(x, addend);
    assert_ne!(fused.to_bits(), (x * x + addend).to_bits(), "the example tells them apart");
    assert_eq!(codes("relaxed-simd"), [i32::MAX as u32, fused.to_bits()]);
}

/// The slots of the pool are used again, memory is not: neither what a module left there
/// nor a global outlives a call.
#[test]
fn nothing_is_left_of_an_earlier_call() {
    let mut limits = limits();
    // One slot, so that it is used again.
    limits.instances = 2;
    limits.application.call.fuel = 1_000_000_000;
    let host = host_with(limits);
    let fills = application(&host, &guest("fills-memory"));
    let reads = application(&host, &guest("reads-memory"));
    let remembers = application(&host, &guest("remembers"));
    for _ in 0..3 {
        execute(&*fills, &[]).expect_err("it traps");
        let receipts = execute(&*reads, &[vec![]]).expect("no fault");
        assert_eq!(receipts[0].code, 0, "bytes of another module can be read");
        assert_eq!(execute(&*remembers, &[vec![]]).expect("no fault")[0].code, 1);
    }
}

#[test]
fn features_that_are_turned_off() {
    let host = host();
    for core in [
        "(memory i64 1)",
        "(memory 1 1 shared)",
        "(tag)",
        "(type (struct))",
        "(func (param i32) (result i32) local.get 0 memory.atomic.notify offset=0 i32.const 0)",
    ] {
        let bytes = wat::parse_str(format!("(component (core module {core}))")).expect("text");
        let error = refusal_of(&host, &bytes, World::Engine);
        assert!(matches!(error, ModuleError::Invalid { .. }), "{core}: {error}");
    }
}

/// Clocks, randomness, files: a world grants none of it.
#[test]
fn imports_that_would_differ() {
    let host = host();
    for (import, world, export) in [
        ("wasi:clocks/wall-clock@0.2.0", World::Engine, "engine/engine"),
        ("wasi:random/random@0.2.0", World::Application, "application/application"),
        ("wasi:cli/environment@0.2.0", World::Approval, "approval/approval"),
    ] {
        let text = format!(
            r#"(component
              (import "{import}" (instance (export "now" (func (result u64)))))
              (instance $i) (export "moult:{export}@0.1.0" (instance $i)))"#
        );
        let error = refusal_of(&host, &wat::parse_str(text).expect("text"), world);
        let ModuleError::ImportNotGranted { name, .. } = &error else { panic!("{error}") };
        assert_eq!(name, import);
    }
}
