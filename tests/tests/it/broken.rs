//! Engines that are wrong on purpose, in office: a quorum gives each of them up and goes on with
//! the fallback. Nothing forks and nothing that was acknowledged is lost.

use std::time::Duration;

use moult_broken::Kind;
use moult_hostile::BROKEN;
use moult_tests::blocks::{assert_one_audited_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Pauses, Plan};
use moult_tests::wait::{LONG, until};
use serde_json::{Value, json};

use crate::change::propose;
use crate::hostile::{ENDED, add};

const ALL: [usize; 4] = [0, 1, 2, 3];
const STALL_TIMEOUT_MS: u64 = 2_000;
/// Commits of each engine that are still right.
const AFTER: u64 = 10;

/// One after the other, each by an ordinary proposal while clients write and read at all nodes.
#[test]
fn every_broken_engine_is_given_up_and_the_fallback_goes_on() {
    let cluster = Setup::new(4).limit("stall_timeout_ms", STALL_TIMEOUT_MS).start();
    let load = Load::start(&cluster, &Plan::at(&ALL));
    load.until_more(50);
    let hash = add(&cluster, 0, BROKEN);
    for (place, kind) in Kind::ALL.into_iter().enumerate() {
        let epoch = swap_in(&cluster, place % 4, kind, &hash);
        let pause = until_given_up(&cluster, &load, kind, epoch);
        println!(
            "{:14} given up in epoch {epoch}; no write was acknowledged for {:.1} s, the stall timeout is {:.1} s",
            kind.name(),
            pause.as_secs_f64(),
            Duration::from_millis(STALL_TIMEOUT_MS).as_secs_f64(),
        );
        for index in ALL {
            let epochs: Vec<Value> = cluster.client(index).get("/v1/epochs").expect("epochs");
            let aborts = &epochs.last().expect("an epoch")["aborts"];
            assert_eq!(aborts[0]["failed"], Value::from(hash.as_str()), "node {index}: {aborts}");
        }
    }
    load.finish(&cluster, 1);
    assert_one_audited_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}

/// Proposes it with a fallback that works; the epoch that begins with it.
fn swap_in(cluster: &Cluster, proposer: usize, kind: Kind, hash: &str) -> u64 {
    let config = format!("broken={}\nafter={AFTER}\n", kind.name());
    let change = json!({
        "modules": { "engine": { "hash": hash, "config": config } },
        "fallbacks": [{ "hash": cluster.module("pbft") }],
    });
    let proposal = propose(cluster, proposer, &change);
    let ended = cluster.until_proposal(proposer, proposal.id, &ENDED);
    assert_eq!(ended.state, "active", "{}: {ended:?}", kind.name());
    ended.new_epoch
}

/// Waits until all nodes are in a fallback of the epoch and clients write again; the longest time
/// without an acknowledgement.
fn until_given_up(cluster: &Cluster, load: &Load, kind: Kind, epoch: u64) -> Duration {
    let mut pauses = Pauses::of(load);
    for index in ALL {
        let mut client = cluster.client(index);
        until(&format!("node {index} gives up `{}`", kind.name()), LONG, || {
            pauses.look();
            let status = client.status().map_err(|e| e.to_string())?;
            let is_there = status.epoch == epoch && status.phase > 0;
            if is_there { Ok(()) } else { Err(status.line()) }
        });
    }
    let goal = load.acknowledged() + 30;
    until(&format!("the fallback of `{}` commits", kind.name()), LONG, || {
        pauses.look();
        if load.acknowledged() >= goal { Ok(()) } else { Err(format!("{} of {goal}", load.acknowledged())) }
    });
    pauses.look()
}
