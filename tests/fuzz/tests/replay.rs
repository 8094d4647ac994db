//! Replays the committed corpora and everything that was ever found.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use moult_fuzz::TARGETS;

const INPUT_BYTES_MAX: u64 = 2048;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => panic!("{}: {error}", folder.display()),
    };
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Runs a target over the files of a folder; says which input breaks it.
fn replay(run: fn(&[u8]), folder: &Path) -> usize {
    let files = files(folder);
    for file in &files {
        let bytes = std::fs::read(file).expect("it can be read");
        if catch_unwind(|| run(&bytes)).is_err() {
            panic!("{} breaks its target: see above", file.display());
        }
    }
    files.len()
}

#[test]
fn every_target_has_a_corpus_and_holds_over_it() {
    for target in TARGETS {
        let corpus = folder("corpus").join(target.name);
        let count = replay(target.run, &corpus);
        assert!(
            count >= 5,
            "{} holds {count} inputs: `cargo xtask fuzz {} --corpus`",
            corpus.display(),
            target.name
        );
        for file in files(&corpus) {
            let bytes = file.metadata().expect("it is there").len();
            assert!(bytes <= INPUT_BYTES_MAX, "{} has {bytes} bytes", file.display());
        }
    }
}

#[test]
fn what_was_found_stays_fixed() {
    let known: BTreeSet<_> = TARGETS.iter().map(|target| target.name).collect();
    for found in files(&folder("findings")) {
        if !found.is_dir() {
            continue;
        }
        let name = found.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let target = TARGETS.iter().find(|target| target.name == name);
        let target = target.unwrap_or_else(|| panic!("{}: targets are {known:?}", found.display()));
        replay(target.run, &found);
    }
}

/// The folders of the corpus are what `cargo xtask fuzz` takes for the list of targets.
#[test]
fn folders_and_targets_are_the_same() {
    let corpora: BTreeSet<_> = files(&folder("corpus"))
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    let targets: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(corpora, targets);
}

#[test]
fn seeds_hold() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty());
        for seed in seeds {
            assert!(
                seed.len() as u64 <= INPUT_BYTES_MAX,
                "a seed of {} has {} bytes",
                target.name,
                seed.len()
            );
            (target.run)(&seed);
        }
    }
}
