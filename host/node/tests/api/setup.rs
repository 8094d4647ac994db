//! A node's folder with a committee of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moult_crypto::{KeyPair, Signer, possession};
use moult_module::CompileWorker;
use moult_node::Node;
use moult_node::config::{ApiConfig, NodeConfig, NodeLimits, P2pConfig};
use moult_node::files::{new_token, write_key};
use moult_node::genesis::{GenesisFile, PinFile};
use moult_types::{AuthorityId, EpochLimits, FaultModel, Member, ModuleHash, World};

/// The argument that makes this program the compile worker.
pub(crate) const WORKER: &str = "compile-worker";

/// What starts a node.
pub(crate) struct Setup {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: NodeConfig,
    pub(crate) token: String,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().to_owned();
        let keys = KeyPair::from_seed(&[7; 32]);
        write_key(&path.join("node.key"), &keys).expect("a key");
        let token = new_token(&path.join("api.token")).expect("a token");
        let id = AuthorityId::of(&keys.public_key());
        let member = Member {
            id,
            key: keys.public_key(),
            possession: possession(&keys, id),
            stake: 1,
            address: "127.0.0.1:1".into(),
        };
        let modules: BTreeMap<World, PinFile> =
            [(World::Engine, "pbft"), (World::Approval, "approve-valid"), (World::Application, "kv")]
                .into_iter()
                .map(|(world, name)| (world, PinFile { hash: hash_of(name), config: None, config_hex: None }))
                .collect();
        let limits = EpochLimits { window_blocks: 4, barrier_distance_blocks: 4, ..EpochLimits::default() };
        let genesis = GenesisFile {
            name: "api test".into(),
            time_ms: 1,
            fault_model: FaultModel::Byzantine,
            committee: vec![member],
            modules,
            limits,
        };
        genesis.save(&path.join("genesis.json")).expect("a genesis");
        let any = "127.0.0.1:0".parse().expect("an address");
        let config = NodeConfig {
            genesis: path.join("genesis.json"),
            key_file: path.join("node.key"),
            authority: None,
            data_dir: path.join("data"),
            module_dirs: vec![modules_dir()],
            p2p: P2pConfig { listen: any, observers: Vec::new() },
            api: ApiConfig { listen: any, token_file: path.join("api.token"), tls_cert: None, tls_key: None },
            limits: NodeLimits { request_bytes_max: 4 << 20, ..NodeLimits::default() },
        };
        Self { dir, config, token }
    }

    pub(crate) async fn start(&self) -> Node {
        let program = std::env::current_exe().expect("this program");
        let worker = CompileWorker { program, args: vec![WORKER.into()] };
        Node::start(self.config.clone(), worker).await.expect("the node starts")
    }
}

fn modules_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules")
}

pub(crate) fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(modules_dir().join(format!("{name}.wasm"))).expect("a module; `cargo xtask modules` builds it")
}

pub(crate) fn hash_of(name: &str) -> ModuleHash {
    ModuleHash::of(&bytes_of(name))
}
