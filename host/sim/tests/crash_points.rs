//! A crash at every sync of a run with two epoch changes, of one node and of all at once; and
//! within every group that votes on a change, says that it may come, or switches the epoch, at
//! every single write: before it, behind it, and with everything up to it torn off.
//!
//! Other groups are tried in one phase each; with `MOULT_SIM_EVERY_POINT` set, in all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use moult_sim::{CrashPoint, Group, Modules, Phase, Plan, run};

/// Runs that may hold two switches; the first one that does is taken.
const SEEDS: u64 = 40;

/// Everywhere within a group that a crash can leave another disk behind.
fn all_within(node: Option<usize>, group: u64, size: Group) -> Vec<CrashPoint> {
    let at = |phase, kept| CrashPoint { node, group, phase, kept };
    let whole = Phase::ALL.into_iter().filter(|phase| !matches!(phase, Phase::Torn | Phase::StoreSynced));
    let mut points: Vec<_> = whole.map(|phase| at(phase, None)).collect();
    points.extend((0..=size.store).map(|kept| at(Phase::Torn, Some((kept, 0)))));
    points.extend((0..=size.guard).map(|kept| at(Phase::StoreSynced, Some((size.store, kept)))));
    points
}

fn crash_everywhere(modules: &Modules) {
    let every = std::env::var_os("MOULT_SIM_EVERY_POINT").is_some();
    let calm = |seed| run(seed, &Plan::switch(), modules, false).unwrap();
    let (seed, calm) =
        (0..SEEDS).map(|seed| (seed, calm(seed))).find(|(_, calm)| calm.switches >= 2).unwrap();
    let (mut points, mut changes) = (Vec::new(), 0);
    for node in [Some(1), None] {
        for (group, size) in (0_u64..).zip(&calm.groups[node.unwrap_or(0)]) {
            if size.is_change {
                changes += 1;
                points.extend(all_within(node, group, *size));
                continue;
            }
            let due = |place: &u64| every || (group + place).is_multiple_of(Phase::ALL.len() as u64);
            let phases = (0_u64..).zip(Phase::ALL).filter(|(place, _)| due(place));
            points.extend(phases.map(|(_, phase)| CrashPoint { node, group, phase, kept: None }));
        }
    }
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let plan = Plan { crash_point: Some(*point), ..Plan::switch() };
                    if let Err(violation) = run(seed, &plan, modules, false) {
                        failures.lock().unwrap().push(format!("{point:?}: {violation}"));
                    }
                }
            });
        }
    });
    println!("{} points, {changes} groups of changes, of seed {seed}: {calm}", points.len());
    assert!(changes >= 12, "only {changes} groups vote or switch");
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), points.len(), failures.join("\n"));
}

#[test]
fn a_crash_at_any_point_breaks_nothing_with_pbft() {
    crash_everywhere(&Modules::pbft());
}

#[test]
fn a_crash_at_any_point_breaks_nothing_with_raft() {
    crash_everywhere(&Modules::raft());
}
