//! Runs whose outcome only this engine's gauges show.

use moult_conformance::{Factory, Native, Quality, Setup, World};
use moult_pbft::Pbft;
use moult_sdk::FaultModel;

/// The engine under test.
pub(crate) const ENGINE: &dyn Factory = &Native::<Pbft>::new();

const VIEW: u32 = 0;
const STABLE: u32 = 2;
const WAITING: u32 = 4;
const REPLICAS: u32 = 6;

#[test]
fn a_calm_committee_of_any_size_stays_in_view_zero_and_comes_to_rest() {
    for size in [1, 4, 5, 7, 10] {
        let setup = Setup { seed: size, ..Setup::new(&vec![1; size as usize], FaultModel::Byzantine) };
        let mut world = World::new(ENGINE, setup).unwrap();
        for i in 0..500 {
            world.submit((i % size) as u32, false);
            world.run(4).unwrap();
        }
        world.settle(10_000).unwrap();
        assert!(world.run_until(600_000, World::is_at_rest).unwrap(), "{size} never come to rest");
        for node in world.honest() {
            let gauge = |number| world.gauge(node, number);
            assert_eq!((gauge(VIEW), gauge(WAITING), gauge(REPLICAS)), (Some(0), Some(0), Some(size)));
            assert!(gauge(STABLE) >= Some(100), "{:?}", gauge(STABLE));
        }
    }
}

#[test]
fn a_dead_leader_is_replaced() {
    for seed in 0..20 {
        let config = "checkpoint_interval=5\nwindow=20\npipeline=2\nview_timeout_ms=200\nretransmit_ms=60\n";
        let setup = Setup {
            seed,
            config: config.as_bytes().to_vec(),
            dead: vec![0],
            quality: Quality { loss: 10, ..Quality::GOOD },
            ..Setup::new(&[1; 4], FaultModel::Byzantine)
        };
        let mut world = World::new(ENGINE, setup).unwrap();
        for i in 0..100 {
            world.submit(1 + i % 3, false);
            world.run(20).unwrap();
        }
        world.settle(60_000).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let highest = |number| world.honest().filter_map(|node| world.gauge(node, number)).max();
        assert!(highest(VIEW) >= Some(1) && highest(STABLE) >= Some(5), "seed {seed}");
    }
}
