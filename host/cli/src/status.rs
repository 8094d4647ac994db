//! `moult status`.

use clap::Args as ClapArgs;
use moult_node::api_types::Status;
use serde_json::json;

use crate::client::{ApiArgs, Client};
use crate::cluster::read_devnet;
use crate::genesis::finality_name;
use crate::output::{self, grouped, say, table, utc};
use crate::pins::label;

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let devnet =
        args.api.dir.as_ref().filter(|dir| args.api.api.is_none() && dir.join("devnet.json").is_file());
    if let Some(dir) = devnet {
        let urls = read_devnet(dir)?.nodes.into_iter().map(|node| node.api).collect();
        return many(&args.api, urls, json).await;
    }
    let mut client = args.api.client()?;
    let status: Status = client.get("/v1/status").await?;
    if json { output::json(&status) } else { one(client.url(), &status) }
}

async fn many(api: &ApiArgs, urls: Vec<String>, json: bool) -> anyhow::Result<()> {
    let mut statuses = Vec::new();
    for url in urls {
        let status = Client::new(api.target(&url)?, None).get::<Status>("/v1/status").await;
        statuses.push((url, status));
    }
    if json {
        let entry = |(url, status): &(String, Result<Status, _>)| match status {
            Ok(status) => json!({ "api": url, "status": status }),
            Err(error) => json!({ "api": url, "error": format!("{error}") }),
        };
        return output::json(&statuses.iter().map(entry).collect::<Vec<_>>());
    }
    let mut rows =
        vec![["API", "EPOCH", "ENGINE", "BLOCK", "ROLE", "PEERS", "STATE ROOT"].map(String::from).to_vec()];
    for (url, status) in &statuses {
        rows.push(match status {
            Ok(s) => vec![
                url.clone(),
                s.epoch.to_string(),
                label(s.engine_hash),
                grouped(s.global_exec_index),
                role(s),
                s.peers.len().to_string(),
                s.state_root.chars().take(12).collect(),
            ],
            Err(_) => vec![url.clone(), "-".into(), "does not answer".into()],
        });
    }
    table(&rows);
    Ok(())
}

fn role(status: &Status) -> String {
    match (status.authority_index, &status.signing_stopped) {
        (Some(index), None) => format!("{} {index}", status.role),
        (Some(index), Some(_)) => format!("{} {index}, signs nothing", status.role),
        (None, _) => status.role.clone(),
    }
}

fn one(url: &str, s: &Status) -> anyhow::Result<()> {
    say!("{url}  moult {}  up {} s", s.version, s.uptime_ms / 1000);
    say!("  authority   {} ({})", s.authority, role(s));
    if let Some(reason) = &s.signing_stopped {
        say!("  signing     stopped: {reason}");
    }
    say!("  chain       {}", s.chain);
    let phase = if s.phase > 0 { format!(" phase {}", s.phase) } else { String::new() };
    let finality = finality_name(s.finality);
    say!("  epoch       {}{phase}, {finality}, block {} of it", s.epoch, grouped(s.commit_index));
    say!(
        "  executed    {} (final {}, seen {})",
        grouped(s.global_exec_index),
        grouped(s.global_final_index),
        grouped(s.highest_seen)
    );
    say!("  block time  {}", utc(s.block_time_ms));
    say!("  state root  {}", s.state_root);
    let leader = s.leader.map_or("not known".into(), |leader| format!("authority {leader}"));
    say!("  consensus   {}, round {}, leader {leader}", s.engine, s.round);
    if let Some(barrier) = s.barrier {
        say!("  barrier     block {barrier}: the epoch ends there");
    }
    for (world, pin) in &s.modules {
        say!("  {:11} {}", world.name(), label(pin.hash));
    }
    for peer in &s.peers {
        let place = peer.authority_index.map_or("observer".into(), |index| format!("authority {index}"));
        say!("  peer        {place} at {}, {:.1} ms", peer.address, peer.rtt_us as f64 / 1e3);
    }
    Ok(())
}
