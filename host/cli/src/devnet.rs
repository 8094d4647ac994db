//! `moult devnet`: a cluster on this machine until Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args as ClapArgs;
use moult_node::genesis::GenesisFile;
use moult_types::FaultModel;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::cluster::{Cluster, Layout, Plan, wait_ready};
use crate::genesis::{LimitArgs, parse_fault_model};
use crate::output::{Progress, say};
use crate::pins::PinArgs;

/// The first port unless told otherwise.
const BASE_PORT: u16 = 7400;
const POLL: Duration = Duration::from_millis(200);

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// How many nodes [default: 4, or as many as the folder holds].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    nodes: Option<u16>,
    /// Their folder; one that holds an earlier devnet resumes it.
    #[arg(long, default_value = "devnet")]
    dir: PathBuf,
    #[command(flatten)]
    pins: PinArgs,
    /// What the quorums are made for: `byzantine` or `crash`.
    #[arg(long, default_value = "byzantine", value_parser = parse_fault_model, value_name = "MODEL")]
    fault_model: FaultModel,
    #[command(flatten)]
    limits: LimitArgs,
    /// Node i serves its API at this port and 2i (TCP), other nodes one above (UDP) [default: 7400].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    base_port: Option<u16>,
    /// What the nodes log, each to `node.log` in its folder.
    #[arg(long, env = "MOULT_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How long all nodes may take until they accept writes, in seconds.
    #[arg(long, default_value_t = 90, value_name = "SECONDS")]
    ready_timeout: u64,
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    // Before anything is started: from here on nothing ends this program but its own end.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let layout = layout(&args, progress)?;
    let mut cluster = Cluster::start(layout, &args.log)?;
    progress.line(format_args!(
        "started {} nodes in {}",
        cluster.layout.nodes.len(),
        cluster.layout.dir.display()
    ));
    let outcome = tokio::select! {
        result = serve(&mut cluster, &args, json) => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    progress.line("stopping");
    let stopping = cluster.stop();
    tokio::pin!(stopping);
    let killed = tokio::select! {
        killed = &mut stopping => killed,
        // A second signal: the rest is killed as the program ends.
        _ = interrupt.recv() => bail!("interrupted again: nodes were killed"),
    };
    for index in &killed {
        progress.line(format_args!("node {index} did not stop in time and was killed"));
    }
    progress.line("stopped");
    outcome
}

/// An earlier devnet's folders, or new ones.
fn layout(args: &Args, progress: Progress) -> anyhow::Result<Layout> {
    if !Layout::exists(&args.dir) {
        let limits = args.limits.limits()?;
        let plan = Plan {
            nodes: args.nodes.unwrap_or(4),
            base_port: args.base_port.unwrap_or(BASE_PORT),
            pins: &args.pins,
            fault_model: args.fault_model,
            limits,
        };
        return Layout::create(&args.dir, &plan);
    }
    let layout = Layout::open(&args.dir)?;
    let (held, dir) = (layout.nodes.len(), layout.dir.display());
    if let Some(nodes) = args.nodes {
        ensure!(
            usize::from(nodes) == held,
            "{dir} holds a devnet of {held} nodes: leave --nodes out to resume it, or choose another --dir"
        );
    }
    if let Some(port) = args.base_port {
        let found = layout.nodes.first().map_or(0, |node| node.api.port());
        ensure!(
            port == found,
            "{dir} holds a devnet with base port {found}: leave --base-port out to resume it, or choose another --dir"
        );
    }
    progress.line(format_args!("resuming the devnet in {dir}"));
    let genesis = GenesisFile::load(&layout.nodes[0].dir.join("genesis.json"))?;
    for (world, chosen) in args.pins.chosen()? {
        if genesis.modules.get(&world).is_some_and(|pin| pin.hash != chosen.hash) {
            progress.line(format_args!(
                "--{world} is ignored: this chain began with another one; use `moult propose --{world} ...`"
            ));
        }
    }
    Ok(layout)
}

/// Tells when the cluster is ready, and then of nodes that end.
async fn serve(cluster: &mut Cluster, args: &Args, json: bool) -> anyhow::Result<()> {
    wait_ready(cluster, Duration::from_secs(args.ready_timeout)).await?;
    let urls: Vec<String> = cluster.layout.nodes.iter().map(|node| node.url()).collect();
    say!("devnet ready: {} nodes, {}", urls.len(), urls.join(" "));
    if !json {
        say!("  folder   {}", cluster.layout.dir.display());
        say!("  try      moult kv put hello world --dir {0}; moult status --dir {0}", args.dir.display());
        say!("  swap     moult propose --dir {} --engine pbft-reverse --wait", args.dir.display());
        say!("  stop     Ctrl-C");
    }
    while cluster.is_running() {
        match cluster.ended() {
            Some(ended) => eprintln!("{}", cluster.obituary(&ended)),
            None => sleep(POLL).await,
        }
    }
    bail!("every node has ended")
}
