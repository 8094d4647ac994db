use std::net::SocketAddr;

use moult_core::execution::Outcome;
use moult_core::governance::Ledger;
use moult_core::io::EpochStart;
use moult_crypto::{KeyPair, Signer, possession};
use moult_module::{Compile, HostConfig, Limits, ModuleHost};
use moult_store::{Store, StoreOptions, WorkingState};
use moult_types::{
    AuthorityId, Digest, EpochLimits, EpochNumber, FaultModel, Finality, Genesis, Manifest, Member,
};

use super::*;
use crate::config::{ApiConfig, NodeConfig, NodeLimits, P2pConfig};
use crate::metrics::Metrics;
use crate::modules::Modules;
use crate::shared::Queues;

/// A handle whose replica is the test.
fn handle(dir: &std::path::Path, limits: NodeLimits) -> (NodeHandle, Queues) {
    let keys = KeyPair::from_seed(&[1; 32]);
    let id = AuthorityId::of(&keys.public_key());
    let member = Member {
        id,
        key: keys.public_key(),
        possession: possession(&keys, id),
        stake: 1,
        address: "a:1".into(),
    };
    let manifest = Manifest {
        number: EpochNumber(0),
        members: vec![member],
        fault_model: FaultModel::Byzantine,
        modules: Default::default(),
        fallbacks: Vec::new(),
        finality: Finality::Certified,
        limits: EpochLimits::default(),
        follows: None,
    };
    let genesis = Genesis { name: "test".into(), time_ms: 0, origin: None, manifest: manifest.clone() };
    let store_dir = dir.join("store");
    std::fs::create_dir_all(&store_dir).expect("a folder");
    let store =
        Store::create(&store_dir, &genesis, keys.public_key(), StoreOptions::default()).expect("a store");
    let host = ModuleHost::new(HostConfig {
        cache_dir: None,
        cache_key: [0; 32],
        compile: Compile::InProcess,
        limits: Limits::default(),
    });
    let modules = Modules::new(host.expect("a host"), store.clone(), Duration::from_secs(1));
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let config = NodeConfig {
        genesis: dir.to_owned(),
        key_file: dir.to_owned(),
        unlock: Default::default(),
        authority: None,
        data_dir: dir.to_owned(),
        module_dirs: Vec::new(),
        p2p: P2pConfig { listen: any, observers: Vec::new() },
        api: ApiConfig { listen: any, token_file: dir.to_owned(), tls_cert: None, tls_key: None },
        grpc: Default::default(),
        record: Default::default(),
        backup: Default::default(),
        shadow: Default::default(),
        limits,
    };
    let start = EpochStart {
        manifest: manifest.clone(),
        base: GlobalIndex(0),
        state_root: None,
        time_ms: 0,
        switched_at_ms: 0,
    };
    let ledger = Ledger::at_start(&manifest, GlobalIndex(0), 0, ProposalId(1));
    let view = View::new(start, ledger, (GlobalIndex(0), Digest::ZERO));
    let state = WorkingState::new(store.state(), 1 << 20).expect("a state");
    let metrics = Metrics::default();
    let (shared, queues) =
        Shared::new(config, keys.into(), id, genesis.chain(), store, state, modules, None, metrics, view)
            .expect("randomness");
    (NodeHandle { shared }, queues)
}

fn named(handle: &NodeHandle, seq: u64) -> TransactionId {
    handle.transaction_id(Some((b"client".to_vec(), seq)))
}

fn receipt() -> Receipt {
    Receipt { global: GlobalIndex(1), outcome: Outcome::Executed { code: 0, output: Vec::new() } }
}

/// Lets a task go on until it waits.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// The replica compares roots with its peers', who may name any block; it is woken only where
/// it waits.
#[tokio::test]
async fn the_replica_learns_the_root_of_every_block() {
    let dir = tempfile::tempdir().expect("a folder");
    let (NodeHandle { shared }, mut queues) = handle(dir.path(), NodeLimits::default());
    let root = |n: u8| (GlobalIndex(n.into()), Digest([n; 32]));
    shared.note_executed(vec![root(1), root(2)]);
    shared.note_executed(vec![root(3)]);
    assert!(queues.answers.try_recv().is_err());
    let told = |is_awaited| -> Vec<(GlobalIndex, Digest)> {
        let told = shared.take_executed(is_awaited).into_iter().map(|input| match input {
            Input::Executed { global, state_root } => (global, state_root),
            _ => panic!("another input"),
        });
        told.collect()
    };
    assert_eq!(told(true), [root(1), root(2), root(3)]);
    assert_eq!(told(true), []);
    shared.note_executed(vec![root(4)]);
    assert!(matches!(queues.answers.try_recv(), Ok(Input::Wake)));
    assert_eq!(told(false), [root(4)]);
}

#[tokio::test]
async fn every_attempt_gets_the_receipt() {
    let dir = tempfile::tempdir().expect("a folder");
    let (handle, _queues) = handle(dir.path(), NodeLimits::default());
    let id = named(&handle, 1);
    let spawn = || {
        let (handle, id) = (handle.clone(), id.clone());
        tokio::spawn(async move { handle.write(id, vec![1]).await })
    };
    let (first, second) = (spawn(), spawn());
    settle().await;
    let taken = handle.shared.intake.take();
    assert_eq!(taken.iter().map(ClientTransaction::id).collect::<Vec<_>>(), [id.clone(), id.clone()]);
    handle.shared.finish_writes(vec![(id.clone(), receipt())]);
    assert_eq!(first.await.expect("joined"), Ok(receipt()));
    assert_eq!(second.await.expect("joined"), Ok(receipt()));
    assert_eq!(handle.shared.writes_waiting(), 0);
}

/// A refusal speaks of one attempt; another one of the same number may be in a batch.
#[tokio::test]
async fn a_refusal_of_one_attempt_is_not_told_to_another() {
    let dir = tempfile::tempdir().expect("a folder");
    let (handle, _queues) = handle(dir.path(), NodeLimits { inputs_max: 2, ..NodeLimits::default() });
    let spawn = |seq| {
        let (handle, id) = (handle.clone(), named(&handle, seq));
        tokio::spawn(async move { handle.write(id, vec![1]).await })
    };
    let (first, second) = (spawn(1), spawn(1));
    settle().await;
    // The queue is full: this one was certainly not taken, the first ones still may be.
    assert_eq!(spawn(1).await.expect("joined"), Err(WriteError::Refused(Refusal::Overloaded)));
    assert!(!first.is_finished() && !second.is_finished());
    handle.shared.refuse_write(&named(&handle, 1), Refusal::Draining);
    assert!(matches!(first.await.expect("joined"), Err(WriteError::Timeout { .. })));
    assert!(matches!(second.await.expect("joined"), Err(WriteError::Timeout { .. })));
    assert_eq!(handle.shared.writes_waiting(), 0);
}

#[tokio::test]
async fn who_waits_alone_is_told_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let (handle, _queues) = handle(dir.path(), NodeLimits::default());
    let id = named(&handle, 1);
    let write = tokio::spawn({
        let (handle, id) = (handle.clone(), id.clone());
        async move { handle.write(id, vec![1]).await }
    });
    settle().await;
    handle.shared.refuse_write(&id, Refusal::Observer);
    assert_eq!(write.await.expect("joined"), Err(WriteError::Refused(Refusal::Observer)));
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let (handle, _queues) = handle(dir.path(), NodeLimits::default());
    let write = tokio::spawn({
        let (handle, id) = (handle.clone(), named(&handle, 1));
        async move { handle.write(id, vec![1]).await }
    });
    settle().await;
    assert_eq!(handle.shared.writes_waiting(), 1);
    write.abort();
    assert!(write.await.is_err());
    assert_eq!(handle.shared.writes_waiting(), 0);
}

#[tokio::test]
async fn time_runs_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let limits = NodeLimits { write_timeout_ms: 5, read_timeout_ms: 6, ..NodeLimits::default() };
    let (handle, _queues) = handle(dir.path(), limits);
    let id = named(&handle, 1);
    assert_eq!(handle.write(id, vec![1]).await, Err(WriteError::Timeout { limit_ms: 5 }));
    assert_eq!(handle.catch_up_for_read().await, Err(ReadError::NoQuorum { limit_ms: 6 }));
    assert_eq!(handle.shared.writes_waiting(), 0);
}

#[tokio::test]
async fn at_a_stop_the_outcome_is_not_known() {
    let dir = tempfile::tempdir().expect("a folder");
    let (handle, _queues) = handle(dir.path(), NodeLimits::default());
    let write = tokio::spawn({
        let (handle, id) = (handle.clone(), named(&handle, 1));
        async move { handle.write(id, vec![1]).await }
    });
    let read = tokio::spawn({
        let handle = handle.clone();
        async move { handle.catch_up_for_read().await }
    });
    settle().await;
    handle.shared.set_stopping();
    handle.shared.abandon_waiting();
    assert_eq!(write.await.expect("joined"), Err(WriteError::Stopped));
    assert_eq!(read.await.expect("joined"), Err(ReadError::Overloaded));
    let late = named(&handle, 2);
    assert_eq!(handle.write(late, vec![1]).await, Err(WriteError::Refused(Refusal::Draining)));
}

/// Else the replica would end without an answer to a write that it was handed.
#[tokio::test]
async fn what_is_handed_in_is_in_the_queue_before_the_stop_or_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (handle, _queues) = handle(dir.path(), NodeLimits { inputs_max: 1 << 20, ..NodeLimits::default() });
    let transaction = |handle: &NodeHandle, seq| {
        let TransactionId { client, seq } = named(handle, seq);
        ClientTransaction { client, seq, payload: Vec::new() }
    };
    let (begun, have_begun) = std::sync::mpsc::channel();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (handle, begun) = (handle.clone(), begun.clone());
            std::thread::spawn(move || {
                let handed_in = |seq: &u64| {
                    let is_refused = handle.shared.submit(transaction(&handle, *seq)).is_err();
                    if *seq == 250 {
                        let _ = begun.send(());
                    }
                    is_refused
                };
                (0..).find(handed_in)
            })
        })
        .collect();
    for _ in &writers {
        have_begun.recv().expect("they write");
    }
    handle.shared.set_stopping();
    let there = handle.shared.intake.take().len();
    let handed_in: u64 = writers.into_iter().filter_map(|w| w.join().expect("joined")).sum();
    assert_eq!((there as u64, handle.shared.intake.take().len()), (handed_in, 0));
    assert_eq!(handle.shared.submit(transaction(&handle, 0)), Err(Refusal::Draining));
}

/// A stream's: some executed, some refused, some lost, some out of time; each has one end.
#[tokio::test]
async fn each_of_many_has_one_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let limits = NodeLimits { write_timeout_ms: 50, ..NodeLimits::default() };
    let (handle, mut queues) = handle(dir.path(), limits);
    let mut many = handle.submissions();
    // Twice the same number among them.
    let ids: Vec<_> = [1, 2, 3, 4, 4].map(|seq| named(&handle, seq)).into();
    many.submit(ids.iter().map(|id| (id.clone(), vec![1])).collect()).await;
    let Ok(Input::Submit(taken)) = queues.inputs.try_recv() else { panic!("not one input") };
    assert_eq!(taken.iter().map(ClientTransaction::id).collect::<Vec<_>>(), ids);
    handle.shared.finish_writes(vec![(ids[1].clone(), receipt())]);
    handle.shared.refuse_write(&ids[0], Refusal::Overloaded);
    handle.shared.refuse_write(&ids[3], Refusal::Overloaded);
    let timeout = || Err(WriteError::Timeout { limit_ms: 50 });
    let refused = Err(WriteError::Refused(Refusal::Overloaded));
    let mut ended = many.ended().await;
    assert_eq!(
        ended.drain(..).map(|(number, _, result)| (number, result)).collect::<Vec<_>>(),
        [(1, Ok(receipt())), (0, refused), (3, timeout()), (4, timeout())]
    );
    assert_eq!(many.ended().await, [(2, ids[2].clone(), timeout())]);
    assert!(many.is_empty() && handle.shared.writes_waiting() == 0);

    // Numbers go on; what is dropped leaves nothing behind.
    many.submit(vec![(named(&handle, 9), vec![1])]).await;
    handle.shared.finish_writes(vec![(named(&handle, 9), receipt())]);
    assert_eq!(many.ended().await, [(5, named(&handle, 9), Ok(receipt()))]);
    many.submit(vec![(named(&handle, 10), vec![1])]).await;
    assert_eq!(handle.shared.writes_waiting(), 1);
    drop(many);
    assert_eq!(handle.shared.writes_waiting(), 0);
}

#[tokio::test]
async fn many_at_a_stop_are_told_what_is_known() {
    let dir = tempfile::tempdir().expect("a folder");
    let (handle, _queues) = handle(dir.path(), NodeLimits::default());
    let mut many = handle.submissions();
    many.submit(vec![(named(&handle, 1), vec![1]), (named(&handle, 2), vec![1])]).await;
    handle.shared.finish_writes(vec![(named(&handle, 2), receipt())]);
    handle.shared.set_stopping();
    handle.shared.abandon_waiting();
    many.submit(vec![(named(&handle, 3), vec![1])]).await;
    let draining = Err(WriteError::Refused(Refusal::Draining));
    let ended = many.abandon().into_iter().map(|(number, _, result)| (number, result));
    assert_eq!(ended.collect::<Vec<_>>(), [(1, Ok(receipt())), (0, Err(WriteError::Stopped)), (2, draining)]);
}

#[tokio::test]
async fn there_is_room_for_so_many_and_so_much() {
    use crate::submissions::{IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX};
    let dir = tempfile::tempdir().expect("a folder");
    let (handle, _queues) = handle(dir.path(), NodeLimits::default());
    let mut many = handle.submissions();
    let write = |seq: usize, bytes| (named(&handle, seq as u64), vec![1; bytes]);
    many.submit((1..IN_FLIGHT_MAX).map(|seq| write(seq, 0)).collect()).await;
    assert!(many.has_room());
    many.submit(vec![write(IN_FLIGHT_MAX, 0)]).await;
    assert!(!many.has_room());
    handle.shared.finish_writes((1..=IN_FLIGHT_MAX).map(|seq| (write(seq, 0).0, receipt())).collect());
    while !many.is_empty() {
        many.ended().await;
    }
    many.submit(vec![write(1, IN_FLIGHT_BYTES_MAX - 1)]).await;
    assert!(many.has_room());
    many.submit(vec![write(2, 1)]).await;
    assert!(!many.has_room());
}

/// Numbers that nobody can name, and no two alike.
#[test]
fn anonymous_transactions_are_all_different() {
    let dir = tempfile::tempdir().expect("a folder");
    let (handle, _queues) = handle(dir.path(), NodeLimits::default());
    let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| handle.transaction_id(None)).collect();
    assert_eq!(ids.len(), 1000);
    assert!(ids.iter().all(|id| id.client.name[0] == 0 && id.client.name.len() <= 64));
    let sessions: std::collections::BTreeSet<_> = ids.iter().map(|id| id.client.clone()).collect();
    assert_eq!(sessions.len(), 16);
}
