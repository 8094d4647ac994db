//! Raft in the cluster: other builds of it, and the way to PBFT and back, while nodes die.

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Plan};
use serde_json::{Value, json};

use crate::change::{carry_through, modules, propose};

const RAFT: [&str; 4] = ["--engine", "raft", "--fault-model", "crash"];

/// Gives every node another build of a module: the same code with a note in a section of its
/// own, so that only the hash differs.
fn add_build(cluster: &Cluster, of: &str, name: &str) {
    for index in 0..cluster.len() {
        let folder = cluster.node(index).dir.join("modules");
        let file = |name: &str| folder.join(format!("{name}.wasm"));
        let mut bytes = std::fs::read(file(of)).expect("a module");
        // A custom section: 0, its length, its name with length, what it holds.
        bytes.extend([0, 6, 4]);
        bytes.extend(b"noted");
        std::fs::write(file(name), bytes).expect("written");
    }
}

fn engine(cluster: &Cluster, name: &str, fault_model: &str) -> Value {
    let mut change = modules(cluster, &[("engine", name)]);
    change["fault_model"] = json!(fault_model);
    change
}

fn finish(cluster: &Cluster, load: Load, all: &[usize], reader: usize) {
    all.iter().for_each(|&node| cluster.until_progress(node));
    load.until_more(50);
    load.finish(cluster, reader);
    assert_one_chain(cluster, all);
    assert_same_state(cluster, all);
}

#[test]
fn raft_is_swapped_for_another_build_while_leader_and_followers_are_killed() {
    let all = [0, 1, 2, 3, 4];
    let mut cluster = Setup::new(5).genesis(&RAFT).prepare();
    add_build(&cluster, "raft", "raft-noted");
    cluster.start_all(&all);
    cluster.until_progress(0);
    let load = Load::start(&cluster, &Plan::at(&all));
    load.until_more(50);

    // The leader dies just after the proposal.
    let leader = cluster.leader();
    let rest: Vec<usize> = all.into_iter().filter(|&node| node != leader).collect();
    propose(&cluster, rest[0], &modules(&cluster, &[("engine", "raft-noted")]));
    cluster.kill(leader);
    cluster.until_epoch(&rest, 1);
    load.until_more(50);
    cluster.start(leader);
    cluster.until_epoch(&[leader], 1);

    // Two of five die on the way back.
    let leader = cluster.leader();
    let rest: Vec<usize> = all.into_iter().filter(|&node| node != leader).collect();
    propose(&cluster, leader, &modules(&cluster, &[("engine", "raft")]));
    cluster.kill_all(&rest[..2]);
    cluster.until_epoch(&[leader, rest[2], rest[3]], 2);
    load.until_more(50);
    cluster.start_all(&rest[..2]);
    cluster.until_epoch(&rest[..2], 2);

    // And all.
    cluster.kill_all(&all);
    cluster.start_all(&all);
    finish(&cluster, load, &all, rest[0]);
}

#[test]
fn from_raft_to_pbft_and_back_the_fault_model_goes_with_the_engine() {
    let all = [0, 1, 2, 3];
    let mut cluster = Setup::new(4).genesis(&RAFT).start();
    let model = |cluster: &Cluster| {
        let epochs = cluster.client(0).epochs().expect("epochs");
        epochs.last().expect("one at least").fault_model.clone()
    };
    assert_eq!(model(&cluster), "crash");
    let load = Load::start(&cluster, &Plan::at(&all));
    load.until_more(50);

    // Raft would promise what it cannot hold.
    let unfit = propose(&cluster, 1, &engine(&cluster, "raft", "byzantine"));
    let unfit = cluster.until_proposal(1, unfit.id, &["active", "rejected", "expired"]);
    let told = format!("{:?}", unfit.votes);
    assert!(unfit.state == "rejected" && told.contains("not made for the Byzantine"), "{unfit:?}");

    carry_through(&cluster, 1, &engine(&cluster, "pbft", "byzantine"), &all);
    assert_eq!(model(&cluster), "byzantine");
    load.until_more(50);

    // The leader dies on the way back; three of four are a quorum of either kind.
    let leader = cluster.leader();
    let rest: Vec<usize> = all.into_iter().filter(|&node| node != leader).collect();
    propose(&cluster, rest[0], &engine(&cluster, "raft", "crash"));
    cluster.kill(leader);
    cluster.until_epoch(&rest, 2);
    load.until_more(50);
    cluster.start(leader);
    cluster.until_epoch(&[leader], 2);
    assert_eq!(model(&cluster), "crash");

    // All die when the first of them has switched to PBFT again.
    propose(&cluster, rest[1], &engine(&cluster, "pbft", "byzantine"));
    cluster.until_epoch(&[rest[1]], 3);
    cluster.kill_all(&all);
    cluster.start_all(&all);
    cluster.until_epoch(&all, 3);
    load.until_more(50);
    finish(&cluster, load, &all, leader);
}
