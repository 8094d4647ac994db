//! What a start finds in its folder, and whether the node may sign with it.

use moult_core::io::GuardUpdate;

use super::*;
use crate::guard_transfer::tests::{keys, lived, node};

fn opened(config: &NodeConfig) -> Result<Opened, NodeError> {
    let genesis = GenesisFile::load(&config.genesis).expect("a file").to_genesis().expect("a genesis");
    std::fs::create_dir_all(&config.data_dir).expect("made");
    Opened::open(config, &genesis, &keys().into())
}

fn stopped(config: &NodeConfig) -> Option<String> {
    opened(config).expect("opened").recovery.signing_stopped
}

#[test]
fn a_folder_that_is_lost_makes_no_new_guard() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = node(folder.path(), 9, "c");
    // A key that came from elsewhere: nothing says that it is new.
    assert!(stopped(&config).is_some_and(|reason| reason.contains("missing")));
    std::fs::remove_dir_all(&config.data_dir).expect("removed");
    std::fs::remove_file(&config.key_file).expect("removed");
    // One that was made here.
    let id = AuthorityId::of(&keys().public_key());
    let file = KeyFile::plain(&config.key_file, &keys(), id);
    key_use::write_new_key(&file).expect("written");
    assert_eq!(stopped(&config), None);
    assert_eq!(stopped(&config), None, "as at any later start");
    std::fs::remove_dir_all(&config.data_dir).expect("removed");
    assert!(stopped(&config).is_some_and(|reason| reason.contains("missing")));
    assert!(stopped(&config).is_some_and(|reason| reason.contains("moult keys rotate")), "nor later");
    // On another chain the key has signed nothing.
    let other = node(&folder.path().join("other"), 9, "d");
    let other = NodeConfig { key_file: config.key_file.clone(), ..other };
    assert_eq!(stopped(&other), None);
}

#[test]
fn a_node_that_executed_what_is_not_the_chains_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = node(folder.path(), 9, "c");
    let stop = |cause| GuardUpdate::Stopped(Stop { cause, reason: "another block 7".into() });
    lived(&config, &[stop(StopCause::Chain)]);
    let refused = opened(&config).err().expect("it does not start").to_string();
    assert!(refused.contains("another block 7") && refused.contains("moult guard resume"), "{refused}");
    // A wrong state is looked into while the node runs; the replica signs nothing.
    lived_again(&config, &[stop(StopCause::State)]);
    assert!(opened(&config).expect("it starts").recovery.guard.stopped.is_some());
}

fn lived_again(config: &NodeConfig, updates: &[GuardUpdate]) {
    std::fs::remove_dir_all(&config.data_dir).expect("removed");
    lived(config, updates);
}
