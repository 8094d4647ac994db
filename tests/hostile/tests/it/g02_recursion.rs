//! G2: recursion without end, and a guest that enters the host from within its own entry.

use moult_core::ports::Fault;
use moult_hostile::guest;

use crate::common::*;

#[test]
fn recursion_without_end() {
    let host = host();
    for name in ["recursion", "recursion-indirect", "wide-frames"] {
        let fault = fault_of(&host, &guest(name));
        assert_eq!(fault, Fault::Trap("call stack exhausted".into()), "{name}");
    }
}

/// Threads of a node have stacks of their own sizes: none of them matters.
#[test]
fn recursion_on_a_small_thread() {
    let host = host();
    let hostile = application(&host, &guest("recursion"));
    std::thread::scope(|scope| {
        let small = std::thread::Builder::new().stack_size(2 << 20);
        let ended = small.spawn_scoped(scope, || execute(&*hostile, &[])).expect("a thread").join();
        assert_eq!(ended.expect("no panic"), Err(Fault::Trap("call stack exhausted".into())));
    });
    lives(&host);
}

#[test]
fn a_call_of_the_host_while_the_host_calls() {
    let fault = fault_of(&host(), &guest("reentry"));
    assert!(matches!(&fault, Fault::Trap(text) if text.contains("cannot leave component")), "{fault}");
}
