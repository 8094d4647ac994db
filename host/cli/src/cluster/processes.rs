//! Node processes: started by this program from itself, and ended with it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::cluster::PARENT_ENV;
use crate::cluster::layout::{Layout, NodeLayout};
use crate::pins::own_program;

/// How long nodes get to stop gracefully: a node's own drain limit and some.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

/// The running nodes of a devnet. Dropping it kills them.
pub(crate) struct Cluster {
    pub(crate) layout: Layout,
    log: String,
    children: Vec<Option<Child>>,
    pids: Vec<u32>,
}

/// A node that ended by itself.
pub(crate) struct Ended {
    pub(crate) index: usize,
    pub(crate) status: ExitStatus,
}

impl Cluster {
    /// Starts every node; `log` is their filter.
    ///
    /// # Errors
    /// A port is taken, or a process cannot be started.
    pub(crate) fn start(layout: Layout, log: &str) -> anyhow::Result<Self> {
        layout.check_ports()?;
        let count = layout.nodes.len();
        let children = (0..count).map(|_| None).collect();
        let mut cluster = Self { layout, log: log.to_owned(), children, pids: vec![0; count] };
        for index in 0..count {
            cluster.spawn(index)?;
        }
        cluster.layout.write_devnet(&cluster.pids)?;
        Ok(cluster)
    }

    /// Starts a node again that was killed.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(crate) fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        self.spawn(index)?;
        self.layout.write_devnet(&self.pids)?;
        Ok(())
    }

    fn spawn(&mut self, index: usize) -> anyhow::Result<()> {
        let node = &self.layout.nodes[index];
        let log = OpenOptions::new().create(true).append(true).open(node.log());
        let log = log.with_context(|| format!("cannot write {}", node.log().display()))?;
        let mut command = std::process::Command::new(own_program());
        command.arg0("moult").arg("node").arg("--config").arg(node.config()).args(["--log", &self.log]);
        command.env(PARENT_ENV, std::process::id().to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C is for the program that started it, which then stops them in order.
        command.process_group(0);
        let child = Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start node {index}"))?;
        self.pids[index] = child.id().unwrap_or(0);
        self.children[index] = Some(child);
        Ok(())
    }

    /// The process of a node.
    pub(crate) fn pid(&self, index: usize) -> u32 {
        self.pids[index]
    }

    /// Kills a node at once, as a power cut would.
    ///
    /// # Errors
    /// It cannot be killed.
    pub(crate) async fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        if let Some(mut child) = self.children[index].take() {
            child.kill().await.with_context(|| format!("cannot kill node {index}"))?;
        }
        Ok(())
    }

    /// A node that has ended since the last call.
    pub(crate) fn ended(&mut self) -> Option<Ended> {
        for (index, slot) in self.children.iter_mut().enumerate() {
            if let Some(Ok(Some(status))) = slot.as_mut().map(Child::try_wait) {
                *slot = None;
                return Some(Ended { index, status });
            }
        }
        None
    }

    /// Whether any node runs.
    pub(crate) fn is_running(&self) -> bool {
        self.children.iter().any(Option::is_some)
    }

    /// One line and the end of its log.
    pub(crate) fn obituary(&self, ended: &Ended) -> String {
        let node = &self.layout.nodes[ended.index];
        let mut text = format!(
            "node {} (pid {}) ended: {}; log: {}",
            ended.index,
            self.pids[ended.index],
            ended.status,
            node.log().display()
        );
        for line in tail(node) {
            text.push_str("\n    ");
            text.push_str(&line);
        }
        text
    }

    /// SIGTERM to each, wait, then SIGKILL. Tells which did not end in time.
    pub(crate) async fn stop(mut self) -> Vec<usize> {
        for child in self.children.iter().flatten() {
            terminate(child);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.is_running() && Instant::now() < deadline {
            if self.ended().is_none() {
                sleep(POLL).await;
            }
        }
        let mut killed = Vec::new();
        for (index, slot) in self.children.iter_mut().enumerate() {
            if let Some(child) = slot {
                let _ = child.kill().await;
                killed.push(index);
            }
        }
        killed
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        // It may have ended meanwhile.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// The last lines of a node's log.
fn tail(node: &NodeLayout) -> Vec<String> {
    const BYTES: u64 = 4096;
    const LINES: usize = 5;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(node.log())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| (*line).to_owned()).collect()
}
