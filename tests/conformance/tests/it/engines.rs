//! Every engine of this repository, natively.

use moult_conformance::{Check, Factory, Native, Plan, Seeds, conform, draw};
use moult_pbft::Pbft;
use moult_raft::Raft;
use moult_sdk::FaultModel;

/// Seeds to run: 300 from 0, or what `MOULT_CONFORM_SEEDS` and `MOULT_CONFORM_FROM` say.
fn seeds() -> Seeds {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    Seeds::new(number("MOULT_CONFORM_FROM").unwrap_or(0), number("MOULT_CONFORM_SEEDS").unwrap_or(300))
}

/// Bugs that are known and not fixed yet: what may fail because of them. Everything else
/// must pass, and so must this once it is empty.
struct Open {
    /// Probes and scenarios.
    items: &'static [&'static str],
    /// Properties that seeds may break.
    checks: &'static [Check],
}

/// No bug is known.
const NONE: Open = Open { items: &[], checks: &[] };

/// The tests that an engine has to pass: one line for each engine.
macro_rules! engine_conforms {
    ($name:ident, $engine:ty, $open:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn passes_the_probes_and_all_scenarios() {
                let plan = Plan { seeds: None, ..Plan::default() };
                let report = conform(&Native::<$engine>::new(), &plan, &mut |_| {});
                assert!(report.failed().iter().all(|name| $open.items.contains(name)), "{report}");
            }

            #[test]
            fn passes_the_seeds() {
                let plan = Plan { failures_max: u64::MAX, ..Plan::of_seeds(seeds()) };
                let report = conform(&Native::<$engine>::new(), &plan, &mut |_| {});
                let seeds = report.seeds.as_ref().expect("the plan has seeds");
                println!("{seeds}");
                assert!(
                    seeds.failures.iter().all(|failure| $open.checks.contains(&failure.check)),
                    "{report}"
                );
                assert_eq!(seeds.count, plan.seeds.expect("the plan has seeds").count);
                assert!(seeds.tally.height_min >= Some(50) || !$open.checks.is_empty(), "{seeds}");
            }

            #[test]
            fn gives_the_same_run_for_the_same_seed() {
                let factory = Native::<$engine>::new();
                let models = factory.instance().unwrap().describe().unwrap().fault_models;
                for seed in 0..5 {
                    let hash = || traced(&factory, &models, seed);
                    assert_eq!(hash(), hash());
                    assert_ne!(hash(), traced(&factory, &models, seed + 1));
                }
            }
        }
    };
}

fn traced(factory: &dyn Factory, models: &[FaultModel], seed: u64) -> u64 {
    let mut drawn = draw(&Seeds::new(0, 1), models, &factory.tuning(), seed);
    drawn.setup.trace_lines = Some(0);
    drawn.run(factory).hash
}

engine_conforms!(pbft, Pbft, NONE);
engine_conforms!(raft, Raft, NONE);
