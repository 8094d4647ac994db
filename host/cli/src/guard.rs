//! `moult guard`: moving what a node's key has signed between machines.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use moult_node::config::NodeConfig;
use moult_node::guard_transfer::{self, GuardState};
use serde_json::json;

use crate::output::{self, say};

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take the signer guard of a stopped node out of use, and write down what it knows.
    Export {
        /// The node's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Where to write it; never over another file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Once more, where an earlier export got lost before it was imported anywhere.
        #[arg(long)]
        again: bool,
    },
    /// Take up an exported signer guard where the node is stopped; it only raises what is there.
    Import {
        /// What `moult guard export` wrote.
        file: PathBuf,
        /// The node's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Let a node sign again that stopped for good because its state or its blocks were wrong, once
    /// that is repaired; the node is stopped. Says what it would lift, and lifts it with `--yes`.
    Resume {
        /// The node's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Lift it.
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    match &args.command {
        Command::Export { config, out, again } => export(&NodeConfig::load(config)?, out, *again, json),
        Command::Import { file, config } => import(&NodeConfig::load(config)?, file, json),
        Command::Resume { config, yes } => resume(&NodeConfig::load(config)?, *yes, json),
    }
}

fn export(config: &NodeConfig, out: &PathBuf, again: bool, json: bool) -> anyhow::Result<()> {
    // Made first: a guard that was taken out of use and could not be written down helps nobody.
    let cannot = || format!("cannot write {}", out.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .with_context(cannot)?;
    let export = match guard_transfer::export(config, again) {
        Ok(export) => export,
        Err(e) => {
            drop(std::fs::remove_file(out));
            return Err(e.into());
        }
    };
    file.write_all(export.to_json().as_bytes()).and_then(|()| file.sync_all()).with_context(cannot)?;
    if json {
        return output::json(&json!({ "file": out, "chain": export.state.chain, "key": export.state.key }));
    }
    say!("wrote {}", out.display());
    describe(&export.state);
    say!("The guard here is out of use: this node signs nothing until one is imported again.");
    say!("Import it on one machine only, with the node's key: `moult guard import {}`", out.display());
    Ok(())
}

fn import(config: &NodeConfig, file: &PathBuf, json: bool) -> anyhow::Result<()> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let imported =
        guard_transfer::import(config, &text).with_context(|| format!("importing {}", file.display()))?;
    let (after, had_one) = (&imported.after, imported.before.is_some());
    let is_raised = imported.before.as_ref() != Some(after);
    if json {
        return output::json(&json!({
            "chain": after.chain, "key": after.key, "merged": had_one, "changed": is_raised,
        }));
    }
    match (had_one, is_raised) {
        (false, _) => say!("imported"),
        (true, true) => say!("imported: what was here was raised"),
        (true, false) => say!("nothing changed: all of it was here"),
    }
    describe(after);
    say!("Destroy the exported file now, and see that the node runs nowhere else.");
    Ok(())
}

fn resume(config: &NodeConfig, really: bool, json: bool) -> anyhow::Result<()> {
    let stop = guard_transfer::resume(config, really)?;
    if json {
        return output::json(&json!({ "reason": stop.reason, "lifted": really }));
    }
    say!("stopped: {}", stop.reason);
    if really {
        say!("Lifted: the node signs after its next start.");
    } else {
        say!("Nothing was changed. If its cause is found and the store was brought back from before it");
        say!("(`moult restore`), run this again with --yes.");
    }
    Ok(())
}

fn describe(state: &GuardState) {
    say!("  chain      {}", state.chain);
    say!("  key        {}", state.key);
    say!("  epoch      {} phase {}, prepared to {}", state.epoch, state.phase, state.prepared.0.0);
    say!("  final      block {}", state.final_mark.0);
    say!("  started    {} times", state.start_count);
    if let Some(stop) = &state.stopped {
        say!("  STOPPED    {stop}");
    }
}
