//! Seeded runs: whatever the faults, the nodes agree, and once they end all is committed.

use moult_sdk::FaultModel;

use crate::attack::Attack;
use crate::rng::Rng;
use crate::sim::{Options, Report, Sim, run};

/// A run with faults of every kind, all drawn from the seed.
pub(crate) fn storm(seed: u64) -> Options {
    let mut rng = Rng(seed ^ 0x5eed);
    let size = rng.pick(&[1, 4, 4, 5, 7, 10]);
    let unequal = rng.percent(40);
    let stakes: Vec<u64> = (0..size).map(|_| if unequal { rng.range(1, 5) } else { 1 }).collect();
    let fault_model = if size > 1 && rng.percent(20) { FaultModel::Crash } else { FaultModel::Byzantine };
    let interval = rng.range(2, 10);
    let window = interval * 2 + rng.range(0, 20);
    let pipeline = rng.range(1, 8.min(window));
    let total: u64 = stakes.iter().sum();
    let tolerated = (total - 1) / 3;
    let victim = rng.range(0, size - 1) as u32;
    let can_lose_victim = fault_model == FaultModel::Byzantine && stakes[victim as usize] <= tolerated;
    let attacks = [Attack::equivocator(), Attack::Forgetter, Attack::Mute];
    let attack = attacks[rng.range(0, 2) as usize].clone();
    Options {
        seed,
        stakes,
        fault_model,
        config: format!(
            "checkpoint_interval={interval}\nwindow={window}\npipeline={pipeline}\nview_timeout_ms=200\nretransmit_ms=60\n"
        ),
        batches: rng.range(20, 120),
        loss: rng.pick(&[0, 2, 10, 25]),
        duplicates: rng.pick(&[0, 10]),
        delay: rng.pick(&[(1, 5), (1, 30), (5, 150)]),
        crashes: rng.pick(&[0, 5, 30, 100]),
        blackouts: rng.pick(&[0, 0, 1, 3]),
        partitions: rng.pick(&[0, 0, 1, 3]),
        late: rng.pick(&[0, 10, 40]),
        byzantine: (can_lose_victim && rng.percent(40)).then_some((victim, attack)),
        dead: None,
        catch_up_ms: rng.pick(&[50, 500, 2_000]),
        faults_until: 6_000,
        traced: false,
        end: 120_000,
    }
}

/// A run without faults.
pub(crate) fn calm(seed: u64, size: u64) -> Options {
    Options {
        seed,
        stakes: vec![1; size as usize],
        fault_model: FaultModel::Byzantine,
        config: String::new(),
        batches: 500,
        loss: 0,
        duplicates: 0,
        delay: (1, 5),
        crashes: 0,
        blackouts: 0,
        partitions: 0,
        late: 0,
        byzantine: None,
        dead: None,
        catch_up_ms: 1_000,
        faults_until: 3_000,
        traced: false,
        end: 20_000,
    }
}

fn runs(seeds: std::ops::Range<u64>, options: impl Fn(u64) -> Options) -> Vec<Report> {
    seeds
        .map(|seed| run(options(seed)).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{:#?}", options(seed))))
        .collect()
}

fn seeds() -> u64 {
    std::env::var("PBFT_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(400)
}

#[test]
pub(crate) fn storms_end_in_agreement_with_everything_committed() {
    let reports = runs(0..seeds(), storm);
    let sum = |f: fn(&Report) -> u64| reports.iter().map(f).sum::<u64>();
    // The storms are worth something only if all of this happens in them.
    assert!(
        sum(|r| r.views) > 100
            && sum(|r| r.jumps) > 50
            && sum(|r| r.restarts) > 100
            && sum(|r| r.stable) > 500
    );
}

#[test]
fn a_calm_committee_of_any_size_stays_in_view_zero_and_comes_to_rest() {
    for size in [1, 4, 5, 7, 10] {
        let mut sim = Sim::new(calm(size, size)).unwrap();
        while sim.turn().unwrap() {}
        sim.settle().unwrap_or_else(|e| panic!("{size}: {e} {:?}", sim.gauges));
        assert_eq!(sim.agreed.values().flatten().count(), 500);
        for gauges in &sim.gauges {
            assert_eq!((gauges[&0], gauges[&4], gauges[&6]), (0, 0, size));
            assert!(gauges[&2] >= 100, "{gauges:?}");
        }
    }
}

#[test]
fn a_dead_leader_is_replaced() {
    for seed in 0..20 {
        let config = "checkpoint_interval=5\nwindow=20\npipeline=2\nview_timeout_ms=200\nretransmit_ms=60\n"
            .to_owned();
        let options = Options { dead: Some(0), loss: 10, config, ..calm(seed, 4) };
        let report = run(options).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert!(report.views >= 1 && report.stable >= 5, "{report:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        let traced = || run(Options { traced: true, ..storm(seed) });
        assert_eq!(traced(), traced());
    }
}
