//! The store as a node uses it.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use moult_core::io::{GuardUpdate, Persist, PhaseProof, PhaseRecord};
use moult_store::{
    Applied, DirLock, DurableLog, GuardCheck, GuardFile, Loaded, Sink, Store, StoreError, StoreOptions,
};
use moult_types::message::Blocks;
use moult_types::phase::{Bundle, FinalityProof, Point, Resumed, Resumption, fallback_identity};
use moult_types::state::StateReader;
use moult_types::{
    BlockRecord, Certificate, ChainId, CommitIndex, Digest, EpochIdentity, EpochNumber, GlobalIndex,
    ModuleHash, PublicKey, Round, Scope, Slot,
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

/// A node that dies while it makes its store has none, and makes it again.
#[test]
fn a_store_that_was_not_finished_is_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(dir.path().join("db.new/keyspaces")).expect("made");
    std::fs::write(dir.path().join("db.new/version"), b"half").expect("written");
    assert!(!Store::exists(dir.path()));
    drop(create(dir.path()));
    assert!(Store::exists(dir.path()) && !dir.path().join("db.new").exists());
    let again = Store::create(dir.path(), &genesis(), NODE, StoreOptions::default());
    assert!(matches!(again, Err(StoreError::Exists { .. })));
    open(dir.path()).expect("opened").load().expect("loaded");
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

/// An epoch whose phase 0 is aborted after block 3, of which block 2 is certified: what the store
/// gives back before the fallback has resumed, and what peers get after.
#[test]
fn a_fallback_goes_on_in_the_store() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = create(dir.path());
    let mut chain = Chain::new();
    let mut writes: Vec<Persist> = (0..1).flat_map(|_| ordered(&mut chain)).collect();
    writes.push(chain.finality(1));
    writes.extend((0..2).flat_map(|_| ordered(&mut chain)));
    let first = genesis().manifest.identity();
    let identity = fallback_identity(first, 0);
    let point = {
        let block = &chain.blocks[1];
        Point { identity: first, index: block.block.index, hash: block.hash, global: block.global }
    };
    let resumed = Some(Resumed { at: CommitIndex(1), point });
    let side = fallback_block(identity, 1, identity.digest(), 0, resumed);
    let mut record = PhaseRecord {
        number: EpochNumber(0),
        phase: 1,
        identity,
        failed: ModuleHash([1; 32]),
        reason: "it stalls".into(),
        opened: Some(Bundle { aborted: Vec::new() }),
        resumption: None,
        entered_at_ms: 7,
    };
    writes.push(Persist::PhaseOpened(Box::new(record.clone())));
    writes.push(Persist::SideBlock(Arc::new(side.clone())));
    commit(&store, &writes);
    let loaded = store.load().expect("loaded");
    assert_eq!((blocks(&loaded).as_slice(), loaded.side.len()), (&chain.blocks[1..3], 1));
    assert_eq!((loaded.phases.as_slice(), loaded.side[0].as_ref()), ([record.clone()].as_slice(), &side));
    let mut guard = guard();
    guard.apply(&GuardUpdate::Phase {
        phase: 1,
        identity,
        proof: Box::new(PhaseProof::Aborted(Bundle { aborted: Vec::new() })),
    });
    guard.apply(&GuardUpdate::Prepared { index: CommitIndex(1), hash: side.hash });
    let found = store.recovery(&loaded, guard, None).expect("read");
    assert_eq!(found.prepared_on_chain, Some(side.hash));

    let certificate = Certificate {
        round: Round::Commit,
        identity,
        index: CommitIndex(1),
        hash: side.hash,
        votes: Vec::new(),
        bodies: Vec::new(),
    };
    let resumption = Resumption { phase: 1, block: side.clone(), certificate: certificate.clone() };
    record.resumption = Some(resumption.clone());
    let proof =
        Box::new(FinalityProof::Resumed { bodies: Vec::new(), resumption: Box::new(resumption.clone()) });
    let next = fallback_block(identity, 2, side.hash, 3, resumed);
    let committed = Certificate { index: CommitIndex(2), hash: next.hash, ..certificate };
    let (state, no_batches) = (Arc::new(ledger(2)), Vec::new());
    commit(
        &store,
        &[
            Persist::Final {
                global: GlobalIndex(2),
                proof,
                ledger: state.clone(),
                batches: no_batches.clone(),
            },
            Persist::DropBlocksAbove(GlobalIndex(2)),
            Persist::PhaseResumed {
                record: Box::new(record.clone()),
                ledger: state,
                batches: no_batches.clone(),
            },
            Persist::Block(Arc::new(next.clone())),
            Persist::Final {
                global: GlobalIndex(3),
                proof: Box::new(FinalityProof::Committed(committed)),
                ledger: Arc::new(ledger(3)),
                batches: no_batches,
            },
        ],
    );
    let loaded = store.load().expect("the chain goes through both phases");
    assert_eq!((loaded.phases, loaded.side.len(), loaded.tail.len()), (vec![record], 0, 0));
    assert_eq!(loaded.last_final.expect("block 3").0, next);
    // Block 1 is proven by what resumed from block 2; who knows block 2 gets the resumption, and
    // then the next block.
    let at = |from, phase| store.stretch(GlobalIndex(from), (EpochNumber(0), phase), 1).expect("read");
    let one = at(1, 0).expect("block 1");
    assert!(matches!(&one.proof, FinalityProof::Committed(c) if c.index == CommitIndex(1)));
    let two = at(2, 0).expect("block 2");
    assert_eq!(two.blocks, chain.blocks[1..2]);
    let shown = |proof: &FinalityProof| matches!(proof, FinalityProof::Resumed { bodies, resumption: r } if bodies.is_empty() && **r == resumption);
    assert!(shown(&two.proof));
    let alone = at(3, 0).expect("the resumption");
    assert!(alone.blocks.is_empty() && shown(&alone.proof));
    assert_eq!(at(3, 1).expect("block 3").blocks, [next]);
}

fn fallback_block(
    identity: EpochIdentity,
    index: u64,
    parent: Digest,
    global: u64,
    resumed: Option<Resumed>,
) -> BlockRecord {
    let index = CommitIndex(index);
    let block = moult_types::Block { index, time_ms: 0, batches: Vec::new(), state_root: None, resumed };
    let hash = moult_types::block::link(parent, block.body());
    BlockRecord { epoch: EpochNumber(0), identity, global: GlobalIndex(global), parent, hash, block }
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

    let whole = store.stretch(GlobalIndex(2), (EpochNumber(0), 0), usize::MAX).expect("read").expect("final");
    assert_eq!(whole.blocks, chain.blocks[1..5]);
    assert_eq!(whole.batches.len(), 4);
    assert_eq!(whole.proof.certificate().hash, chain.blocks[4].hash);
    assert!(whole.proof.certificate().bodies.is_empty());

    // One block alone: its certificate leads up to what was certified.
    let one = store.stretch(GlobalIndex(3), (EpochNumber(0), 0), 1).expect("read").expect("final");
    assert_eq!(one.blocks, chain.blocks[2..3]);
    assert_eq!(one.proof.certificate().index, chain.blocks[2].block.index);
    let top = one
        .proof
        .certificate()
        .bodies
        .iter()
        .fold(one.proof.certificate().hash, |h, body| moult_types::block::link(h, *body));
    assert_eq!(top, chain.blocks[4].hash);

    let second =
        store.stretch(GlobalIndex(6), (EpochNumber(0), 0), usize::MAX).expect("read").expect("final");
    assert_eq!(second.blocks, chain.blocks[5..8]);
    assert_eq!(store.stretch(GlobalIndex(9), (EpochNumber(1), 0), usize::MAX).expect("read"), None);
    assert_eq!(store.final_blocks(GlobalIndex(4), usize::MAX).expect("read"), chain.blocks[3..8]);
    assert_eq!(store.final_blocks(GlobalIndex(4), 0).expect("read"), chain.blocks[3..4]);
    assert_eq!(store.proof_for(&chain.blocks[8]).expect("read"), None);
}

/// Whoever got its blocks in one piece has one certificate for them: further below than a window
/// it proves nothing, so a stretch for others does not end there.
#[test]
fn a_stretch_ends_where_a_certificate_is_near() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut chain = Chain::new();
    let window = chain.start.manifest.limits.window_blocks;
    let store = create(dir.path());
    let mut writes: Vec<Persist> = (0..3).flat_map(|_| ordered(&mut chain)).collect();
    writes.push(chain.finality(3));
    let far = 3 + 2 * window;
    writes.extend((3..far).flat_map(|_| ordered(&mut chain)));
    writes.push(chain.finality(2 * window as usize));
    commit(&store, &writes);
    let first_blocks = |from, bytes_max| {
        let found = store.stretch(GlobalIndex(from), (EpochNumber(0), 0), bytes_max).expect("read");
        let Blocks { blocks, batches, proof } = found.expect("final");
        assert!(proof.certificate().bodies.len() as u64 <= window);
        assert_eq!((blocks.first().map(|b| b.global.0), batches.len()), (Some(from), blocks.len()));
        blocks.len() as u64
    };
    // Back to the last near certificate; if there is none, on to the next.
    let block_bytes = 400;
    assert_eq!(first_blocks(1, 10 * block_bytes), 3);
    assert_eq!(first_blocks(4, 10 * block_bytes), window);
    assert_eq!(first_blocks(far - 1, 1), 1);
    assert_eq!(first_blocks(1, usize::MAX), far);
}

#[test]
fn audits_are_served_stretches_that_end_where_certificates_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, mut chain) = (create(dir.path()), Chain::new());
    for blocks in 1..=3 {
        for _ in 0..blocks {
            commit(&store, &ordered(&mut chain));
        }
        commit(&store, &[chain.finality(blocks)]);
    }
    // Above what is final.
    commit(&store, &ordered(&mut chain));
    let (mut from, mut tops) = (GlobalIndex(1), Vec::new());
    while let Some(stretch) = store.certified_stretch(from, (EpochNumber(0), 0), 1).expect("read") {
        let top = stretch.blocks.last().expect("a block");
        assert_eq!((stretch.blocks[0].global, stretch.proof.certificate().hash), (from, top.hash));
        assert_eq!(stretch.batches.len(), stretch.blocks.len());
        assert!(stretch.proof.certificate().bodies.is_empty());
        tops.push(top.global.0);
        from = top.global.next();
    }
    assert_eq!(tops, [1, 3, 6]);
    let whole = store
        .certified_stretch(GlobalIndex(1), (EpochNumber(0), 0), usize::MAX)
        .expect("read")
        .expect("blocks");
    assert_eq!(whole.blocks, chain.blocks[..6]);
    assert_eq!(store.certified_stretch(GlobalIndex(8), (EpochNumber(0), 0), 1).expect("read"), None);
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

    // An older one and a newer one.
    for other in [1, 2, 9] {
        let db = fjall::Database::builder(dir.path().join("db")).open().expect("opened");
        let meta = db.keyspace("meta", fjall::KeyspaceCreateOptions::default).expect("opened");
        let mut header = meta.get("header").expect("read").expect("there").to_vec();
        header[0] = other;
        meta.insert("header", header).expect("written");
        drop((meta, db));
        let refused = open(dir.path()).map(|_| ());
        let is_named = |e: &StoreError| matches!(e, StoreError::OtherFormat { found, supported: 3, .. } if *found == u32::from(other));
        assert!(refused.as_ref().is_err_and(is_named), "{refused:?}");
    }
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

/// A node with three groups, and its files as they were before the last group.
struct Torn {
    dir: tempfile::TempDir,
    expected: moult_core::guard::GuardState,
    guard_before: Vec<u8>,
    chain: Chain,
}

impl Torn {
    /// `payload`: what the last group writes besides, in bytes.
    fn new(payload: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("guard");
        let store = create(&dir.path().join("store"));
        let file = GuardFile::create(&path, guard()).expect("created");
        store.note_new_guard(&file).expect("noted");
        let mut log = DurableLog::new(store.writer().expect("a writer"), Some(file));
        let (mut chain, mut expected) = (Chain::new(), guard());
        let mut guard_before = Vec::new();
        for number in 1..=3 {
            if number == 3 {
                copy(&dir.path().join("store"), &dir.path().join("store-before"));
                guard_before = std::fs::read(&path).expect("read");
            }
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
            if number == 3 && payload > 0 {
                let mut record = engine_record(1);
                record.record.body = vec![7; payload];
                step.push(Persist::Record(record));
            }
            log.apply(&step).expect("applied");
            log.commit(true).expect("committed");
        }
        Self { dir, expected, guard_before, chain }
    }

    /// Takes the store as it was before the last group, as after a crash before its sync.
    fn lose_store(&self) {
        std::fs::remove_dir_all(self.dir.path().join("store")).expect("removed");
        copy(&self.dir.path().join("store-before"), &self.dir.path().join("store"));
    }

    fn check(&self) -> GuardCheck {
        let store = open(&self.dir.path().join("store")).expect("opened");
        let path = self.dir.path().join("guard");
        let (file, _) = GuardFile::open(&path, genesis().chain(), NODE).expect("opened");
        let (found, file) = store.reconcile_guard(file).expect("read");
        if let (GuardCheck::Fits, Some(file)) = (&found, file) {
            assert_eq!(file.state(), &self.expected);
            let loaded = store.load().expect("loaded");
            assert_eq!(loaded.last_final.as_ref().map(|(block, _)| block), self.chain.blocks.last());
            let recovery = store.recovery(&loaded, file.state().clone(), None).expect("read");
            assert_eq!(recovery.prepared_on_chain, Some(self.expected.prepared.1));
        }
        found
    }
}

/// The store's part of a group is not synced with it: it comes back from the guard's file.
#[test]
fn what_the_store_loses_in_a_crash_it_gets_back() {
    let node = Torn::new(0);
    assert_eq!(node.check(), GuardCheck::Fits);
    node.lose_store();
    // Twice, since a crash may come again at any point of it.
    assert_eq!(node.check(), GuardCheck::Fits);
    node.lose_store();
    assert_eq!(node.check(), GuardCheck::Fits);
    assert_eq!(node.check(), GuardCheck::Fits);
}

/// A group that the guard's log has no room for goes into the store first: a crash after
/// that is made good in the guard.
#[test]
fn what_the_guard_misses_of_a_large_group_it_gets_from_the_store() {
    let node = Torn::new(moult_store::LOG_BYTES_MIN);
    assert_eq!(node.check(), GuardCheck::Fits);
    std::fs::write(node.dir.path().join("guard"), &node.guard_before).expect("written");
    assert_eq!(node.check(), GuardCheck::Fits);
    assert_eq!(node.check(), GuardCheck::Fits);
}

/// What was put back from a copy lacks more than a crash can take.
#[test]
fn an_old_copy_of_either_is_noticed() {
    let node = Torn::new(moult_store::LOG_BYTES_MIN);
    node.lose_store();
    assert_eq!(node.check(), GuardCheck::OldStore { have: 3, needed: 4 });
    let node = Torn::new(0);
    std::fs::write(node.dir.path().join("guard"), &node.guard_before).expect("written");
    assert_eq!(node.check(), GuardCheck::OldGuard { have: 3, noted: 4 });
}

/// A node with such a guard goes on as an observer; what it writes then must not make the
/// guard look right at the next start.
#[test]
fn an_old_guard_stays_noticed_however_long_the_node_goes_on() {
    let mut node = Torn::new(0);
    let path = node.dir.path().join("guard");
    std::fs::write(&path, &node.guard_before).expect("written");
    for _ in 0..2 {
        let store = open(&node.dir.path().join("store")).expect("opened");
        let (file, _) = GuardFile::open(&path, genesis().chain(), NODE).expect("opened");
        let (found, file) = store.reconcile_guard(file).expect("read");
        assert_eq!(found, GuardCheck::OldGuard { have: 3, noted: 4 });
        let mut log = DurableLog::new(store.writer().expect("a writer"), file);
        for _ in 0..3 {
            let mut step = ordered(&mut node.chain);
            step.push(node.chain.finality(1));
            let last = node.chain.blocks.last().expect("a block");
            step.push(Persist::Guard(GuardUpdate::FinalMark { global: last.global, hash: last.hash }));
            log.apply(&step).expect("applied");
            log.commit(true).expect("committed");
        }
    }
}

/// Reads and views show blocks that are not on disk; the disk gets many of them at once. A
/// view stays as it is, whatever comes later.
#[test]
fn the_working_state_shows_what_is_not_on_disk_yet() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = create(dir.path()).state();
    let pairs = |pairs: &[(&str, Option<&str>)]| -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        pairs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.map(|v| v.as_bytes().to_vec()))).collect()
    };
    let keys = |reader: &dyn StateReader| -> Vec<u8> {
        reader.scan(b"", None, 10).into_iter().filter(|(k, _)| k.len() == 1).map(|(k, _)| k[0]).collect()
    };
    // So little memory that nothing stays in it for long.
    for memory in [200, 1 << 20] {
        state
            .apply(GlobalIndex(1), &pairs(&[("a", Some("1")), ("c", Some("3")), ("b", None)]), b"")
            .expect("applied");
        let working = moult_store::WorkingState::new(state.clone(), memory).expect("opened");
        assert_eq!(working.get(b"a"), Some(b"1".to_vec()));
        working.take_up(GlobalIndex(2), pairs(&[("a", None), ("b", Some("2"))]));
        assert_eq!((working.get(b"a"), working.get(b"b")), (None, Some(b"2".to_vec())));
        assert_eq!(keys(&working), b"bc");
        assert_eq!(keys(state.snapshot().as_ref()), b"ac");
        let (second, view) = working.view();
        assert_eq!(second, GlobalIndex(2));
        working.take_up(GlobalIndex(3), pairs(&[("b", Some("4")), ("c", None)]));
        let with_entries = working.pending_bytes();
        working.take_up(GlobalIndex(3), pairs(&[("b", Some("42"))]));
        assert_eq!(working.pending_bytes(), with_entries + 1);
        working.take_up(GlobalIndex(3), pairs(&[("b", Some("4"))]));
        assert_eq!(keys(&working), b"b");
        assert_eq!((keys(view.as_ref()), view.get(b"b")), (b"bc".to_vec(), Some(b"2".to_vec())));
        working.flush(b"root").expect("written");
        assert_eq!((working.pending_bytes(), working.get(b"b")), (0, Some(b"4".to_vec())));
        assert_eq!((keys(view.as_ref()), view.get(b"b")), (b"bc".to_vec(), Some(b"2".to_vec())));
        assert_eq!(working.view().0, GlobalIndex(3));
        assert_eq!(keys(state.snapshot().as_ref()), b"b");
        assert_eq!(state.applied().expect("read").global, GlobalIndex(3));
    }
}
