//! A node's folder with a committee of one.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use moult_crypto::{KeyPair, Signer, possession};
use moult_keys::{KeyFile, new_token};
use moult_module::CompileWorker;
use moult_node::config::{ApiConfig, NodeConfig, NodeLimits, P2pConfig};
use moult_node::genesis::{GenesisFile, PinFile};
use moult_node::key_use::write_new_key;
use moult_types::{AuthorityId, EpochLimits, FaultModel, Member, ModuleHash, World};

use crate::client::Client;

/// The argument that makes this program the compile worker.
pub(crate) const WORKER: &str = "compile-worker";

/// The argument that makes this program a node.
pub(crate) const NODE: &str = "node";

/// What starts a node.
pub(crate) struct Setup {
    dir: tempfile::TempDir,
    pub(crate) config: NodeConfig,
    pub(crate) token: String,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().to_owned();
        let keys = KeyPair::from_seed(&[7; 32]);
        let id = AuthorityId::of(&keys.public_key());
        write_new_key(&KeyFile::plain(&path.join("node.key"), &keys, id)).expect("a key");
        let token = new_token(&path.join("api.token")).expect("a token");
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
            origin: None,
            fallbacks: Vec::new(),
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
            unlock: Default::default(),
            authority: None,
            data_dir: path.join("data"),
            module_dirs: vec![modules_dir()],
            p2p: P2pConfig { listen: any, observers: Vec::new() },
            api: ApiConfig { listen: any, token_file: path.join("api.token"), tls_cert: None, tls_key: None },
            grpc: Default::default(),
            record: Default::default(),
            backup: Default::default(),
            shadow: Default::default(),
            limits: NodeLimits {
                request_bytes_max: 4 << 20,
                module_fetch_timeout_ms: 300,
                ..NodeLimits::default()
            },
        };
        Self { dir, config, token }
    }

    /// Starts a process with the node and waits until it is ready.
    pub(crate) fn start(&mut self) -> Running {
        let running = self.spawn();
        let address = running.address;
        running.wait_until(|| Client::new(address).get("/readyz").status == 200);
        running
    }

    /// The configuration as a node would read it.
    pub(crate) fn load_config(&self) -> Result<NodeConfig, moult_node::config::ConfigError> {
        let file = self.dir.path().join("moult.toml");
        std::fs::write(&file, self.config.to_toml().expect("TOML")).expect("a configuration");
        NodeConfig::load(&file)
    }

    /// Starts a process with the node and waits until it listens.
    pub(crate) fn spawn(&mut self) -> Running {
        let address = free_address();
        let grpc = free_address();
        self.config.api.listen.set_port(address.port());
        let ip = self.config.api.listen.ip();
        self.config.grpc.listen = Some(SocketAddr::new(ip, grpc.port()));
        let text = self.config.to_toml().expect("TOML");
        let file = self.dir.path().join("moult.toml");
        std::fs::write(&file, text).expect("a configuration");
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program).arg(NODE).arg(file).spawn().expect("a process");
        let running = Running { child, address, grpc };
        running.wait_until(|| TcpStream::connect(address).is_ok() && TcpStream::connect(grpc).is_ok());
        running
    }
}

/// A process with a node; killed if it is dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) grpc: SocketAddr,
}

impl Running {
    pub(crate) fn wait_until(&self, is_so: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < end, "the node does not become ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As an operator stops it.
    pub(crate) fn terminate(mut self) {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status().expect("`kill` runs");
        assert!(kill.success());
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process does.
pub(crate) fn node(config: &Path) -> Result<(), moult_node::NodeError> {
    let config = NodeConfig::load(config).expect("a configuration");
    let program = std::env::current_exe().expect("this program");
    let worker = CompileWorker { program, args: vec![WORKER.into()] };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(moult_node::run(config, worker)).map(drop)
}

/// Where nobody listens, as of now.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address")
}

fn modules_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules")
}

pub(crate) fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(modules_dir().join(format!("{name}.wasm")))
        .expect("a module; `cargo xtask modules` builds it")
}

pub(crate) fn hash_of(name: &str) -> ModuleHash {
    ModuleHash::of(&bytes_of(name))
}
