use moult_core::io::GuardUpdate;
use moult_core::stop::StopCause;
use moult_crypto::{KeyPair, Signer as _, possession};
use moult_keys::write_key;
use moult_types::{
    AuthorityId, CommitIndex, Digest, EpochNumber, FaultModel, GlobalIndex, Member, ModuleHash, Scope, Slot,
    World,
};

use super::*;
use crate::genesis::PinFile;

pub(crate) fn keys() -> KeyPair {
    KeyPair::from_seed(&[9; 32])
}

/// A node's files: key, genesis of a chain of one, configuration.
pub(crate) fn node(dir: &Path, seed: u8, name: &str) -> NodeConfig {
    let (authority, own) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[seed; 32]));
    std::fs::create_dir_all(dir).expect("made");
    write_key(&dir.join("node.key"), &own).expect("written");
    std::fs::write(dir.join("api.token"), "0123456789abcdef").expect("written");
    let id = AuthorityId::of(&authority.public_key());
    let key = authority.public_key();
    let member = Member { id, key, possession: possession(&authority, id), stake: 1, address: "a:1".into() };
    let pin = PinFile { hash: ModuleHash([1; 32]), config: None, config_hex: None };
    let genesis = GenesisFile {
        origin: None,
        name: name.into(),
        time_ms: 1,
        fault_model: FaultModel::Byzantine,
        committee: vec![member],
        modules: World::ALL.into_iter().map(|world| (world, pin.clone())).collect(),
        fallbacks: Vec::new(),
        limits: Default::default(),
    };
    genesis.save(&dir.join("genesis.json")).expect("written");
    let text = "genesis = 'genesis.json'\nkey_file = 'node.key'\ndata_dir = 'data'\n\
                [p2p]\nlisten = '127.0.0.1:1'\n[api]\nlisten = '127.0.0.1:2'\ntoken_file = 'api.token'\n";
    NodeConfig::parse(text, &dir.join("moult.toml")).expect("a configuration")
}

fn genesis(config: &NodeConfig) -> moult_types::Genesis {
    GenesisFile::load(&config.genesis).expect("a file").to_genesis().expect("a genesis")
}

fn signed(a: u64, digest: u8) -> GuardUpdate {
    let (scope, slot) = (Scope::Number(EpochNumber(0)), Slot { kind: 0x8004, a, b: 0 });
    GuardUpdate::Signed { scope, slot, digest: Digest([digest; 32]) }
}

/// Makes a guard that has signed, as a node would have left it.
pub(crate) fn lived(config: &NodeConfig, updates: &[GuardUpdate]) -> GuardState {
    let genesis = genesis(config);
    let state = GuardState::new(genesis.chain(), keys().public_key(), genesis.manifest.identity());
    std::fs::create_dir_all(config.data_dir.join("guard")).expect("made");
    let mut guard = GuardFile::create(&guard_path(&config.data_dir), state).expect("made");
    guard.append(updates).expect("appended");
    guard.commit(Vec::new()).expect("written");
    guard.state().clone()
}

fn usual() -> Vec<GuardUpdate> {
    vec![
        GuardUpdate::Started { count: 3 },
        GuardUpdate::Prepared { index: CommitIndex(7), hash: Digest([7; 32]) },
        GuardUpdate::FinalMark { global: GlobalIndex(5), hash: Digest([5; 32]) },
        signed(1, 1),
    ]
}

#[test]
fn an_exported_guard_is_out_of_use_and_arrives_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (node(&folder.path().join("a"), 9, "c"), node(&folder.path().join("b"), 9, "c"));
    let state = lived(&old, &usual());
    let sent = export(&old, false).expect("exported");
    assert_eq!(sent.state, state);
    assert!(!guard_path(&old.data_dir).exists() && exported_path(&old.data_dir).exists());

    let imported = import(&new, sent.to_json().as_bytes()).expect("imported");
    assert_eq!(imported, Imported { before: None, after: state.clone() });
    let (guard, read) = GuardFile::open(&guard_path(&new.data_dir), state.chain, state.key).expect("there");
    assert_eq!((guard.sequence(), &read), (sent.sequence, &state));
    drop(guard);
    // And on from there to a third one.
    assert_eq!(export(&new, false).expect("exported"), sent);

    assert!(matches!(export(&old, false), Err(TransferError::Exported(_))));
    assert_eq!(export(&old, true).expect("exported once more"), sent);
    // Back to where it came from: what is there is raised, and in use again.
    let back = import(&old, sent.to_json().as_bytes()).expect("imported");
    assert_eq!(back, Imported { before: Some(state.clone()), after: state });
    assert!(guard_path(&old.data_dir).exists() && !exported_path(&old.data_dir).exists());
}

#[test]
fn an_import_only_raises_and_refuses_what_contradicts() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (node(&folder.path().join("a"), 9, "c"), node(&folder.path().join("b"), 9, "c"));
    lived(&one, &usual());
    let old = export(&one, false).expect("exported");
    let mut more = usual();
    more.push(GuardUpdate::Prepared { index: CommitIndex(9), hash: Digest([9; 32]) });
    more.push(signed(2, 2));
    let ahead = lived(&other, &more);
    let imported = import(&other, old.to_json().as_bytes()).expect("imported");
    assert_eq!(imported.after, ahead, "an older one changes nothing");

    let third = node(&folder.path().join("c"), 9, "c");
    let before = lived(&third, &[signed(1, 9), GuardUpdate::Started { count: 9 }]);
    let refused = import(&third, old.to_json().as_bytes()).expect_err("another digest was signed");
    assert!(matches!(refused, TransferError::Conflict(GuardConflict::Slot(..))), "{refused}");
    let (_, after) = GuardFile::open(&guard_path(&third.data_dir), before.chain, before.key).expect("there");
    assert_eq!(after, before, "nothing was changed");
}

#[test]
fn another_key_another_chain_and_a_running_node_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let from = node(&folder.path().join("a"), 9, "c");
    assert!(matches!(export(&from, false), Err(TransferError::Nothing(_))));
    lived(&from, &usual());
    let lock = DirLock::acquire(&from.data_dir).expect("locked");
    let refused = export(&from, false).expect_err("a node runs");
    assert!(matches!(refused, TransferError::Store(StoreError::Locked { .. })), "{refused}");
    drop(lock);
    let json = export(&from, false).expect("exported").to_json();
    for (config, words) in [
        (node(&folder.path().join("b"), 8, "c"), "this node's key is"),
        (node(&folder.path().join("d"), 9, "x"), "belongs to chain"),
    ] {
        let refused = import(&config, json.as_bytes()).expect_err("not its").to_string();
        assert!(refused.contains(words), "{refused}");
        assert!(!guard_path(&config.data_dir).exists());
    }
    let here = node(&folder.path().join("e"), 9, "c");
    let lock = DirLock::acquire(&here.data_dir).expect("locked");
    assert!(matches!(import(&here, json.as_bytes()), Err(TransferError::Store(StoreError::Locked { .. }))));
    drop(lock);
    let damaged = json.replacen("\"start_count\": 3", "\"start_count\": 2", 1);
    assert!(matches!(import(&here, damaged.as_bytes()), Err(TransferError::Json(GuardJsonError::Checksum))));
}

#[test]
fn a_stop_is_lifted_when_an_operator_says_so_and_one_for_good_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| node(&folder.path().join(name), 9, "c");
    let stop = |cause| Stop { cause, reason: "another root".into() };
    let (config, stated) = (path("a"), (GlobalIndex(100), Digest([1; 32])));
    assert!(matches!(resume(&config, true), Err(ResumeError::Place(TransferError::Nothing(_)))));
    let mut updates = usual();
    updates.push(GuardUpdate::Stated { global: stated.0, root: stated.1 });
    updates.push(GuardUpdate::Stopped(stop(StopCause::State)));
    let before = lived(&config, &updates);
    let read = || GuardFile::open(&guard_path(&config.data_dir), before.chain, before.key).expect("there").1;
    assert_eq!(resume(&config, false).expect("it says what it would do"), stop(StopCause::State));
    assert_eq!(read(), before, "and does nothing");
    assert_eq!(resume(&config, true).expect("lifted"), stop(StopCause::State));
    // All that it has signed is still known, and it states nothing else for that block.
    let after = GuardState { stopped: None, stated: (GlobalIndex(101), Digest::ZERO), ..before.clone() };
    assert_eq!(read(), after);
    assert!(matches!(resume(&config, true), Err(ResumeError::NotStopped)));

    let config = path("b");
    lived(&config, &[GuardUpdate::Stopped(stop(StopCause::Key))]);
    assert!(matches!(resume(&config, true), Err(ResumeError::ForGood(_))));
    // It goes with the guard: moving the node does not lift it.
    let sent = export(&config, false).expect("exported");
    let third = path("c");
    lived(&third, &usual());
    let imported = import(&third, sent.to_json().as_bytes()).expect("imported");
    assert_eq!(imported.after.stopped, Some(stop(StopCause::Key)));
}
