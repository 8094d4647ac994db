//! Five nodes whose links are cut.

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Plan};
use moult_tests::wait::{LONG, until};

const ALL: [usize; 5] = [0, 1, 2, 3, 4];

fn others(side: &[usize]) -> Vec<usize> {
    ALL.into_iter().filter(|node| !side.contains(node)).collect()
}

/// Waits until `nodes` agree on a leader among them.
fn until_led_by_one_of(cluster: &Cluster, nodes: &[usize]) -> usize {
    until("these nodes have a leader of their own", LONG, || {
        let leader = cluster.leader_among(nodes);
        if nodes.contains(&leader) { Ok(leader) } else { Err(format!("node {leader} leads")) }
    })
}

/// No node of a side without a quorum answers a linearizable read.
fn assert_powerless(cluster: &Cluster, side: &[usize]) {
    std::thread::scope(|scope| {
        for &node in side {
            scope.spawn(move || {
                let read = cluster.client(node).read("first");
                let refusal = read.expect_err("it cannot know the last write");
                assert_eq!(refusal.status(), Some(503), "node {node}");
            });
        }
    });
}

fn finish(cluster: &Cluster, load: Load, reader: usize) {
    for node in ALL {
        cluster.until_progress(node);
        cluster.until_status(node, "ordering again", |status| status.leader.is_some());
    }
    load.until_more(30);
    load.finish(cluster, reader);
    assert_one_chain(cluster, &ALL);
    assert_same_state(cluster, &ALL);
}

#[test]
fn pbft_goes_on_without_a_leader_that_is_cut_off_and_stands_still_without_a_quorum() {
    let cluster = Setup::new(5).wired().start();
    let load = Load::start(&cluster, &Plan::at(&ALL));
    load.until_more(50);

    // Four of five are a quorum; the fifth led.
    let leader = cluster.leader();
    cluster.part(&[leader]);
    let new = until_led_by_one_of(&cluster, &others(&[leader]));
    load.until_more(30);
    assert_powerless(&cluster, &[leader]);
    cluster.heal();
    cluster.until_progress(leader);

    // Three and two: neither side may decide anything.
    let side = [new, others(&[new])[0]];
    cluster.part(&side);
    assert_powerless(&cluster, &ALL);
    let ends = || ALL.map(|node| cluster.client(node).status().expect("it answers").global_final_index);
    let before = ends();
    assert_powerless(&cluster, &ALL);
    assert_eq!(ends(), before, "blocks became final without a quorum");
    cluster.heal();
    load.until_more(30);

    // Who hears nobody is as good as gone, whatever it says.
    let leader = cluster.leader();
    cluster.deafen(leader);
    until_led_by_one_of(&cluster, &others(&[leader]));
    load.until_more(30);
    cluster.heal();
    finish(&cluster, load, leader);
}

#[test]
fn raft_elects_on_the_larger_side_and_the_old_leader_serves_nothing() {
    let cluster = Setup::new(5).genesis(&["--engine", "raft", "--fault-model", "crash"]).wired().start();
    let load = Load::start(&cluster, &Plan::at(&ALL));
    load.until_more(50);

    // The leader and one follower on one side, a quorum on the other.
    let leader = cluster.leader();
    let side = [leader, others(&[leader])[1]];
    cluster.part(&side);
    until_led_by_one_of(&cluster, &others(&side));
    load.until_more(30);
    assert_powerless(&cluster, &side);
    cluster.heal();
    side.iter().for_each(|&node| cluster.until_progress(node));

    // A leader that is heard and hears nobody steps down.
    let leader = cluster.leader();
    cluster.deafen(leader);
    until_led_by_one_of(&cluster, &others(&[leader]));
    load.until_more(30);
    assert_powerless(&cluster, &[leader]);
    cluster.heal();
    cluster.until_progress(leader);

    // A follower alone asks for nothing that disturbs the others when it is back.
    let follower = others(&[cluster.leader()])[0];
    let leads = cluster.leader();
    cluster.part(&[follower]);
    load.until_more(30);
    cluster.heal();
    cluster.until_progress(follower);
    assert_eq!(cluster.leader(), leads, "pre-vote keeps the leader");
    finish(&cluster, load, follower);
}
