//! Another engine, while clients write and nodes fail.

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::Cluster;
use moult_tests::load::{Load, Plan};

use crate::change::{carry_through, modules, propose};

const ALL: [usize; 4] = [0, 1, 2, 3];

#[test]
fn an_engine_swap_under_load_while_a_node_is_killed_and_another_frozen() {
    let mut cluster = Cluster::of_four();
    let before = cluster.client(0).status().expect("it answers");
    let load = Load::start(&cluster, &Plan::at(&ALL));
    load.until_more(100);

    // A follower dies just after the proposal; the change needs the other three.
    let leader = cluster.leader();
    let followers: Vec<usize> = ALL.into_iter().filter(|&i| i != leader).collect();
    let proposal = propose(&cluster, leader, &modules(&cluster, &[("engine", "pbft-reverse")]));
    cluster.kill(followers[0]);
    cluster.until_epoch(&[leader, followers[1], followers[2]], 1);
    let after = cluster.client(leader).status().expect("it answers");
    assert_ne!((&after.engine_hash, &after.identity), (&before.engine_hash, &before.identity));
    assert_eq!(cluster.until_proposal(leader, proposal.id, &["active"]).new_epoch, 1);
    load.until_more(100);

    // It comes back into an epoch that it has not seen begin.
    cluster.start(followers[0]);
    cluster.until_epoch(&[followers[0]], 1);

    // The way back, while the leader is frozen from the proposal to the switch.
    let leader = cluster.leader();
    let other = ALL.into_iter().find(|&i| i != leader).expect("four nodes");
    propose(&cluster, other, &modules(&cluster, &[("engine", "pbft")]));
    cluster.pause(leader);
    let awake: Vec<usize> = ALL.into_iter().filter(|&i| i != leader).collect();
    cluster.until_epoch(&awake, 2);
    cluster.resume(leader);
    cluster.until_epoch(&[leader], 2);
    load.until_more(100);

    load.finish(&cluster, leader);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
    assert_eq!(cluster.client(leader).status().expect("it answers").engine_hash, before.engine_hash);
}

#[test]
fn changes_back_to_back_with_and_without_clients() {
    let cluster = Cluster::of_four();
    // Nobody writes: ticks alone carry votes, readiness and the way to the barrier.
    carry_through(&cluster, 0, &modules(&cluster, &[("engine", "pbft-reverse")]), &ALL);

    let load = Load::start(&cluster, &Plan::at(&ALL));
    for (epoch, engine) in [(2, "pbft"), (3, "pbft-reverse"), (4, "pbft")] {
        let proposer = epoch as usize % 4;
        let active = carry_through(&cluster, proposer, &modules(&cluster, &[("engine", engine)]), &ALL);
        assert_eq!(active.new_epoch, epoch);
    }
    load.until_more(50);
    load.finish(&cluster, 3);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}
