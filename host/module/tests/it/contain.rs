//! Guests that misbehave: the call ends with a fault that says why, and the host goes on.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use moult_core::ports::Fault;
use moult_module::{Limits, ModuleHost};
use moult_sdk::engine::{Event, Settings};
use moult_sdk::{AuthorityIndex, Committee, Digest, FaultModel};
use moult_types::World;

use crate::common::{
    BLOCK, BadApplication, application, bad_engine, empty_state, execute, host, host_with, module, prepare,
};

/// The fault of an application whose `execute` has this body.
fn fault_of(host: &ModuleHost, execute_body: &str) -> Fault {
    let bytes = BadApplication { execute: execute_body, ..Default::default() }.build();
    let fault = execute(&*application(host, &bytes), &[vec![1]]).expect_err("it misbehaves");
    // The host is as good as before.
    assert!(execute(&*application(host, &module("null")), &[vec![1]]).is_ok());
    fault
}

#[test]
fn an_infinite_loop_ends_with_its_fuel() {
    let mut limits = Limits::default();
    limits.application.call.fuel = 50_000_000;
    let host = host_with(limits);
    let started = Instant::now();
    assert_eq!(fault_of(&host, "(loop br 0) unreachable"), Fault::Budget { fuel: 50_000_000 });
    assert!(started.elapsed().as_secs() < 5);
    assert_eq!(host.stats().world(World::Application).budget_stops.load(Relaxed), 1);
    assert!(host.stats().world(World::Application).fuel.load(Relaxed) > 49_000_000);
}

#[test]
fn what_fuel_does_not_stop_the_watchdog_stops() {
    let mut limits = Limits::default();
    limits.application.call.fuel = u64::MAX;
    limits.application.call.watchdog_ms = 100;
    let fault = fault_of(&host_with(limits), "(loop br 0) unreachable");
    assert_eq!(fault, Fault::Watchdog { limit_ms: 100 });
    assert!(!fault.is_deterministic());
}

#[test]
fn recursion_without_end_is_a_trap() {
    let bytes = BadApplication {
        execute: "(call $deep)",
        items: "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))",
        ..Default::default()
    };
    let host = host();
    let fault = execute(&*application(&host, &bytes.build()), &[]).expect_err("it recurses");
    assert_eq!(fault, Fault::Trap("call stack exhausted".into()));
}

#[test]
fn memory_grows_to_the_limit_and_no_further() {
    // Grows page by page until it may not; then answers with the number of pages as code.
    let body = "(local $receipt i32)
        (block (loop
          (br_if 1 (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
          (br 0)))
        (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 1))
        (i32.store (i32.const 512) (memory.size))
        (i32.const 256)";
    let bytes = BadApplication { execute: body, ..Default::default() }.build();
    let host = host();
    for _ in 0..3 {
        let receipts = execute(&*application(&host, &bytes), &[vec![]]).expect("it stops by itself");
        // 2 pages at first, 16 more each time, 4,096 at most.
        assert_eq!(receipts[0].code, 4082);
    }
}

#[test]
fn traps_have_names() {
    let host = host();
    assert_eq!(fault_of(&host, "unreachable"), Fault::Trap("wasm `unreachable` instruction executed".into()));
    let fault = fault_of(&host, "(i32.load (i32.const -4))");
    assert!(matches!(&fault, Fault::Trap(text) if text.contains("out of bounds memory access")), "{fault}");
    let fault = fault_of(&host, "(i32.div_u (i32.const 1) (i32.const 0))");
    assert!(matches!(&fault, Fault::Trap(text) if text.contains("divide by zero")), "{fault}");
    assert!(fault.is_deterministic());
    assert_eq!(host.stats().world(World::Application).traps.load(Relaxed), 3);
}

#[test]
fn answers_that_are_not_what_they_should_be() {
    let host = host();
    // An empty list for one transaction.
    let fault = fault_of(&host, "(i32.const 0)");
    assert_eq!(fault, Fault::Output("0 receipts for 1 transactions".into()));
    for (what, body) in [
        ("an answer outside of memory", "(i32.const -8)"),
        ("an answer that is not aligned", "(i32.const 3)"),
        ("a list longer than memory", "(i32.store (i32.const 260) (i32.const -1)) (i32.const 256)"),
        (
            "a list outside of memory",
            "(i32.store (i32.const 256) (i32.const -64)) (i32.store (i32.const 260) (i32.const 9)) (i32.const 256)",
        ),
    ] {
        let fault = fault_of(&host, body);
        assert!(matches!(fault, Fault::Output(_)), "{what}: {fault}");
    }
    assert_eq!(host.stats().world(World::Application).bad_outputs.load(Relaxed), 5);
}

/// Ten thousand receipts that all point to the same 100 KiB: a gigabyte for the host.
#[test]
fn a_small_memory_cannot_fill_the_host() {
    let body = "(local $at i32) (local $n i32)
        (i32.store (i32.const 256) (i32.const 1024)) (i32.store (i32.const 260) (i32.const 10000))
        (local.set $at (i32.const 1024))
        (loop
          (i32.store (i32.add (local.get $at) (i32.const 4)) (i32.const 1024))
          (i32.store (i32.add (local.get $at) (i32.const 8)) (i32.const 100000))
          (local.set $at (i32.add (local.get $at) (i32.const 12)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if 0 (i32.lt_u (local.get $n) (i32.const 10000))))
        (i32.const 256)";
    let bytes = BadApplication { execute: body, ..Default::default() }.build();
    let host = host();
    let fault = execute(&*application(&host, &bytes), &[vec![]]).expect_err("it is too much");
    assert!(matches!(&fault, Fault::Output(text) if text.contains("fuel")), "{fault}");
}

#[test]
fn a_query_cannot_write() {
    let bytes = BadApplication {
        query: "(call $put (i32.const 64) (i32.const 3) (i32.const 64) (i32.const 3)) (i32.const 0)",
        ..Default::default()
    };
    let host = host();
    let fault = application(&host, &bytes.build()).query(empty_state(), &[], &[]).expect_err("it writes");
    assert_eq!(fault, Fault::Trap("state: a write in `query`".into()));
}

#[test]
fn keys_and_values_have_bounds() {
    let host = host();
    let put = |key: u32, value: u32| {
        format!(
            "(call $put (i32.const 64) (i32.const {key}) (i32.const 64) (i32.const {value})) (i32.const 0)"
        )
    };
    assert!(
        matches!(fault_of(&host, &put(0, 1)), Fault::Trap(text) if text.starts_with("state: a key of 0 bytes"))
    );
    assert!(
        matches!(fault_of(&host, &put(4097, 1)), Fault::Trap(text) if text.starts_with("state: a key of 4097"))
    );
}

#[test]
fn work_on_the_state_has_a_budget_of_its_own() {
    let mut limits = Limits::default();
    limits.application.call.state_work = 1_000_000;
    let body = "(loop (call $get (i32.const 64) (i32.const 3) (i32.const 256)) br 0) unreachable";
    assert_eq!(fault_of(&host_with(limits), body), Fault::Budget { fuel: 1_000_000 });
}

/// Writes made before a fault come back, for the caller to throw away.
#[test]
fn the_overlay_comes_back_after_a_fault() {
    let body = "(call $put (i32.const 64) (i32.const 3) (i32.const 64) (i32.const 1)) unreachable";
    let bytes = BadApplication { execute: body, ..Default::default() }.build();
    let (overlay, result) = application(&host(), &bytes).execute(empty_state(), &[], BLOCK, &[vec![]]);
    assert!(matches!(result, Err(Fault::Trap(_))));
    assert_eq!(overlay.into_writes().into_iter().next(), Some((b"\x01bad".to_vec(), Some(b"b".to_vec()))));
}

fn settings() -> Settings {
    let committee = committee();
    Settings {
        committee,
        config: vec![],
        seed: Digest::ZERO,
        schedule: vec![AuthorityIndex(0)],
        max_message_bytes: 1000,
        max_batches_in_commit: 10,
    }
}

fn committee() -> Committee {
    Committee {
        epoch: 1,
        fault_model: FaultModel::Byzantine,
        stakes: vec![1; 4],
        quorum: 3,
        validity: 2,
        me: Some(AuthorityIndex(0)),
    }
}

#[test]
fn an_engine_that_trapped_is_gone_and_another_one_works() {
    let host = host();
    let bytes = bad_engine("unreachable", "unreachable");
    let prepared = prepare(&host, &bytes, World::Engine).expect("it comes up");
    let mut engine = prepared.engine().expect("an engine");
    assert_eq!(engine.init(&settings(), None).expect("no fault").expect("no refusal"), Default::default());
    // A proof that traps the judge does not end the engine.
    assert!(engine.judge(&committee(), b"proof").is_err());
    assert!(engine.describe().is_ok());
    assert!(matches!(engine.step(1, vec![Event::Timer(1)]), Err(Fault::Trap(_))));
    assert_eq!(
        engine.step(2, vec![Event::Timer(1)]),
        Err(Fault::Trap("the instance ended at an earlier fault".into()))
    );
    drop(engine);
    let mut engine = prepared.engine().expect("an engine");
    assert!(engine.init(&settings(), None).is_ok());
}

/// An action at address 0x400: tag 2 is `set-timer`, here with `after-ms` 0; tag 0 is a
/// `vote`, whose kind of slot is the host's.
#[test]
fn an_engine_that_breaks_its_contract_is_gone() {
    let host = host();
    let timer = "(i32.store (i32.const 264) (i32.const 0x400)) (i32.store (i32.const 268) (i32.const 1))
        (i32.store8 (i32.const 0x400) (i32.const 2)) (i64.store (i32.const 0x408) (i64.const 9))
        (i32.const 256)";
    let bytes = bad_engine(timer, "(i32.const 0)");
    let mut engine = prepare(&host, &bytes, World::Engine).expect("it comes up").engine().expect("an engine");
    engine.init(&settings(), None).expect("no fault").expect("no refusal");
    assert_eq!(engine.judge(&committee(), &[]), Ok(None));
    assert_eq!(engine.step(1, vec![Event::Draining]), Err(Fault::Output("timer 9 after 0 ms".into())));
    assert!(engine.describe().is_err());
}

#[test]
fn engines_leave_room_for_calls() {
    let host = host_with(Limits { instances: 4, ..Limits::default() });
    let prepared =
        prepare(&host, &bad_engine("unreachable", "(i32.const 0)"), World::Engine).expect("it comes up");
    let mut engines = vec![prepared.engine().expect("one"), prepared.engine().expect("two")];
    let error = prepared.engine().err().expect("there is no room");
    assert!(error.to_string().contains("2 engines run already"), "{error}");
    assert_eq!(engines[0].judge(&committee(), &[]), Ok(None));
    assert!(execute(&*application(&host, &module("null")), &[vec![]]).is_ok());
    engines.pop();
    prepared.engine().expect("a place was given back");
}
