//! Proposals that come to nothing cost nothing.

use moult_tests::api::Proposal;
use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Plan};
use serde_json::json;

use crate::change::{carry_through, modules, propose};

const ALL: [usize; 4] = [0, 1, 2, 3];
const ENDED: [&str; 5] = ["active", "rejected", "expired", "withdrawn", "superseded"];

#[test]
fn a_missing_module_is_named_and_costs_no_block() {
    let cluster = Cluster::of_four();
    for index in ALL {
        assert!(cluster.node(index).is_started());
    }
    let load = Load::start(&cluster, &Plan::at(&ALL));
    let missing = format!("sha256:{}", "ab".repeat(32));
    let proposal = propose(&cluster, 0, &json!({ "modules": { "engine": { "hash": missing } } }));
    // The nodes look for it; writing goes on.
    load.until_more(200);
    let rejected = cluster.until_proposal(0, proposal.id, &ENDED);
    assert_eq!(rejected.state, "rejected", "{rejected:?}");
    let text = format!("{:?} {}", rejected.votes, rejected.explanation);
    assert!(text.contains(&missing), "the module is not named: {rejected:?}");
    assert_eq!(cluster.client(0).status().expect("it answers").epoch, 0);

    // Bytes that are no module are refused where they are uploaded.
    let path = cluster.folder().join("bad.wasm");
    std::fs::write(&path, b"\0asm garbage").expect("written");
    let (url, token) = (format!("http://{}", cluster.node(0).api), cluster.node(0).token_file());
    let token = token.to_str().expect("text");
    let args = ["propose", "--engine", path.to_str().expect("text"), "--api", &url, "--token-file", token];
    let refused = moult_tests::program::run(&args);
    assert!(!refused.status.success(), "{refused:?}");

    // The next proposal is none the worse for it.
    carry_through(&cluster, 0, &modules(&cluster, &[("engine", "pbft-reverse")]), &ALL);
    load.finish(&cluster, 1);
    assert_one_chain(&cluster, &ALL);
}

#[test]
fn proposals_expire_are_withdrawn_rival_each_other_and_wait_for_their_time() {
    // Nothing happens by itself: people vote.
    let cluster = Setup::new(4).genesis(&["--approval", "manual"]).start();
    let swap = modules(&cluster, &[("engine", "pbft-reverse")]);

    // Nobody votes: it expires, and the epoch goes on.
    let mut short = swap.clone();
    short["deadline_blocks"] = 5.into();
    let expired = propose(&cluster, 0, &short);
    let load = Load::start(&cluster, &Plan::at(&ALL));
    let expired = cluster.until_proposal(1, expired.id, &ENDED);
    assert_eq!((expired.state.as_str(), expired.votes.len()), ("expired", 0));

    // Taken back by its author; others cannot.
    let regretted = propose(&cluster, 0, &swap);
    until_known(&cluster, 1, regretted.id);
    let refused = cluster.client(1).withdraw(regretted.id).expect_err("not the author");
    assert_eq!(refused.status(), Some(409), "{refused}");
    cluster.client(0).withdraw(regretted.id).expect("withdrawn");
    cluster.until_proposal(3, regretted.id, &["withdrawn"]);

    // Two rivals: one quorum decides, the other one is out for good.
    let (first, second) = (propose(&cluster, 0, &swap), propose(&cluster, 1, &swap));
    assert_ne!(first.id, second.id);
    for index in ALL {
        until_known(&cluster, index, second.id);
        if let Err(failure) = cluster.client(index).vote(second.id, true, "") {
            assert_eq!(failure.status(), Some(409), "{failure}");
        }
    }
    assert_eq!(cluster.until_proposal(2, second.id, &ENDED).state, "active");
    let loser = cluster.until_proposal(2, first.id, &ENDED);
    assert!(["superseded", "expired"].contains(&loser.state.as_str()), "{loser:?}");
    cluster.until_epoch(&ALL, 1);

    // Approved and ready, and not before its time.
    let now = cluster.client(0).status().expect("it answers").block_time_ms;
    let mut later = modules(&cluster, &[("engine", "pbft")]);
    later["not_before_ms"] = (now + 6_000).into();
    let timed = propose(&cluster, 3, &later);
    for index in ALL {
        until_known(&cluster, index, timed.id);
        // The fourth vote may come after the decision.
        let _ = cluster.client(index).vote(timed.id, true, "");
    }
    let active: Proposal = cluster.until_proposal(0, timed.id, &ENDED);
    assert_eq!(active.state, "active");
    cluster.until_epoch(&ALL, 2);
    let base = cluster.client(0).epochs().expect("epochs")[2].base;
    let barrier = cluster.client(0).block(base).expect("the barrier");
    assert!(barrier.time_ms >= now + 6_000, "the barrier is at {}, too early", barrier.time_ms);
    load.finish(&cluster, 0);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}

fn until_known(cluster: &Cluster, index: usize, id: u64) {
    cluster.until_proposal(index, id, &["proposed", "approved", "scheduled", "active"]);
}
