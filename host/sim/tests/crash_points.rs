//! A crash at every sync of a run with two epoch changes, of one node and of all at once. Each
//! sync is tried in one of its phases; with `MOULT_SIM_EVERY_POINT` set, in each of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use moult_sim::{CrashPoint, Phase, Plan, run_seed};

/// A run with at least two switches.
const SEED: u64 = 5;

#[test]
fn a_crash_at_any_point_breaks_nothing() {
    let calm = run_seed(SEED, &Plan::switch()).unwrap();
    assert!(calm.switches >= 2, "{calm}");
    let mut points = Vec::new();
    let every = std::env::var_os("MOULT_SIM_EVERY_POINT").is_some();
    for node in [Some(1), None] {
        for group in 0..calm.groups[node.unwrap_or(0)] {
            let due = |place: &u64| every || (group + place).is_multiple_of(Phase::ALL.len() as u64);
            let phases = (0_u64..).zip(Phase::ALL).filter(|(place, _)| due(place));
            points.extend(phases.map(|(_, phase)| CrashPoint { node, group, phase }));
        }
    }
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let plan = Plan { crash_point: Some(*point), ..Plan::switch() };
                    if let Err(violation) = run_seed(SEED, &plan) {
                        failures.lock().unwrap().push(format!("{point:?}: {violation}"));
                    }
                }
            });
        }
    });
    println!("{} points, {} groups a node, {}", points.len(), calm.groups[0], calm);
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), points.len(), failures.join("\n"));
}
