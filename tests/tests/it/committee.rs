//! Other authorities, stakes and keys.

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Plan};
use serde_json::{Value, json};

use crate::change::carry_through;

fn committee(cluster: &Cluster, members: &[usize]) -> Value {
    json!({ "committee": members.iter().map(|&i| cluster.node(i).identity.clone()).collect::<Vec<_>>() })
}

#[test]
fn a_fifth_joins_stakes_change_and_one_leaves_under_load() {
    let mut cluster = Setup::new(4).spares(1).start();
    let load = Load::start(&cluster, &Plan::at(&[1, 2, 3]));
    load.until_more(20);

    // First an observer: it follows, reads, and takes no writes.
    cluster.start(4);
    cluster.until_progress(4);
    assert_eq!(cluster.client(4).status().expect("it answers").role, "observer");
    let refused = cluster.client(4).put("k", b"v", None).expect_err("an observer takes no writes");
    assert_eq!(refused.status(), Some(503), "{refused}");
    cluster.client(1).put("seen", b"1", None).expect("written");
    assert_eq!(cluster.client(4).read("seen").expect("an observer reads"), Some(b"1".to_vec()));

    // Then an authority.
    carry_through(&cluster, 1, &committee(&cluster, &[0, 1, 2, 3, 4]), &[0, 1, 2, 3, 4]);
    assert_eq!(cluster.client(4).status().expect("it answers").authority_index, Some(4));
    cluster.client(4).put("k", b"v", None).expect("an authority takes writes");

    // Its stake grows until the cluster cannot do without it.
    let mut heavier = committee(&cluster, &[0, 1, 2, 3, 4]);
    heavier["committee"][4]["stake"] = 4.into();
    carry_through(&cluster, 2, &heavier, &[0, 1, 2, 3, 4]);
    assert_eq!(cluster.client(2).epochs().expect("epochs").last().map(|e| (e.stake, e.quorum)), Some((8, 6)));
    cluster.pause(4);
    assert_eq!(cluster.client(1).read("k").expect_err("no quorum").status(), Some(503));
    cluster.resume(4);
    load.until_more(20);

    // The first one leaves and goes on as an observer.
    carry_through(&cluster, 3, &committee(&cluster, &[1, 2, 3, 4]), &[0, 1, 2, 3, 4]);
    cluster.until_status(0, "an observer", |s| s.role == "observer");
    cluster.until_progress(0);
    load.until_more(20);
    load.finish(&cluster, 4);
    assert_one_chain(&cluster, &[1, 2, 3, 4, 0]);
    assert_same_state(&cluster, &[0, 1, 2, 3, 4]);
}

#[test]
fn four_others_take_over() {
    let mut cluster = Setup::new(4).spares(4).start();
    cluster.client(0).put("kept", b"1", None).expect("written");
    cluster.start_all(&[4, 5, 6, 7]);
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    carry_through(&cluster, 0, &committee(&cluster, &[4, 5, 6, 7]), &all);
    cluster.client(5).put("new", b"2", None).expect("written");
    // The former ones may all go.
    cluster.kill_all(&[0, 1, 2, 3]);
    cluster.until_progress(6);
    assert_eq!(cluster.client(7).read("kept").expect("read"), Some(b"1".to_vec()));
    // One comes back and reads as an observer.
    cluster.start(2);
    assert_eq!(cluster.client(2).read("new").expect("read"), Some(b"2".to_vec()));
    assert_one_chain(&cluster, &[4, 5, 6, 7, 2]);
    assert_same_state(&cluster, &[4, 5, 6, 7, 2]);
}

#[test]
fn a_lost_machine_is_replaced_by_another() {
    let mut cluster = Setup::new(4).spares(1).start();
    // Node 3 is lost for long; another machine with its own key takes its place.
    cluster.kill(3);
    cluster.start(4);
    cluster.until_progress(4);
    carry_through(&cluster, 0, &committee(&cluster, &[0, 1, 2, 4]), &[0, 1, 2, 4]);
    cluster.kill(0);
    cluster.client(4).put("k", b"v", None).expect("its signature counts");
    cluster.start(0);
    // The old one finds out that it has left.
    cluster.start(3);
    cluster.until_epoch(&[3], 1);
    cluster.until_status(3, "an observer", |s| s.role == "observer");
    assert_one_chain(&cluster, &[0, 1, 2, 4, 3]);
}
