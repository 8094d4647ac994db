//! An engine that fails in office is given up, is not let in again by accident, and `moult epoch
//! revert` is the way back.

use std::time::Duration;

use moult_hostile::guest_with;
use moult_tests::api::Epoch;
use moult_tests::blocks::assert_same_state;
use moult_tests::cluster::Cluster;
use moult_tests::program::{run, run_ok};
use moult_tests::wait::{LONG, until};
use serde_json::{Value, json};

use crate::change::propose;
use crate::hostile::add;

const ALL: [usize; 4] = [0, 1, 2, 3];

/// `moult epoch revert` at a node, which has to be refused with the exit code for a "no".
fn refused(cluster: &Cluster, args: &[&str]) -> String {
    let output = run(&revert(cluster, args).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn revert(cluster: &Cluster, args: &[&str]) -> Vec<String> {
    let node = cluster.node(1);
    let (url, token) = (format!("http://{}", node.api), node.token_file().display().to_string());
    let fixed = ["epoch", "revert", "--yes", "--api", &url, "--token-file", &token];
    fixed.iter().chain(args).map(ToString::to_string).collect()
}

/// Once the fallback of an epoch has gone on at a node.
fn until_resumed(cluster: &Cluster, index: usize, epoch: usize) -> Epoch {
    until(&format!("the fallback of epoch {epoch} goes on at node {index}"), LONG, || {
        // Batches are what the engine is stepped with.
        let _ = cluster.client(index).patience(Duration::from_millis(50)).put("more", b"", None);
        let epochs = cluster.client(index).epochs().map_err(|e| e.to_string())?;
        let found = epochs.into_iter().nth(epoch).ok_or("it has not begun")?;
        let resumed = found.aborts.iter().any(|abort| abort["resumed_from"].is_u64());
        if resumed { Ok(found) } else { Err(format!("aborts: {:?}", found.aborts)) }
    })
}

#[test]
fn an_engine_that_was_given_up_is_left_by_one_command_and_stays_out() {
    let cluster = Cluster::of_four();
    cluster.client(2).put("kept", b"safe", None).expect("written");
    let before = cluster.client(1).status().expect("it answers");
    assert!(refused_in_epoch_0(&cluster).contains("no epoch before it"));

    let bad = add(&cluster, 0, &guest_with("trap-later", &[("$STEPS", "4")]));
    let change = json!({
        "modules": { "engine": { "hash": bad } },
        "fallbacks": [{ "hash": cluster.module("pbft") }],
    });
    let proposal = propose(&cluster, 0, &change);
    assert_eq!(cluster.until_proposal(0, proposal.id, &["active", "rejected"]).state, "active");
    cluster.until_epoch(&ALL, 1);
    for index in ALL {
        let epoch = until_resumed(&cluster, index, 1);
        assert_eq!(epoch.aborts[0]["failed"], json!(bad), "{:?}", epoch.aborts);
        let status = cluster.client(index).status().expect("it answers");
        assert_eq!(status.failed_engines.len(), 1, "{:?}", status.failed_engines);
        assert_eq!(status.failed_engines[0]["epoch"], json!(1));
    }
    // A quorum saw it with their own eyes; the others followed.
    let url = |index: usize| format!("http://{}", cluster.node(index).api);
    let shown = ALL.map(|index| run_ok(&["epoch", "show", "--number", "1", "--api", &url(index)]));
    assert!(shown.iter().all(|text| text.contains("GIVEN UP")), "{shown:?}");
    assert!(shown.iter().any(|text| text.contains("the module trapped")), "{shown:?}");

    // What changes something else would let it in again.
    let same = cluster.client(1).propose(&json!({ "deadline_blocks": 1000 })).expect_err("it failed");
    assert!(same.status() == Some(409) && same.to_string().contains("engine-failed"), "{same}");
    assert!(same.to_string().contains(&bad), "{same}");

    let args = revert(&cluster, &["--wait"]);
    let told = run_ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(told.contains("engine:") && told.contains("fallbacks: pbft"), "{told}");
    cluster.until_epoch(&ALL, 2);
    let after = cluster.client(1).status().expect("it answers");
    assert_eq!((&after.modules, &after.engine_hash), (&before.modules, &before.engine_hash));
    let epochs = cluster.client(1).epochs().expect("it answers");
    assert_eq!(epochs[2].committee, epochs[1].committee);
    cluster.client(3).put("more", b"after", None).expect("written");
    assert_eq!(cluster.client(1).read("kept").expect("it answers"), Some(b"safe".to_vec()));

    let told = refused(&cluster, &[]);
    assert!(told.contains("a quorum gave up") && told.contains("--readmit-failed"), "{told}");
    let told = refused(&cluster, &["--to", "0"]);
    assert!(told.contains("nothing to go back to") && told.contains("--to 1"), "{told}");
    // Who has the genesis alone comes to the same, over the abort and both changes.
    let genesis = cluster.folder().join("genesis.json").display().to_string();
    for index in ALL {
        let audit = run_ok(&["verify-chain", "--genesis", &genesis, "--api", &url(index), "--json"]);
        let audit = &serde_json::from_str::<Value>(&audit).expect("JSON")["audit"];
        assert_eq!(audit["epochs"][1]["fallbacks"].as_array().map(Vec::len), Some(1), "{audit}");
        assert!(audit["epochs"][2].is_object(), "{audit}");
    }
    assert_same_state(&cluster, &ALL);

    let args = revert(&cluster, &["--readmit-failed", "--json"]);
    let told: Value = serde_json::from_str(&run_ok(&args.iter().map(String::as_str).collect::<Vec<_>>()))
        .expect("JSON alone on standard output");
    assert_eq!(told["readmit_failed"], json!(true));
    assert_eq!(told["failed_engines"][0]["module"], json!(bad));
    cluster.assert_no_panic();
}

/// There a "no" is a plain failure: the chain has no such epoch.
fn refused_in_epoch_0(cluster: &Cluster) -> String {
    let output = run(&revert(cluster, &[]).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
