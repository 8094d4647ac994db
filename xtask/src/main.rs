//! Chores of the repository: `cargo xtask help`.
#![allow(clippy::disallowed_methods, reason = "measures how long the parts take")]

mod bench_etcd;
mod bench_native;
mod build;
mod coverage;
mod fuzz;
mod imports;
mod lock;
mod modules;
mod proto;
mod spec;
mod test;
mod toolchain;
mod wit;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Chores of the Moult repository")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build every guest reproducibly into modules/ and write modules/modules.lock.
    Modules {
        /// Change nothing: build afresh, compare with the lock and fail if a hash differs.
        /// With another compiler than the lock names, say "not comparable" and succeed.
        #[arg(long)]
        check: bool,
        /// Which compiler: by default the one that the lock names if it is here, else any.
        #[arg(long, value_enum)]
        compiler: Option<toolchain::Kind>,
        /// Build only these modules (by the name of the file).
        #[arg(long)]
        only: Vec<String>,
    },
    /// Compare the formats of wire, disk and chain with tests/fuzz/formats.golden.
    Formats {
        /// Take what is there as the new formats.
        #[arg(long)]
        bless: bool,
    },
    /// Print what each module imports and compare it with modules/imports.golden.
    Imports {
        /// Write the golden list instead.
        #[arg(long)]
        bless: bool,
    },
    /// Run every check of the repository; installs the toolchains that it needs.
    Test {
        /// Leave out what takes long: module rebuild, dependency rules, planted bugs, clusters.
        #[arg(long)]
        quick: bool,
        /// Seeds for the simulator.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
        /// Leave out the parts whose names contain this word; they are named in the summary.
        #[arg(long)]
        skip: Vec<String>,
    },
    /// Load etcd and Moult (Raft), three nodes each, in turns and print the ratios; installs etcd.
    #[command(disable_help_flag = true)]
    BenchEtcd {
        /// Of the comparison itself: see `cargo xtask bench-etcd --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Search for inputs that break a fuzz target of tests/fuzz; all of them if none is named.
    Fuzz {
        /// Folders of tests/fuzz/corpus.
        targets: Vec<String>,
        /// How long each is run.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Afterwards write the corpora anew: from the seeds and all that was come upon, the
        /// fewest inputs that reach as much.
        #[arg(long)]
        corpus: bool,
    },
    /// Print which share of the core's and the engines' lines tests, conformance suite and simulator
    /// run through; installs LLVM's tools.
    Coverage {
        /// Of the simulator, for each engine and plan.
        #[arg(long, default_value_t = 40)]
        seeds: u64,
        /// Every file, the least covered first.
        #[arg(long)]
        files: bool,
    },
    /// Compare a cluster's throughput with that of the same engine compiled into the program.
    BenchNative(bench_native::Options),
    /// Run the specification of tests/spec with Quint, sound and with planted mistakes; installs Quint with npm.
    Spec {
        /// Traces of the sound instances.
        #[arg(long, default_value_t = 10_000)]
        traces: u64,
        /// Of the sound instances; otherwise every run has its own, and prints it if it fails.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Generate the Rust code of the gRPC interface from host/node/proto.
    Proto,
    /// Parse the contracts in wit/ together and print their worlds.
    Wit,
}

fn main() -> Result<()> {
    let root = root();
    match Args::parse().chore {
        Chore::Modules { check, compiler, only } => modules::run(&root, check, compiler, &only),
        Chore::Imports { bless } => imports::run(&root, bless),
        Chore::Formats { bless } => formats(&root, bless),
        Chore::Test { quick, seeds, skip } => test::run(&root, quick, seeds, skip),
        Chore::BenchEtcd { options } => bench_etcd::run(&root, options),
        Chore::Fuzz { targets, seconds, corpus } => fuzz::run(&root, &targets, seconds, corpus),
        Chore::Coverage { seeds, files } => coverage::run(&root, seeds, files),
        Chore::BenchNative(options) => bench_native::run(&root, &options),
        Chore::Spec { traces, seed } => spec::run(&root, traces, seed),
        Chore::Proto => proto::run(&root),
        Chore::Wit => wit::run(&root),
    }
}

/// The test that compares is the one that writes.
fn formats(root: &Path, bless: bool) -> Result<()> {
    let mut command = Command::new(toolchain::cargo());
    command.current_dir(root).args([
        "test",
        "--release",
        "--locked",
        "-p",
        "moult-fuzz",
        "--test",
        "formats",
    ]);
    if bless {
        command.env("MOULT_BLESS", "1");
    }
    ensure!(command.status()?.success(), "the formats are not those of tests/fuzz/formats.golden");
    Ok(())
}

/// The root of the repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
