//! `moult recover`: a chain that lost its quorum for good is carried on by what is left of it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use moult_module::Limits;
use moult_node::config::NodeConfig;
use moult_node::genesis::GenesisFile;
use moult_recovery::{Found, InstallStep, Installation, Plan, Report, Request, Source, Survivor};
use moult_store::check_backup;
use moult_types::{AuthorityId, ChainId, Member};
use serde_json::json;

use crate::failure::negative;
use crate::genesis::{now_ms, read_json};
use crate::init::CONFIG_FILE;
use crate::output::{self, Progress, grouped};
use crate::pins::host_with;

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what the survivors can carry on and what that keeps; with --out, write it down.
    Plan(PlanArgs),
    /// Install what a plan wrote on a node of the new chain; without --yes, say what would be done.
    Apply(ApplyArgs),
}

#[derive(ClapArgs)]
struct PlanArgs {
    /// The genesis of the chain that lost its quorum: the only thing that is believed.
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// The data folder of a surviving node, stopped, or a whole copy of it; one each.
    #[arg(long, value_name = "DIR")]
    survivor: Vec<PathBuf>,
    /// A backup of a node's store; one each. Its node does not count as a survivor.
    #[arg(long, value_name = "FILE")]
    backup: Vec<PathBuf>,
    /// The id of an authority that is gone for good; one each.
    #[arg(long, value_name = "AUTHORITY")]
    lost: Vec<AuthorityId>,
    /// The `identity.json` of a node that joins the survivors; one each.
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Folder to make and to write the new genesis and the state into.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also where acknowledged writes may be missing.
    #[arg(long)]
    accept_loss: bool,
    /// Also where those that were not declared lost may be a quorum: you know that they are not.
    #[arg(long)]
    quorum_is_gone: bool,
}

#[derive(ClapArgs)]
struct ApplyArgs {
    /// The new genesis, as `moult recover plan` wrote it.
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// The state, as `moult recover plan` wrote it.
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// The node's folder; it is stopped.
    #[arg(long)]
    dir: PathBuf,
    /// The id of the new chain that all operators agreed on, however they spoke: not out of the file.
    #[arg(long, value_name = "ID", required_if_eq("yes", "true"))]
    chain: Option<ChainId>,
    /// Do it. Without this, only what would be done is said.
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    match &args.command {
        Command::Plan(args) => plan(args, json),
        Command::Apply(args) => apply(args, json),
    }
}

fn plan(args: &PlanArgs, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    let genesis = GenesisFile::load(&args.genesis)?.to_genesis()?;
    let replacements =
        args.identity.iter().map(|path| read_json(path)).collect::<anyhow::Result<Vec<Member>>>()?;
    let folders = args.survivor.iter().cloned().map(Source::DataDir);
    let sources = folders.chain(args.backup.iter().cloned().map(Source::Backup));
    let survivors =
        sources.map(|source| Survivor::open(&source, genesis.chain())).collect::<Result<Vec<_>, _>>()?;
    progress.line("checking the chain from its genesis, and computing the state");
    let request = Request {
        genesis: &genesis,
        survivors,
        lost: &args.lost,
        replacements: &replacements,
        now_ms: now_ms(),
    };
    let plan = Plan::new(request, &host_with(Limits::default())?)?;
    let report = &plan.report;
    tell(report, progress);
    let refusal = refusal(args, report);
    let written = match (&args.out, &refusal) {
        (Some(out), None) => Some(plan.write(out, now_ms())?),
        _ => None,
    };
    if json {
        let files =
            written.as_ref().map(|(genesis, backup)| json!({ "genesis": genesis, "state": backup.path }));
        output::json(&json!({ "plan": report, "refused": refusal, "written": files }))?;
    }
    if let Some(refusal) = refusal {
        return Err(negative(refusal));
    }
    let Some((genesis, backup)) = written else {
        progress.line("Nothing was written: run it again with --out DIR.");
        return Ok(());
    };
    progress.line(format_args!("wrote {} and {}", genesis.display(), backup.path.display()));
    progress
        .line("Bring both to every node of the new committee. Its operators compare the new chain's id by");
    progress.line(
        "word of mouth, and then each runs `moult recover apply` with it. Keep both files: a node that",
    );
    progress.line("joins later needs them, too.");
    Ok(())
}

fn refusal(args: &PlanArgs, report: &Report) -> Option<String> {
    if report.quorum_may_be_there && !args.quorum_is_gone {
        return Some(
            "those that were not declared lost may be a quorum: the chain may go on without you. Start them, or \
             declare who is gone (--lost); with --quorum-is-gone you say that they will never run again"
                .into(),
        );
    }
    if !report.doubts.is_empty() && !args.accept_loss {
        return Some(
            "acknowledged writes may be missing: give what is left of more nodes, their signer guards included; \
             with --accept-loss you go on without"
                .into(),
        );
    }
    None
}

fn tell(report: &Report, progress: Progress) {
    progress
        .line(format_args!("chain {}, epoch {} ({})", report.former_chain, report.epoch, report.finality));
    for survivor in &report.survivors {
        let whose =
            survivor.authority.map_or("outside the committee".to_owned(), |id| format!("authority {id}"));
        progress.line(format_args!(
            "  {}: {whose}, final to block {}",
            survivor.path.display(),
            grouped(survivor.last_final)
        ));
        if let Some(problem) = &survivor.guard_problem {
            progress.line(format_args!("    what it signed is not known: {problem}"));
        }
        if let Some(problem) = &survivor.state_problem {
            progress.line(format_args!("    the state cannot be computed there: {problem}"));
        }
    }
    report.lost.iter().for_each(|id| progress.line(format_args!("  lost: authority {id}")));
    for id in &report.unaccounted {
        progress.line(format_args!("  not accounted for: authority {id}"));
    }
    progress.line(format_args!(
        "carried on: everything up to block {} ({}), the last final one is {}",
        grouped(report.carried_to),
        report.hash,
        grouped(report.last_final)
    ));
    progress.line(format_args!("  state root {}, computed on {}", report.state_root, report.computed_by));
    if report.doubts.is_empty() {
        progress
            .line("  every acknowledged write is kept, if no survivor lies: of every quorum that could have");
        progress.line("  acknowledged one, a survivor's guard was looked at");
    }
    for doubt in &report.doubts {
        progress.line(format_args!("  ACKNOWLEDGED WRITES MAY BE MISSING: {doubt}"));
    }
    progress.line(format_args!("new chain {}", report.chain));
    for member in &report.committee {
        progress
            .line(format_args!("  authority {} at {}, stake {}", member.id, member.address, member.stake));
    }
    for hash in &report.modules_missing {
        progress
            .line(format_args!("  module {hash} is on no survivor: bring it to the `modules` of every node"));
    }
    progress.line("Left behind: open proposals, votes, the record of failed engines, and whatever was not");
    progress.line("acknowledged. Receipts are carried on.");
}

fn apply(args: &ApplyArgs, json: bool) -> anyhow::Result<()> {
    let progress = Progress { json };
    let config = NodeConfig::load(&args.dir.join(CONFIG_FILE))?;
    let file = GenesisFile::load(&args.genesis)?;
    let installation = Installation::open(&config, &file)?;
    let chain = installation.genesis.chain();
    if let Some(agreed) = args.chain.filter(|agreed| *agreed != chain) {
        return Err(negative(format!(
            "{} is the genesis of chain {chain}, not of {agreed}: do not install it; ask who made it",
            args.genesis.display()
        )));
    }
    let backup = check_backup(&args.state)?;
    explain(&installation, &config, &file, progress);
    if installation.found == Found::Installed {
        progress.line("The store here is that of the new chain already: there is nothing to do.");
        return if json { output::json(&json!({ "chain": chain, "aside": [] })) } else { Ok(()) };
    }
    if !args.yes {
        return Err(negative(
            "nothing was done: compare the chain's id, then run it again with --chain ID --yes",
        ));
    }
    let done = installation
        .install(&backup, &mut |step| {
            progress.line(describe(step));
            Ok(())
        })
        .with_context(|| "it was cut off: run it again, it completes what was begun")?;
    if json {
        output::json(&json!({ "chain": chain, "aside": done.aside }))?;
    }
    for aside in &done.aside {
        progress.line(format_args!("put aside, not deleted: {}", aside.display()));
    }
    progress.line("done: start the node. The former chain must not be started here again.");
    Ok(())
}

fn explain(installation: &Installation<'_>, config: &NodeConfig, file: &GenesisFile, progress: Progress) {
    let Some(origin) = &installation.genesis.origin else { return };
    progress.line(format_args!("new chain {}", installation.genesis.chain()));
    progress.line(format_args!("  carries on {}", origin.chain));
    progress.line(format_args!(
        "  from block {} ({}) of epoch {}",
        grouped(origin.global.0),
        origin.hash,
        origin.epoch
    ));
    progress.line(format_args!("  with state {}", origin.state_root));
    for member in &file.committee {
        let mark = if member.key == installation.key { " (this node)" } else { "" };
        progress.line(format_args!("  authority  {} at {}{mark}", member.id, member.address));
    }
    progress.line(format_args!("Installing it in {}", config.data_dir.display()));
    progress.line("  - computes the state root of what is brought again, pair by pair");
    progress.line("  - puts the new genesis in the place of the former one, which keeps another name");
    progress.line("  - puts store, signer guard and backups of the former chain aside; nothing is deleted");
    progress
        .line("  - lets the node begin with the state, and with a guard for the new chain that is empty:");
    progress.line("    what its key signed in the former chain counts nothing in this one");
}

fn describe(step: InstallStep) -> &'static str {
    match step {
        InstallStep::Build => "writing the new store, and checking its state",
        InstallStep::Genesis => "putting the new genesis in its place",
        InstallStep::PutGuardAside => "putting the former signer guard aside",
        InstallStep::PutBackupsAside => "putting the former chain's backups aside",
        InstallStep::PutStoreAside => "putting the former store aside",
        InstallStep::PutInPlace => "putting the new store in its place",
    }
}
