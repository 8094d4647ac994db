//! G3: memory, tables, instances and data beyond what there is. What all of it comes to in
//! this process' memory is measured in `tests/memory.rs`.

use moult_core::ports::Fault;
use moult_hostile::guest;
use moult_module::{Limits, ModuleError};
use moult_types::World;

use crate::common::*;

#[test]
fn memory_and_tables_grow_to_the_limit_and_no_further() {
    let host = host();
    // 2 pages at first, 16 more each time, 4,096 at most; 1 entry, then 100 each time.
    for (name, end) in [("memory-grow", 4082), ("table-grow", 19_901)] {
        let application = application(&host, &guest(name));
        for _ in 0..3 {
            let receipts = execute(&*application, &[vec![]]).expect("it stops by itself");
            assert_eq!(receipts[0].code, end, "{name}");
        }
    }
    lives(&host);
}

#[test]
fn more_than_there_is_before_it_runs() {
    let host = host();
    for (name, what, has) in [
        ("memory-at-once", "bytes of initial memory", 4097 << 16),
        ("five-memories", "memories", 5),
        ("table-at-once", "entries in a table", 20_001),
    ] {
        let error = refusal_of(&host, &guest(name), World::Application);
        let ModuleError::Resources { what: found, has: counted, .. } = &error else {
            panic!("{name}: {error}")
        };
        assert_eq!((*found, *counted), (what, has), "{name}");
    }
    // Its own table and 33 more.
    let error = refusal_of(&host, &guest("many-tables"), World::Application);
    assert!(matches!(error, ModuleError::Resources { what: "tables", limit: 32, .. }), "{error}");
}

#[test]
fn too_many_core_modules_and_instances() {
    let host = host();
    let text = |inside: &str, count: usize| format!("(component {})", inside.repeat(count));
    let refused = |text: &str| {
        let bytes = wat::parse_str(text).expect("text");
        refusal_of(&host, &bytes, World::Engine)
    };
    let error = refused(&text("(core module)", 33));
    assert!(
        matches!(error, ModuleError::Resources { what: "core modules", has: 33, limit: 32, .. }),
        "{error}"
    );
    // One module, 900 instances of it, behind the right export.
    let many = format!(
        "(component (core module $m (memory 1)) {} (instance $i) (export \"moult:engine/engine@0.1.0\" (instance $i)))",
        "(core instance (instantiate $m))".repeat(900)
    );
    let error = refused(&many).to_string();
    assert!(
        error.contains("900 core module instances, which exceeds the configured maximum of 32"),
        "{error}"
    );
    // Components within components, each with two of the next.
    let mut nested = "(component)".to_owned();
    for _ in 0..12 {
        nested = format!(
            "(component (component $c {}) (instance (instantiate $c)) (instance (instantiate $c)))",
            &nested["(component".len()..nested.len() - 1]
        );
    }
    let error = refused(&nested);
    assert!(matches!(error, ModuleError::Invalid { .. } | ModuleError::MissingExport { .. }), "{error}");
}

#[test]
fn data_that_does_not_fit() {
    let host = host();
    let error = refusal_of(&host, &guest("data-beyond-memory"), World::Application);
    assert!(
        matches!(&error, ModuleError::Contract { problem, .. } if problem.contains("out of bounds")),
        "{error}"
    );
}

/// Twenty mebibytes of data are a large module and no bomb: they count once, as memory.
#[test]
fn large_data() {
    let host = host();
    let data = format!("(memory $memory 400)\n(data (i32.const 8192) \"{}\")", "x".repeat(20 << 20));
    let bytes = moult_hostile::component(
        World::Application,
        moult_hostile::fill(World::Application, &format!("{data}\n{}", EMPTY_ANSWER)),
    );
    let large = application(&host, &bytes);
    assert_eq!(execute(&*large, &[]), Ok(vec![]));
    let small = Limits { module_bytes: 10 << 20, ..limits() };
    let error = refusal_of(&host_with(small), &bytes, World::Application);
    assert!(matches!(error, ModuleError::TooLarge { limit: 10_485_760, .. }), "{error}");
}

const EMPTY_ANSWER: &str = "(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (i32.const 0))";

#[test]
fn engines_leave_room_for_calls() {
    let host = host_with(Limits { instances: 4, ..limits() });
    let prepared = prepare(&host, &guest("trap-in-step"), World::Engine).expect("it comes up");
    let mut engines = vec![prepared.engine().expect("one"), prepared.engine().expect("two")];
    let error = prepared.engine().err().expect("there is no room");
    assert!(matches!(error, ModuleError::Busy { limit: 2, .. }), "{error}");
    assert!(matches!(engines[0].judge(&committee(), &[]), Err(Fault::Trap(_))));
    lives(&host);
    engines.pop();
    prepared.engine().expect("a place was given back");
}
