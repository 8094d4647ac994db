//! etcd and Moult under the same load in one run; `cargo xtask bench-etcd` builds and calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use moult_peers::run::{Report, Settings, compare};

/// Loads a three-node etcd and a three-node Moult (Raft) in turns with the same clients and
/// prints the ratios. Each client has one put in flight, distinct keys, an acknowledgement only
/// after the put is final (Moult) or committed (etcd).
///
/// Exit code: 0 if every target is met, 3 if one is missed, 1 if it could not be measured.
#[derive(Parser)]
#[command(name = "cargo xtask bench-etcd", max_term_width = 110)]
struct Args {
    /// etcd's program [default: of Debian's etcd-server, which is installed].
    #[arg(long, env = "ETCD_BIN", default_value = "etcd", hide_default_value = true, value_name = "FILE")]
    etcd: PathBuf,
    /// Moult's program [default: built from this tree].
    #[arg(
        long,
        env = "MOULT_BIN",
        default_value = "target/release/moult",
        hide_default_value = true,
        value_name = "FILE"
    )]
    moult: PathBuf,
    /// Numbers of clients.
    #[arg(long, num_args = 1.., default_values_t = [1, 64, 256], value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    clients: Vec<u16>,
    /// Each load is repeated so often, etcd and Moult in turns.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Seconds to measure in each load.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,
    /// Seconds before that are not measured.
    #[arg(long, default_value_t = 2, value_name = "S", value_parser = clap::value_parser!(u64).range(..=3600))]
    warmup: u64,
    /// Size of each value.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    value_bytes: u32,
    /// HTTP/2 connections to each node, shared by the clients.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    connections: u16,
    /// The first of twelve ports on loopback.
    #[arg(long, default_value_t = 24_790, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    base_port: u16,
    /// On a disk: a folder for the run is made in it, and removed [default: target].
    #[arg(long, default_value_os_t = std::env::temp_dir(), hide_default_value = true)]
    dir: PathBuf,
    /// Measure a certified epoch of Moult: a put then waits until a quorum of hosts has signed for
    /// its block. By default its epoch graduates first, so that a put is answered on Raft's word,
    /// as etcd's are.
    #[arg(long)]
    certified: bool,
    /// Send puts to Moult as its own client does where there are many: on a stream for each
    /// connection. Each client still waits for its own answer. By default each put is a call of
    /// its own, as it is with etcd, which has no such stream.
    #[arg(long)]
    stream: bool,
    /// Leave that folder, with all logs, in place.
    #[arg(long)]
    keep: bool,
    /// Print JSON, with every round; progress goes to standard error.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(3),
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the targets are met.
fn run(args: Args) -> anyhow::Result<bool> {
    let json = args.json;
    // One thread, as little as possible beside the nodes; and children must be started by a
    // thread that lives as long as the program (their death signal is bound to it).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report: Report = runtime.block_on(compare(args.into()))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("\n{}", report.text());
    }
    Ok(report.is_met())
}

impl From<Args> for Settings {
    fn from(args: Args) -> Self {
        Self {
            etcd: args.etcd,
            moult: args.moult,
            clients: args.clients,
            rounds: args.rounds,
            duration_s: args.duration,
            warmup_s: args.warmup,
            value_bytes: args.value_bytes as usize,
            connections: args.connections,
            base_port: args.base_port,
            dir: args.dir,
            certified: args.certified,
            stream: args.stream,
            keep: args.keep,
            json: args.json,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together_and_lines_parse() {
        Args::command().debug_assert();
        let line = "bench-etcd --clients 1 64 --rounds 1 --duration 3 --warmup 0 --dir /d --json";
        let args = Args::try_parse_from(line.split_whitespace()).expect("parsed");
        assert_eq!((args.clients, args.duration, args.value_bytes), (vec![1, 64], 3, 256));
        let line = "bench-etcd --clients 0";
        assert!(Args::try_parse_from(line.split_whitespace()).is_err());
    }
}
