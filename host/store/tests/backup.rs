//! Backups of a store that is written to, and restores that are cut off anywhere.

mod common;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use common::*;
use moult_core::io::{GuardUpdate, Persist};
use moult_store::{
    Backup, BackupError, BackupProgress, DurableLog, GuardCheck, GuardFile, RestoreStep, Sink, Store,
    StoreError, check_backup, list_backups, prune_backups, refuse_half_restored, restore,
};
use moult_types::{
    ChainId, CommitIndex, Digest, EpochNumber, GlobalIndex, ModuleHash, PublicKey, Scope, Slot,
};

const NO_LIMIT: u64 = u64::MAX;
/// What a guard remembers and no store does.
const SIGNED: Digest = Digest([0xab; 32]);

fn back_up(store: &Store, folder: &Path) -> Backup {
    store.back_up(folder, 77, NO_LIMIT, &BackupProgress::default()).expect("backed up")
}

fn whose() -> (ChainId, PublicKey) {
    (genesis().chain(), NODE)
}

/// Restores without being cut off.
fn restored(data_dir: &Path, backup: &Backup) -> Option<PathBuf> {
    let done = restore(data_dir, whose(), backup, &mut |_| Ok(())).expect("restored");
    assert_eq!(done.hash, backup.hash);
    done.aside
}

/// Everything that can be read from a store: blocks, batches, state, modules.
fn content(dir: &Path) -> (Vec<moult_types::BlockRecord>, GlobalIndex, Vec<u8>, Vec<ModuleHash>) {
    let store = open(dir).expect("opened");
    let loaded = store.load().expect("loaded");
    let last = store.last_final().expect("read");
    let mut blocks = Vec::new();
    while blocks.len() < last.0 as usize {
        let next = GlobalIndex(blocks.len() as u64 + 1);
        blocks.extend(store.final_blocks(next, 1 << 20).expect("read"));
    }
    for block in &blocks {
        assert!(block.block.batches.iter().all(|digest| store.batch(*digest).expect("read").is_some()));
    }
    blocks.extend(loaded.tail.iter().map(|block| block.as_ref().clone()));
    let value = store.state().snapshot().get(b"\x01key").unwrap_or_default();
    (blocks, last, value, store.modules().list().expect("listed"))
}

/// A store with so many final blocks, one more above them, state and a module.
fn grown(dir: &Path, blocks: u64) -> (Store, Chain) {
    let (store, mut chain) = (create(dir), Chain::new());
    grow(&store, &mut chain, blocks);
    store.modules().put(b"a module").expect("put");
    (store, chain)
}

fn grow(store: &Store, chain: &mut Chain, blocks: u64) {
    let mut writes: Vec<Persist> = (0..blocks).flat_map(|_| ordered(chain)).collect();
    writes.push(chain.finality(blocks as usize));
    commit(store, &writes);
    let last = chain.blocks.last().expect("a block").global;
    let state = BTreeMap::from([(b"\x01key".to_vec(), Some(last.0.to_be_bytes().to_vec()))]);
    store.state().apply(last, &state, b"").expect("applied");
}

#[test]
fn a_backup_holds_the_moment_it_was_made_at() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, folder) = (dir.path().join("data"), dir.path().join("backups"));
    let (store, mut chain) = grown(&data.join("store"), 30);
    drop(store);
    let then = content(&data.join("store"));
    let store = open(&data.join("store")).expect("opened");
    let backup = back_up(&store, &folder);
    assert_eq!(backup.path, folder.join("block-000000000030-epoch-0.backup"));
    assert_eq!((backup.header.last_final, backup.modules), (GlobalIndex(30), 1));
    assert_eq!(check_backup(&backup.path).expect("whole"), backup);
    assert_eq!(backup.bytes, std::fs::metadata(&backup.path).expect("there").len());

    grow(&store, &mut chain, 5);
    drop(store);
    let now = content(&data.join("store"));
    assert_ne!(now, then);
    let aside = restored(&data, &backup).expect("there was a store");
    assert_eq!(content(&data.join("store")), then);
    assert_eq!(content(&aside), now, "the former store is kept");
    refuse_half_restored(&data).expect("nothing is under way");
}

/// While a backup is read, writers write: none of it is in the backup, and it is one state.
#[test]
fn a_backup_beside_a_writer_is_one_state() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, folder) = (dir.path().join("data"), dir.path().join("backups"));
    let (store, mut chain) = grown(&data.join("store"), 50);
    let writing = std::thread::spawn({
        let store = store.clone();
        move || (0..60).for_each(|_| grow(&store, &mut chain, 1))
    });
    let backups: Vec<Backup> = (0..4).map(|_| back_up(&store, &folder)).collect();
    writing.join().expect("written");
    drop(store);
    for backup in backups {
        restored(&data, &backup);
        // The hash chain is checked by it, and every batch of a block is there.
        let (blocks, last, value, _) = content(&data.join("store"));
        assert_eq!(last, backup.header.last_final);
        assert_eq!(blocks.len() as u64, last.0);
        // The state follows in a batch of its own, one block at a time here.
        let applied = u64::from_be_bytes(value.try_into().expect("a number"));
        assert!(applied == last.0 || applied + 1 == last.0, "{applied} at block {last}");
    }
}

#[test]
fn any_damage_is_named_and_restores_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, folder) = (dir.path().join("data"), dir.path().join("backups"));
    let (store, _) = grown(&data.join("store"), 3);
    let backup = back_up(&store, &folder);
    drop(store);
    let good = std::fs::read(&backup.path).expect("read");
    let damaged = |bytes: &[u8]| {
        std::fs::write(&backup.path, bytes).expect("written");
        check_backup(&backup.path).expect_err("damaged")
    };
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        let error = damaged(&bytes);
        let is_named = matches!(error, BackupError::Damaged { .. } | BackupError::OtherFormat { .. });
        assert!(is_named, "byte {at}: {error}");
    }
    for at in (0..good.len()).step_by(7) {
        assert!(matches!(damaged(&good[..at]), BackupError::Damaged { .. }), "cut at {at}");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(damaged(&longer).to_string().contains("goes on after its end"));
    // Damaged after it was checked: the store is as it was, and another backup restores it.
    let mut bytes = good.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&backup.path, bytes).expect("written");
    let before = content(&data.join("store"));
    restore(&data, whose(), &backup, &mut |_| Ok(())).expect_err("damaged");
    assert_eq!(content(&data.join("store")), before);
    std::fs::write(&backup.path, good).expect("written");
    restored(&data, &backup);
}

#[test]
fn another_node_and_a_limit_are_refused_and_old_backups_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, folder) = (dir.path().join("data"), dir.path().join("backups"));
    let (store, mut chain) = grown(&data.join("store"), 3);
    let refused = store.back_up(&folder, 1, 1000, &BackupProgress::default()).expect_err("too large");
    assert!(matches!(refused, BackupError::TooLarge { bytes_max: 1000 }), "{refused}");
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0, "nothing is left of it");
    let given_up = BackupProgress::default();
    given_up.cancel();
    let refused = store.back_up(&folder, 1, NO_LIMIT, &given_up).expect_err("given up");
    assert!(matches!(refused, BackupError::Cancelled), "{refused}");
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0, "nothing is left of it");
    let backup = back_up(&store, &folder);
    for whose in [(ChainId([9; 32]), NODE), (genesis().chain(), PublicKey([9; 32]))] {
        let refused = restore(&data, whose, &backup, &mut |_| Ok(())).expect_err("not its");
        assert!(matches!(refused, BackupError::OtherNode { .. }), "{refused}");
    }
    std::fs::write(folder.join("notes.txt"), "mine").expect("written");
    for _ in 0..3 {
        grow(&store, &mut chain, 1);
        back_up(&store, &folder);
    }
    let left = prune_backups(&folder, 2).expect("pruned");
    let names: Vec<_> = left.iter().map(|path| path.file_name().expect("a name").to_owned()).collect();
    assert_eq!(names, ["block-000000000005-epoch-0.backup", "block-000000000006-epoch-0.backup"]);
    assert_eq!(list_backups(&folder).expect("listed"), left);
    assert!(folder.join("notes.txt").exists());
}

/// Every step of a restore, cut off before it; the copy under way torn, too. Either nothing was
/// begun and the old store is whole, or no node starts there and a second run completes it.
#[test]
fn a_restore_that_is_cut_off_anywhere_is_completed_by_the_next() {
    for had_store in [true, false] {
        let (mut cut, mut seen) = (0, Vec::new());
        loop {
            let dir = tempfile::tempdir().expect("a directory");
            let (data, folder) = (dir.path().join("data"), dir.path().join("backups"));
            let (store, mut chain) = grown(&data.join("store"), 4);
            let backup = back_up(&store, &folder);
            let then = {
                drop(store);
                content(&data.join("store"))
            };
            let store = open(&data.join("store")).expect("opened");
            grow(&store, &mut chain, 2);
            drop(store);
            let now = content(&data.join("store"));
            if !had_store {
                std::fs::remove_dir_all(data.join("store")).expect("removed");
            }
            let mut steps = 0;
            let done = restore(&data, whose(), &backup, &mut |step| {
                steps += 1;
                if steps > cut {
                    seen.push(step);
                    return Err(io::Error::other("cut off"));
                }
                Ok(())
            });
            if done.is_ok() {
                break;
            }
            tear(&data.join("store.restoring"));
            match refuse_half_restored(&data) {
                Ok(()) if had_store => assert_eq!(content(&data.join("store")), now, "not begun"),
                Ok(()) => assert!(!data.join("store").exists(), "not begun"),
                Err(e) => assert!(matches!(e, StoreError::HalfRestored { .. }), "{e}"),
            }
            let aside = restored(&data, &backup);
            assert_eq!(content(&data.join("store")), then, "cut off before step {cut}");
            assert_eq!(aside.as_deref().map(content), had_store.then_some(now));
            refuse_half_restored(&data).expect("nothing is under way");
            assert!(!data.join("store.restoring").exists());
            cut += 1;
        }
        seen.dedup();
        use RestoreStep::{Build, Check, End, Note, PutAside, PutInPlace};
        let all: &[_] = if had_store {
            &[Note, Build, Check, PutAside, PutInPlace, End]
        } else {
            &[Note, Build, Check, PutInPlace, End]
        };
        assert_eq!(seen, all);
    }
}

/// A crash may leave any part of what was not synced; that is so before the copy was whole.
fn tear(unfinished: &Path) {
    let note = unfinished.parent().expect("a folder");
    let is_whole = std::fs::read_dir(note).expect("listed").any(|entry| {
        entry.expect("an entry").file_name().to_string_lossy().starts_with("store.before-restore-")
    });
    if is_whole || !unfinished.exists() {
        return;
    }
    let mut folders = vec![unfinished.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("read");
                std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("torn");
            }
        }
    }
}

/// Another backup is given than the one that was cut off past the point of no return.
#[test]
fn a_restore_that_was_cut_off_late_is_completed_before_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, folder) = (dir.path().join("data"), dir.path().join("backups"));
    let (store, mut chain) = grown(&data.join("store"), 4);
    let first = back_up(&store, &folder);
    grow(&store, &mut chain, 2);
    let second = back_up(&store, &folder);
    drop(store);
    let cut =
        |at: RestoreStep| move |step| if step == at { Err(io::Error::other("cut off")) } else { Ok(()) };
    restore(&data, whose(), &first, &mut cut(RestoreStep::PutInPlace)).expect_err("cut off");
    let done = restore(&data, whose(), &second, &mut |_| Ok(())).expect("completed");
    assert_eq!(done.hash, first.hash, "what was begun is what is there");
    assert_eq!(content(&data.join("store")).1, GlobalIndex(4));
    restored(&data, &second);
    assert_eq!(content(&data.join("store")).1, GlobalIndex(6));

    // Early on, another one simply takes its place.
    restore(&data, whose(), &first, &mut cut(RestoreStep::Check)).expect_err("cut off");
    restored(&data, &second);
    assert_eq!(content(&data.join("store")).1, GlobalIndex(6));
}

/// What a start finds after a restore, by what became of the guard.
#[test]
fn the_guard_decides_what_a_restored_store_may_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, folder) = (dir.path().join("data"), dir.path().join("backups"));
    let path = data.join("guard");
    let store = create(&data.join("store"));
    let mut chain = Chain::new();
    let guard_file = GuardFile::create(&path, guard()).expect("made");
    store.note_new_guard(&guard_file).expect("noted");
    let mut log = DurableLog::new(store.writer().expect("a writer"), Some(guard_file));
    let run = |log: &mut DurableLog, chain: &mut Chain, blocks: usize| {
        let mut writes: Vec<Persist> = (0..blocks).flat_map(|_| ordered(chain)).collect();
        writes.push(chain.finality(blocks));
        let last = chain.blocks.last().expect("a block");
        let (global, hash) = (last.global, last.hash);
        writes.push(Persist::Guard(GuardUpdate::Prepared { index: CommitIndex(global.0), hash }));
        writes.push(Persist::Guard(GuardUpdate::FinalMark { global, hash }));
        log.apply(&writes).expect("applied");
        log.commit(true).expect("synced");
    };
    let (scope, slot) = (Scope::Number(EpochNumber(0)), Slot { kind: 0x8004, a: 1, b: 0 });
    log.apply(&[Persist::Guard(GuardUpdate::Signed { scope, slot, digest: SIGNED })]).expect("applied");
    run(&mut log, &mut chain, 3);
    let backup = back_up(&store, &folder);
    run(&mut log, &mut chain, 2);
    drop((log, store));
    let copy_of_guard = std::fs::read(&path).expect("read");
    let start = |data: &Path| {
        let store = open(&data.join("store")).expect("opened");
        let (guard, _) = GuardFile::open(&path, genesis().chain(), NODE).expect("a guard");
        let (found, _) = store.reconcile_guard(guard).expect("compared");
        (found, store)
    };

    // The guard's log reaches back to the backup: the store gets all of the rest from it.
    restored(&data, &backup);
    let (found, store) = start(&data);
    assert_eq!((found, store.last_final().expect("read")), (GuardCheck::Fits, GlobalIndex(5)));

    // It began anew since: the node signs nothing until it has the blocks from its peers.
    let (mut guard_file, _) = GuardFile::open(&path, genesis().chain(), NODE).expect("a guard");
    guard_file.begin_anew().expect("synced");
    drop((guard_file, store));
    restored(&data, &backup);
    let (found, store) = start(&data);
    assert!(matches!(found, GuardCheck::OldStore { .. }), "{found:?}");
    drop(store);

    // A guard that is older than the backup has forgotten signatures.
    let old = GuardFile::create(&data.join("old"), guard()).expect("made");
    drop(old);
    std::fs::copy(data.join("old"), &path).expect("copied");
    restored(&data, &backup);
    let (found, store) = start(&data);
    assert!(matches!(found, GuardCheck::OldGuard { .. }), "{found:?}");
    drop(store);

    // None at all: the store says that there must be one.
    std::fs::remove_file(&path).expect("removed");
    restored(&data, &backup);
    let store = open(&data.join("store")).expect("opened");
    assert!(store.knows_guard().expect("read"));
    drop(store);

    // No guard is in a backup: what it alone knows is not there.
    let has = |bytes: &[u8]| bytes.windows(32).any(|window| window == SIGNED.0);
    assert!(has(&copy_of_guard) && !has(&std::fs::read(&backup.path).expect("read")));
}
