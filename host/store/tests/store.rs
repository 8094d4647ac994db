//! The store as a node uses it.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use moult_core::io::{GuardUpdate, Persist};
use moult_store::{
    Applied, DirLock, DurableLog, GuardCheck, GuardFile, Loaded, Sink, Store, StoreError, StoreOptions,
};
use moult_types::{
    BlockRecord, ChainId, Digest, EpochNumber, GlobalIndex, ModuleHash, PublicKey, Scope, Slot,
};

fn blocks(loaded: &Loaded) -> Vec<BlockRecord> {
    loaded.tail.iter().map(|block| BlockRecord::clone(block)).collect()
}

#[test]
fn a_new_store_is_fresh() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::create(dir.path(), &genesis(), NODE, StoreOptions::default()).expect("created");
    let loaded = store.load().expect("loaded");
    assert!(
        loaded.fresh && loaded.ledger.is_none() && loaded.last_final.is_none() && loaded.former.is_none()
    );
    assert_eq!(loaded.epoch, Chain::new().start);
    let recovery = store.recovery(&loaded, guard(), None).expect("read");
    assert!(recovery.fresh);
    assert_eq!(recovery.prepared_on_chain, Some(genesis().manifest.identity().digest()));
}

#[test]
fn what_was_committed_is_loaded_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut chain = Chain::new();
    let store = create(dir.path());
    let mut writes: Vec<Persist> = (0..3).flat_map(|_| ordered(&mut chain)).collect();
    writes.push(chain.finality(3));
    writes.extend((0..2).flat_map(|_| ordered(&mut chain)));
    writes.push(Persist::Batch(batch(100)));
    writes.extend((1..=4).map(|id| Persist::Record(engine_record(id))));
    writes.push(Persist::TruncateRecords(2));
    commit(&store, &writes);
    drop(store);

    let store = open(dir.path()).expect("opened");
    let loaded = store.load().expect("loaded");
    assert_eq!(loaded.genesis, genesis());
    assert_eq!(loaded.epoch, chain.start);
    assert_eq!(loaded.ledger, Some(ledger(3)));
    assert!(!loaded.fresh);
    assert_eq!(loaded.last_final.as_ref().map(|(block, _)| block), Some(&chain.blocks[2]));
    assert_eq!(blocks(&loaded), chain.blocks[3..]);
    let pending: Vec<u64> = loaded.pending.iter().map(|b| b.batch().seq).collect();
    assert_eq!(pending, [4, 5, 100]);
    assert_eq!(loaded.records, [engine_record(3), engine_record(4)]);
    // The batches of final blocks stay for peers.
    assert_eq!(store.batch(batch(1).digest).expect("read").as_deref(), Some(&*batch(1).encoded));

    // Later commits see what is stored: records go, blocks above an index go and are replaced.
    let replaced = Arc::new(chain.blocks[3].clone());
    let drops =
        [Persist::TruncateRecords(3), Persist::DropBlocksAbove(GlobalIndex(3)), Persist::Block(replaced)];
    commit(&store, &drops);
    let loaded = store.load().expect("loaded");
    assert_eq!(loaded.records, [engine_record(4)]);
    assert_eq!(blocks(&loaded), chain.blocks[3..4]);
}

#[test]
fn the_switch_of_epochs_is_one_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut chain = Chain::new();
    let store = create(dir.path());
    let mut writes: Vec<Persist> = (0..3).flat_map(|_| ordered(&mut chain)).collect();
    writes.push(chain.finality(3));
    writes.extend((0..2).flat_map(|_| ordered(&mut chain)));
    writes.push(Persist::Record(engine_record(9)));
    commit(&store, &writes);

    // Of a group that was not committed nothing is there.
    let before = chain.start.clone();
    let mut switch = vec![Persist::Batch(batch(50)), Persist::Record(engine_record(10)), chain.next_epoch(3)];
    if let Some(Persist::Epoch { expired, .. }) = switch.last_mut() {
        *expired = vec![batch(50).digest, batch(5).digest];
    }
    switch.push(Persist::Record(engine_record(1)));
    switch.extend(ordered(&mut chain));
    let mut writer = store.writer().expect("a writer");
    switch.iter().for_each(|write| writer.apply(write).expect("applied"));
    assert_eq!(store.load().expect("loaded").epoch, before);
    writer.commit(true).expect("committed");
    drop((writer, store));

    let store = open(dir.path()).expect("opened");
    let loaded = store.load().expect("loaded");
    assert_eq!(loaded.epoch, chain.start);
    assert_eq!(loaded.last_final.as_ref().map(|(block, _)| block), Some(&chain.blocks[2]));
    assert_eq!(loaded.former, Some(genesis().manifest));
    assert_eq!(blocks(&loaded), chain.blocks[3..]);
    assert_eq!(loaded.records, [engine_record(1)]);
    assert_eq!(store.batch(batch(50).digest).expect("read"), None);
    assert_eq!(store.batch(batch(5).digest).expect("read"), None);
    assert!(loaded.pending.iter().all(|b| b.batch().seq == 4));
    assert_eq!(store.epochs(EpochNumber(0), 10).expect("read").len(), 2);
    assert_eq!(store.epochs(EpochNumber(1), 10).expect("read"), [chain.start.clone()]);
}

#[test]
fn peers_are_served_stretches_with_certificates_of_any_block() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut chain = Chain::new();
    let store = create(dir.path());
    let mut writes: Vec<Persist> = (0..5).flat_map(|_| ordered(&mut chain)).collect();
    writes.push(chain.finality(5));
    writes.push(chain.next_epoch(5));
    writes.extend((0..3).flat_map(|_| ordered(&mut chain)));
    writes.push(chain.finality(3));
    writes.extend(ordered(&mut chain));
    commit(&store, &writes);

    let whole = store.stretch(GlobalIndex(2), usize::MAX).expect("read").expect("final");
    assert_eq!(whole.blocks, chain.blocks[1..5]);
    assert_eq!(whole.batches.len(), 4);
    assert_eq!(whole.certificate.hash, chain.blocks[4].hash);
    assert!(whole.certificate.bodies.is_empty());

    // One block alone: its certificate leads up to what was certified.
    let one = store.stretch(GlobalIndex(3), 1).expect("read").expect("final");
    assert_eq!(one.blocks, chain.blocks[2..3]);
    assert_eq!(one.certificate.index, chain.blocks[2].block.index);
    let top = one
        .certificate
        .bodies
        .iter()
        .fold(one.certificate.hash, |h, body| moult_types::block::link(h, *body));
    assert_eq!(top, chain.blocks[4].hash);

    let second = store.stretch(GlobalIndex(6), usize::MAX).expect("read").expect("final");
    assert_eq!(second.blocks, chain.blocks[5..8]);
    assert_eq!(store.stretch(GlobalIndex(9), usize::MAX).expect("read"), None);
    assert_eq!(store.final_blocks(GlobalIndex(4), usize::MAX).expect("read"), chain.blocks[3..8]);
    assert_eq!(store.final_blocks(GlobalIndex(4), 0).expect("read"), chain.blocks[3..4]);
    assert_eq!(store.certificate_from(&chain.blocks[8]).expect("read"), None);
}

#[test]
fn a_directory_of_another_chain_node_or_version_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(matches!(open(dir.path()), Err(StoreError::Missing { .. })));
    drop(create(dir.path()));
    let again = Store::create(dir.path(), &genesis(), NODE, StoreOptions::default());
    assert!(matches!(again, Err(StoreError::Exists { .. })));
    let as_other = |chain, node| Store::open(dir.path(), chain, node, StoreOptions::default()).map(|_| ());
    let (chain, other) = (genesis().chain(), ChainId([9; 32]));
    assert!(matches!(as_other(other, NODE), Err(StoreError::OtherChain { found, .. }) if found == chain));
    let other = PublicKey([9; 32]);
    assert!(matches!(as_other(chain, other), Err(StoreError::OtherNode { found: NODE, .. })));

    {
        let db = fjall::Database::builder(dir.path().join("db")).open().expect("opened");
        let meta = db.keyspace("meta", fjall::KeyspaceCreateOptions::default).expect("opened");
        let mut header = meta.get("header").expect("read").expect("there").to_vec();
        header[0] = 9;
        meta.insert("header", header).expect("written");
    }
    assert!(matches!(open(dir.path()), Err(StoreError::NewerFormat { found: 9, supported: 1, .. })));
}

#[test]
fn one_process_has_the_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let lock = DirLock::acquire(dir.path()).expect("locked");
    let second = DirLock::acquire(dir.path()).expect_err("locked already");
    assert!(second.to_string().contains(&format!("pid {}", std::process::id())), "{second}");
    drop(lock);
    assert!(DirLock::acquire(dir.path()).is_ok());
}

#[test]
fn modules_are_checked_when_they_are_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = create(dir.path());
    let hash = store.modules().put(b"\0asm one").expect("kept");
    assert_eq!(hash, ModuleHash::of(b"\0asm one"));
    assert_eq!(store.modules().get(hash).expect("read").as_deref(), Some(&b"\0asm one"[..]));
    assert_eq!(store.modules().get(ModuleHash([0; 32])).expect("read"), None);
    let file = std::fs::read_dir(dir.path().join("modules"))
        .expect("listed")
        .next()
        .expect("one")
        .expect("one")
        .path();
    std::fs::write(&file, b"\0asm two").expect("written");
    assert!(matches!(store.modules().get(hash), Err(StoreError::Corrupt { .. })));
    // Putting it again heals it.
    store.modules().put(b"\0asm one").expect("kept");
    assert_eq!(store.modules().list().expect("listed"), [hash]);
    assert!(store.modules().get(hash).expect("read").is_some());
}

#[test]
fn the_state_is_read_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = create(dir.path()).state();
    assert_eq!(state.applied().expect("read"), Applied::default());
    let pairs = |pairs: &[(&str, Option<&str>)]| -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        pairs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.map(|v| v.as_bytes().to_vec()))).collect()
    };
    state
        .apply(GlobalIndex(1), &pairs(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]), b"root")
        .expect("applied");
    let before = state.snapshot();
    state.apply(GlobalIndex(2), &pairs(&[("a", Some("9")), ("b", None)]), b"root two").expect("applied");
    let after = state.snapshot();
    assert_eq!((before.get(b"a"), before.get(b"b")), (Some(b"1".to_vec()), Some(b"2".to_vec())));
    assert_eq!((after.get(b"a"), after.get(b"b")), (Some(b"9".to_vec()), None));
    let keys = |found: Vec<(Vec<u8>, Vec<u8>)>| found.into_iter().flat_map(|(k, _)| k).collect::<Vec<u8>>();
    assert_eq!(keys(before.scan(b"a", None, 10)), b"abc");
    assert_eq!(keys(before.scan(b"a", Some(b"c"), 10)), b"ab");
    assert_eq!(keys(before.scan(b"", None, 2)), b"ab");
    assert_eq!(keys(after.scan(b"", None, 10)), b"ac");
    assert!(after.scan(b"c", Some(b"b"), 10).is_empty() && after.scan(b"a", None, 0).is_empty());
    assert!(state.apply(GlobalIndex(3), &pairs(&[("", Some("x"))]), b"").is_err());
    let applied = Applied { global: GlobalIndex(2), accumulator: b"root two".to_vec() };
    assert_eq!(state.applied().expect("read"), applied);
    drop((state, before, after));
    assert_eq!(open(dir.path()).expect("opened").state().applied().expect("read"), applied);
}

/// A guard that was put back from a copy is noticed, as far as the store has seen later ones.
#[test]
fn an_old_guard_is_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("guard");
    let store = create(dir.path());
    let file = GuardFile::create(&path, guard()).expect("created");
    let copy = std::fs::read(&path).expect("read");
    let mut chain = Chain::new();
    let mut log = DurableLog::new(store.writer().expect("a writer"), file);
    for _ in 0..5 {
        let mut step = ordered(&mut chain);
        let last = chain.blocks.last().expect("a block");
        step.push(Persist::Guard(GuardUpdate::Prepared { index: last.block.index, hash: last.hash }));
        log.apply(&step).expect("applied");
        log.commit(true).expect("committed");
    }
    drop(log);
    let check = || {
        let (mut file, _) = GuardFile::open(&path, genesis().chain(), NODE).expect("opened");
        store.reconcile_guard(&mut file).expect("read")
    };
    assert_eq!(check(), GuardCheck::Fits);
    std::fs::write(&path, copy).expect("written");
    assert_eq!(check(), GuardCheck::OldGuard { have: 1, noted: 6 });
}

/// A crash after the sync of the store and before that of the guard: the guard gets what it
/// missed before anything is signed.
#[test]
fn a_crash_between_the_two_syncs_is_made_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("guard");
    let store = create(dir.path());
    let file = GuardFile::create(&path, guard()).expect("created");
    let mut log = DurableLog::new(store.writer().expect("a writer"), file);
    let mut chain = Chain::new();
    let mut expected = guard();
    let mut before = Vec::new();
    for number in 1..=3 {
        before = std::fs::read(&path).expect("read");
        let mut step = ordered(&mut chain);
        let slot = Slot { kind: 1, a: number, b: 0 };
        let scope = Scope::Epoch(guard().identity);
        let last = chain.blocks.last().expect("a block");
        let updates = [
            GuardUpdate::Signed { scope, slot, digest: Digest([number as u8; 32]) },
            GuardUpdate::Prepared { index: last.block.index, hash: last.hash },
            GuardUpdate::FinalMark { global: last.global, hash: last.hash },
        ];
        updates.iter().for_each(|update| expected.apply(update));
        step.extend(updates.map(Persist::Guard));
        step.push(chain.finality(1));
        log.apply(&step).expect("applied");
        log.commit(true).expect("committed");
    }
    drop(log);
    std::fs::write(&path, before).expect("written");
    // Twice, since a crash may come again at any point of it.
    for _ in 0..2 {
        let (mut file, _) = GuardFile::open(&path, genesis().chain(), NODE).expect("opened");
        assert_eq!(store.reconcile_guard(&mut file).expect("read"), GuardCheck::Fits);
        assert_eq!(file.state(), &expected);
        let loaded = store.load().expect("loaded");
        let recovery = store.recovery(&loaded, file.state().clone(), None).expect("read");
        assert_eq!(recovery.prepared_on_chain, Some(expected.prepared.1));
    }
}
