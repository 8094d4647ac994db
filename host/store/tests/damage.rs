//! Damage to the database is found: refused, or the store is shorter than the guard's mark.

mod common;

use common::*;
use moult_core::io::{GuardUpdate, Persist};
use moult_store::{DurableLog, GuardCheck, GuardFile, Sink, Store, StoreError};
use moult_types::GlobalIndex;

const BLOCKS: u64 = 60;

/// A node's files after `BLOCKS` final blocks, each synced.
fn node(dir: &std::path::Path) -> Chain {
    node_marked(dir, BLOCKS)
}

/// A node whose guard has seen final blocks up to this one: later ones are lazy.
fn node_marked(dir: &std::path::Path, last_mark: u64) -> Chain {
    let store = create(&dir.join("store"));
    let file = GuardFile::create(&dir.join("guard"), guard()).expect("created");
    let mut log = DurableLog::new(store.writer().expect("a writer"), Some(file));
    let mut chain = Chain::new();
    for _ in 0..BLOCKS {
        let mut step = ordered(&mut chain);
        step.push(chain.finality(1));
        let last = chain.blocks.last().expect("a block");
        step.push(Persist::Guard(GuardUpdate::Prepared { index: last.block.index, hash: last.hash }));
        if last.global.0 <= last_mark {
            step.push(Persist::Guard(GuardUpdate::FinalMark { global: last.global, hash: last.hash }));
        }
        log.apply(&step).expect("applied");
        log.commit(true).expect("committed");
    }
    chain
}

fn check(store: &Store, dir: &std::path::Path) -> Result<GuardCheck, StoreError> {
    let (file, _) = GuardFile::open(&dir.join("guard"), genesis().chain(), NODE)?;
    let (found, _) = store.reconcile_guard(file)?;
    store.load()?;
    Ok(found)
}

/// As if the log had begun anew with the last group: the store cannot be made good from it.
fn empty_log(dir: &std::path::Path) {
    let (mut file, _) = GuardFile::open(&dir.join("guard"), genesis().chain(), NODE).expect("opened");
    file.begin_anew().expect("written");
}

fn journal(dir: &std::path::Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(dir.join("store/db")).expect("listed").map(|e| e.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|e| e == "jnl")).max().expect("a journal")
}

/// The database refuses some damage, loses its tail by other, and overlooks none: what is
/// lost comes back from the guard's log, or is missed.
#[test]
fn no_flipped_bit_of_the_journal_goes_unnoticed() {
    for log_is_empty in [false, true] {
        flip_bits(log_is_empty);
    }
}

fn flip_bits(log_is_empty: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let chain = node(&dir.path().join("node"));
    if log_is_empty {
        empty_log(&dir.path().join("node"));
    }
    let bytes = std::fs::read(journal(&dir.path().join("node"))).expect("read");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("written") + 1;
    let (mut refused, mut shorter, mut whole) = (0, 0, 0);
    // A stretch in the middle that covers more than one batch.
    for (round, at) in (used / 2..used / 2 + 1500).step_by(11).enumerate() {
        let copied = dir.path().join("copy");
        copy(&dir.path().join("node"), &copied);
        let mut image = bytes[..used].to_vec();
        image[at] ^= 1 << (round % 8);
        std::fs::write(journal(&copied), image).expect("written");
        match open(&copied.join("store")).and_then(|store| check(&store, &copied)) {
            Err(_) => refused += 1,
            Ok(GuardCheck::OldStore { have, needed }) => {
                assert!(have < needed);
                shorter += 1;
            }
            Ok(GuardCheck::Fits) => {
                let store = open(&copied.join("store")).expect("opened");
                assert_eq!(
                    store.final_blocks(GlobalIndex(1), usize::MAX).expect("read"),
                    chain.blocks,
                    "byte {at}"
                );
                whole += 1;
            }
            Ok(other) => panic!("byte {at}: {other:?}"),
        }
        std::fs::remove_dir_all(&copied).expect("removed");
    }
    println!("log empty: {log_is_empty}; refused {refused}, shorter {shorter}, whole {whole}");
    assert!(refused > 0 && (shorter > 0) == log_is_empty && (whole > 0) != log_is_empty);
}

#[test]
fn what_a_cut_journal_lacks_comes_from_the_log_or_is_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    let chain = node(dir.path());
    let path = journal(dir.path());
    let bytes = std::fs::read(&path).expect("read");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("written") + 1;
    let cut = || {
        std::fs::write(&path, &bytes[..used * 2 / 3]).expect("written");
        let store = open(&dir.path().join("store")).expect("opened");
        let found = check(&store, dir.path()).expect("checked");
        (found, store.final_blocks(GlobalIndex(1), usize::MAX).expect("read"))
    };
    let (found, blocks) = cut();
    assert_eq!((found, blocks), (GuardCheck::Fits, chain.blocks.clone()));
    empty_log(dir.path());
    let (found, blocks) = cut();
    assert!(matches!(found, GuardCheck::OldStore { .. }), "{found:?}");
    assert!(blocks.len() > 20 && blocks.len() < chain.blocks.len());
}

#[test]
fn blocks_that_do_not_follow_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let chain = node_marked(dir.path(), 30);
    let store = open(&dir.path().join("store")).expect("opened");
    let refused = |store: &Store| matches!(store.load(), Err(StoreError::Corrupt { .. }));
    assert!(!refused(&store));
    // Well sealed, with a wrong content each: not the content of the hash; no child of its parent.
    let mut forged = chain.blocks[30].clone();
    forged.block.time_ms += 1;
    commit(&store, &[Persist::Block(forged.clone().into())]);
    assert!(refused(&store));
    forged.hash = moult_types::block::link(forged.parent, forged.block.body());
    commit(&store, &[Persist::Block(forged.into())]);
    assert!(refused(&store));
    commit(&store, &[Persist::Block(chain.blocks[30].clone().into())]);
    assert!(!refused(&store));
    // Another chain than the guard has seen.
    let (mut file, _) = GuardFile::open(&dir.path().join("guard"), genesis().chain(), NODE).expect("opened");
    let mark = GuardUpdate::FinalMark { global: GlobalIndex(40), hash: moult_types::Digest([1; 32]) };
    file.append(&[mark]).expect("appended");
    let (found, usable) = store.reconcile_guard(file).expect("checked");
    assert!(matches!(found, GuardCheck::OtherBlock { global: GlobalIndex(40), .. }));
    assert!(usable.is_none(), "its mark must stay as it is");
    commit(&store, &[Persist::DropBlocksAbove(GlobalIndex(50))]);
    assert!(refused(&store));
}
