//! What goes wrong among nodes and clients that no single node shows.

use moult_tests::blocks::assert_one_chain;
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::program::run;
use moult_tests::wait::{LONG, until};
use serde_json::Value;

/// A node is started a second time from a copy of its key: the others notice, say so by
/// name, and go on.
#[test]
fn one_key_on_two_live_nodes_is_alarmed_and_harms_nobody() {
    let mut cluster = Setup::new(4).spares(1).start();
    let key = cluster.node(0).key().to_owned();
    std::fs::copy(cluster.node(0).dir.join("node.key"), cluster.node(4).dir.join("node.key"))
        .expect("copied");
    cluster.launch(4);
    let alarms = until("an alarm", LONG, || {
        let count = |index: usize| cluster.client(index).number("duplicate_identities_total");
        let counts = [count(1)?, count(2)?, count(3)?];
        if counts.iter().any(|count| *count > 0) { Ok(counts) } else { Err(format!("{counts:?}")) }
    });
    for (index, _) in (1..).zip(alarms).filter(|(_, count)| *count > 0) {
        let log = cluster.node(index).log_text();
        assert!(
            log.contains("two live nodes use one key") && log.contains(&key),
            "node {index} says nothing"
        );
    }
    // Whatever the two do to each other, the others order and agree.
    for round in 0..20 {
        cluster.client(1 + round % 3).put("meanwhile", b"x", None).expect("written");
    }
    cluster.kill(4);
    cluster.until_progress(2);
    assert_one_chain(&cluster, &[1, 2, 3]);
}

/// Streams of writes to all nodes at once; each write is answered, and the chain is one.
#[test]
fn streams_of_writes_over_grpc_to_four_nodes() {
    let mut cluster = Cluster::of_four();
    let (apis, streams): (Vec<String>, Vec<String>) = (0..4)
        .map(|i| (format!("http://{}", cluster.node(i).api), format!("http://{}", cluster.node(i).grpc)))
        .unzip();
    let mut args = vec!["bench", "--json", "--transport", "grpc", "--clients", "64", "--keys", "100"];
    args.extend(["--warmup", "0", "--duration", "3", "--api"]);
    args.extend(apis.iter().map(String::as_str));
    args.push("--grpc-api");
    args.extend(streams.iter().map(String::as_str));
    let output = run(&args);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["acknowledged"].as_u64() > Some(100), "{report}");
    assert_eq!(
        (&report["transport"], &report["failed"], &report["nodes"]),
        (&"grpc".into(), &0.into(), &4.into())
    );
    let calls = cluster.client(0).metrics().expect("metrics");
    assert!(calls.contains("grpc_requests_total{method=\"SubmitStream\",code=\"0\"} 1"), "{calls}");
    assert_one_chain(&cluster, &[0, 1, 2, 3]);
    assert!(cluster.stop(0, LONG).success());
}
