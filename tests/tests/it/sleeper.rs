//! A node that was away for long.

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::Cluster;
use moult_tests::load::{Load, Plan};

use crate::change::{carry_through, modules};

#[test]
fn a_node_sleeps_through_three_changes_and_then_takes_part() {
    let mut cluster = Cluster::of_four();
    let awake = [0, 1, 2];
    cluster.kill(3);
    let load = Load::start(&cluster, &Plan::at(&awake));
    load.until_more(20);
    let swap = |pins: &[(&str, &str)]| modules(&cluster, pins);
    carry_through(&cluster, 0, &swap(&[("engine", "pbft-reverse")]), &awake);
    carry_through(&cluster, 1, &swap(&[("application", "kv2")]), &awake);
    carry_through(&cluster, 2, &swap(&[("engine", "pbft"), ("application", "kv")]), &awake);
    load.until_more(20);

    cluster.start(3);
    cluster.until_epoch(&[3], 3);
    assert_eq!(cluster.client(3).status().expect("it answers").role, "authority");

    // Now its signature is needed: of three nodes each one is.
    cluster.kill(0);
    cluster.client(3).put("awake", b"again", None).expect("written");
    cluster.until_progress(3);
    cluster.start(0);
    load.finish(&cluster, 3);
    assert_one_chain(&cluster, &[0, 1, 2, 3]);
    assert_same_state(&cluster, &[0, 1, 2, 3]);
}
