//! G10: the cache of machine code, trusted only as far as this node's key goes. What does not
//! verify is compiled anew, never loaded.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use moult_hostile::module;
use moult_module::{HostConfig, Limits, ModuleHost};
use moult_types::World;
use tempfile::TempDir;

use crate::common::{application, execute, worker};

fn host_at(folder: &Path, key: u8) -> ModuleHost {
    let cache_dir = Some(folder.join("code"));
    ModuleHost::new(HostConfig {
        cache_dir,
        cache_key: [key; 32],
        compile: worker(),
        limits: Limits::default(),
    })
    .expect("a host")
}

/// Hits, misses, rejections and compilations after one use of a module.
fn use_once(folder: &Path, key: u8, name: &str) -> [u64; 4] {
    let host = host_at(folder, key);
    let receipts = execute(&*application(&host, &module(name)), &[vec![0]]).expect("it runs");
    assert_eq!(receipts.len(), 1);
    let stats = host.stats();
    [&stats.cache_hits, &stats.cache_misses, &stats.cache_rejected, &stats.compiled].map(|n| n.load(Relaxed))
}

fn only_file(folder: &Path) -> PathBuf {
    let mut files =
        std::fs::read_dir(folder.join("code")).expect("a folder").map(|f| f.expect("a file").path());
    let file = files.next().expect("one file");
    assert_eq!(files.next(), None, "no temporary file stays");
    file
}

#[test]
fn the_second_host_finds_what_the_first_compiled() {
    let folder = TempDir::new().expect("a folder");
    assert_eq!(use_once(folder.path(), 1, "kv"), [0, 1, 0, 1]);
    assert_eq!(use_once(folder.path(), 1, "kv"), [1, 0, 0, 0]);
}

#[test]
fn a_damaged_file_is_compiled_anew() {
    let folder = TempDir::new().expect("a folder");
    use_once(folder.path(), 1, "kv");
    let file = only_file(folder.path());
    let good = std::fs::read(&file).expect("the file");
    let places = [0, 17, 40, good.len() / 2, good.len() - 1];
    let flipped = places.map(|at| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad
    });
    let others =
        [good[..good.len() - 1].to_vec(), good[..20].to_vec(), vec![], [good.clone(), vec![0]].concat()];
    for bad in flipped.into_iter().chain(others) {
        std::fs::write(&file, bad).expect("written");
        assert_eq!(use_once(folder.path(), 1, "kv"), [0, 0, 1, 1]);
        assert_eq!(use_once(folder.path(), 1, "kv"), [1, 0, 0, 0], "it was replaced");
    }
}

#[test]
fn a_file_of_another_node_or_of_another_module_is_compiled_anew() {
    let folder = TempDir::new().expect("a folder");
    use_once(folder.path(), 1, "kv");
    assert_eq!(use_once(folder.path(), 2, "kv"), [0, 0, 1, 1], "another key");
    let file = only_file(folder.path());
    let other = TempDir::new().expect("a folder");
    use_once(other.path(), 2, "null");
    std::fs::copy(only_file(other.path()), &file).expect("copied");
    assert_eq!(use_once(folder.path(), 2, "kv"), [0, 0, 1, 1], "another module");
}

#[test]
fn a_cache_that_cannot_be_written_is_no_failure() {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("code"), "in the way").expect("written");
    assert_eq!(use_once(folder.path(), 1, "null")[3], 1);
}

#[test]
fn what_is_not_kept_is_removed() {
    let folder = TempDir::new().expect("a folder");
    use_once(folder.path(), 1, "kv");
    use_once(folder.path(), 1, "null");
    let host = host_at(folder.path(), 1);
    let kv = host.check(&module("kv"), World::Application).expect("a kv").hash;
    assert_eq!(host.prune_cache(&[kv]).expect("pruned"), 1);
    assert!(only_file(folder.path()).to_string_lossy().contains(&hex(&kv.0)));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
