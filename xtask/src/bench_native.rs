//! `cargo xtask bench-native`: what a cluster loses because its engine is a component.
//!
//! Builds the program twice, once with the engines compiled into it (the feature
//! `native-engines`, which no release has), runs a devnet under the same load with each in
//! turns, and compares the medians. Both load the same client; every round has a new devnet.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::toolchain::{cargo, output};

/// How much of the native throughput a component has to reach.
const TARGET: f64 = 0.95;

#[derive(Args)]
pub(crate) struct Options {
    /// Rounds with each program.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of a round that are measured.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Writes in flight.
    #[arg(long, default_value_t = 2048)]
    clients: u32,
    /// Nodes of the devnet.
    #[arg(long, default_value_t = 4)]
    nodes: u32,
    /// `pbft`, or `raft` (with the crash fault model).
    #[arg(long, default_value = "pbft")]
    engine: String,
    /// `kv`, or `null`, which leaves the most to the engine.
    #[arg(long, default_value = "kv")]
    application: String,
    /// The devnets' first port.
    #[arg(long, default_value_t = 7800)]
    base_port: u16,
    /// Print the figures as JSON; progress goes to standard error.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = target.join("bench-native");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    // The component's last: it is the program that stays in the target folder.
    let native = build(root, &target, &folder.join("moult-native"), &["--features", "moult/native-engines"])?;
    let component = build(root, &target, &folder.join("moult"), &[])?;
    let mut rates = [Vec::new(), Vec::new()];
    for round in 1..=options.rounds {
        for (program, rates) in [&component, &native].into_iter().zip(&mut rates) {
            rates.push(measure(program, &component, &folder.join("devnet"), options)?);
        }
        let [component, native] = [0, 1].map(|i| rates[i][rates[i].len() - 1]);
        eprintln!("round {round}: component {component:.0}, native {native:.0} writes/s");
    }
    let [component, native] = [0, 1].map(|i| median(&rates[i]));
    let ratio = component / native;
    if options.json {
        let Options { engine, application, clients, nodes, seconds, .. } = options;
        let [component_rounds, native_rounds] = &rates;
        let report = json!({
            "engine": engine, "application": application, "nodes": nodes, "clients": clients,
            "seconds": seconds, "unit": "writes/s",
            "component": { "median": component, "rounds": component_rounds },
            "native": { "median": native, "rounds": native_rounds },
            "ratio": ratio, "target": TARGET, "met": ratio >= TARGET,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let verdict = if ratio >= TARGET { "met" } else { "MISSED" };
        println!("component  median {component:.0} writes/s");
        println!("native     median {native:.0} writes/s");
        println!("ratio      {ratio:.3}, {verdict} (at least {TARGET})");
    }
    Ok(())
}

/// Builds the program, and keeps it under a name of its own.
fn build(root: &Path, target: &Path, kept: &Path, features: &[&str]) -> Result<PathBuf> {
    // The whole workspace, as in the tests: the large dependencies are then built once.
    let mut command = Command::new(cargo());
    command
        .current_dir(root)
        .args(["build", "--workspace", "--bins", "--release", "--locked"])
        .args(features);
    // Standard output is for the figures.
    let status =
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("cargo cannot be run")?;
    ensure!(status.success(), "{command:?} failed ({status})");
    let built = target.join("release/moult");
    // A file that runs cannot be written; one that is removed can go on running.
    let _ = std::fs::remove_file(kept);
    std::fs::copy(&built, kept).with_context(|| format!("cannot copy {}", built.display()))?;
    let version = output(Command::new(kept).arg("--version"))?;
    ensure!(
        version.contains("native") != features.is_empty(),
        "{} is not the program it should be: {version}",
        kept.display()
    );
    Ok(kept.to_owned())
}

/// Writes a second that a new devnet of this program answers.
fn measure(program: &Path, client: &Path, folder: &Path, options: &Options) -> Result<f64> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let devnet = Devnet::start(program, folder, options)?;
    let mut load = Command::new(client);
    load.args(["bench", "--json", "--transport", "grpc", "--dir"]).arg(folder);
    load.args(["--clients", &options.clients.to_string(), "--duration", &options.seconds.to_string()]);
    let report = output(&mut load)?;
    drop(devnet);
    let report: Value = serde_json::from_str(&report).context("the report of `moult bench`")?;
    ensure!(report["failed"] == 0, "writes failed: {}", report["problems"]);
    report["writes_per_second"].as_f64().context("`moult bench` names no writes_per_second")
}

/// A running devnet; ends with this value.
struct Devnet(Child);

impl Devnet {
    fn start(program: &Path, folder: &Path, options: &Options) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("devnet").arg("--dir").arg(folder).args(["--log", "warn"]);
        command.args(["--nodes", &options.nodes.to_string(), "--base-port", &options.base_port.to_string()]);
        command.args(["--engine", &options.engine, "--application", &options.application]);
        if options.engine == "raft" {
            command.args(["--fault-model", "crash"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let printed = child.stdout.take().context("its standard output is a pipe")?;
        let devnet = Self(child);
        for line in BufReader::new(printed).lines() {
            if line?.starts_with("devnet ready") {
                return Ok(devnet);
            }
        }
        anyhow::bail!("{command:?} ended before its nodes were ready")
    }
}

impl Drop for Devnet {
    /// Lets it stop its nodes; one that cannot be told is killed, and takes them along.
    fn drop(&mut self) {
        let told = Command::new("kill").arg(self.0.id().to_string()).status();
        if !told.is_ok_and(|status| status.success()) {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
