//! G11: applications that lie about the state, or do not take it over. What a proposal's
//! rehearsal makes of these is in `tests/tests/it/hostile.rs`.

use moult_core::ports::Fault;
use moult_hostile::guest;

use crate::common::*;

#[test]
fn an_upgrade_that_refuses_traps_or_does_not_end() {
    let host = host();
    let refuses = application(&host, &guest("upgrade-refuses"));
    let (_, result) = refuses.upgrade(empty_state(), &[], None);
    assert_eq!(result, Ok(Err("I do not like this state".into())));

    let traps = application(&host, &guest("upgrade-traps"));
    let (overlay, result) = traps.upgrade(empty_state(), &[], None);
    assert!(matches!(result, Err(Fault::Trap(_))), "{result:?}");
    // What it wrote comes back apart from the state it was given: the caller drops it.
    assert_eq!(overlay.into_writes().len(), 1);

    let loops = application(&host, &guest("upgrade-loops"));
    let (_, result) = timed(|| loops.upgrade(empty_state(), &[], None));
    assert_eq!(result, Err(Fault::Budget { fuel: FUEL }));
    lives(&host);
}

#[test]
fn a_query_cannot_write() {
    let host = host();
    let hostile = application(&host, &guest("writes-in-query"));
    let fault = hostile.query(empty_state(), &[], &[]).expect_err("it writes");
    assert_eq!(fault, Fault::Trap("state: a write in `query`".into()));
    lives(&host);
}

/// A mebibyte under key after key: the work on the state has a budget, and with it what a
/// block can make the host hold.
#[test]
fn a_flood_of_writes() {
    let mut limits = limits();
    limits.application.call.state_work = 100_000_000;
    let host = host_with(limits);
    let hostile = application(&host, &guest("state-flood"));
    let (overlay, result) = timed(|| hostile.execute(empty_state(), &[], BLOCK, &[vec![]]));
    assert_eq!(result, Err(Fault::Budget { fuel: 100_000_000 }));
    let written: usize = overlay.into_writes().into_values().flatten().map(|value| value.len()).sum();
    assert!(written <= 100_000_000, "{written} bytes");
    lives(&host);
}
