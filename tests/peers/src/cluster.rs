//! Three nodes of a system on loopback: started, watched, stopped.
//!
//! Both systems run with their own defaults, fsync among them, and log warnings only. Nodes end
//! with this program, in whatever way it ends.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use moult_tests::process::die_with_parent;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::cpu;
use crate::wire::{Client, System};

/// Nodes of each system.
pub const NODES: u16 = 3;
/// Ports of each system: two a node.
const PORTS: u16 = 2 * NODES;

const POLL: Duration = Duration::from_millis(100);
/// Compiling modules takes most of it.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const PUT_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Ports from the first one on are taken by etcd, then by Moult.
pub fn ports(system: System, base: u16) -> std::ops::Range<u16> {
    let first = match system {
        System::Etcd => base,
        System::Moult => base + PORTS,
    };
    first..first + PORTS
}

/// A running cluster; killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Whose.
    pub system: System,
    program: PathBuf,
    /// Its first epoch ends at once, and it is ready in the second.
    graduates: bool,
    /// Where the nodes take puts.
    pub nodes: Vec<SocketAddr>,
    /// Started here: nodes, or what starts them.
    children: Vec<Started>,
    members: Vec<Member>,
    folder: PathBuf,
}

#[derive(Debug)]
struct Started {
    child: Child,
    name: String,
    log: PathBuf,
}

/// The process of one node.
#[derive(Debug)]
struct Member {
    pid: u32,
    name: String,
    log: PathBuf,
}

impl Cluster {
    /// Starts one in a folder of its own; [`Cluster::ready`] has to follow. `certified` concerns
    /// Moult only: its epoch does not graduate.
    ///
    /// # Errors
    /// A port is taken, or the program cannot be started.
    pub fn start(
        system: System,
        program: &Path,
        folder: &Path,
        base_port: u16,
        certified: bool,
    ) -> anyhow::Result<Self> {
        let ports = ports(system, base_port);
        for port in ports.clone() {
            check_port(port)?;
        }
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.to_owned();
        let (children, members) = (Vec::new(), Vec::new());
        // etcd: clients at even places. Moult: gRPC above the API.
        let offset = u16::from(system == System::Moult);
        let nodes = (0..NODES).map(|index| loopback(ports.start + 2 * index + offset)).collect();
        let graduates = system == System::Moult && !certified;
        let program = program.to_owned();
        let mut cluster = Self { system, program, graduates, nodes, children, members, folder };
        match system {
            System::Etcd => cluster.start_etcd(ports.start)?,
            System::Moult => cluster.start_moult(ports.start)?,
        }
        Ok(cluster)
    }

    fn start_etcd(&mut self, base: u16) -> anyhow::Result<()> {
        let name = |index: u16| format!("etcd-{index}");
        let client = |index: u16| format!("http://127.0.0.1:{}", base + 2 * index);
        let peer = |index: u16| format!("http://127.0.0.1:{}", base + 2 * index + 1);
        let all: Vec<String> = (0..NODES).map(|index| format!("{}={}", name(index), peer(index))).collect();
        for index in 0..NODES {
            let mut command = std::process::Command::new(&self.program);
            // Its settings can come from the environment as well.
            for (key, _) in std::env::vars_os() {
                let is_setting = key.as_encoded_bytes().starts_with(b"ETCD_");
                if is_setting && key != "ETCD_UNSUPPORTED_ARCH" {
                    command.env_remove(key);
                }
            }
            command.arg("--name").arg(name(index)).arg("--data-dir").arg(self.folder.join(name(index)));
            command.args(["--listen-client-urls", &client(index), "--advertise-client-urls", &client(index)]);
            command.args(["--listen-peer-urls", &peer(index), "--initial-advertise-peer-urls", &peer(index)]);
            command.args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"]);
            command.args([
                "--initial-cluster-token",
                "moult-bench",
                "--logger",
                "zap",
                "--log-level",
                "warn",
            ]);
            let log = self.folder.join(format!("{}.log", name(index)));
            let started = Started::new(command, name(index), log)?;
            let pid = started.child.id().context("a process without a number")?;
            self.members.push(Member { pid, name: name(index), log: started.log.clone() });
            self.children.push(started);
        }
        Ok(())
    }

    fn start_moult(&mut self, base: u16) -> anyhow::Result<()> {
        let mut command = std::process::Command::new(&self.program);
        command.args(["devnet", "--nodes", &NODES.to_string(), "--engine", "raft", "--application", "kv"]);
        command.args(["--fault-model", "crash", "--base-port", &base.to_string(), "--log", "warn"]);
        command.arg("--ready-timeout").arg(READY_TIMEOUT.as_secs().to_string());
        if self.graduates {
            command.args(["--graduate-after", "1"]);
        }
        command.arg("--dir").arg(self.devnet());
        let started = Started::new(command, "moult devnet".into(), self.folder.join("devnet.log"))?;
        self.children.push(started);
        Ok(())
    }

    fn devnet(&self) -> PathBuf {
        self.folder.join("devnet")
    }

    /// Returns once every node acknowledged a put.
    ///
    /// # Errors
    /// A node ended, or it takes too long: with the last lines of the log.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while self.system == System::Moult && self.members.is_empty() {
            self.check()?;
            if let Some(devnet) = Devnet::read(&self.devnet())? {
                self.members = devnet.nodes.into_iter().map(DevnetNode::member).collect();
            } else if Instant::now() > deadline {
                bail!("{}", self.too_slow("it did not start its nodes"));
            } else {
                sleep(POLL).await;
            }
        }
        for (index, node) in self.nodes.clone().into_iter().enumerate() {
            loop {
                let Err(problem) = self.put_once(index, node).await else { break };
                self.check()?;
                if Instant::now() > deadline {
                    bail!("{}", self.too_slow(&format!("node {index} at {node}: {problem:#}")));
                }
                sleep(POLL).await;
            }
        }
        while self.graduates && !self.is_graduated().await? {
            self.check()?;
            if Instant::now() > deadline {
                bail!("{}", self.too_slow("its epoch did not graduate"));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Whether every node is in a graduated epoch.
    async fn is_graduated(&self) -> anyhow::Result<bool> {
        let mut command = Command::new(&self.program);
        command.args(["status", "--json", "--dir"]).arg(self.devnet());
        let output = command.output().await.context("cannot run `moult status`")?;
        let nodes: Vec<NodeStatus> = serde_json::from_slice(&output.stdout)
            .context("`moult status --json` is not what is expected")?;
        Ok(nodes.iter().all(|node| node.status.as_ref().is_some_and(|s| s.finality == "graduated")))
    }

    async fn put_once(&self, index: usize, node: SocketAddr) -> anyhow::Result<()> {
        let key = format!("ready/{index}").into_bytes();
        let put = async {
            Client::connect(self.system, node, false).await?.put(key, Bytes::from_static(b"1")).await
        };
        timeout(PUT_TIMEOUT, put).await.context("no answer to a put")?
    }

    fn too_slow(&self, what: &str) -> String {
        let name = self.system.name();
        let mut text = format!("{name} took no puts within {} s: {what}", READY_TIMEOUT.as_secs());
        for started in &self.children {
            text.push_str(&last_lines(&started.name, &started.log));
        }
        text
    }

    /// Fails if a node has ended.
    ///
    /// # Errors
    /// Says which, with the last lines of its log.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for started in &mut self.children {
            if let Some(status) = started.child.try_wait()? {
                let lines = last_lines(&started.name, &started.log);
                bail!("{} has ended ({status}){lines}", started.name);
            }
        }
        if let Some(member) = self.members.iter().find(|member| cpu::used(member.pid).is_none()) {
            bail!("{} has ended{}", member.name, last_lines(&member.name, &member.log));
        }
        Ok(())
    }

    /// CPU time of all nodes so far.
    pub fn cpu(&self) -> Duration {
        self.members.iter().filter_map(|member| cpu::used(member.pid)).sum()
    }

    /// Asks all to stop, waits, and kills what is left.
    pub async fn stop(mut self) {
        for started in &self.children {
            let pid = started.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            if let Some(pid) = pid {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let all = async {
            for started in &mut self.children {
                let _ = started.child.wait().await;
            }
        };
        if timeout(STOP_TIMEOUT, all).await.is_err() {
            for started in &mut self.children {
                let _ = started.child.kill().await;
            }
        }
    }
}

impl Started {
    fn new(mut command: std::process::Command, name: String, log: PathBuf) -> anyhow::Result<Self> {
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // Ctrl-C is for this program, which then stops them in order.
        command.process_group(0);
        die_with_parent(&mut command);
        let program = command.get_program().to_owned();
        let child = Command::from(command).kill_on_drop(true).spawn();
        let child = child.with_context(|| format!("cannot run {}", program.display()))?;
        Ok(Self { child, name, log })
    }
}

/// `devnet.json`, as far as it is used.
#[derive(Deserialize)]
struct Devnet {
    nodes: Vec<DevnetNode>,
}

#[derive(Deserialize)]
struct DevnetNode {
    index: u32,
    pid: u32,
    dir: PathBuf,
}

/// What `moult status --json` says of a node, as far as it is used.
#[derive(Deserialize)]
struct NodeStatus {
    status: Option<EpochStatus>,
}

#[derive(Deserialize)]
struct EpochStatus {
    finality: String,
}

impl Devnet {
    /// Nothing if it is not there yet.
    fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join("devnet.json");
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("cannot read {}", path.display()))
                .map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

impl DevnetNode {
    fn member(self) -> Member {
        Member { pid: self.pid, name: format!("Moult's node {}", self.index), log: self.dir.join("node.log") }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn check_port(port: u16) -> anyhow::Result<()> {
    let address = loopback(port);
    let taken = |protocol| {
        format!("{address} ({protocol}) is taken: stop what is there or choose another --base-port")
    };
    TcpListener::bind(address).with_context(|| taken("TCP"))?;
    UdpSocket::bind(address).with_context(|| taken("UDP"))?;
    Ok(())
}

/// Of a log, each on a line of its own; begins with a line break.
fn last_lines(name: &str, log: &Path) -> String {
    const BYTES: u64 = 8192;
    const LINES: usize = 8;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let mut shown = match lines.len() {
        0 => format!("\n{name} logged nothing"),
        _ => format!("\nlast lines of {name}:"),
    };
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        shown.push_str("\n    ");
        shown.push_str(line);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_do_not_share_ports() {
        let (etcd, moult) = (ports(System::Etcd, 24_790), ports(System::Moult, 24_790));
        assert_eq!((etcd.clone().count(), moult.clone().count()), (6, 6));
        assert!(etcd.end <= moult.start);
    }

    #[test]
    fn a_taken_port_is_named_and_what_to_do() {
        let held = TcpListener::bind(loopback(0)).expect("a port");
        let port = held.local_addr().expect("bound").port();
        let problem = format!("{:#}", check_port(port).expect_err("it is taken"));
        assert!(problem.contains(&format!("127.0.0.1:{port} (TCP) is taken")), "{problem}");
        assert!(problem.contains("--base-port"), "{problem}");
    }

    #[tokio::test]
    async fn a_node_that_ends_is_told_with_its_last_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        // It takes none of etcd's options, says so and ends.
        let program = Path::new("/bin/sh");
        let mut cluster =
            on_free_ports(|base| Cluster::start(System::Etcd, program, folder.path(), base, false))
                .expect("started");
        let problem = format!("{:#}", cluster.ready().await.expect_err("nothing runs"));
        assert!(problem.contains(" has ended (exit status: "), "{problem}");
        assert!(problem.contains("\nlast lines of etcd-") && problem.contains("--"), "{problem}");
        cluster.stop().await;
    }

    #[test]
    fn only_the_last_lines_of_a_log_are_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("node.log");
        assert_eq!(last_lines("a", &log), "\na logged nothing");
        let lines: Vec<String> = (0..5000).map(|number| format!("line {number}")).collect();
        std::fs::write(&log, lines.join("\n")).expect("written");
        let shown = last_lines("a", &log);
        assert!(shown.starts_with("\nlast lines of a:\n    line 4992\n"), "{shown}");
        assert!(shown.ends_with("\n    line 4999"), "{shown}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = Path::new("/nowhere/moult");
        let problem =
            on_free_ports(|base| Cluster::start(System::Moult, program, folder.path(), base, false));
        let problem = format!("{:#}", problem.expect_err("there is no such program"));
        assert!(problem.starts_with("cannot run /nowhere/moult"), "{problem}");
    }

    /// Starts something on twelve ports in a row that are free. To look whether a port is free takes it for a
    /// moment, so tests that run beside each other look and start one after the other.
    fn on_free_ports<T>(start: impl FnOnce(u16) -> T) -> T {
        static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let base = (20_000..30_000)
            .step_by(12)
            .find(|base| (*base..base + 12).all(|port| check_port(port).is_ok()))
            .expect("free");
        start(base)
    }
}
