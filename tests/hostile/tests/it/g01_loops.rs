//! G1: calls that do not end. Each ends with its budget; the watchdog takes what fuel misses.

use std::sync::atomic::Ordering::Relaxed;

use moult_core::ports::Fault;
use moult_hostile::{guest, module};
use moult_module::ModuleError;
use moult_sdk::engine::Event;
use moult_types::World;

use crate::common::*;

const OUT: Fault = Fault::Budget { fuel: FUEL };

#[test]
fn a_loop_ends_with_its_fuel() {
    let host = host();
    assert_eq!(fault_of(&host, &guest("loop-in-execute")), OUT);
    let stats = host.stats().world(World::Application);
    assert_eq!(stats.budget_stops.load(Relaxed), 1);
    assert!(stats.fuel.load(Relaxed) > FUEL * 9 / 10);
}

#[test]
fn a_loop_while_the_host_hands_over_arguments() {
    assert_eq!(fault_of(&host(), &guest("loop-in-realloc")), OUT);
}

#[test]
fn a_loop_after_the_answer() {
    assert_eq!(fault_of(&host(), &guest("loop-in-post-return")), OUT);
}

#[test]
fn a_loop_before_it_is_up_or_has_a_name() {
    for (name, word) in [("loop-in-start", "fuel"), ("loop-in-describe", "describe: the module used up")] {
        let error = refusal_of(&host(), &guest(name), World::Application);
        assert!(
            matches!(&error, ModuleError::Contract { problem, .. } if problem.contains(word)),
            "{name}: {error}"
        );
    }
}

#[test]
fn an_engine_that_loops() {
    let host = host();
    let mut looping = started(&host, "loop-in-engine");
    assert_eq!(timed(|| looping.step(1, vec![Event::Draining])), Err(OUT));
    // The instance is gone, at once and for good.
    let again = looping.step(2, vec![Event::Draining]).expect_err("it is gone");
    assert!(matches!(&again, Fault::Trap(text) if text.contains("ended at an earlier fault")), "{again}");
    let mut judge = started(&host, "loop-in-engine");
    assert_eq!(timed(|| judge.judge(&committee(), &[1])), Err(OUT));
    let mut init = engine(&host, "loop-in-init");
    assert_eq!(timed(|| init.init(&settings(), None)).expect_err("it loops"), OUT);
    lives(&host);
}

#[test]
fn a_thousand_million_tiny_calls() {
    let mut limits = limits();
    limits.application.call.state_work = 1_000_000;
    assert_eq!(fault_of(&host_with(limits), &guest("tiny-calls")), Fault::Budget { fuel: 1_000_000 });
}

#[test]
fn what_fuel_does_not_stop_the_watchdog_stops() {
    let mut limits = limits();
    limits.application.call.fuel = u64::MAX;
    limits.application.call.watchdog_ms = 100;
    let fault = fault_of(&host_with(limits), &guest("loop-in-execute"));
    assert_eq!(fault, Fault::Watchdog { limit_ms: 100 });
    // A local stop decides nothing that is replicated.
    assert!(!fault.is_deterministic());
}

/// Many loops at once end as one does, and none takes the place of a good module for good.
#[test]
fn loops_side_by_side() {
    let mut limits = limits();
    limits.instances = 4;
    let host = host_with(limits);
    let hostile = application(&host, &guest("loop-in-execute"));
    let good = application(&host, &module("null"));
    std::thread::scope(|scope| {
        let loops: Vec<_> = (0..6).map(|_| scope.spawn(|| execute(&*hostile, &[vec![1]]))).collect();
        assert!(execute(&*good, &[vec![1]]).is_ok());
        for ended in loops {
            assert_eq!(ended.join().expect("no panic"), Err(OUT));
        }
    });
    lives(&host);
}
