//! Hostile modules put to the vote of a running cluster.

use std::time::Duration;

use moult_hostile::{guest, guest_with};
use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::Cluster;
use moult_tests::load::{Load, Plan};
use moult_tests::program::run_ok;
use moult_tests::wait::{LONG, until};
use serde_json::json;

use crate::change::{carry_through, modules, propose};

const ALL: [usize; 4] = [0, 1, 2, 3];
pub(crate) const ENDED: [&str; 5] = ["active", "rejected", "expired", "withdrawn", "superseded"];

/// Gives a node the bytes of a module; its hash.
pub(crate) fn add(cluster: &Cluster, index: usize, bytes: &[u8]) -> String {
    let path = cluster.folder().join("hostile.wasm");
    std::fs::write(&path, bytes).expect("written");
    let (path, token) = (path.display().to_string(), cluster.node(index).token_file());
    let (url, token) = (format!("http://{}", cluster.node(index).api), token.display().to_string());
    run_ok(&["module", "add", &path, "--api", &url, "--token-file", &token]);
    let hash = run_ok(&["module", "hash", &path]);
    hash.trim().to_owned()
}

/// Every node tries a module before it votes: what fails there never runs a chain.
#[test]
fn hostile_modules_are_voted_down_by_name_and_cost_no_block() {
    let cluster = Cluster::of_four();
    let load = Load::start(&cluster, &Plan::at(&ALL));
    for (place, (world, name, words)) in [
        ("engine", "trap-in-init", "the engine failed in its rehearsal: the module trapped"),
        ("engine", "trap-in-step", "the engine failed in its rehearsal: the module trapped"),
        ("engine", "loop-in-engine", "the module used up its budget"),
        ("engine", "action-storm", "100000 actions; the limit is 16384"),
        ("application", "loop-in-start", "all fuel consumed"),
        ("application", "upgrade-refuses", "refuses the present state: I do not like this state"),
        ("application", "upgrade-traps", "failed on a copy of the present state: the module trapped"),
        ("application", "memory-at-once", "bytes of initial memory; the limit is"),
    ]
    .into_iter()
    .enumerate()
    {
        let proposer = place % 4;
        let hash = add(&cluster, proposer, &guest(name));
        let proposal = propose(&cluster, proposer, &json!({ "modules": { world: { "hash": hash } } }));
        let ended = cluster.until_proposal(proposer, proposal.id, &ENDED);
        assert_eq!(ended.state, "rejected", "{name}: {ended:?}");
        let votes = format!("{:?}", ended.votes);
        assert!(votes.contains(words), "{name}: {votes}");
        load.until_more(20);
    }
    assert_eq!(cluster.client(0).status().expect("it answers").epoch, 0);
    // The same nodes take a good module.
    carry_through(&cluster, 0, &modules(&cluster, &[("engine", "pbft-reverse")]), &ALL);
    load.finish(&cluster, 1);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
    cluster.assert_no_panic();
}

/// One that behaves until it is in office: the epoch stalls, and nothing else. No node ends,
/// what was acknowledged can be read at each, also after a crash, and they stop when asked to.
#[test]
fn an_engine_that_turns_hostile_in_office_stalls_its_epoch_and_ends_no_node() {
    let mut cluster = Cluster::of_four();
    cluster.client(2).put("kept", b"safe", None).expect("written");
    let hash = add(&cluster, 0, &guest_with("trap-later", &[("$STEPS", "4")]));
    let proposal = propose(&cluster, 0, &json!({ "modules": { "engine": { "hash": hash } } }));
    assert_eq!(cluster.until_proposal(0, proposal.id, &ENDED).state, "active");
    cluster.until_epoch(&ALL, 1);
    let given_up = |cluster: &Cluster, index: usize| {
        until(&format!("node {index} gives the engine up"), LONG, || {
            let text = cluster.node(index).log_text();
            // Batches are what the engine is stepped with.
            let _ = cluster.client(index).patience(Duration::from_millis(50)).put("more", b"", None);
            let line = text.lines().rev().find(|line| line.contains("the engine is beyond recovery here"));
            line.map(str::to_owned).ok_or_else(|| "not yet".to_owned())
        })
    };
    for index in ALL {
        let line = given_up(&cluster, index);
        assert!(line.contains("the module trapped") && line.contains("3 times in a row"), "{line}");
        assert_eq!(cluster.client(index).read_local("kept").expect("it answers"), Some(b"safe".to_vec()));
    }
    cluster.kill(1);
    cluster.launch(1);
    cluster.wait_for_answer(1);
    assert_eq!(cluster.client(1).status().expect("it answers").epoch, 1);
    let kept = until("node 1 has its application again", LONG, || {
        cluster.client(1).read_local("kept").map_err(|e| e.to_string())
    });
    assert_eq!(kept, Some(b"safe".to_vec()));
    assert_one_chain(&cluster, &ALL);
    cluster.assert_no_panic();
    for index in ALL {
        assert!(cluster.stop(index, Duration::from_secs(30)).success());
    }
}
