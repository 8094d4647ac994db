//! G5: traps at chosen moments: as single instances here, in a cluster in `g07_requests`.

use std::sync::atomic::Ordering::Relaxed;

use moult_core::ports::Fault;
use moult_hostile::guest;
use moult_module::ModuleError;
use moult_sdk::engine::{Event, Outcome};
use moult_types::World;

use crate::common::*;

#[test]
fn traps_have_names() {
    let host = host();
    for (name, words) in [
        ("unreachable", "wasm `unreachable` instruction executed"),
        ("out-of-bounds", "out of bounds memory access"),
        ("divide-by-zero", "divide by zero"),
        ("null-call", "uninitialized element"),
    ] {
        let fault = fault_of(&host, &guest(name));
        assert!(matches!(&fault, Fault::Trap(text) if text.contains(words)), "{name}: {fault}");
        assert!(fault.is_deterministic());
    }
    assert_eq!(host.stats().world(World::Application).traps.load(Relaxed), 4);
}

#[test]
fn a_trap_before_it_is_up() {
    let error = refusal_of(&host(), &guest("trap-in-start"), World::Application);
    assert!(
        matches!(&error, ModuleError::Contract { problem, .. } if problem.contains("unreachable")),
        "{error}"
    );
}

/// Writes made before a fault come back, for the caller to throw away.
#[test]
fn the_state_comes_back_after_a_trap() {
    let host = host();
    let hostile = application(&host, &guest("trap-after-write"));
    let (overlay, result) = hostile.execute(empty_state(), &[], BLOCK, &[vec![]]);
    assert!(matches!(result, Err(Fault::Trap(_))));
    assert_eq!(overlay.into_writes().into_iter().next(), Some((b"\x01bad".to_vec(), Some(b"b".to_vec()))));
    lives(&host);
}

#[test]
fn an_engine_that_trapped_is_gone_and_another_one_works() {
    let host = host();
    let prepared = prepare(&host, &guest("trap-in-step"), World::Engine).expect("it comes up");
    let mut engine = prepared.engine().expect("an engine");
    assert_eq!(engine.init(&settings(), None).expect("no fault").expect("no refusal"), Outcome::default());
    assert!(matches!(engine.step(1, vec![Event::Draining]), Err(Fault::Trap(_))));
    for _ in 0..2 {
        let fault = engine.step(2, vec![Event::Draining]).expect_err("it is gone");
        assert!(matches!(&fault, Fault::Trap(text) if text.contains("ended at an earlier fault")), "{fault}");
    }
    let mut another = prepared.engine().expect("another one");
    another.init(&settings(), None).expect("no fault").expect("no refusal");
    // A judgement runs in an instance of its own: its trap ends nothing else.
    assert!(matches!(another.judge(&committee(), &[1]), Err(Fault::Trap(_))));
    assert!(another.describe().is_ok());
    let mut never = crate::common::engine(&host, "trap-in-init");
    assert!(matches!(never.init(&settings(), None), Err(Fault::Trap(_))));
    lives(&host);
}
