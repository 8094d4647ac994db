//! Seeded runs: whatever the faults, the nodes agree, and once they end all is committed.

use crate::net::{Net, Options, Report, run};
use crate::rng::Rng;

/// A run with faults of every kind, all drawn from the seed.
pub(crate) fn storm(seed: u64) -> Options {
    let mut rng = Rng(seed ^ 0x5eed);
    let size = rng.pick(&[1, 2, 3, 3, 4, 5, 5, 7]);
    let unequal = rng.percent(40);
    let stakes: Vec<u64> = (0..size).map(|_| if unequal { rng.range(1, 5) } else { 1 }).collect();
    let window = rng.range(8, 40);
    let pipeline = rng.range(1, 8);
    let retained = rng.pick(&[0, 3, 20, 256]);
    let pace = Rng(seed).pick(&[0, 10, 40]);
    Options {
        seed,
        stakes,
        config: format!("window={window}\npipeline={pipeline}\npace_ms={pace}\nretained={retained}\n"),
        batches: rng.range(20, 200),
        loss: rng.pick(&[0, 2, 10, 25]),
        duplicates: rng.pick(&[0, 10]),
        delay: rng.pick(&[(1, 5), (1, 30), (5, 150)]),
        crashes: rng.pick(&[0, 5, 30, 100]),
        blackouts: rng.pick(&[0, 0, 1, 3]),
        partitions: rng.pick(&[0, 0, 1, 3, 8]),
        late: rng.pick(&[0, 10, 40]),
        catch_up_ms: rng.pick(&[50, 250, 2_000]),
        faults_until: 6_000,
        end: 60_000,
        limits: (rng.pick(&[91, 400, 65_536]), rng.pick(&[1, 3, 64])),
    }
}

/// A run without faults.
pub(crate) fn calm(seed: u64, size: u64) -> Options {
    Options {
        seed,
        stakes: vec![1; size as usize],
        config: String::new(),
        batches: 300,
        loss: 0,
        duplicates: 0,
        delay: (1, 5),
        crashes: 0,
        blackouts: 0,
        partitions: 0,
        late: 0,
        catch_up_ms: 1_000,
        faults_until: 3_000,
        end: 8_000,
        limits: (65_536, 64),
    }
}

fn seeds() -> u64 {
    std::env::var("RAFT_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(300)
}

#[test]
fn storms_end_in_agreement_with_everything_committed() {
    let reports: Vec<Report> = (0..seeds())
        .map(|seed| run(storm(seed)).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{:#?}", storm(seed))))
        .collect();
    let sum = |f: fn(&Report) -> u64| reports.iter().map(f).sum::<u64>();
    // The storms are worth something only if all of this happens in them.
    assert!(sum(|r| r.terms) > 500 && sum(|r| r.jumps) > 50);
    assert!(sum(|r| r.restarts) > 100 && sum(|r| r.truncations) > 100);
    // A batch is ordered twice only by a leader that was carried past what it did not see.
    for (seed, report) in (0..).zip(&reports) {
        assert!(report.repeats == 0 || !storm(seed).config.contains("retained=256"), "seed {seed}");
    }
}

#[test]
fn a_calm_committee_of_any_size_keeps_its_first_leader() {
    for size in [1, 2, 3, 4, 5, 7] {
        let mut net = Net::new(calm(size, size), Vec::new()).unwrap();
        while net.turn().unwrap() {}
        assert_eq!(net.agreed.values().flatten().count(), 300, "{size}");
        // The first entry of the term found no batches; no other is empty.
        assert!(net.agreed.values().filter(|b| b.is_empty()).count() <= 1);
        for node in &net.nodes {
            let g = |n: u32| node.gauges[&n];
            assert_eq!((g(0), g(5), g(6), g(7)), (1, 0, size, u64::from(size % 2 == 0)), "{size}");
            assert_eq!((g(3), g(9)), (net.last_final, (size - 1) / 2));
        }
        let roles = |role| net.nodes.iter().filter(|n| n.gauges[&1] == role).count() as u64;
        assert_eq!((roles(2), roles(0)), (1, size - 1));
        assert_eq!((net.nodes[0].gauges[&1], net.nodes[0].gauges[&2]), (2, 1));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        assert_eq!(run(storm(seed)), run(storm(seed)));
    }
}
