//! `moult bench`: load a cluster and measure.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use moult_node::api_types::Status;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::builtin::{Builtin, builtin};
use crate::client::{ApiArgs, Client, Request, Target};
use crate::cluster::read_devnet;
use crate::load::{
    Answer, BlockTimes, Pace, Random, Recorder, Streamer, Summary, Swap, Usage, Watching, Writer,
    block_times, swap_to,
};
use crate::output::{self, Progress, duration_us, grouped, say};
use crate::pins::label;

/// Connections of a closed loop, and of an open one, unless told otherwise.
const CLIENTS_CLOSED: u32 = 64;
const CLIENTS_OPEN: u32 = 512;
/// Between two swaps, so that each is measured by itself.
const SWAP_PAUSE: Duration = Duration::from_secs(2);
const OVERLOADED_PAUSE: Duration = Duration::from_millis(10);
const BROKEN_PAUSE: Duration = Duration::from_millis(100);

/// How writes are sent.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Transport {
    /// A request each, one at a time on each connection.
    Http,
    /// Many at once on one stream a node.
    Grpc,
}

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// How to send: a request for each write, or streams of them.
    #[arg(long, value_enum, default_value_t = Transport::Http)]
    transport: Transport,
    /// The gRPC addresses [default: those of --dir, or the port above each --api].
    #[arg(long, num_args = 1.., value_name = "URL")]
    grpc_api: Vec<String>,
    /// Nodes to load, by their API; connections are spread over them.
    #[arg(long, num_args = 1.., value_name = "URL")]
    api: Vec<String>,
    /// Folder of a devnet: load all its nodes.
    #[arg(long, env = "MOULT_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Token of the first node, for --swap; with --dir it is found.
    #[arg(long, env = "MOULT_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Writes at once: connections with HTTP, in flight over all streams with gRPC
    /// [default: 64, with --rate 512].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    clients: Option<u32>,
    /// Writes a second, whatever the answers (open loop); left out: as fast as they are answered.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Seconds to measure; longer where swaps take longer.
    #[arg(long, default_value_t = 10, value_name = "S")]
    duration: u64,
    /// Seconds before that are not measured.
    #[arg(long, default_value_t = 2, value_name = "S")]
    warmup: u64,
    /// Size of each value.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    value_bytes: u32,
    /// How many different keys.
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Under this load swap the engine so many times, between pbft and pbft-reverse.
    #[arg(long, default_value_t = 0, value_name = "N")]
    swap: u32,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    transport: Transport,
    nodes: usize,
    clients: u32,
    rate: Option<u64>,
    value_bytes: u32,
    #[serde(flatten)]
    summary: Summary,
    blocks: Option<BlockTimes>,
    /// Of the nodes that were loaded.
    usage: Vec<Usage>,
    swaps: Vec<Swap>,
    swap_gap_us: Option<SwapGaps>,
}

/// Over all swaps.
#[derive(Clone, Copy, Serialize)]
struct SwapGaps {
    median: u64,
    worst: u64,
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    let targets = targets(&args)?;
    let first = ApiArgs {
        api: Some(targets[0].url.clone()),
        dir: args.dir.clone(),
        token_file: args.token_file.clone(),
        ..ApiArgs::default()
    };
    let mut client = first.client()?;
    let before: Status = client.get("/v1/status").await?;
    let default = if args.rate.is_some() { CLIENTS_OPEN } else { CLIENTS_CLOSED };
    let clients = args.clients.unwrap_or(default);
    progress.line(format_args!(
        "{} nodes, {clients} writes at once over {}, {}, values of {} bytes, engine {}",
        targets.len(),
        args.transport.name(),
        args.rate.map_or("closed loop".into(), |rate| format!("{} writes/s (open loop)", grouped(rate))),
        args.value_bytes,
        label(before.engine_hash)
    ));
    let load = match args.transport {
        Transport::Http => Load::start(&targets, clients, &args),
        Transport::Grpc => Load::stream(&grpc_targets(&targets, &args)?, clients, &args),
    };
    sleep(Duration::from_secs(args.warmup)).await;
    load.recorder.restart();
    let watching = Watching::start(&targets);
    let end = Instant::now() + Duration::from_secs(args.duration);
    let ticker = tokio::spawn(tick(load.recorder.clone(), progress));
    let since = client.get::<Status>("/v1/status").await?.global_exec_index;
    let swaps = swaps(&mut client, &load.recorder, args.swap, progress).await;
    sleep_until(end).await;
    ticker.abort();
    let summary = load.recorder.summary();
    let usage = watching.stop().await;
    load.stop().await;
    let swaps = swaps?;
    let blocks = block_times(&mut client, since).await?;
    let swap_gap_us = gaps(&swaps);
    let (nodes, rate, value_bytes) = (targets.len(), args.rate, args.value_bytes);
    let transport = args.transport;
    let report =
        Report { transport, nodes, clients, rate, value_bytes, summary, blocks, usage, swaps, swap_gap_us };
    if json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

fn targets(args: &Args) -> anyhow::Result<Vec<Target>> {
    let urls = match &args.dir {
        Some(dir) if args.api.is_empty() => {
            read_devnet(dir)?.nodes.into_iter().map(|node| node.api).collect()
        }
        _ => args.api.clone(),
    };
    ensure!(!urls.is_empty(), "say what to load: --api URL... or --dir DEVNET");
    urls.iter().map(|url| ApiArgs::default().target(url)).collect()
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Grpc => "gRPC",
        }
    }
}

/// Where the nodes serve gRPC.
fn grpc_targets(apis: &[Target], args: &Args) -> anyhow::Result<Vec<Target>> {
    let mut urls = args.grpc_api.clone();
    if let (Some(dir), true, true) = (&args.dir, urls.is_empty(), args.api.is_empty()) {
        let nodes = read_devnet(dir)?.nodes;
        urls = nodes.into_iter().filter_map(|node| node.grpc).collect();
        ensure!(!urls.is_empty(), "the nodes in {} serve no gRPC", dir.display());
    }
    if urls.is_empty() {
        return Ok(apis.iter().map(|api| Target { port: api.port.wrapping_add(1), ..api.clone() }).collect());
    }
    urls.iter().map(|url| ApiArgs::default().target(url)).collect()
}

/// The connections of a load.
struct Load {
    pace: Arc<Pace>,
    recorder: Arc<Recorder>,
    writers: JoinSet<()>,
}

impl Load {
    fn start(targets: &[Target], clients: u32, args: &Args) -> Self {
        let (pace, recorder) = (Arc::new(Pace::new(args.rate)), Arc::new(Recorder::new()));
        let mut writers = JoinSet::new();
        for (index, target) in (0..clients).zip(targets.iter().cycle()) {
            let writer = Writer::new(target.clone());
            let work =
                Work { keys: args.keys, value: vec![b'x'; args.value_bytes as usize], seed: index.into() };
            writers.spawn(write(writer, work, pace.clone(), recorder.clone()));
        }
        Self { pace, recorder, writers }
    }

    /// One stream a node; they share the writes in flight.
    fn stream(targets: &[Target], clients: u32, args: &Args) -> Self {
        let (pace, recorder) = (Arc::new(Pace::new(args.rate)), Arc::new(Recorder::new()));
        let mut writers = JoinSet::new();
        let streams = targets.len().min(clients as usize);
        for (index, target) in (0..).zip(&targets[..streams]) {
            let in_flight = clients as usize / streams + usize::from(index < clients as usize % streams);
            let streamer = Streamer {
                target: target.clone(),
                in_flight,
                keys: args.keys,
                value: vec![b'x'; args.value_bytes as usize],
                pace: pace.clone(),
                recorder: recorder.clone(),
            };
            writers.spawn(streamer.run(index as u64));
        }
        Self { pace, recorder, writers }
    }

    async fn stop(mut self) {
        self.pace.stop();
        // What is on its way may finish, for as long as it takes a healthy cluster.
        let rest = async { while self.writers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(3), rest).await;
    }
}

struct Work {
    keys: u64,
    value: Vec<u8>,
    seed: u64,
}

/// One connection: anonymous puts under random keys; what fails is counted, not repeated.
async fn write(mut writer: Writer, work: Work, pace: Arc<Pace>, recorder: Arc<Recorder>) {
    let mut random = Random::new(work.seed + 1);
    while let Some(due) = pace.ticket().await {
        let path = format!("/v1/kv/bench-{}", random.below(work.keys));
        let request = Request { method: "PUT", path: &path, headers: &[], body: &work.value };
        match writer.send(&request).await {
            Answer::Status(200) => {
                recorder.acknowledged(due);
                writer.tidy();
            }
            Answer::Status(503) => {
                recorder.refused();
                writer.tidy();
                sleep(OVERLOADED_PAUSE).await;
            }
            Answer::Status(status) => {
                let body = String::from_utf8_lossy(&writer.body()).chars().take(200).collect::<String>();
                recorder.failed(format!("{status}: {body}"));
            }
            Answer::NotSent(problem) | Answer::Unknown(problem) => {
                recorder.failed(problem);
                sleep(BROKEN_PAUSE).await;
            }
        }
    }
}

async fn tick(recorder: Arc<Recorder>, progress: Progress) {
    let start = Instant::now();
    loop {
        sleep(Duration::from_secs(1)).await;
        let second = recorder.second();
        progress.line(format_args!(
            "{:4} s  {:>7} writes/s  p50 {}  p99 {}",
            start.elapsed().as_secs(),
            grouped(second.acknowledged),
            duration_us(second.p50_us),
            duration_us(second.p99_us)
        ));
    }
}

async fn swaps(
    client: &mut Client,
    recorder: &Recorder,
    count: u32,
    progress: Progress,
) -> anyhow::Result<Vec<Swap>> {
    let mut swaps = Vec::new();
    for number in 1..=count {
        sleep(SWAP_PAUSE).await;
        let status: Status = client.get("/v1/status").await?;
        let engine = other_engine(&status)?;
        let swap = swap_to(client, engine, recorder, progress).await;
        swaps.push(swap.with_context(|| format!("swap {number} of {count}"))?);
    }
    Ok(swaps)
}

/// pbft-reverse where pbft runs, else pbft.
fn other_engine(status: &Status) -> anyhow::Result<&'static Builtin> {
    let pbft = builtin("pbft").context("pbft is not built in")?;
    if status.engine_hash.to_string() == pbft.hash {
        builtin("pbft-reverse").context("pbft-reverse is not built in")
    } else {
        Ok(pbft)
    }
}

fn gaps(swaps: &[Swap]) -> Option<SwapGaps> {
    let mut all: Vec<u64> = swaps.iter().map(|swap| swap.longest_gap_us).collect();
    all.sort_unstable();
    Some(SwapGaps { median: *all.get(all.len() / 2)?, worst: *all.last()? })
}

fn print(report: &Report) {
    let Summary {
        seconds,
        acknowledged,
        refused,
        failed,
        writes_per_second,
        latency_us,
        longest_gap_us,
        problems,
    } = &report.summary;
    say!();
    say!(
        "acknowledged    {} writes in {seconds:.1} s: {} writes/s",
        grouped(*acknowledged),
        grouped(*writes_per_second as u64)
    );
    say!("not             {} overloaded, {} failed", grouped(*refused), grouped(*failed));
    for problem in problems {
        say!("                {problem}");
    }
    let [mean, p50, p90, p99, p999, max] =
        [latency_us.mean, latency_us.p50, latency_us.p90, latency_us.p99, latency_us.p999, latency_us.max]
            .map(duration_us);
    say!("latency         mean {mean}  p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999}  max {max}");
    say!("longest gap     {} without an acknowledged write", duration_us(*longest_gap_us));
    if let Some(blocks) = &report.blocks {
        say!(
            "block interval  median {} ms, mean {:.1} ms (last {} blocks)",
            blocks.median_ms,
            blocks.mean_ms,
            grouped(blocks.blocks)
        );
    }
    print_usage(report);
    for (number, swap) in report.swaps.iter().enumerate() {
        say!(
            "swap {:<2}         epoch {} {}: gap {} (since the proposal {}), active after {} ms",
            number + 1,
            swap.epoch,
            label(swap.to),
            duration_us(swap.longest_gap_us),
            duration_us(swap.longest_gap_since_proposal_us),
            swap.proposed_to_active_ms
        );
    }
    if let Some(SwapGaps { median, worst }) = report.swap_gap_us {
        say!("swap gaps       median {}, worst {}", duration_us(median), duration_us(worst));
    }
}

fn print_usage(report: &Report) {
    let cpu_us = report.usage.iter().map(|usage| usage.cpu_seconds).sum::<f64>() * 1e6;
    if report.summary.acknowledged > 0 {
        let each = cpu_us / report.summary.acknowledged as f64;
        say!("processor       {} a write, all nodes together", duration_us(each as u64));
    }
    for usage in &report.usage {
        let [first, most, last] =
            [usage.resident_first_bytes, usage.resident_most_bytes, usage.resident_last_bytes]
                .map(|bytes| bytes >> 20);
        say!("memory          {first} MiB at first, {most} at most, {last} at last: {}", usage.node);
    }
}
