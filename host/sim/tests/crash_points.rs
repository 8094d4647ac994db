//! A crash at every point of a run with two epoch changes: one node at each of its syncs and
//! in each phase of them, and all nodes at once.

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
    for (node, stride) in [(Some(1), 1), (None, 3)] {
        for group in (0..calm.groups[node.unwrap_or(0)]).step_by(stride) {
            points.extend(Phase::ALL.map(|phase| CrashPoint { node, group, phase }));
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
