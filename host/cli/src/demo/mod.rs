//! `moult demo`: a cluster, a load, an engine swap, a crash, and a verdict.

mod report;
mod verify;
mod workload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use moult_node::api_types::Status;
use moult_types::{EpochLimits, FaultModel};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use crate::builtin::{Builtin, builtin};
use crate::client::{ApiArgs, Client, Target};
use crate::cluster::{Cluster, Layout, Plan, wait_ready};
use crate::demo::report::{Crash, Report};
use crate::demo::workload::Workload;
use crate::failure::Told;
use crate::load::{Recorder, Swap, swap_to};
use crate::output::{self, Progress, duration_us, grouped};
use crate::pins::{PinArgs, label};

const NODES: u16 = 4;
/// The node that is killed.
const VICTIM: usize = 1;
/// The load runs alone for so long before, between and after the events.
const CALM: Duration = Duration::from_secs(4);
/// How long the victim is away.
const AWAY: Duration = Duration::from_secs(3);
const READY_TIMEOUT: Duration = Duration::from_secs(40);
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
/// The whole demo.
const TIME_MAX: Duration = Duration::from_secs(118);

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// How long the load runs, in seconds; longer where the events take longer.
    #[arg(long, default_value_t = 25, value_name = "S", value_parser = clap::value_parser!(u64).range(5..=60))]
    seconds: u64,
    /// Writes a second.
    #[arg(long, default_value_t = 1_200, value_name = "R", value_parser = clap::value_parser!(u64).range(1..=50_000))]
    rate: u64,
    /// Keep the cluster's folder and print where it is.
    #[arg(long)]
    keep: bool,
    /// First port [default: free ones].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    base_port: Option<u16>,
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let folder =
        tempfile::Builder::new().prefix("moult-demo-").tempdir().context("cannot make a temporary folder")?;
    let dir = folder.path().join("cluster");
    let script = async {
        tokio::select! {
            report = play(&args, dir, progress) => report,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("interrupted"),
        }
    };
    let report = match tokio::time::timeout(TIME_MAX, script).await {
        Ok(report) => report,
        Err(_) => Err(anyhow::anyhow!(
            "the demo was not over within {} s: is this machine very busy?",
            TIME_MAX.as_secs()
        )),
    };
    if args.keep || report.is_err() {
        progress
            .line(format_args!("the cluster's folder, with the nodes' logs: {}", folder.keep().display()));
    }
    let report = report?;
    if json {
        output::json(&report)?;
    } else {
        report.print();
    }
    if report.passed() { Ok(()) } else { Err(Told.into()) }
}

/// The demo on the cluster's folder.
async fn play(args: &Args, dir: PathBuf, progress: Progress) -> anyhow::Result<Report> {
    let reverse = builtin("pbft-reverse").context("pbft-reverse is not built in")?;
    let began = Instant::now();
    let base_port = match args.base_port {
        Some(port) => port,
        None => free_ports()?,
    };
    let pins = PinArgs::default();
    let plan = Plan {
        nodes: NODES,
        base_port,
        pins: &pins,
        fault_model: FaultModel::Byzantine,
        limits: EpochLimits::default(),
    };
    let layout = Layout::create(&dir, &plan)?;
    progress.line(format_args!("starting {NODES} nodes"));
    let mut cluster = Cluster::start(layout, "info")?;
    let outcome = perform(args, reverse, &mut cluster, began, progress).await;
    cluster.stop().await;
    outcome
}

async fn perform(
    args: &Args,
    reverse: &Builtin,
    cluster: &mut Cluster,
    began: Instant,
    progress: Progress,
) -> anyhow::Result<Report> {
    wait_ready(cluster, READY_TIMEOUT).await?;
    let targets = cluster
        .layout
        .nodes
        .iter()
        .map(|node| Target::parse(&node.url(), None))
        .collect::<anyhow::Result<Vec<_>>>()?;
    progress.line(format_args!("every node takes writes after {} ms; load: {} writes/s, a fifth of them compare-and-swap on shared keys", began.elapsed().as_millis(), grouped(args.rate)));
    let workload = Workload::start(&targets, args.rate)?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let ticker = tokio::spawn(tick(workload.recorder.clone(), targets[0].clone(), progress));
    let events = events(cluster, reverse, &workload.recorder, progress).await;
    if events.is_ok() {
        sleep_until(end).await;
    }
    ticker.abort();
    let (swap, crash) = events?;
    if let Some(ended) = cluster.ended() {
        bail!("{}", cluster.obituary(&ended));
    }
    let summary = workload.recorder.summary();
    progress.line("load is over; finishing the writes under way");
    let written = workload.finish().await;
    progress.line("waiting until every node has executed the same block");
    let state = verify::settle(&targets, CATCH_UP_TIMEOUT).await?;
    progress.line(format_args!(
        "reading {} keys back, each through another node than it was written through",
        grouped(written.keys())
    ));
    let reads = verify::read_back(&targets, &written).await?;
    progress.line(format_args!("comparing the blocks of {NODES} nodes"));
    let blocks = verify::compare_blocks(&targets, state.global_exec_index).await?;
    Ok(Report::new(args.rate, began.elapsed(), summary, &written, swap, crash, state, reads, blocks))
}

/// The swap, then the crash, each with some calm around it.
async fn events(
    cluster: &mut Cluster,
    reverse: &Builtin,
    recorder: &Recorder,
    progress: Progress,
) -> anyhow::Result<(Swap, Crash)> {
    let api = ApiArgs { dir: Some(cluster.layout.dir.clone()), ..ApiArgs::default() };
    let mut client = api.client()?;
    sleep(CALM).await;
    progress.line(format_args!("proposing {} by its hash {}", reverse.name, reverse.hash));
    let swap = swap_to(&mut client, reverse, recorder, progress).await?;
    sleep(CALM).await;
    let crash = crash(cluster, &mut client, recorder, progress).await?;
    sleep(CALM).await;
    Ok((swap, crash))
}

/// Kills a node as a power cut would, starts it again, and waits until it has caught up.
async fn crash(
    cluster: &mut Cluster,
    client: &mut Client,
    recorder: &Recorder,
    progress: Progress,
) -> anyhow::Result<Crash> {
    let status: Status = client.get("/v1/status").await?;
    let leads = status.leader == Some(VICTIM as u32);
    let killed = Instant::now();
    progress.line(format_args!(
        "kill -9 of node {VICTIM} (pid {}){}",
        cluster.pid(VICTIM),
        if leads { ", the leader" } else { "" }
    ));
    cluster.kill(VICTIM).await?;
    sleep(AWAY).await;
    progress.line(format_args!("starting node {VICTIM} again"));
    let started = Instant::now();
    cluster.restart(VICTIM)?;
    let mut victim = Client::new(Target::parse(&cluster.layout.nodes[VICTIM].url(), None)?, None);
    loop {
        if let Some(ended) = cluster.ended() {
            bail!("{}", cluster.obituary(&ended));
        }
        if started.elapsed() > CATCH_UP_TIMEOUT {
            bail!("node {VICTIM} did not catch up within {} s of its restart", CATCH_UP_TIMEOUT.as_secs());
        }
        sleep(Duration::from_millis(50)).await;
        let target = client.get::<Status>("/v1/status").await?.global_exec_index;
        // While it starts it does not answer.
        let Ok(status) = victim.get::<Status>("/v1/status").await else { continue };
        if status.global_exec_index + 20 >= target {
            break;
        }
    }
    let caught_up_ms = started.elapsed().as_millis() as u64;
    let crash = Crash {
        node: VICTIM,
        led: leads,
        caught_up_ms,
        longest_gap_us: recorder.longest_gap(killed, Instant::now()),
    };
    progress.line(format_args!("node {VICTIM} caught up {caught_up_ms} ms after its start"));
    Ok(crash)
}

async fn tick(recorder: Arc<Recorder>, target: Target, progress: Progress) {
    let start = Instant::now();
    let mut client = Client::new(target, None);
    loop {
        sleep(Duration::from_secs(1)).await;
        let second = recorder.second();
        let place = match client.get::<Status>("/v1/status").await {
            Ok(s) => {
                format!("epoch {} {}  block {}", s.epoch, label(s.engine_hash), grouped(s.global_exec_index))
            }
            Err(_) => "node 0 does not answer".into(),
        };
        progress.line(format_args!(
            "{:4} s  {:>6} writes/s  p50 {:>6}  p99 {:>6}  {place}",
            start.elapsed().as_secs(),
            grouped(second.acknowledged),
            duration_us(second.p50_us),
            duration_us(second.p99_us)
        ));
    }
}

/// The first of enough free ports in a row.
fn free_ports() -> anyhow::Result<u16> {
    let mut seed = [0; 2];
    getrandom::fill(&mut seed).map_err(|e| anyhow::anyhow!("the system has no randomness: {e}"))?;
    let offset = u16::from_le_bytes(seed) % 1_000;
    for attempt in 0..50 {
        let base = 20_000 + (offset + attempt * 20) % 1_000 * 10;
        let free = (0..2 * NODES).all(|port| {
            let address = ("127.0.0.1", base + port);
            std::net::TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok()
        });
        if free {
            return Ok(base);
        }
    }
    bail!("no eight free ports in a row: name the first with --base-port")
}
