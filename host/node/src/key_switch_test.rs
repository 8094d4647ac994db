use std::sync::Arc;

use moult_core::governance::Ledger;
use moult_core::io::{EpochStart, GuardUpdate, Persist};
use moult_crypto::{KeyPair, Signer as _, possession};
use moult_keys::{read_key, write_key, write_key_of};
use moult_types::{EpochNumber, FaultModel, Follows, GlobalIndex, Member, ModuleHash, ProposalId, World};

use super::*;
use crate::genesis::{GenesisFile, PinFile};

struct Machine {
    config: NodeConfig,
    genesis: Genesis,
    old: PublicKey,
    next: PublicKey,
    authority: AuthorityId,
}

impl Machine {
    /// A node that has signed in the first epoch, with its next key beside the present one; the
    /// second epoch, if it has begun, gives that key to its authority.
    fn new(dir: &Path, has_begun: bool) -> Self {
        let (old, next) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
        let authority = AuthorityId::of(&old.public_key());
        write_key(&dir.join("node.key"), &old).expect("written");
        write_key_of(&dir.join("node.key.next"), &next, authority).expect("written");
        std::fs::write(dir.join("api.token"), "0123456789abcdef").expect("written");
        let member = |keys: &KeyPair| Member {
            id: authority,
            key: keys.public_key(),
            possession: possession(keys, authority),
            stake: 1,
            address: "a:1".into(),
        };
        let pin = PinFile { hash: ModuleHash([1; 32]), config: None, config_hex: None };
        let file = GenesisFile {
            origin: None,
            name: "c".into(),
            time_ms: 1,
            fault_model: FaultModel::Byzantine,
            committee: vec![member(&old)],
            modules: World::ALL.into_iter().map(|world| (world, pin.clone())).collect(),
            fallbacks: Vec::new(),
            limits: Default::default(),
        };
        file.save(&dir.join("genesis.json")).expect("written");
        let genesis = file.to_genesis().expect("a genesis");
        let text = "genesis = 'genesis.json'\nkey_file = 'node.key'\ndata_dir = 'data'\n\
                    [p2p]\nlisten = '127.0.0.1:1'\n[api]\nlisten = '127.0.0.1:2'\ntoken_file = 'api.token'\n";
        let config = NodeConfig::parse(text, &dir.join("moult.toml")).expect("a configuration");
        let (old, next) = (old.public_key(), next.public_key());
        let machine = Self { config, genesis, old, next, authority };

        let options = StoreOptions::default();
        let store = Store::create(&machine.store_dir(), &machine.genesis, old, options).expect("created");
        let (mut writer, path) = (store.writer().expect("a writer"), machine.guard());
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let fresh = GuardState::new(machine.genesis.chain(), old, machine.genesis.manifest.identity());
        let mut guard = GuardFile::create(&path, fresh).expect("made");
        store.note_new_guard(&guard).expect("noted");
        guard.append(&[GuardUpdate::Started { count: 4 }]).expect("appended");
        guard.commit(Vec::new()).expect("synced");
        let mut manifest = machine.genesis.manifest.clone();
        let mut begin = |manifest: &Manifest| {
            let start = EpochStart {
                manifest: manifest.clone(),
                base: GlobalIndex(0),
                state_root: None,
                time_ms: 1,
                switched_at_ms: 1,
            };
            let ledger = Ledger::at_start(manifest, GlobalIndex(0), 1, ProposalId(1));
            let (start, expired) = (Box::new(start), Vec::new());
            writer.apply(&Persist::Epoch { start, expired, ledger: Arc::new(ledger) }).expect("applied");
        };
        begin(&manifest);
        if has_begun {
            let (identity, index) = (manifest.identity(), Default::default());
            manifest.follows = Some(Follows { identity, index, hash: identity.digest() });
            manifest.number = EpochNumber(1);
            manifest.members = vec![member(&KeyPair::from_seed(&[2; 32]))];
            begin(&manifest);
        }
        writer.commit(true).expect("committed");
        machine
    }

    fn store_dir(&self) -> PathBuf {
        self.config.data_dir.join("store")
    }

    fn guard(&self) -> PathBuf {
        guard_path(&self.config.data_dir)
    }

    fn chain(&self) -> ChainId {
        self.genesis.chain()
    }

    fn take_up(&self) {
        take_up(&self.config, &self.genesis).expect("taken up, or not due");
    }

    /// The first so many steps, as a crash leaves them.
    fn step(&self, cut: usize) {
        let (path, key_file) = (self.guard(), &self.config.key_file);
        if cut > 0 {
            let options = StoreOptions::default();
            let store = Store::open(&self.store_dir(), self.chain(), self.old, options).expect("opened");
            let (guard, _) = GuardFile::open(&path, self.chain(), self.old).expect("a guard");
            store.settle_guard(guard).expect("settled");
            store.give_to(self.next).expect("given");
        }
        if cut > 1 {
            put_aside(&path, &retired(&path, self.old), self.chain(), self.next).expect("put aside");
        }
        if cut > 2 {
            let fresh = GuardState::new(self.chain(), self.next, self.genesis.manifest.identity());
            GuardFile::create(&path, GuardState { start_count: 4, ..fresh }).expect("made");
        }
        if cut > 3 {
            std::fs::hard_link(key_file, retired(key_file, self.old)).expect("linked");
        }
    }

    /// The node is that of the next key: it may sign, and forgets nothing of the former one.
    fn assert_taken_up(&self) {
        let keys = KeyFile::read(&self.config.key_file).expect("a key");
        let whose = keys.authority();
        assert_eq!((keys.public_key(), whose), (self.next, self.authority));
        assert!(!next_key_path(&self.config.key_file).exists());
        let kept = read_key(&retired(&self.config.key_file, self.old)).expect("the former key is kept");
        assert_eq!(kept.public_key(), self.old);
        let options = StoreOptions::default();
        let store = Store::open(&self.store_dir(), self.chain(), self.next, options).expect("its own");
        let (guard, state) = GuardFile::open(&self.guard(), self.chain(), self.next).expect("its own");
        assert_eq!(state.start_count, 4, "batches are numbered on");
        assert!(store.knows_guard().expect("read"));
        let (found, _) = store.reconcile_guard(guard).expect("compared");
        assert_eq!(found, moult_store::GuardCheck::Fits);
        GuardFile::open(&retired(&self.guard(), self.old), self.chain(), self.old).expect("the former guard");
    }
}

#[test]
fn a_key_is_taken_up_when_its_epoch_has_begun_and_not_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let early = Machine::new(folder.path(), false);
    early.take_up();
    assert_eq!(read_key(&early.config.key_file).expect("a key").public_key(), early.old);
    assert!(GuardFile::open(&early.guard(), early.chain(), early.old).is_ok());
    assert!(next_key_path(&early.config.key_file).exists());

    let folder = tempfile::tempdir().expect("a folder");
    let due = Machine::new(folder.path(), true);
    due.take_up();
    due.assert_taken_up();
    due.take_up();
    due.assert_taken_up();
}

#[test]
fn a_switch_that_is_cut_off_anywhere_is_completed_by_the_next_start() {
    for cut in 0..=4 {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Machine::new(folder.path(), true);
        machine.step(cut);
        machine.take_up();
        machine.assert_taken_up();
    }
}

/// The reason for most new keys.
#[test]
fn a_node_without_its_guard_gets_one_with_the_new_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let machine = Machine::new(folder.path(), true);
    std::fs::write(machine.guard(), b"damaged").expect("written");
    machine.take_up();
    let (guard, state) = GuardFile::open(&machine.guard(), machine.chain(), machine.next).expect("its own");
    assert_eq!((guard.is_new(), state.prepared.0.0), (true, 0));
    assert_eq!(read_key(&machine.config.key_file).expect("a key").public_key(), machine.next);
}
