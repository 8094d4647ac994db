//! Random failures while engines are swapped; `MOULT_TESTS_SEED` chooses which, and
//! `MOULT_TESTS_ROUNDS` how many.

#![allow(clippy::disallowed_methods, reason = "times in messages, for people")]

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Plan};
use moult_tests::rng::Rng;
use serde_json::json;

const ALL: [usize; 4] = [0, 1, 2, 3];

#[test]
fn random_failures_while_engines_are_swapped() {
    let seed = number("MOULT_TESTS_SEED", 1);
    let mut rng = Rng::new(seed);
    let mut cluster = Setup::new(4).start();
    let engines = [cluster.module("pbft"), cluster.module("pbft-reverse")];
    let began = std::time::Instant::now();
    let load = Load::start(&cluster, &Plan { seed: seed % 1000 + 1, ..Plan::at(&ALL) });
    for round in 0..number("MOULT_TESTS_ROUNDS", 12) {
        let victim = rng.below(4) as usize;
        let other = (victim + 1 + rng.below(3) as usize) % 4;
        let action = rng.below(6);
        let at = began.elapsed().as_secs_f64();
        eprintln!("storm {seed}: {at:.1} s, round {round}, action {action}, nodes {victim} and {other}");
        if rng.below(2) == 0 {
            swap(&cluster, other, &engines);
        }
        match action {
            0 | 1 => {
                cluster.kill(victim);
                load.until_more(rng.below(20));
                cluster.start(victim);
            }
            2 => {
                cluster.pause(victim);
                load.until_more(rng.below(40));
                cluster.resume(victim);
            }
            // One more than may fail: everything stands still, and goes on.
            3 => {
                cluster.kill(victim);
                cluster.pause(other);
                cluster.launch(victim);
                cluster.resume(other);
                cluster.wait_for_answer(victim);
            }
            4 => {
                cluster.kill_all(&ALL);
                cluster.start_all(&ALL);
            }
            _ => {
                assert!(cluster.stop(victim, moult_tests::wait::LONG).success());
                cluster.start(victim);
            }
        }
        load.until_more(rng.below(30));
    }
    load.finish(&cluster, rng.below(4) as usize);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}

/// Proposes the other engine; whether anything comes of it is not waited for.
fn swap(cluster: &Cluster, at: usize, engines: &[String; 2]) {
    let mut client = cluster.client(at);
    let Ok(status) = client.status() else { return };
    let next = engines.iter().find(|hash| **hash != status.engine_hash).expect("two engines");
    if let Err(failure) = client.propose(&json!({ "modules": { "engine": { "hash": next } } })) {
        // One of this node is open already, an epoch just began, or there is no quorum now.
        assert!(failure.status() != Some(400), "{failure}");
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
