//! What a client sees of a healthy cluster.

use moult_tests::api::{Caller, kv};
use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::Cluster;
use moult_tests::program::run;
use serde_json::Value;

#[test]
fn writes_reads_swaps_and_receipts_on_four_nodes() {
    let mut cluster = Cluster::of_four();

    // A write at one node is read at every other at once.
    for writer in 0..4 {
        let (key, value) = (format!("k{writer}"), format!("v{writer}"));
        cluster.client(writer).put(&key, value.as_bytes(), None).expect("written");
        for reader in 0..4 {
            assert_eq!(cluster.client(reader).read(&key).expect("read"), Some(value.clone().into_bytes()));
        }
    }
    let mut client = cluster.client(1);
    assert_eq!(client.read("nothing").expect("read"), None);

    // A deleted key is gone everywhere; deleting nothing is no error.
    client.delete("k0", None).expect("deleted");
    client.delete("k0", None).expect("deleted again");
    assert_eq!(cluster.client(3).read("k0").expect("read"), None);

    // A swap applies once.
    let swap = kv::swap("k1", Some(b"v1"), Some(b"new"));
    assert_eq!(client.transact(&swap, None).expect("swapped").code, Some(0));
    assert_eq!(client.transact(&swap, None).expect("answered").code, Some(1));
    let refused = client.call("PUT", "/v1/kv/k1?expect=none", &[], b"x").expect_err("it is there");
    assert_eq!(refused.status(), Some(409), "{refused}");
    assert!(refused.is_without_effect());

    // A repeated number is carried out once, and its receipt can be asked for.
    let caller = Some(Caller { name: "me", seq: 1 });
    let first = client.put("counted", b"1", caller).expect("written");
    client.put("counted", b"2", None).expect("written");
    let again = client.put("counted", b"1", caller).expect("answered from the receipt");
    assert_eq!(first, again);
    assert_eq!(client.read("counted").expect("read"), Some(b"2".to_vec()));
    let receipt: Value = client.get(&format!("/v1/tx/{}", first.id)).expect("a receipt");
    assert_eq!((&receipt["index"], &receipt["status"]), (&first.index.into(), &"executed".into()));

    // The command line sees the same.
    let (url, key) = (format!("http://{}", cluster.node(2).api), "from the command line");
    let put = run(&["kv", "put", key, "x", "--api", &url]);
    assert!(put.status.success(), "{put:?}");
    assert_eq!(run(&["kv", "get", key, "--api", &url]).stdout, b"x");
    assert_eq!(run(&["kv", "get", "nothing", "--api", &url]).status.code(), Some(3));
    assert_eq!(run(&["kv", "cas", key, "y", "--expect", "00", "--api", &url]).status.code(), Some(3));

    // All stop and start again: everything is there, and the cluster goes on.
    assert_one_chain(&cluster, &[0, 1, 2, 3]);
    for index in 0..4 {
        assert!(cluster.stop(index, moult_tests::wait::LONG).success());
    }
    cluster.start_all(&[0, 1, 2, 3]);
    assert_eq!(cluster.client(0).read("counted").expect("read"), Some(b"2".to_vec()));
    let receipt: Value = cluster.client(1).get(&format!("/v1/tx/{}", first.id)).expect("a receipt");
    assert_eq!(receipt["index"], first.index);
    cluster.client(3).put("after", b"1", None).expect("written");
    assert_one_chain(&cluster, &[0, 1, 2, 3]);
    assert_same_state(&cluster, &[0, 1, 2, 3]);
}
