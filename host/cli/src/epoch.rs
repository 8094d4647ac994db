//! `moult epoch`: what each epoch fixed.

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use moult_node::api_types::{AbortBody, EpochBody, Status};

use crate::client::{ApiArgs, Client};
use crate::genesis::{finality_name, model_name};
use crate::output::{self, grouped, say, table, utc};
use crate::pins::label;
use crate::revert;

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show one epoch: committee, modules, limits.
    Show {
        /// Which [default: the present one].
        #[arg(long)]
        number: Option<u64>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Propose the modules of a former epoch once more: the way back from a change.
    Revert(Box<revert::Args>),
    /// List epochs from the first.
    History {
        /// The first to list.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u64,
        #[command(flatten)]
        api: ApiArgs,
    },
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    match args.command {
        Command::Show { number, api } => {
            let mut client = api.client()?;
            let number = match number {
                Some(number) => number,
                None => client.get::<Status>("/v1/status").await?.epoch,
            };
            let epoch = fetch(&mut client, number).await?;
            if json { output::json(&epoch) } else { show(&epoch) }
        }
        Command::Revert(args) => revert::run(*args, json).await,
        Command::History { from, limit, api } => {
            let epochs: Vec<EpochBody> =
                api.client()?.get(&format!("/v1/epochs?from={from}&limit={limit}")).await?;
            if json { output::json(&epochs) } else { history(&epochs) }
        }
    }
}

/// One epoch.
pub(crate) async fn fetch(client: &mut Client, number: u64) -> anyhow::Result<EpochBody> {
    let epochs: Vec<EpochBody> = client.get(&format!("/v1/epochs?from={number}&limit=1")).await?;
    epochs
        .into_iter()
        .find(|epoch| epoch.number == number)
        .with_context(|| format!("there is no epoch {number} on this chain"))
}

fn show(epoch: &EpochBody) -> anyhow::Result<()> {
    say!("epoch {}", epoch.number);
    say!("  identity     {}", epoch.identity);
    say!("  follows      block {}", grouped(epoch.base));
    say!("  began        {} (switched here {})", utc(epoch.time_ms), utc(epoch.switched_at_ms));
    say!("  fault model  {}, quorum {} of {}", model_name(epoch.fault_model), epoch.quorum, epoch.stake);
    say!("  finality     {}", finality_name(epoch.finality));
    for (world, pin) in &epoch.modules {
        say!("  {:11}  {}  {}", world.name(), label(pin.hash), pin.hash);
        if let Some(config) = &pin.config {
            say!("               config: {}", config.trim_end().replace('\n', "; "));
        }
    }
    for pin in &epoch.fallbacks {
        say!("  fallback     {}  {}", label(pin.hash), pin.hash);
    }
    for abort in &epoch.aborts {
        for line in abort_lines(abort) {
            say!("  {line}");
        }
    }
    for (index, member) in epoch.committee.iter().enumerate() {
        say!("  authority {index}  stake {}  {}  {}", member.stake, member.address, member.id);
    }
    let limits = serde_json::to_value(&epoch.limits)?;
    for (name, value) in limits.as_object().into_iter().flatten() {
        say!("  {name} = {value}");
    }
    Ok(())
}

/// An engine that was given up: which, when, and why as the node that is asked saw it.
fn abort_lines(abort: &AbortBody) -> Vec<String> {
    let mut lines = vec![format!(
        "GIVEN UP     {}  {} in phase {}, {} (as this node saw it)",
        label(abort.failed),
        abort.failed,
        abort.phase.saturating_sub(1),
        utc(abort.entered_at_ms),
    )];
    lines.push(match abort.reason.as_str() {
        "" => "             this node followed others".to_owned(),
        reason => format!("             {reason}"),
    });
    lines.push(match abort.resumed_from {
        Some(global) => {
            format!("             phase {} goes on from block {}", abort.phase, grouped(global))
        }
        None => format!("             phase {} has not gone on yet", abort.phase),
    });
    lines
}

fn history(epochs: &[EpochBody]) -> anyhow::Result<()> {
    let mut rows = vec![
        ["EPOCH", "FROM BLOCK", "BEGAN", "FINALITY", "AUTHORITIES", "QUORUM", "ENGINE", "APPLICATION"]
            .map(String::from)
            .to_vec(),
    ];
    for epoch in epochs {
        let module = |world| epoch.modules.get(&world).map_or("-".into(), |pin| label(pin.hash));
        rows.push(vec![
            epoch.number.to_string(),
            grouped(epoch.base + 1),
            utc(epoch.time_ms),
            finality_name(epoch.finality).to_owned(),
            epoch.committee.len().to_string(),
            format!("{} of {}", epoch.quorum, epoch.stake),
            module(moult_types::World::Engine),
            module(moult_types::World::Application),
        ]);
    }
    table(&rows);
    Ok(())
}
