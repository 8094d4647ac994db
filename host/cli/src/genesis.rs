//! `moult genesis build`: identities, modules and limits in one file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Args as ClapArgs, Subcommand};
use moult_node::genesis::GenesisFile;
use moult_types::{EpochLimits, FaultModel, Finality, Member, World};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::output::{self, say};
use crate::pins::PinArgs;

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the file, one for all nodes, from the public identities of `moult init`.
    Build(Box<BuildArgs>),
}

#[derive(ClapArgs)]
struct BuildArgs {
    /// The `identity.json` of each authority; their order is their index.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Of the chain, for people.
    #[arg(long, default_value = "moult")]
    name: String,
    #[command(flatten)]
    pins: PinArgs,
    /// What the quorums are made for: `byzantine` (4 or more) or `crash` (3 or more).
    #[arg(long, default_value = "byzantine", value_parser = parse_fault_model, value_name = "MODEL")]
    fault_model: FaultModel,
    #[command(flatten)]
    limits: LimitArgs,
    /// Where to write it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Numbers that all nodes share.
#[derive(ClapArgs)]
pub(crate) struct LimitArgs {
    /// Numbers that all nodes share, as JSON; what is left out has its default.
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
    /// The epoch graduates after so many blocks: from then on blocks are executed on the engine's
    /// word, which saves a round of votes and trusts the engine [default: it never does].
    #[arg(long, value_name = "BLOCKS", value_parser = clap::value_parser!(u64).range(1..))]
    graduate_after: Option<u64>,
}

impl LimitArgs {
    pub(crate) fn limits(&self) -> anyhow::Result<EpochLimits> {
        let mut limits: EpochLimits = self.limits.as_deref().map(read_json).transpose()?.unwrap_or_default();
        limits.graduate_after_blocks = self.graduate_after.or(limits.graduate_after_blocks);
        Ok(limits)
    }
}

pub(crate) fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let Command::Build(args) = args.command;
    let committee =
        args.identity.iter().map(|path| read_json(path)).collect::<anyhow::Result<Vec<Member>>>()?;
    let (chosen, modules) = args.pins.pins()?;
    let limits = args.limits.limits()?;
    let file = GenesisFile {
        origin: None,
        fallbacks: Vec::new(),
        name: args.name,
        time_ms: now_ms(),
        fault_model: args.fault_model,
        committee,
        modules,
        limits,
    };
    let genesis = file.to_genesis()?;
    ensure!(!args.out.exists(), "{} exists: a genesis is never overwritten", args.out.display());
    file.save(&args.out)?;
    let chain = genesis.chain();
    if json {
        return output::json(
            &json!({ "file": args.out, "chain": chain, "authorities": file.committee.len() }),
        );
    }
    say!(
        "wrote {}: {} authorities, {} fault model",
        args.out.display(),
        file.committee.len(),
        model_name(file.fault_model)
    );
    say!("  chain        {chain}");
    for (world, module) in &chosen {
        say!("  {:11}  {} {}", world.name(), module.name, module.hash);
    }
    for module in chosen.values().filter(|module| module.from_file || module.bytes.is_none()) {
        say!("Put the file of {} ({}) into the `modules` folder of every node.", module.name, module.hash);
    }
    say!(
        "Copy {} into each node's folder, then start them: `moult node --config DIR/moult.toml`.",
        args.out.display()
    );
    Ok(())
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// A JSON file of one of our types.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not what is expected here", path.display()))
}

/// The parser of `--fault-model`.
pub(crate) fn parse_fault_model(text: &str) -> Result<FaultModel, String> {
    match text {
        "byzantine" => Ok(FaultModel::Byzantine),
        "crash" => Ok(FaultModel::Crash),
        _ => Err("expected byzantine or crash".into()),
    }
}

/// As [`parse_fault_model`] reads it.
pub(crate) fn model_name(model: FaultModel) -> &'static str {
    match model {
        FaultModel::Byzantine => "byzantine",
        FaultModel::Crash => "crash",
    }
}

/// For people.
pub(crate) fn finality_name(finality: Finality) -> &'static str {
    match finality {
        Finality::Certified => "certified",
        Finality::Graduated => "graduated",
    }
}

/// The worlds' order in tables.
pub(crate) fn worlds() -> [World; 3] {
    World::ALL
}
