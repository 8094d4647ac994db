//! Graduated epochs in the cluster: blocks are executed on the engine's word.

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Plan};

use crate::change::{modules, propose};

fn finalities(cluster: &Cluster) -> Vec<String> {
    let epochs = cluster.client(0).epochs().expect("epochs");
    epochs.into_iter().map(|epoch| epoch.finality).collect()
}

fn finish(cluster: &Cluster, load: Load, all: &[usize], reader: usize) {
    all.iter().for_each(|&node| cluster.until_progress(node));
    load.until_more(50);
    load.finish(cluster, reader);
    assert_one_chain(cluster, all);
    assert_same_state(cluster, all);
}

#[test]
fn raft_is_trusted_and_loses_nothing_when_its_nodes_are_killed() {
    let all = [0, 1, 2];
    let raft = ["--engine", "raft", "--fault-model", "crash"];
    let mut cluster = Setup::new(3).genesis(&raft).graduates().start();
    cluster.until_epoch(&all, 1);
    assert_eq!(finalities(&cluster), ["certified", "graduated"]);
    let load = Load::start(&cluster, &Plan::at(&all));
    load.until_more(50);

    for _ in 0..2 {
        let leader = cluster.leader();
        let rest: Vec<usize> = all.into_iter().filter(|&node| node != leader).collect();
        cluster.kill(leader);
        load.until_more(50);
        cluster.start(leader);
        cluster.until_progress(leader);
        // And one that follows.
        cluster.kill(rest[0]);
        load.until_more(50);
        cluster.start(rest[0]);
        cluster.until_progress(rest[0]);
    }
    cluster.kill_all(&all);
    cluster.start_all(&all);
    finish(&cluster, load, &all, 1);
    assert_eq!(finalities(&cluster).len(), 2, "nothing but a proposal ends a graduated epoch");
}

#[test]
fn a_swapped_engine_is_certified_before_it_graduates_too() {
    let all = [0, 1, 2, 3];
    let mut cluster = Setup::new(4).graduates().start();
    cluster.until_epoch(&all, 1);
    let load = Load::start(&cluster, &Plan::at(&all));
    load.until_more(50);
    propose(&cluster, 1, &modules(&cluster, &[("engine", "pbft-reverse")]));
    // In the midst of it a node dies, and comes back in whatever epoch there is.
    cluster.kill(2);
    cluster.until_epoch(&[0, 1, 3], 3);
    load.until_more(50);
    cluster.start(2);
    cluster.until_epoch(&all, 3);
    assert_eq!(finalities(&cluster), ["certified", "graduated", "certified", "graduated"]);
    finish(&cluster, load, &all, 0);
}
