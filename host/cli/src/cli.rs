//! What can be typed.

use clap::{Parser, Subcommand};

use crate::client::ApiArgs;
use crate::{
    bench, certify, demo, devnet, epoch, genesis, guard, init, keys, kv, module, node, proposal, propose,
    recover, replay, restore, sim, status, verify_chain,
};

/// Shown below `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   it failed: network, disk, a node's error
  2   the command line is wrong
  3   it worked, and the answer is no: proposal not activated, key not there, module not valid,
      replay different, chain that does not hold
  78  the configuration, key, token or genesis file is wrong (EX_CONFIG)

Environment: MOULT_API, MOULT_DIR, MOULT_TOKEN, MOULT_TOKEN_FILE, MOULT_LOG stand for the options.";

/// A build for measuring says so.
const VERSION: &str = if cfg!(feature = "native-engines") {
    concat!(env!("CARGO_PKG_VERSION"), " (native engines: for measuring only)")
} else {
    env!("CARGO_PKG_VERSION")
};

/// A WebAssembly-pluggable consensus runtime: the node and its tools.
#[derive(Parser)]
#[command(name = "moult", version = VERSION, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    /// Answer in JSON on standard output; progress goes to standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show everything at once: four nodes under load, an engine swap, a crash, a verdict.
    Demo(demo::Args),
    /// Run a cluster on this machine until Ctrl-C.
    Devnet(devnet::Args),
    /// Make a node's folder: key, API token, configuration, public identity.
    Init(init::Args),
    /// Make the file that a chain begins with.
    Genesis(genesis::Args),
    /// Run a node.
    Node(node::Args),
    /// Check a node's configuration and the files it names.
    CheckConfig(node::CheckArgs),
    /// Back a running node's store up into a file on its machine.
    Backup(ApiArgs),
    /// Bring a stopped node's store back from a backup. For disaster only.
    Restore(restore::Args),
    /// Carry a chain on that lost more authorities for good than it tolerates. For disaster only.
    Recover(recover::Args),
    /// Show a node's key, and give its authority a new one by an epoch change.
    Keys(keys::Args),
    /// Move what a node's key has signed between machines.
    Guard(guard::Args),
    /// Look at, check, list and upload modules.
    Module(module::Args),
    /// Propose an epoch change: new modules, committee, fault model or limits.
    Propose(propose::Args),
    /// List, show, vote on and withdraw proposals.
    Proposal(proposal::Args),
    /// Show epochs.
    Epoch(epoch::Args),
    /// Read and write the key-value store.
    Kv(kv::Args),
    /// Run a record of an engine again and compare; or another engine on the same traffic.
    Replay(replay::Args),
    /// Check a whole chain again from its genesis file: a store, or what a node serves.
    VerifyChain(verify_chain::Args),
    /// Show where nodes stand.
    Status(status::Args),
    /// Load a cluster and measure, also across engine swaps.
    Bench(bench::Args),
    /// Run whole clusters in a deterministic simulator, seed by seed, with faults.
    Sim(sim::Args),
    /// Put a module through the conformance suite and the simulator and sign what came of it; or
    /// check such a report.
    Certify(certify::Args),
    /// Compile one module under limits; started by nodes.
    #[command(hide = true)]
    CompileWorker,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_line_parses() {
        for line in [
            "moult init --dir d --p2p 0.0.0.0:7401 --api 127.0.0.1:7400 --address a.example:7401 --stake 3",
            "moult genesis build --identity a.json b.json c.json d.json --name n --engine pbft --approval approve-valid \
             --application kv --config engine=pbft.conf --fault-model crash --limits l.json --out genesis.json",
            "moult genesis build --identity a.json --identity b.json --out genesis.json",
            "moult node --config d/moult.toml --log-format json --log debug",
            "moult check-config --config d/moult.toml --json",
            "moult backup --api http://127.0.0.1:7400 --token-file t",
            "moult restore b.backup --dir d",
            "moult restore b.backup --dir d --yes",
            "moult recover plan --genesis g.json --survivor d/data --survivor e/data --backup b.backup --lost 0000000000000000000000000000000000000000000000000000000000000000 \
             --identity n.json --out recovery --accept-loss --quorum-is-gone",
            "moult recover apply --genesis recovery/genesis.json --state recovery/state.backup --dir d --chain 0000000000000000000000000000000000000000000000000000000000000000 --yes",
            "moult verify-chain --genesis g.json --api http://127.0.0.1:7400 --former-genesis f.json --former-store s",
            "moult keys show --config d/moult.toml",
            "moult keys rotate --config d/moult.toml --api http://127.0.0.1:7400 --token-file t --wait",
            "moult guard export --config d/moult.toml --out guard.json",
            "moult guard import guard.json --config d/moult.toml",
            "moult devnet --nodes 4 --dir d --engine pbft --approval manual --application kv2 --base-port 8000",
            "moult module inspect a.wasm",
            "moult module hash a.wasm",
            "moult module verify a.wasm --world engine",
            "moult module rebuild-check a.wasm",
            "moult module conform a.wasm --seeds 3000 --first-seed 7",
            "moult module conform a.wasm --only calm --only describe-is-constant --json",
            "moult module list --api http://127.0.0.1:7400",
            "moult module add --api http://127.0.0.1:7400 --token-file t a.wasm",
            "moult propose --api http://127.0.0.1:7400 --token-file t --engine pbft-reverse --config engine=c --wait",
            "moult propose --committee c.json --fault-model crash --limits l.json --not-before 1700000000000 --deadline 9",
            "moult proposal list --open",
            "moult proposal show 1 --api http://127.0.0.1:7400",
            "moult proposal diff 1",
            "moult proposal vote 1 --reject --reason no",
            "moult proposal vote 1 --approve",
            "moult proposal withdraw 1",
            "moult epoch show",
            "moult epoch revert --api http://127.0.0.1:7400 --token-file t --yes --wait --json",
            "moult epoch revert --to 3 --committee --limits --readmit-failed --yes",
            "moult propose --engine raft --fallback pbft --fallback sha256:0 --readmit-failed",
            "moult epoch history --api http://127.0.0.1:7400",
            "moult kv put k v --client me --seq 4",
            "moult kv get k",
            "moult kv delete k",
            "moult kv cas k v --expect none",
            "moult kv cas k --expect 00ff",
            "moult replay record --modules m --data-dir d",
            "moult replay record/00000.rec --engine other.wasm --config engine.conf --json",
            "moult verify-chain --genesis genesis.json --data-dir data --json",
            "moult verify-chain --genesis genesis.json --api http://127.0.0.1:7400 --to 1000",
            "moult status --dir devnet",
            "moult bench --api http://127.0.0.1:1 http://127.0.0.1:2 --clients 9 --duration 3",
            "moult bench --dir d --rate 5000 --value-bytes 64 --swap 3 --json",
            "moult demo --seconds 30 --rate 2000",
            "moult sim --seeds 300 --first 7 --engine raft --native --log sim.log --keep-going --threads 2 --json",
            "moult certify a.wasm --world engine --seeds 1000 --first 7 --plan long --key k --out a.report",
            "moult certify --check a.report",
            "moult certify --check a.report a.wasm --all --json",
            "moult certify --make-key certifier.key",
            "moult propose --engine a.wasm --report a.report --report b.report",
            "moult sim --engine a.wasm --seed 7 --trace --without byzantine --without crash --faults-max 3",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                panic!("{line}\n{error}");
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "moult propose",
            "moult proposal vote 1",
            "moult proposal vote 1 --approve --reject",
            "moult kv cas k v",
            "moult kv put k v --client me",
            "moult module conform a.wasm --only calm --seeds 3",
            "moult replay record --config c",
            "moult init",
            "moult guard export --config c",
            "moult restore --dir d",
            "moult recover plan --survivor d/data",
            "moult recover apply --genesis g --state s --dir d --yes",
            "moult verify-chain --genesis g.json --former-genesis f.json",
            "moult genesis build --out g.json",
            "moult devnet --nodes 0 --dir d",
            "moult sim --trace",
            "moult certify a.wasm",
            "moult certify --check a.report --key k",
            "moult sim --seed 3 --seeds 9",
        ] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
