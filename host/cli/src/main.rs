//! The `moult` program: runs a node, makes its files, talks to running nodes, and starts,
//! loads and shows off whole clusters on one machine.
//!
//! Here live argument parsing and everything that an operator types; what a node *is* lives
//! in `moult-node`. Every command takes `--json`; exit codes are in [`cli::EXIT_CODES`].
#![allow(
    clippy::disallowed_methods,
    reason = "waits and measures in wall-clock time: nothing of it is replicated"
)]

mod bench;
mod builtin;
mod certify;
mod cli;
mod client;
mod cluster;
mod conform;
mod demo;
mod devnet;
mod epoch;
mod failure;
mod genesis;
mod guard;
mod init;
mod keys;
mod kv;
mod load;
mod module;
mod node;
mod output;
mod pins;
mod proposal;
mod propose;
mod recover;
mod replay;
mod restore;
mod revert;
mod sim;
mod status;
mod verify_chain;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

/// A node allocates and frees for each transaction on several threads, and the system's
/// allocator takes an eighth of its time for that; docs/PERFORMANCE.md has the figures.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let Cli { json, command } = Cli::parse();
    match run(command, json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, json),
    }
}

fn run(command: Command, json: bool) -> anyhow::Result<()> {
    match command {
        Command::CompileWorker => failure::worker(moult_module::worker_main()),
        Command::Init(args) => init::run(args, json),
        Command::Genesis(args) => genesis::run(args, json),
        Command::Backup(args) => block_on(restore::back_up(&args, json)),
        Command::Restore(args) => restore::run(&args, json),
        Command::Recover(args) => recover::run(&args, json),
        Command::Keys(args) => block_on(keys::run(args, json)),
        Command::Guard(args) => guard::run(&args, json),
        Command::CheckConfig(args) => node::check_config(&args, json),
        Command::Node(args) => node::run(&args),
        Command::Module(args) => block_on(module::run(args, json)),
        Command::Devnet(args) => block_on(devnet::run(args, json)),
        Command::Propose(args) => block_on(propose::run(args, json)),
        Command::Proposal(args) => block_on(proposal::run(args, json)),
        Command::Epoch(args) => block_on(epoch::run(args, json)),
        Command::Kv(args) => block_on(kv::run(args, json)),
        Command::Replay(args) => replay::run(&args, json),
        Command::VerifyChain(args) => block_on(verify_chain::run(args, json)),
        Command::Status(args) => block_on(status::run(args, json)),
        Command::Bench(args) => block_on(bench::run(args, json)),
        Command::Demo(args) => block_on(demo::run(args, json)),
        Command::Sim(args) => sim::run_command(&args, json),
        Command::Certify(args) => certify::run(&args, json),
    }
}

/// Clients run on one thread: beside the nodes of a devnet every cycle counts, and children
/// must be started by a thread that lives as long as the program (their death signal is
/// bound to it).
fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
