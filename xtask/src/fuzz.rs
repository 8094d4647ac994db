//! `cargo xtask fuzz`: lets libFuzzer search for inputs that break a target of `tests/fuzz`.
//!
//! The stable compiler can instrument for libFuzzer (what is unstable is the address
//! sanitizer, which code without `unsafe` has little use for). Code is built as for a node:
//! without `--cfg fuzzing`, under which some libraries leave out checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::toolchain::cargo;

/// As cargo-fuzz has them: edges with counters, and operands of comparisons.
const FLAGS: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];
/// Longest input, in bytes.
const INPUT_BYTES_MAX: u32 = 2048;
/// An input that takes longer than this is a finding, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// A process that takes more than this is a finding, in MiB.
const MEMORY_MIB_MAX: u32 = 1024;

/// What became of a run.
struct Outcome {
    target: String,
    seconds: f64,
    runs: u64,
    edges: u64,
    /// New files among the findings.
    found: Vec<PathBuf>,
    /// libFuzzer ended otherwise than it should.
    problem: Option<String>,
}

struct Fuzz<'a> {
    root: &'a Path,
    program: PathBuf,
}

/// `corpus`: write the committed corpora anew afterwards, as small as they cover as much.
pub(crate) fn run(root: &Path, only: &[String], seconds: u64, corpus: bool) -> Result<()> {
    let all = targets(root)?;
    let unknown = only.iter().find(|name| !corpus && !all.contains(*name));
    ensure!(unknown.is_none(), "no target `{}`; there are: {}", unknown.map_or("", |u| u), all.join(", "));
    let chosen = if only.is_empty() { &all } else { only };
    let fuzz = Fuzz { root, program: build(root)? };
    if corpus {
        seeds(root)?;
    }
    let mut outcomes = Vec::new();
    for target in chosen {
        if seconds > 0 {
            println!("==== {target}: {seconds} s");
            outcomes.push(fuzz.search(target, seconds)?);
        }
        if corpus {
            fuzz.minimise(target)?;
        }
    }
    report(&outcomes)
}

/// The targets have a folder each.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("tests/fuzz/corpus");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn build(root: &Path) -> Result<PathBuf> {
    let version = Command::new("rustc").arg("-vV").output().context("rustc cannot be run")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not name its host")?;
    let target_dir = root.join("target/fuzz/build");
    let mut command = Command::new(cargo());
    // With `--target` the flags do not reach what runs while building.
    command
        .current_dir(root.join("tests/fuzz/libfuzzer"))
        .args(["build", "--release", "--target", host])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    let status = command.status().context("cargo cannot be run")?;
    ensure!(status.success(), "the fuzz targets do not build ({status}); libFuzzer needs a C++ compiler");
    Ok(target_dir.join(host).join("release/fuzz"))
}

fn seeds(root: &Path) -> Result<()> {
    let mut command = Command::new(cargo());
    command.current_dir(root).args(["run", "--release", "--locked", "--package", "moult-fuzz"]);
    command.args(["--bin", "fuzz-seeds", "--", "target/fuzz/seeds"]);
    let status = command.status().context("cargo cannot be run")?;
    ensure!(status.success(), "the seeds are not written ({status})");
    Ok(())
}

impl Fuzz<'_> {
    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(self.root).env("MOULT_FUZZ_TARGET", target).args([
            format!("-max_len={INPUT_BYTES_MAX}"),
            format!("-timeout={INPUT_SECONDS_MAX}"),
            format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        ]);
        command
    }

    fn committed(&self, target: &str) -> PathBuf {
        self.root.join("tests/fuzz/corpus").join(target)
    }

    /// What earlier runs came upon; goes on from there.
    fn grown(&self, target: &str) -> PathBuf {
        self.root.join("target/fuzz/corpus").join(target)
    }

    fn search(&self, target: &str, seconds: u64) -> Result<Outcome> {
        let findings = self.root.join("tests/fuzz/findings").join(target);
        for folder in [&findings, &self.grown(target)] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let before = files(&findings)?;
        let log = self.root.join(format!("target/fuzz/{target}.log"));
        let mut command = self.command(target);
        command
            .args([format!("-max_total_time={seconds}"), "-print_final_stats=1".into()])
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .args([self.grown(target), self.committed(target)])
            .stderr(fs::File::create(&log).with_context(|| log.display().to_string())?);
        let started = Instant::now();
        let status = command.status().context("the fuzzer cannot be run")?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let found: Vec<_> = files(&findings)?.difference(&before).cloned().collect();
        if before.is_empty() && found.is_empty() {
            // An empty folder says nothing.
            fs::remove_dir(&findings)?;
        }
        if !found.is_empty() {
            let about = text.lines().filter(|line| !line.starts_with('#')).take(12);
            about.for_each(|line| println!("{line}"));
        }
        Ok(Outcome {
            target: target.to_owned(),
            seconds: started.elapsed().as_secs_f64(),
            runs: last_number(&text, "stat::number_of_executed_units:").unwrap_or(0),
            edges: last_number(&text, "cov:").unwrap_or(0),
            found,
            problem: (!status.success()).then(|| format!("{status}, see {}", log.display())),
        })
    }

    /// As few of the known inputs as reach every edge that all of them reach.
    fn minimise(&self, target: &str) -> Result<()> {
        let (committed, fresh) = (self.committed(target), self.root.join("target/fuzz/fresh").join(target));
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        let seeds = self.root.join("target/fuzz/seeds").join(target);
        for folder in [&committed, &fresh, &self.grown(target)] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let log = self.root.join(format!("target/fuzz/{target}.merge.log"));
        let mut command = self.command(target);
        // Edges alone: with how often each is passed, and what is compared, hundreds would stay.
        command.args(["-set_cover_merge=1", "-use_counters=0", "-use_cmp=0"]);
        command.args([&fresh, &seeds, &self.grown(target), &committed]);
        command.stderr(fs::File::create(&log)?);
        let status = command.status().context("the fuzzer cannot be run")?;
        ensure!(status.success(), "the corpus of {target} cannot be made smaller: see {}", log.display());
        let kept = files(&fresh)?;
        ensure!(!kept.is_empty(), "nothing is left of the corpus of {target}: see {}", log.display());
        fs::remove_dir_all(&committed)?;
        fs::create_dir_all(&committed)?;
        for file in &kept {
            let name = file.file_name().context("a file without a name")?;
            fs::copy(file, committed.join(name)).with_context(|| file.display().to_string())?;
        }
        println!("{}: {} inputs", committed.display(), kept.len());
        Ok(())
    }
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// The number behind the last mention of a word.
fn last_number(text: &str, word: &str) -> Option<u64> {
    text.rsplit_once(word)?.1.split_whitespace().next()?.parse().ok()
}

fn report(outcomes: &[Outcome]) -> Result<()> {
    if !outcomes.is_empty() {
        println!(
            "\n{:14} {:>8} {:>12} {:>9} {:>7}  findings",
            "target", "seconds", "runs", "runs/s", "edges"
        );
    }
    let mut bad = 0;
    for outcome in outcomes {
        let Outcome { target, seconds, runs, edges, found, problem } = outcome;
        let rate = *runs as f64 / seconds.max(1.0);
        println!("{target:14} {seconds:8.0} {runs:12} {rate:9.0} {edges:7}  {}", found.len());
        for file in found {
            println!("  kept: {}", file.display());
        }
        if let Some(problem) = problem.as_ref().filter(|_| found.is_empty()) {
            println!("  {problem}");
        }
        bad += usize::from(!found.is_empty() || problem.is_some());
    }
    if bad > 0 {
        bail!(
            "{bad} of {} targets ended with a finding; `cargo test --release -p moult-fuzz` runs what is kept",
            outcomes.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::last_number;

    #[test]
    fn the_last_line_of_the_log_counts() {
        let log = "#2 INITED cov: 10 ft: 11\n#9\tDONE   cov: 2511 ft: 8518\nstat::number_of_executed_units: 46350\n";
        assert_eq!(last_number(log, "cov:"), Some(2511));
        assert_eq!(last_number(log, "stat::number_of_executed_units:"), Some(46_350));
        assert_eq!(last_number("", "cov:"), None);
    }
}
