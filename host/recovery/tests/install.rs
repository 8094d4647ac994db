//! An installation that is cut off anywhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moult_core::execution::StateAccumulator;
use moult_core::guard::GuardState;
use moult_crypto::{KeyPair, Signer as _, possession};
use moult_keys::write_key;
use moult_node::OWN_KEY;
use moult_node::config::NodeConfig;
use moult_node::genesis::{GenesisFile, OriginFile, PinFile};
use moult_recovery::{Found, InstallStep, Installation, RecoveryError};
use moult_store::{Backup, BackupError, BackupProgress, GuardFile, Store, StoreError, StoreOptions};
use moult_types::{
    AuthorityId, Digest, EpochNumber, FaultModel, Genesis, GlobalIndex, Member, ModuleHash, Origin, World,
};

const STEPS: [InstallStep; 6] = [
    InstallStep::Build,
    InstallStep::Genesis,
    InstallStep::PutGuardAside,
    InstallStep::PutBackupsAside,
    InstallStep::PutStoreAside,
    InstallStep::PutInPlace,
];

/// A node of a former chain, and what a plan would have written.
struct Machine {
    folder: tempfile::TempDir,
    config: NodeConfig,
    former: Genesis,
    file: GenesisFile,
    backup: Backup,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let keys = KeyPair::from_seed(&[3; 32]);
        write_key(&dir.join("node.key"), &keys).expect("written");
        let id = AuthorityId::of(&keys.public_key());
        let (key, proof) = (keys.public_key(), possession(&keys, id));
        let pin = PinFile { hash: ModuleHash([1; 32]), config: None, config_hex: None };
        let mut file = GenesisFile {
            name: "c".into(),
            time_ms: 1,
            origin: None,
            fault_model: FaultModel::Byzantine,
            committee: vec![Member { id, key, possession: proof, stake: 1, address: "a:1".into() }],
            modules: World::ALL.into_iter().map(|world| (world, pin.clone())).collect(),
            fallbacks: Vec::new(),
            limits: Default::default(),
        };
        file.save(&dir.join("genesis.json")).expect("written");
        let former = file.to_genesis().expect("a genesis");
        let text = "genesis = 'genesis.json'\nkey_file = 'node.key'\ndata_dir = 'data'\n\
                    [p2p]\nlisten = '127.0.0.1:1'\n[api]\nlisten = '127.0.0.1:2'\ntoken_file = 'api.token'\n";
        let config = NodeConfig::parse(text, &dir.join("moult.toml")).expect("a configuration");
        drop(Store::create(&dir.join("data/store"), &former, key, StoreOptions::default()).expect("created"));
        std::fs::create_dir_all(dir.join("data/guard")).expect("made");
        std::fs::create_dir_all(dir.join("data/backups")).expect("made");
        let guard = GuardState::new(former.chain(), key, former.manifest.identity());
        drop(GuardFile::create(&dir.join("data/guard/guard"), guard).expect("created"));

        // More than is read at once, under both prefixes.
        let pair = |n: u32| (vec![1 + (n % 2) as u8, (n >> 8) as u8, n as u8, 7], n.to_le_bytes().to_vec());
        let state: BTreeMap<_, _> = (0..3000).map(pair).collect();
        let mut sum = StateAccumulator::default();
        state.iter().for_each(|(key, value)| sum.replace(key, None, Some(value)));
        file.origin = Some(OriginFile::from(&Origin {
            chain: former.chain(),
            epoch: EpochNumber(4),
            global: GlobalIndex(77),
            hash: Digest([5; 32]),
            state_root: sum.root(),
        }));
        let new = file.to_genesis().expect("a genesis");
        let plan = Store::create(&dir.join("plan"), &new, key, StoreOptions::default()).expect("created");
        // Its own record is not taken from the file.
        plan.carry_state(&state, &sum, (OWN_KEY, b"forged".to_vec())).expect("carried");
        let backup =
            plan.back_up(&dir.join("out"), 1, u64::MAX, &BackupProgress::default()).expect("backed up");
        Self { config, former, file, backup, state, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> Result<Installation<'_>, RecoveryError> {
        Installation::open(&self.config, &self.file)
    }

    /// Installs, and is cut off before a step.
    fn install_until(&self, cut: Option<InstallStep>) -> Result<(), RecoveryError> {
        let mut before = |step| if Some(step) == cut { Err(std::io::Error::other("cut")) } else { Ok(()) };
        self.open()?.install(&self.backup, &mut before).map(drop)
    }

    /// Whether a node could start with the genesis and the store that are there.
    fn starts(&self) -> Option<Genesis> {
        let genesis = GenesisFile::load(&self.config.genesis).expect("read").to_genesis().expect("a genesis");
        let dir = self.path("data/store");
        let key = self.former.manifest.members[0].key;
        match Store::open(&dir, genesis.chain(), key, StoreOptions::default()) {
            Ok(_) => Some(genesis),
            Err(StoreError::OtherChain { .. }) => None,
            // A node makes an empty store only for a genesis that carries on nothing.
            Err(StoreError::Missing { .. }) if genesis.origin.is_some() => None,
            Err(e) => panic!("{e}"),
        }
    }

    fn assert_installed(&self) {
        let genesis = self.starts().expect("it starts");
        assert_eq!(Some(&genesis), self.file.to_genesis().ok().as_ref());
        let key = genesis.manifest.members[0].key;
        let store = Store::open(&self.path("data/store"), genesis.chain(), key, StoreOptions::default());
        let store = store.expect("opened");
        let loaded = store.load().expect("loaded");
        assert!(loaded.fresh && !store.knows_guard().expect("read"));
        assert_eq!((loaded.applied, loaded.epoch.base), (GlobalIndex(77), GlobalIndex(77)));
        assert_eq!(
            (loaded.epoch.manifest.number, store.last_final().ok()),
            (EpochNumber(5), Some(GlobalIndex(77)))
        );
        let carried = store.state().snapshot();
        assert_eq!(carried.scan(&[0], Some(&[3]), 9999), self.state.clone().into_iter().collect::<Vec<_>>());
        let own = carried.get(OWN_KEY).map(|own| moult_types::decode::<moult_node::Own>(&own));
        let root = genesis.origin.expect("an origin").state_root;
        assert_eq!(own.and_then(Result::ok), Some((5, root, Digest([5; 32]))));
        drop((carried, store));
        for former in ["data/guard", "data/backups", "data/store", "genesis.json"] {
            assert!(self.path(&format!("{former}.before-recovery-1")).exists(), "{former}");
            assert!(!self.path(&format!("{former}.before-recovery-2")).exists(), "{former}");
        }
        assert!(!self.path("data/guard/guard").exists() && !self.path("data/store.recovering").exists());
        assert_eq!(self.open().expect("opened").found, Found::Installed);
    }
}

#[test]
fn cut_off_at_any_step_no_node_starts_in_between_and_the_same_again_completes_it() {
    for cut in STEPS {
        let machine = Machine::new();
        machine.install_until(Some(cut)).expect_err("it was cut off");
        let is_former = machine.starts().is_some_and(|genesis| genesis == machine.former);
        let expected = matches!(cut, InstallStep::Build | InstallStep::Genesis);
        assert_eq!(is_former, expected, "before {cut:?} a node is of the former chain or does not start");
        assert!(is_former || machine.starts().is_none(), "{cut:?}");
        machine.install_until(None).expect("completed");
        machine.assert_installed();
    }
}

#[test]
fn what_is_not_the_state_or_the_chain_of_the_genesis_is_refused() {
    let mut machine = Machine::new();
    let origin = machine.file.origin.clone().expect("an origin");
    machine.file.origin = Some(OriginFile { state_root: "00".repeat(32), ..origin.clone() });
    let error = machine.install_until(None).expect_err("another root");
    assert!(matches!(error, RecoveryError::Backup(BackupError::OtherState { .. })), "{error}");
    assert!(machine.starts().is_some_and(|genesis| genesis == machine.former), "nothing was changed");
    let other = GenesisFile { name: "d".into(), origin: None, ..machine.file.clone() };
    machine.file.origin =
        Some(OriginFile { chain: other.to_genesis().expect("a genesis").chain(), ..origin });
    assert!(matches!(machine.open(), Err(RecoveryError::OtherGenesis { .. })));
    machine.file.origin = None;
    assert!(matches!(machine.open(), Err(RecoveryError::NoOrigin)));
}

#[test]
fn a_guard_of_the_new_chain_is_never_put_aside() {
    let machine = Machine::new();
    machine.install_until(None).expect("installed");
    let new = machine.file.to_genesis().expect("a genesis");
    let key = new.manifest.members[0].key;
    let (guard, store): (&Path, &Path) = (&machine.path("data/guard/guard"), &machine.path("data/store"));
    std::fs::create_dir_all(guard.parent().expect("a folder")).expect("made");
    drop(
        GuardFile::create(guard, GuardState::new(new.chain(), key, new.manifest.identity()))
            .expect("created"),
    );
    std::fs::remove_dir_all(store).expect("removed");
    machine.install_until(None).expect("installed again");
    assert!(guard.exists());
    std::fs::remove_dir_all(store).expect("removed");
    std::fs::write(guard, b"damaged").expect("written");
    assert!(matches!(machine.open(), Err(RecoveryError::UnreadableGuard { .. })));
}
