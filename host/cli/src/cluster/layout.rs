//! The folders of a devnet: `D/node-<i>`, each complete for `moult node`, and `D/devnet.json`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use moult_node::api_types::{DevnetFile, DevnetNode};
use moult_node::config::NodeConfig;
use moult_node::genesis::{GenesisFile, PinFile};
use moult_types::{EpochLimits, FaultModel, World};

use crate::genesis::{now_ms, read_json};
use crate::init::{self, CONFIG_FILE, NewNode};
use crate::pins::PinArgs;

/// The file that tells others of a running devnet.
const DEVNET_FILE: &str = "devnet.json";

/// What a new devnet is made of.
pub(crate) struct Plan<'a> {
    pub(crate) nodes: u16,
    /// Node i listens at this and 2i (API, TCP) and the one after (p2p, UDP; gRPC, TCP).
    pub(crate) base_port: u16,
    pub(crate) pins: &'a PinArgs,
    pub(crate) fault_model: FaultModel,
    pub(crate) limits: EpochLimits,
}

/// One node's folder and addresses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeLayout {
    pub(crate) index: u16,
    /// Absolute.
    pub(crate) dir: PathBuf,
    pub(crate) api: SocketAddr,
    pub(crate) grpc: Option<SocketAddr>,
    pub(crate) p2p: SocketAddr,
}

/// The folders of a devnet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    /// Absolute.
    pub(crate) dir: PathBuf,
    pub(crate) nodes: Vec<NodeLayout>,
}

impl Layout {
    /// Makes the folders of a new devnet.
    ///
    /// # Errors
    /// There is one already, the plan makes no valid genesis, or the system refuses.
    pub(crate) fn create(dir: &Path, plan: &Plan<'_>) -> anyhow::Result<Self> {
        ensure!(!Self::exists(dir), "{} holds a devnet already", dir.display());
        let last_port = u32::from(plan.base_port) + 2 * u32::from(plan.nodes) - 1;
        ensure!(
            last_port <= u32::from(u16::MAX),
            "--base-port {} leaves no room for {} nodes",
            plan.base_port,
            plan.nodes
        );
        let (chosen, modules) = plan.pins.pins()?;
        let mut files = Vec::new();
        for (world, module) in &chosen {
            let bytes = module.bytes.as_deref().with_context(|| {
                format!(
                    "--{world}: a devnet needs the module itself: give a file or the name of a built-in one"
                )
            })?;
            files.push((module.name.clone(), bytes.to_vec()));
        }
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = std::path::absolute(dir)?;
        let made = Self::make(&dir, plan, &files, modules);
        if made.is_err() {
            // Half a devnet would be taken for one to resume.
            for index in 0..plan.nodes {
                let _ = std::fs::remove_dir_all(node_dir(&dir, index));
            }
        }
        made
    }

    fn make(
        dir: &Path,
        plan: &Plan<'_>,
        files: &[(String, Vec<u8>)],
        modules: BTreeMap<World, PinFile>,
    ) -> anyhow::Result<Self> {
        let (mut nodes, mut committee) = (Vec::new(), Vec::new());
        for index in 0..plan.nodes {
            let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let (api, p2p) = (address(plan.base_port + 2 * index), address(plan.base_port + 2 * index + 1));
            let grpc = Some(p2p);
            let node = NodeLayout { index, dir: node_dir(dir, index), api, grpc, p2p };
            let new = NewNode {
                p2p,
                api,
                grpc,
                address: p2p.to_string(),
                stake: 1,
                key: None,
                modules: files.to_vec(),
            };
            committee.push(init::create(&node.dir, new)?);
            nodes.push(node);
        }
        let genesis = GenesisFile {
            origin: None,
            fallbacks: Vec::new(),
            name: "devnet".into(),
            time_ms: now_ms(),
            fault_model: plan.fault_model,
            committee,
            modules,
            limits: plan.limits.clone(),
        };
        genesis.to_genesis()?;
        for node in &nodes {
            genesis.save(&node.dir.join("genesis.json"))?;
        }
        Ok(Self { dir: dir.to_owned(), nodes })
    }

    /// Whether a folder holds a devnet.
    pub(crate) fn exists(dir: &Path) -> bool {
        node_dir(dir, 0).join(CONFIG_FILE).is_file()
    }

    /// Reads the folders of an earlier devnet.
    ///
    /// # Errors
    /// A folder is not complete.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let dir = std::path::absolute(dir)?;
        let mut nodes = Vec::new();
        for index in 0.. {
            let node = node_dir(&dir, index);
            if !node.is_dir() {
                break;
            }
            let config = NodeConfig::load(&node.join(CONFIG_FILE))?;
            ensure!(
                config.genesis.is_file(),
                "{} is not there: an earlier start was cut short; remove {} to begin anew",
                config.genesis.display(),
                dir.display()
            );
            let (api, grpc, p2p) = (config.api.listen, config.grpc_listen(), config.p2p.listen);
            nodes.push(NodeLayout { index, dir: node, api, grpc, p2p });
        }
        Ok(Self { dir, nodes })
    }

    /// Fails if something listens at one of the ports already.
    ///
    /// # Errors
    /// Says which.
    pub(crate) fn check_ports(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            let taken = [
                (node.api, "TCP", TcpListener::bind(node.api).err()),
                (node.p2p, "UDP", UdpSocket::bind(node.p2p).err()),
            ];
            let grpc = node.grpc.map(|grpc| (grpc, "TCP", TcpListener::bind(grpc).err()));
            for (address, protocol, error) in taken.into_iter().chain(grpc) {
                if let Some(error) = error {
                    bail!(
                        "node {} cannot listen at {address} ({protocol}): {error}. Stop what is there (an earlier devnet?) or choose another --base-port and --dir",
                        node.index
                    );
                }
            }
        }
        Ok(())
    }

    /// Writes `devnet.json`.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn write_devnet(&self, pids: &[u32]) -> anyhow::Result<DevnetFile> {
        let node = |(node, pid): (&NodeLayout, &u32)| DevnetNode {
            index: node.index.into(),
            pid: *pid,
            api: node.url(),
            grpc: node.grpc.map(|grpc| format!("http://{grpc}")),
            p2p: node.p2p.to_string(),
            dir: node.dir.to_string_lossy().into_owned(),
        };
        let file = DevnetFile { nodes: self.nodes.iter().zip(pids).map(node).collect() };
        let path = self.dir.join(DEVNET_FILE);
        let text = format!("{}\n", serde_json::to_string_pretty(&file)?);
        // Whole or not at all: others read it while it is written.
        let draft = self.dir.join("devnet.json.new");
        std::fs::write(&draft, text)
            .and_then(|()| std::fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(file)
    }
}

impl NodeLayout {
    /// Base address of its API.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join(CONFIG_FILE)
    }

    /// Where its output goes.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }
}

fn node_dir(dir: &Path, index: u16) -> PathBuf {
    dir.join(format!("node-{index}"))
}

/// What `moult devnet` wrote into its folder.
///
/// # Errors
/// There is none.
pub(crate) fn read_devnet(dir: &Path) -> anyhow::Result<DevnetFile> {
    let devnet: DevnetFile = read_json(&dir.join(DEVNET_FILE)).with_context(|| {
        format!(
            "{} is no folder of a devnet: start one with `moult devnet --dir {}`",
            dir.display(),
            dir.display()
        )
    })?;
    ensure!(!devnet.nodes.is_empty(), "the devnet in {} has no nodes", dir.display());
    Ok(devnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pins: &PinArgs) -> Plan<'_> {
        Plan {
            nodes: 4,
            base_port: 17_400,
            pins,
            fault_model: FaultModel::Byzantine,
            limits: EpochLimits::default(),
        }
    }

    #[test]
    fn a_devnet_is_made_found_again_and_told_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("net");
        let pins = PinArgs::default();
        assert!(!Layout::exists(&dir));
        let made = Layout::create(&dir, &plan(&pins)).expect("made");
        assert!(Layout::exists(&dir));
        assert_eq!(Layout::open(&dir).expect("opened"), made);
        assert_eq!((made.nodes[3].api.port(), made.nodes[3].p2p.port()), (17_406, 17_407));
        assert!(made.nodes[2].dir.join("modules/pbft.wasm").is_file());
        made.write_devnet(&[11, 12, 13, 14]).expect("written");
        let read = read_devnet(&dir).expect("read");
        assert_eq!((read.nodes[1].pid, read.nodes[1].api.as_str()), (12, "http://127.0.0.1:17402"));
        assert_eq!(read.nodes[1].grpc.as_deref(), Some("http://127.0.0.1:17403"));
        assert!(Layout::create(&dir, &plan(&pins)).is_err(), "nothing is overwritten");
        assert_eq!(Layout::open(&dir).expect("still there"), made);
    }

    #[test]
    fn a_plan_that_is_refused_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let pins = PinArgs::default();
        let two = Plan { nodes: 2, ..plan(&pins) };
        assert!(Layout::create(folder.path(), &two).is_err());
        assert!(!Layout::exists(folder.path()));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
        let api = taken.local_addr().expect("an address");
        let node = NodeLayout {
            index: 0,
            dir: "x".into(),
            api,
            grpc: None,
            p2p: "127.0.0.1:0".parse().expect("an address"),
        };
        let error =
            Layout { dir: "x".into(), nodes: vec![node] }.check_ports().expect_err("taken").to_string();
        assert!(error.contains(&api.to_string()) && error.contains("--base-port"), "{error}");
    }
}
