//! A cluster of node processes, configured one by one through the public command line.

mod ports;
mod setup;
mod wires;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use crate::api::{Api, Proposal, Status};
use crate::power::Watch;
use crate::process::{Folder, Process};
use crate::wait::{LONG, until};

pub use setup::Setup;
use wires::Wires;

/// A node: its files, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    /// Its folder, as `moult init` made it.
    pub dir: PathBuf,
    /// Its HTTP interface.
    pub api: SocketAddr,
    /// Its gRPC interface.
    pub grpc: SocketAddr,
    /// Where it listens for peers.
    pub p2p: SocketAddr,
    /// Where peers reach it.
    pub address: SocketAddr,
    /// As `moult init` wrote it.
    pub identity: Value,
    token: String,
    process: Option<Process>,
    watch: Option<Watch>,
}

impl Node {
    /// Its public key.
    pub fn key(&self) -> &str {
        self.identity["key"].as_str().expect("an identity has a key")
    }

    /// A new connection with the administrator's token.
    pub fn client(&self) -> Api {
        Api::new(self.api, Some(&self.token))
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("moult.toml")
    }

    /// The token's file.
    pub fn token_file(&self) -> PathBuf {
        self.dir.join("api.token")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The log so far.
    pub fn log_text(&self) -> String {
        std::fs::read(self.log())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether its process was started and not ended by the test.
    pub fn is_started(&self) -> bool {
        self.process.is_some()
    }
}

/// Nodes of one chain. Dropping it kills them; a failed test shows their logs.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    is_watched: bool,
    wires: Option<Wires>,
    folder: Folder,
    /// One cluster at a time on a machine.
    _turn: ports::Turn,
}

impl Cluster {
    /// Four authorities with stake 1 each, running and able to order.
    pub fn of_four() -> Self {
        Setup::new(4).start()
    }

    /// How many nodes there are, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node by its number, from 0.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// Of the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new connection to a node.
    pub fn client(&self, index: usize) -> Api {
        self.nodes[index].client()
    }

    /// Starts a node that does not run, and waits until it is ready for clients.
    pub fn start(&mut self, index: usize) {
        self.start_all(&[index]);
    }

    /// Starts nodes that do not run, and waits until they are ready for clients.
    pub fn start_all(&mut self, indexes: &[usize]) {
        indexes.iter().for_each(|&i| self.launch(i));
        indexes.iter().for_each(|&i| self.wait_for_answer(i));
        for &index in indexes {
            let mut client = self.client(index);
            until(&format!("node {index} is ready"), LONG, || {
                client.call("GET", "/readyz", &[], b"").map_err(|e| e.to_string())
            });
        }
    }

    /// Starts a node that does not run.
    pub fn launch(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        assert!(node.process.is_none(), "node {index} runs already");
        let filter = std::env::var("MOULT_TESTS_LOG").unwrap_or_else(|_| "info".into());
        node.watch = self.is_watched.then(|| Watch::new(&node.dir));
        let runner = node.watch.as_ref().map(Watch::command);
        // Calls are compared by path: it has to be the one that the system shows.
        let config = node.config().canonicalize().expect("a configuration");
        node.process = Some(Process::start(&config, &node.log(), &filter, runner));
    }

    /// Watches nodes that are started from now on; see [`crate::power`].
    pub fn watch(&mut self) {
        self.is_watched = true;
    }

    /// What watches a running node, and the number of its process.
    ///
    /// # Panics
    /// It is not watched, or does not run.
    pub fn take_watch(&mut self, index: usize) -> (Watch, u32) {
        let node = &mut self.nodes[index];
        let id = node.process.as_ref().expect("it runs").id();
        (node.watch.take().expect("it is watched"), id)
    }

    /// Waits until a node's interface answers.
    ///
    /// # Panics
    /// The node has ended, or does not answer.
    pub fn wait_for_answer(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let mut client = node.client();
        let process = node.process.as_mut().expect("it was started");
        until(&format!("node {index} answers"), LONG, || {
            if let Some(status) = process.ended() {
                panic!("node {index} ended while it started: {status}");
            }
            client.status().map_err(|e| e.to_string())
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self, index: usize) {
        self.process(index).kill();
    }

    /// SIGKILL to several, without a pause between them.
    pub fn kill_all(&mut self, indexes: &[usize]) {
        // Frozen first: none sees another one go.
        indexes.iter().for_each(|&i| self.pause(i));
        indexes.iter().for_each(|&i| self.kill(i));
    }

    /// SIGSTOP.
    pub fn pause(&self, index: usize) {
        self.nodes[index].process.as_ref().expect("it runs").pause();
    }

    /// SIGCONT.
    pub fn resume(&self, index: usize) {
        self.nodes[index].process.as_ref().expect("it runs").resume();
    }

    /// Nothing passes between the given nodes and all others, in neither direction.
    ///
    /// # Panics
    /// The cluster was set up without [`Setup::wired`].
    pub fn part(&self, side: &[usize]) {
        for other in (0..self.len()).filter(|other| !side.contains(other)) {
            for &node in side {
                self.wires().cut(node, other);
                self.wires().cut(other, node);
            }
        }
    }

    /// A node hears nobody any more, and is heard by all.
    ///
    /// # Panics
    /// As [`Cluster::part`].
    pub fn deafen(&self, node: usize) {
        (0..self.len()).for_each(|other| self.wires().cut(other, node));
    }

    /// All nodes reach each other again.
    ///
    /// # Panics
    /// As [`Cluster::part`].
    pub fn heal(&self) {
        self.wires().heal();
    }

    fn wires(&self) -> &Wires {
        self.wires.as_ref().expect("the cluster is wired")
    }

    /// SIGTERM, and how the process ended.
    pub fn stop(&mut self, index: usize, limit: Duration) -> ExitStatus {
        let process = self.process(index);
        process.ask_to_stop();
        process.wait(limit)
    }

    /// Takes over a process that ends by itself.
    pub fn process(&mut self, index: usize) -> Process {
        self.nodes[index].process.take().expect("it runs")
    }

    /// Numbers of the nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].process.is_some()).collect()
    }

    /// Waits until a condition holds for a node's status.
    pub fn until_status(&self, index: usize, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let mut client = self.client(index);
        until(&format!("node {index}: {what}"), LONG, || {
            let status = client.status().map_err(|e| e.to_string())?;
            if holds(&status) { Ok(status) } else { Err(status.line()) }
        })
    }

    /// Waits until all given nodes are in an epoch (or past it).
    pub fn until_epoch(&self, indexes: &[usize], epoch: u64) {
        for &index in indexes {
            self.until_status(index, &format!("in epoch {epoch}"), |s| s.epoch >= epoch);
        }
    }

    /// Writes (at this node if it can) and waits until this node has executed it: an idle
    /// cluster makes no blocks.
    pub fn until_progress(&self, index: usize) {
        let mut order = self.running();
        order.sort_by_key(|&i| i != index);
        let written = until("some node takes a write", LONG, || {
            let tries = order.iter().map(|&i| self.client(i).put("progress", b"", None));
            let mut failures = Vec::new();
            for result in tries {
                match result {
                    Ok(written) => return Ok(written),
                    Err(failure) => failures.push(failure.to_string()),
                }
            }
            Err(failures.join("; "))
        });
        self.until_status(index, &format!("executed block {}", written.index), |s| {
            s.global_exec_index >= written.index
        });
    }

    /// Waits until a proposal is in one of the given states.
    pub fn until_proposal(&self, index: usize, id: u64, states: &[&str]) -> Proposal {
        let mut client = self.client(index);
        until(&format!("proposal {id} is {states:?}"), LONG, || {
            let proposal = client.proposal(id).map_err(|e| e.to_string())?;
            if states.contains(&proposal.state.as_str()) {
                Ok(proposal)
            } else {
                Err(format!("{proposal:?}"))
            }
        })
    }

    /// The node that leads, as the first node sees it that knows one.
    pub fn leader(&self) -> usize {
        self.leader_among(&self.running())
    }

    /// The node that leads, as the first of the given nodes sees it that knows one.
    pub fn leader_among(&self, nodes: &[usize]) -> usize {
        until("there is a leader", LONG, || {
            let statuses = nodes.iter().filter_map(|&i| self.client(i).status().ok());
            let place = statuses.filter_map(|s| s.leader).next().ok_or("no node knows a leader")?;
            self.at_place(place).ok_or_else(|| format!("no node has place {place}"))
        })
    }

    /// The node with this place in the committee.
    pub fn at_place(&self, place: u32) -> Option<usize> {
        self.running()
            .into_iter()
            .find(|&i| self.client(i).status().is_ok_and(|s| s.authority_index == Some(place)))
    }

    /// The hash of a module in every node's folder, by its name.
    pub fn module(&self, name: &str) -> String {
        let path = self.nodes[0].dir.join("modules").join(format!("{name}.wasm"));
        let path = path.to_str().expect("a text");
        let text = crate::program::run_ok(&["module", "hash", path]);
        let start = text.find("sha256:").unwrap_or_else(|| panic!("no hash in {text}"));
        text[start..start + 71].to_owned()
    }

    /// Changes a node's configuration; takes effect at its next start.
    pub fn configure(&self, index: usize, change: impl FnOnce(&mut toml::Table)) {
        setup::edit(&self.nodes[index].config(), change);
    }

    /// # Panics
    /// A node's log shows a panic, or a fork.
    pub fn assert_no_panic(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let text = node.log_text();
            let bad = text
                .lines()
                .find(|line| ["panicked", "panic:", "FORK"].iter().any(|word| line.contains(word)));
            assert!(bad.is_none(), "node {index}: {}", bad.unwrap_or_default());
        }
    }

    fn show_logs(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let text = node.log_text();
            let lines: Vec<&str> = text.lines().filter(|line| !line.contains("lsm_tree")).collect();
            let from = lines.len().saturating_sub(SHOWN);
            eprintln!("---- node {index} ({}), last lines of {}", node.api, node.log().display());
            lines[from..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for index in self.running() {
                if let Ok(metrics) = self.client(index).patience(Duration::from_secs(2)).metrics() {
                    let _ = std::fs::write(self.nodes[index].dir.join("metrics"), metrics);
                }
                match self.client(index).patience(Duration::from_secs(2)).status() {
                    Ok(status) => eprintln!("---- node {index} is at the end: {}", status.line()),
                    Err(failure) => eprintln!("---- node {index} does not answer: {failure}"),
                }
            }
            self.show_logs();
            self.folder.keep();
            eprintln!("---- kept: {}", self.folder.path().display());
        }
        for node in &mut self.nodes {
            node.process = None;
        }
    }
}

/// Lines of each log that a failure shows.
const SHOWN: usize = 60;
