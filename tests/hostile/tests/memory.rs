//! What hostile modules come to in this process' memory: a program of its own with one test,
//! so that nothing else is measured.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_core::ports::Fault;
use moult_hostile::{guest, module};
use moult_module::{Compile, HostConfig, Limits, ModuleHost};
use moult_sdk::application::Block;
use moult_types::state::Overlay;
use moult_types::{ModuleHash, World};

/// What the host may take on top of a guest's own memory.
const OVER_CAP_MIB: u64 = 16;
const GUEST_MEMORY_MIB: u64 = 64;

/// The highest resident memory of this process so far, in MiB; `reset` forgets it.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a system with /proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") >> 10
}

fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
}

#[test]
fn bombs_stay_within_the_caps() {
    let mut limits = Limits { instances: 4, ..Limits::default() };
    limits.application.memory_bytes = (GUEST_MEMORY_MIB << 20) as usize;
    limits.application.output_bytes = 8 << 20;
    limits.application.call.fuel = 200_000_000;
    limits.application.call.state_work = 8 << 20;
    let config = HostConfig { cache_dir: None, cache_key: [7; 32], compile: Compile::InProcess, limits };
    let host = ModuleHost::new(config).expect("a host");
    let run = |bytes: &[u8]| {
        let prepared = host.prepare(bytes.into(), ModuleHash::of(bytes), World::Application);
        let application = prepared.expect("it comes up").application().expect("an application");
        let state = Overlay::new(Arc::new(BTreeMap::new()), 1);
        let block = Block { global_index: 1, epoch: 1, time_ms: 1 };
        move || application.execute(state.clone(), &[], block, &[vec![1]]).1
    };
    for (name, cap_mib) in [
        ("memory-touch", GUEST_MEMORY_MIB),
        ("list-of-4-gib", 0),
        ("list-outside", 0),
        ("gigabyte-of-aliases", 0),
        ("state-flood", 2),
        ("table-grow", 1),
        ("recursion", 1),
    ] {
        let call = run(&guest(name));
        reset_peak();
        let before = peak_mib();
        let result = call();
        let more = peak_mib().saturating_sub(before);
        println!("{name}: {more} MiB, {:?}", result.as_ref().map(Vec::len));
        assert!(more <= cap_mib + OVER_CAP_MIB, "{name} took {more} MiB over {before} MiB");
        let grows = name.ends_with("grow") || name == "memory-touch";
        assert_eq!(result.is_ok(), grows, "{name}: {result:?}");
        assert!(!matches!(result, Err(Fault::Watchdog { .. })), "{name}: {result:?}");
    }
    assert!(run(&module("null"))().is_ok());
}
