//! Comparing what nodes hold: one chain, without gaps, certified.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::api::{Block, Epoch};
use crate::cluster::Cluster;
use crate::program::run_ok;
use crate::wait::{LONG, until};

/// Checks the chain of the running nodes among `indexes`: the first node's chain is walked
/// from block 1, the others are compared with it, every block near the ends of epochs and
/// each 16th elsewhere (a hash covers all before it).
///
/// # Panics
/// With the first difference.
pub fn assert_one_chain(cluster: &Cluster, indexes: &[usize]) {
    let tip = indexes
        .iter()
        .map(|&i| cluster.client(i).status().expect("it answers").global_exec_index)
        .max()
        .expect("some nodes");
    for &index in indexes {
        cluster.until_status(index, &format!("executed block {tip}"), |s| s.global_exec_index >= tip);
    }
    let epochs = cluster.client(indexes[0]).epochs().expect("epochs");
    let chain = walk(cluster, indexes[0], tip, &epochs);
    let bases: Vec<u64> = epochs.iter().map(|e| e.base).collect();
    let near_an_end = |g: u64| g + 8 >= tip || bases.iter().any(|&base| g.abs_diff(base) < 8);
    for &index in &indexes[1..] {
        let mut client = cluster.client(index);
        for mine in chain.iter().filter(|b| b.global_exec_index % 16 == 0 || near_an_end(b.global_exec_index))
        {
            let g = mine.global_exec_index;
            let theirs = client.block(g).unwrap_or_else(|e| panic!("node {index} has no block {g}: {e}"));
            assert_eq!(content(mine), content(&theirs), "block {g} of nodes {} and {index}", indexes[0]);
        }
    }
    for &index in indexes {
        assert_no_fork(cluster, index);
    }
    cluster.assert_no_panic();
}

/// Checks the chain of the given running nodes where phases of epochs were aborted: each node's own
/// is audited from the genesis up to its last block, by what the program has for auditors, and all
/// hold the same blocks.
///
/// # Panics
/// With the first difference.
pub fn assert_one_audited_chain(cluster: &Cluster, indexes: &[usize]) {
    let executed = |&i: &usize| cluster.client(i).status().expect("it answers").global_exec_index;
    let tip = indexes.iter().map(executed).max().expect("some nodes");
    let genesis = cluster.folder().join("genesis.json");
    let genesis = genesis.to_str().expect("folders of tests are text");
    let mut hashes = BTreeSet::new();
    for &index in indexes {
        cluster.until_status(index, &format!("executed block {tip}"), |s| s.global_exec_index >= tip);
        let api = format!("http://{}", cluster.node(index).api);
        let audit = run_ok(&["verify-chain", "--genesis", genesis, "--api", &api, "--json"]);
        let audit: Value = serde_json::from_str(&audit).unwrap_or_else(|e| panic!("{e}: {audit}"));
        assert_eq!(audit["holds"], true, "node {index}: {audit}");
        let last = audit["audit"]["last"]["global_exec_index"].as_u64();
        assert!(last >= Some(tip), "node {index} was audited up to {last:?} of {tip}");
        // A hash covers all blocks before it.
        hashes.insert(cluster.client(index).block(tip).expect("a block").hash);
        assert_no_fork(cluster, index);
    }
    assert_eq!(hashes.len(), 1, "block {tip} has several hashes: {hashes:?}");
    cluster.assert_no_panic();
}

/// All but the certificate: several quorums may have signed.
fn content(block: &Block) -> Block {
    let mut block = block.clone();
    block.certificate.votes.clear();
    block.certificate.bodies.clear();
    (block.certificate.index, block.certificate.hash) = (0, String::new());
    block
}

/// Reads a node's chain and checks each block by itself and against the one before.
fn walk(cluster: &Cluster, index: usize, tip: u64, epochs: &[Epoch]) -> Vec<Block> {
    let mut client = cluster.client(index);
    let mut chain: Vec<Block> = Vec::new();
    for g in 1..=tip {
        let block = client.block(g).unwrap_or_else(|e| panic!("node {index} has no block {g}: {e}"));
        assert_eq!(block.global_exec_index, g);
        let epoch = epochs.iter().rev().find(|e| e.base < g).expect("an epoch for each block");
        assert_eq!((block.epoch, block.index), (epoch.number, g - epoch.base), "place of block {g}");
        if block.index == 1 {
            assert_eq!(block.parent, epoch.identity, "block {g} begins an epoch");
        } else {
            let before = chain.last().expect("a block before");
            assert_eq!(block.parent, before.hash, "block {g} follows");
        }
        if let Some(before) = chain.last() {
            assert!(block.time_ms >= before.time_ms, "block time goes back at {g}");
        }
        assert_certified(&block, epoch);
        chain.push(block);
    }
    chain
}

fn assert_certified(block: &Block, epoch: &Epoch) {
    let g = block.global_exec_index;
    assert_eq!(block.certificate.identity, epoch.identity, "certificate of block {g}");
    assert!(block.certificate.index >= block.index, "certificate of block {g} is for an earlier one");
    let places: BTreeSet<u32> = block
        .certificate
        .votes
        .iter()
        .filter(|v| v.index >= block.index)
        .map(|v| v.authority_index)
        .collect();
    let stake: u64 =
        places.iter().map(|&p| epoch.committee[p as usize]["stake"].as_u64().expect("a stake")).sum();
    assert!(stake >= epoch.quorum, "block {g} has votes of stake {stake} of {}", epoch.quorum);
}

fn assert_no_fork(cluster: &Cluster, index: usize) {
    assert_eq!(cluster.client(index).number("fork_detected_total"), Ok(0), "node {index}");
}

/// Waits until the given nodes have executed the same blocks with the same state.
///
/// # Panics
/// Nodes at the same block differ, or they never meet.
pub fn assert_same_state(cluster: &Cluster, indexes: &[usize]) {
    until("all nodes show the same state", LONG, || {
        let mut seen: Vec<(u64, String)> = Vec::new();
        for &index in indexes {
            let status = cluster.client(index).status().map_err(|e| e.to_string())?;
            let other =
                seen.iter().find(|(g, root)| *g == status.global_exec_index && *root != status.state_root);
            assert!(
                other.is_none(),
                "state after block {} differs at node {index}",
                status.global_exec_index
            );
            seen.push((status.global_exec_index, status.state_root));
        }
        let same = seen.iter().all(|(_, root)| *root == seen[0].1);
        if same { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}
