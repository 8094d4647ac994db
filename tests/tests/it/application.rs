//! Another application and another approval policy.

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::Cluster;
use moult_tests::load::{Load, Plan};

use crate::change::{carry_through, modules, propose};

const ALL: [usize; 4] = [0, 1, 2, 3];

#[test]
fn the_application_is_upgraded_under_load_and_then_people_vote() {
    let cluster = Cluster::of_four();
    let load = Load::start(&cluster, &Plan::at(&ALL));
    load.until_more(50);
    carry_through(&cluster, 0, &modules(&cluster, &[("application", "kv2")]), &ALL);
    load.until_more(50);
    // The new version counts keys: a query that the former one did not know.
    let answer = cluster.client(1).call("POST", "/v1/query", &[], &[2]).expect("kv2 counts");
    assert_eq!(answer.body.len(), 8, "{}", answer.text());

    // From now on a person decides at each node.
    carry_through(&cluster, 1, &modules(&cluster, &[("approval", "manual")]), &ALL);
    let swap = modules(&cluster, &[("engine", "pbft-reverse")]);
    let proposal = propose(&cluster, 2, &swap);
    load.until_more(50);
    let waiting = cluster.client(3).proposal(proposal.id).expect("it is there");
    assert_eq!((waiting.state.as_str(), waiting.votes.len()), ("proposed", 0), "nobody has voted");
    for index in [0, 2] {
        cluster.client(index).vote(proposal.id, true, "").expect("taken");
    }
    cluster.client(3).vote(proposal.id, false, "not on a Friday").expect("taken");
    let mut client = cluster.client(1);
    let split = moult_tests::wait::until("three votes", moult_tests::wait::LONG, || {
        let proposal = client.proposal(proposal.id).map_err(|e| e.to_string())?;
        if proposal.votes.len() == 3 { Ok(proposal) } else { Err(format!("{proposal:?}")) }
    });
    assert_eq!(split.state, "proposed", "two of four are no quorum");
    assert!(split.votes.iter().any(|v| v["reason"] == "not on a Friday"), "{split:?}");
    client.vote(proposal.id, true, "").expect("taken");
    cluster.until_epoch(&ALL, 3);
    load.until_more(50);
    load.finish(&cluster, 0);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}
