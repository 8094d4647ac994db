//! Steps that several stories share.

use moult_tests::api::Proposal;
use moult_tests::cluster::Cluster;
use moult_tests::wait::{LONG, until};
use serde_json::{Value, json};

/// A proposal of other modules, by world and name.
pub(crate) fn modules(cluster: &Cluster, pins: &[(&str, &str)]) -> Value {
    let pin = |(world, name): &(&str, &str)| ((*world).to_owned(), json!({ "hash": cluster.module(name) }));
    json!({ "modules": pins.iter().map(pin).collect::<serde_json::Map<_, _>>() })
}

/// Proposes at a node; tries again while nodes are away.
pub(crate) fn propose(cluster: &Cluster, index: usize, change: &Value) -> Proposal {
    let mut client = cluster.client(index);
    until("the proposal is taken", LONG, || {
        client.propose(change).map_err(|failure| {
            assert!(failure.status() != Some(400), "the proposal is refused: {failure}");
            failure.to_string()
        })
    })
}

/// Proposes, waits until the change is active at that node and reached the others given.
pub(crate) fn carry_through(cluster: &Cluster, index: usize, change: &Value, all: &[usize]) -> Proposal {
    let proposal = propose(cluster, index, change);
    let active = cluster.until_proposal(index, proposal.id, &["active", "rejected", "expired", "superseded"]);
    assert_eq!(active.state, "active", "{active:?}");
    cluster.until_epoch(all, active.new_epoch);
    active
}
