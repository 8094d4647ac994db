//! From nothing to a running cluster, as operators do it: `moult init` for each node,
//! `moult genesis build` once, the file copied to all, `moult node` for each.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::ports::{Ports, Turn};
use super::wires::Wires;
use super::{Cluster, Node};
use crate::process::Folder;
use crate::program::run_ok;
use crate::wait::{LONG, until};

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    members: usize,
    spares: usize,
    stakes: Vec<u64>,
    genesis: Vec<String>,
    limits: Value,
    is_wired: bool,
}

impl Setup {
    /// So many authorities, with stake 1 each, pbft, kv and approve-valid.
    pub fn new(members: usize) -> Self {
        // A short way from decision to barrier: idle clusters tick slowly.
        let limits = json!({ "window_blocks": 8, "barrier_distance_blocks": 8 });
        Self { members, spares: 0, stakes: vec![1; members], genesis: Vec::new(), limits, is_wired: false }
    }

    /// Nodes outside the first committee, known to all as observers; not started.
    #[must_use]
    pub fn spares(mut self, count: usize) -> Self {
        self.spares = count;
        self
    }

    /// Stakes by place.
    #[must_use]
    pub fn stakes(mut self, stakes: &[u64]) -> Self {
        self.stakes = stakes.to_vec();
        self
    }

    /// More options for `moult genesis build`.
    #[must_use]
    pub fn genesis(mut self, options: &[&str]) -> Self {
        self.genesis.extend(options.iter().map(ToString::to_string));
        self
    }

    /// With links that can be cut.
    #[must_use]
    pub fn wired(mut self) -> Self {
        self.is_wired = true;
        self
    }

    /// A limit of the epoch.
    #[must_use]
    pub fn limit(mut self, name: &str, value: u64) -> Self {
        self.limits[name] = value.into();
        self
    }

    /// Epochs that graduate at once: the one after the first does not wait for certificates.
    #[must_use]
    pub fn graduates(self) -> Self {
        self.limit("graduate_after_blocks", 1)
    }

    /// Makes all files, starts the authorities and waits until they order.
    pub fn start(self) -> Cluster {
        let members = self.members;
        let mut cluster = self.prepare();
        cluster.start_all(&(0..members).collect::<Vec<_>>());
        let mut client = cluster.client(0);
        until("the cluster takes a first write", LONG, || {
            client.put("first", b"1", None).map_err(|e| e.to_string())
        });
        cluster
    }

    /// Makes all files; starts nothing.
    pub fn prepare(self) -> Cluster {
        let turn = Turn::wait();
        let folder = Folder::new();
        let ports = Ports;
        let nodes: Vec<Node> = (0..self.members + self.spares)
            .map(|i| {
                let stake = self.stakes.get(i).copied().unwrap_or(1);
                let relay = self.is_wired.then(|| ports.free());
                init(&folder.path().join(format!("node{i}")), &ports, stake, relay)
            })
            .collect();
        self.build_genesis(folder.path(), &nodes[..self.members]);
        let known: Vec<(String, String)> =
            nodes.iter().map(|n| (n.key().to_owned(), n.address.to_string())).collect();
        for (i, node) in nodes.iter().enumerate() {
            std::fs::copy(folder.path().join("genesis.json"), node.dir.join("genesis.json")).expect("copied");
            // Members of one epoch are observers of another: each node may always connect.
            if self.spares > 0 {
                edit(&node.config(), |config| add_observers(config, &known, i));
            }
        }
        let wires = self.is_wired.then(|| {
            let addresses = |of: fn(&Node) -> SocketAddr| nodes.iter().map(of).collect::<Vec<_>>();
            Wires::new(&addresses(|node| node.address), &addresses(|node| node.p2p))
        });
        Cluster { nodes, is_watched: false, wires, folder, _turn: turn }
    }

    fn build_genesis(&self, folder: &Path, members: &[Node]) {
        let limits = folder.join("limits.json");
        std::fs::write(&limits, self.limits.to_string()).expect("written");
        let (out, limits) = (text(&folder.join("genesis.json")), text(&limits));
        let mut args: Vec<String> =
            ["genesis", "build", "--name", "tests", "--out", &out, "--limits", &limits]
                .map(Into::into)
                .to_vec();
        args.extend(self.genesis.iter().cloned());
        for node in members {
            args.extend(["--identity".to_owned(), text(&node.dir.join("identity.json"))]);
        }
        run_ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// Makes one node's folder. Others reach it through the relay, if there is one.
pub(super) fn init(dir: &Path, ports: &Ports, stake: u64, relay: Option<SocketAddr>) -> Node {
    let (api, grpc, p2p) = (ports.free(), ports.free(), ports.free());
    let address = relay.unwrap_or(p2p);
    let (path, stake) = (text(dir), stake.to_string());
    run_ok(&[
        "init",
        "--dir",
        &path,
        "--api",
        &api.to_string(),
        "--grpc",
        &grpc.to_string(),
        "--p2p",
        &p2p.to_string(),
        "--address",
        &address.to_string(),
        "--stake",
        &stake,
    ]);
    let identity = std::fs::read(dir.join("identity.json")).expect("an identity");
    let token = std::fs::read_to_string(dir.join("api.token")).expect("a token").trim().to_owned();
    Node {
        dir: dir.to_owned(),
        api,
        grpc,
        p2p,
        address,
        identity: serde_json::from_slice(&identity).expect("an identity is JSON"),
        token,
        process: None,
        watch: None,
    }
}

fn add_observers(config: &mut toml::Table, known: &[(String, String)], me: usize) {
    let others = known.iter().enumerate().filter(|(i, _)| *i != me).map(|(_, (key, address))| {
        let mut observer = toml::Table::new();
        observer.insert("key".into(), key.clone().into());
        observer.insert("address".into(), address.clone().into());
        toml::Value::Table(observer)
    });
    let observers = toml::Value::Array(others.collect());
    let p2p = config.get_mut("p2p").and_then(toml::Value::as_table_mut).expect("a section p2p");
    p2p.insert("observers".into(), observers);
}

/// Changes a configuration file.
pub(super) fn edit(path: &Path, change: impl FnOnce(&mut toml::Table)) {
    let mut config: toml::Table = std::fs::read_to_string(path).expect("a file").parse().expect("TOML");
    change(&mut config);
    std::fs::write(path, toml::to_string(&config).expect("TOML")).expect("written");
}

fn text(path: &Path) -> String {
    path.to_str().expect("folders of tests are text").to_owned()
}
