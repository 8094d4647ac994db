//! `moult node` and `moult check-config`.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use moult_keys::{KeyFile, read_token};
use moult_node::Exit;
use moult_node::config::NodeConfig;
use moult_node::genesis::GenesisFile;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::cluster::PARENT_ENV;
use crate::output::{self, say};
use crate::pins::compile_worker;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The configuration (TOML), as `moult init` makes it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How the log on standard error looks.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: a level, or a filter such as `info,moult_core=debug`.
    #[arg(long, env = "MOULT_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(ClapArgs)]
pub(crate) struct CheckArgs {
    /// The configuration to check.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    die_with_parent()?;
    init_log(args.log_format, &args.log)?;
    abort_on_panic();
    let config = NodeConfig::load(&args.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match runtime.block_on(moult_node::run(config, compile_worker()))? {
        Exit::Asked => Ok(()),
        Exit::KeyDue => {
            drop(runtime);
            start_anew()
        }
    }
}

/// The same program in the same process, so that whoever looks after it sees no end.
fn start_anew() -> anyhow::Result<()> {
    let mut args = std::env::args_os();
    let mut program = std::process::Command::new("/proc/self/exe");
    if let Some(name) = args.next() {
        program.arg0(name);
    }
    let error = program.args(args).exec();
    Err(error).context("the node stopped to take its new key up and cannot start itself: start it")
}

fn init_log(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    // The database tells of each of its files at `info`; a filter may name it to hear that.
    let quiet = format!("fjall=warn,lsm_tree=warn,{filter}");
    let filter = EnvFilter::try_new(quiet).with_context(|| format!("--log {filter}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// A panic is a broken invariant: the process must not go on with what is left of it.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no message");
        let trace = std::backtrace::Backtrace::force_capture();
        tracing::error!(place, what, %trace, "panic: this is a bug; the process ends");
        std::process::abort();
    }));
}

/// A node of a devnet ends with the program that started it, however that ends.
#[cfg(target_os = "linux")]
fn die_with_parent() -> anyhow::Result<()> {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
    let Some(parent) = std::env::var_os(PARENT_ENV) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before the line above.
    let here = getppid().map(Pid::as_raw_nonzero).map(|pid| pid.to_string());
    ensure!(here.as_deref() == parent.to_str(), "the devnet that started this node is gone");
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent() -> anyhow::Result<()> {
    let _ = PARENT_ENV;
    Ok(())
}

pub(crate) fn check_config(args: &CheckArgs, json: bool) -> anyhow::Result<()> {
    let config = NodeConfig::load(&args.config)?;
    let keys = KeyFile::read(&config.key_file)?;
    keys.unlock(&config.unlock)?;
    read_token(&config.api.token_file)?;
    let file = GenesisFile::load(&config.genesis)?;
    let genesis = file.to_genesis()?;
    for path in config.api.tls_cert.iter().chain(&config.api.tls_key).chain(&config.module_dirs) {
        ensure!(path.exists(), "{} is named in {} and is not there", path.display(), args.config.display());
    }
    let index = file.committee.iter().position(|member| member.key == keys.public_key());
    let missing = missing_modules(&file, &config.module_dirs)?;
    if json {
        return output::json(&json!({
            "valid": true,
            "key": keys.public_key(),
            "key_file": keys.kind().to_string(),
            "authority_index": index,
            "chain": genesis.chain(),
            "data_dir": config.data_dir,
            "modules_not_in_folders": missing,
        }));
    }
    say!("{} is valid", args.config.display());
    say!("  key        {} ({})", keys.public_key(), keys.kind());
    match index {
        Some(index) => say!("  role       authority {index} of {} at genesis", file.committee.len()),
        None => say!("  role       observer: the key is not in the genesis"),
    }
    say!("  chain      {} ({})", genesis.chain(), file.name);
    say!("  listens    api {}, p2p {} (UDP)", config.api.listen, config.p2p.listen);
    for hash in missing {
        say!(
            "  note       module {hash} of the genesis is in no folder of `module_dirs`: a peer must have it"
        );
    }
    Ok(())
}

/// Modules that the genesis pins and that no folder holds.
fn missing_modules(genesis: &GenesisFile, folders: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut missing: Vec<String> = genesis.modules.values().map(|pin| pin.hash.to_string()).collect();
    for folder in folders {
        for hash in hashes_in(folder)? {
            missing.retain(|other| *other != hash);
        }
    }
    Ok(missing)
}

fn hashes_in(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut hashes = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            hashes.push(moult_types::ModuleHash::of(&bytes).to_string());
        }
    }
    Ok(hashes)
}
