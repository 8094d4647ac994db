//! Nodes that die without warning.

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::Cluster;
use moult_tests::load::{Load, Plan};
use moult_tests::wait::{LONG, until};

use crate::change::{modules, propose};

const ALL: [usize; 4] = [0, 1, 2, 3];

#[test]
fn leader_follower_and_then_all_nodes_are_killed_under_load() {
    let mut cluster = Cluster::of_four();
    let load = Load::start(&cluster, &Plan::at(&ALL));
    load.until_more(50);

    // Each leader in turn: whoever came back has to take part, or the next loss stops the rest.
    for _ in 0..3 {
        let leader = cluster.leader();
        cluster.kill(leader);
        load.until_more(30);
        cluster.start(leader);
        cluster.until_progress(leader);
        // Its engine orders by itself again, and does not only follow certificates.
        cluster.until_status(leader, "ordering again", |s| s.leader.is_some());
    }
    let leader = cluster.leader();
    let follower = ALL.into_iter().find(|&i| i != leader).expect("four nodes");
    cluster.kill(follower);
    load.until_more(30);
    cluster.start(follower);
    cluster.until_progress(follower);

    // Nothing that is only in some memory survives this.
    for _ in 0..2 {
        cluster.kill_all(&ALL);
        cluster.start_all(&ALL);
        load.until_more(50);
    }
    load.finish(&cluster, 0);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}

#[test]
fn two_of_four_are_away_and_nothing_is_acknowledged_until_one_is_back() {
    let mut cluster = Cluster::of_four();
    let load = Load::start(&cluster, &Plan::at(&[0, 1]));
    load.until_more(20);
    cluster.kill_all(&[2, 3]);
    let before = cluster.client(0).status().expect("it answers").global_final_index;
    // What was under way may still become final; then the chain stands still.
    let read = cluster.client(1).read("first");
    assert_eq!(read.expect_err("no quorum").status(), Some(503));
    let stands = cluster.client(0).status().expect("it answers").global_final_index;
    assert!(stands <= before + 64, "blocks became final without a quorum: {before} .. {stands}");
    cluster.start(3);
    load.until_more(20);
    cluster.start(2);
    load.finish(&cluster, 2);
    assert_one_chain(&cluster, &ALL);
}

#[test]
fn one_node_and_then_all_are_killed_around_the_barrier() {
    let mut cluster = Cluster::of_four();
    let load = Load::start(&cluster, &Plan::at(&ALL));
    load.until_more(20);

    // One dies when the barrier is known to it.
    propose(&cluster, 0, &modules(&cluster, &[("engine", "pbft-reverse")]));
    until_scheduled(&cluster, 1, 0);
    cluster.kill(1);
    cluster.until_epoch(&[0, 2, 3], 1);
    cluster.start(1);
    cluster.until_epoch(&[1], 1);

    // All die when the barrier is known to one of them.
    propose(&cluster, 2, &modules(&cluster, &[("engine", "pbft")]));
    until_scheduled(&cluster, 2, 1);
    cluster.kill_all(&ALL);
    cluster.start_all(&ALL);
    cluster.until_epoch(&ALL, 2);
    load.until_more(20);

    // All die when the first of them has switched.
    propose(&cluster, 3, &modules(&cluster, &[("engine", "pbft-reverse")]));
    cluster.until_epoch(&[3], 3);
    cluster.kill_all(&ALL);
    cluster.start_all(&ALL);
    cluster.until_epoch(&ALL, 3);
    load.until_more(20);

    load.finish(&cluster, 1);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}

/// Waits for a barrier, or for the switch if that was quicker.
fn until_scheduled(cluster: &Cluster, index: usize, epoch: u64) {
    let mut client = cluster.client(index);
    until("a barrier is scheduled", LONG, || {
        let status = client.status().map_err(|e| e.to_string())?;
        if status.barrier.is_some() || status.epoch > epoch { Ok(()) } else { Err("not yet".into()) }
    });
}
