//! A whole comparison: both clusters started, loaded in turns, stopped.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, sleep};

use crate::cluster::Cluster;
use crate::load::{self, Plan};
use crate::report::{self, Phase, Row, ms};
use crate::wire::System;
use crate::{cluster, cpu};

/// Between two looks at whether all nodes live.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Both clusters together, before a load begins: what an earlier one left to do is done.
const QUIET_CPU: f64 = 0.2;
const QUIET_TIMEOUT: Duration = Duration::from_secs(15);
/// What `statfs` calls a file system in memory (tmpfs, ramfs).
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// What is compared and how.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// The program.
    pub etcd: PathBuf,
    /// The program.
    pub moult: PathBuf,
    /// Numbers of clients, each a load of its own.
    pub clients: Vec<u16>,
    /// How often each load is repeated.
    pub rounds: u16,
    /// Measured time of each load.
    pub duration_s: u64,
    /// Before it.
    pub warmup_s: u64,
    /// Of each value.
    pub value_bytes: usize,
    /// To each node.
    pub connections: u16,
    /// The first of twelve.
    pub base_port: u16,
    /// Where a folder is made for the run.
    pub dir: PathBuf,
    /// Moult's epoch does not graduate: a put waits for a certificate of the hosts.
    pub certified: bool,
    /// Puts to Moult travel on a stream for each connection, not as a call each.
    pub stream: bool,
    /// Leave that folder in place.
    pub keep: bool,
    /// JSON will be printed to standard output: progress goes beside it.
    #[serde(skip)]
    pub json: bool,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// As the program says.
    pub etcd_version: String,
    /// The same.
    pub moult_version: String,
    /// Of this machine, for everything together.
    pub cpus: usize,
    /// As asked for.
    pub settings: Settings,
    /// The median rounds and their ratios.
    pub rows: Vec<Row>,
    /// Every load in its order.
    pub phases: Vec<Phase>,
}

impl Report {
    /// Whether every target that was measured is met.
    pub fn is_met(&self) -> bool {
        self.rows.iter().flat_map(|row| &row.targets).all(|target| target.is_met)
    }

    /// The table for people, with what was run above it.
    pub fn text(&self) -> String {
        let Settings { rounds, duration_s, value_bytes, connections, certified, stream, .. } = &self.settings;
        let finality = if *certified { "certified" } else { "graduated" };
        let calls = if *stream { "puts on a stream for each connection" } else { "a call for each put" };
        format!(
            "{} and {} ({finality}, {calls}), three nodes each, {} CPUs for all of it; values of {value_bytes} bytes;\n\
             {connections} HTTP/2 connections to each node (fewer with fewer clients), each client's puts to all nodes in turn;\n\
             the median of {rounds} rounds of {duration_s} s, by throughput\n\n{}",
            self.etcd_version,
            self.moult_version,
            self.cpus,
            report::table(&self.rows, &self.phases)
        )
    }
}

/// Runs all of it. Whatever happens, the clusters are stopped before it returns.
///
/// # Errors
/// A program or a port cannot be had, a node ended, or a signal came.
pub async fn compare(settings: Settings) -> anyhow::Result<Report> {
    // Before anything is started: from here on nothing ends this program but its own end.
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let folder = folder(&settings)?;
    let mut clusters = Vec::new();
    let outcome = {
        let [interrupt, terminate, hangup] = &mut signals[..] else { bail!("three signals") };
        tokio::select! {
            outcome = run(&settings, &folder, &mut clusters) => outcome,
            _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("told to end")),
            _ = hangup.recv() => Err(anyhow::anyhow!("the terminal has gone")),
        }
    };
    settings.say("stopping");
    for cluster in clusters {
        cluster.stop().await;
    }
    if settings.keep {
        settings.say(&format!("kept {}", folder.keep().display()));
    }
    outcome
}

impl Settings {
    fn say(&self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }
}

/// On a disk: in memory a sync costs nothing, and it is what the comparison is about.
fn folder(settings: &Settings) -> anyhow::Result<TempDir> {
    let dir = &settings.dir;
    let folder = tempfile::Builder::new().prefix("bench-etcd-").tempdir_in(dir);
    let folder = folder.with_context(|| format!("cannot make a folder in {}", dir.display()))?;
    let kind = rustix::fs::statfs(folder.path())?.f_type as u64;
    ensure!(
        !IN_MEMORY.contains(&kind),
        "{} is in memory, where syncs cost nothing: choose a --dir on a disk",
        dir.display()
    );
    Ok(folder)
}

async fn run(settings: &Settings, folder: &TempDir, clusters: &mut Vec<Cluster>) -> anyhow::Result<Report> {
    let etcd_version = version(&settings.etcd, "install Debian's etcd-server or name another with --etcd")?;
    let moult_version =
        version(&settings.moult, "`cargo build --release -p moult`, or name another with --moult")?;
    for (system, program) in [(System::Etcd, &settings.etcd), (System::Moult, &settings.moult)] {
        settings.say(&format!("starting {} nodes of {}", cluster::NODES, system.name()));
        let folder = folder.path().join(system.name());
        clusters.push(Cluster::start(system, program, &folder, settings.base_port, settings.certified)?);
        let last = clusters.len() - 1;
        clusters[last].ready().await?;
    }
    let loads = usize::from(settings.rounds) * settings.clients.len() * 2;
    let each = settings.warmup_s + settings.duration_s;
    settings.say(&format!(
        "{etcd_version}, {moult_version}: {loads} loads of {each} s, about {} s in all",
        loads as u64 * (each + 1)
    ));
    let mut phases = Vec::new();
    for round in 1..=settings.rounds {
        for &clients in &settings.clients {
            // Who comes first changes, so that what slows the second slows both.
            let order = if round % 2 == 1 { [0, 1] } else { [1, 0] };
            for index in order {
                let number = u16::try_from(phases.len()).context("too many loads")?;
                quiet(clusters).await?;
                let plan = plan(settings, &clusters[index], clients, number);
                let phase = phase(&plan, clusters, index, round).await?;
                settings.say(&progress(&phase, settings.rounds));
                phases.push(phase);
            }
        }
    }
    let rows = report::rows(&phases);
    let cpus = std::thread::available_parallelism()?.get();
    Ok(Report { etcd_version, moult_version, cpus, settings: settings.clone(), rows, phases })
}

fn plan(settings: &Settings, cluster: &Cluster, clients: u16, phase: u16) -> Plan {
    Plan {
        system: cluster.system,
        nodes: cluster.nodes.clone(),
        clients,
        connections: settings.connections,
        value_bytes: settings.value_bytes,
        is_stream: settings.stream,
        warmup: Duration::from_secs(settings.warmup_s),
        duration: Duration::from_secs(settings.duration_s),
        phase,
    }
}

/// One load, given up as soon as a node ends.
async fn phase(plan: &Plan, clusters: &mut [Cluster], index: usize, round: u16) -> anyhow::Result<Phase> {
    let (mut nodes, mut clients) = (Vec::new(), Vec::new());
    let measured = {
        let mut look = interval(CHECK_INTERVAL);
        // Members are looked at between borders, so the clusters are shared by both.
        let clusters = std::cell::RefCell::new(&mut *clusters);
        let load = load::run(plan, || {
            nodes.push(clusters.borrow()[index].cpu());
            clients.push(cpu::used(std::process::id()).unwrap_or_default());
        });
        let mut load = std::pin::pin!(load);
        loop {
            tokio::select! {
                measured = &mut load => break measured?,
                _ = look.tick() => {
                    for cluster in clusters.borrow_mut().iter_mut() {
                        cluster.check()?;
                    }
                }
            }
        }
    };
    let per_put = |borders: &[Duration]| match borders {
        [from, to] => to.saturating_sub(*from).as_micros() as f64 / measured.puts.max(1) as f64,
        _ => 0.0,
    };
    let (nodes_cpu_us_per_put, clients_cpu_us_per_put) = (per_put(&nodes), per_put(&clients));
    let (system, clients) = (plan.system, plan.clients);
    Ok(Phase { system, clients, round, measured, nodes_cpu_us_per_put, clients_cpu_us_per_put })
}

fn progress(phase: &Phase, rounds: u16) -> String {
    let measured = &phase.measured;
    format!(
        "round {}/{rounds}  {:>3} clients  {:5} {:>8.0} puts/s  p50 {:>9}  p99 {:>9}  {} failed",
        phase.round,
        phase.clients,
        phase.system.name(),
        measured.puts_per_second,
        ms(measured.p50_us),
        ms(measured.p99_us),
        measured.failed
    )
}

/// Waits until the nodes have little to do, but not for ever.
async fn quiet(clusters: &mut [Cluster]) -> anyhow::Result<()> {
    let used = |clusters: &[Cluster]| clusters.iter().map(Cluster::cpu).sum::<Duration>();
    let deadline = Instant::now() + QUIET_TIMEOUT;
    while Instant::now() < deadline {
        let (before, began) = (used(clusters), Instant::now());
        sleep(CHECK_INTERVAL).await;
        for cluster in clusters.iter_mut() {
            cluster.check()?;
        }
        let cores = used(clusters).saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
        if cores < QUIET_CPU {
            break;
        }
    }
    Ok(())
}

/// The first line of what the program says, with its name.
fn version(program: &PathBuf, advice: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}: {advice}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().unwrap_or_default().replace(" Version:", "");
    ensure!(
        output.status.success() && !line.is_empty(),
        "`{} --version`: {}",
        program.display(),
        output.status
    );
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_be_run_is_named_with_what_to_do() {
        let problem = format!("{:#}", version(&"/nowhere/etcd".into(), "install it").expect_err("none"));
        assert!(problem.starts_with("cannot run /nowhere/etcd: install it"), "{problem}");
    }

    #[tokio::test]
    async fn a_folder_in_memory_is_refused() {
        let settings = Settings {
            etcd: "etcd".into(),
            moult: "moult".into(),
            clients: vec![1],
            rounds: 1,
            duration_s: 1,
            warmup_s: 0,
            value_bytes: 256,
            connections: 1,
            base_port: 24_790,
            dir: "/nowhere".into(),
            certified: false,
            stream: false,
            keep: false,
            json: true,
        };
        let problem = format!("{:#}", compare(settings.clone()).await.expect_err("no such folder"));
        assert!(problem.starts_with("cannot make a folder in /nowhere"), "{problem}");
        let is_memory =
            rustix::fs::statfs("/dev/shm").is_ok_and(|stat| IN_MEMORY.contains(&(stat.f_type as u64)));
        if is_memory {
            let problem = compare(Settings { dir: "/dev/shm".into(), ..settings }).await;
            let problem = format!("{:#}", problem.expect_err("it is in memory"));
            assert!(problem.contains("is in memory"), "{problem}");
        }
    }
}
