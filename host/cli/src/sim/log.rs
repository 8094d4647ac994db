//! One line of JSON a seed, appended as each ends, so that a long run can be stopped at any
//! time and gone on with.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use moult_sim::{Modules, Plan, Report, Violation};
use moult_types::Digest;
use moult_types::codec::sha256;
use serde::{Deserialize, Serialize};

/// What became of one seed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) seed: u64,
    /// Of the plan, the modules and the version of this program.
    pub(crate) config: String,
    pub(crate) modules: BTreeMap<String, String>,
    /// `ok`, or the promise that was broken.
    pub(crate) result: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
    /// Hash of everything that happened, in hex.
    pub(crate) trace: String,
    pub(crate) ms: u64,
    #[serde(default)]
    pub(crate) blocks: u64,
    #[serde(default)]
    pub(crate) switches: u64,
    #[serde(default)]
    pub(crate) acknowledged: u64,
    #[serde(default)]
    pub(crate) reads: u64,
    #[serde(default)]
    pub(crate) events: u64,
    #[serde(default)]
    pub(crate) virtual_ms: u64,
    #[serde(default)]
    pub(crate) faults: BTreeMap<String, u64>,
    #[serde(default)]
    pub(crate) changes: BTreeMap<String, u64>,
}

fn hashes(modules: &Modules) -> BTreeMap<String, String> {
    modules.list().into_iter().map(|(name, hash)| (name, hash.to_string())).collect()
}

fn owned(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect()
}

impl Line {
    pub(crate) fn of_report(report: &Report, config: &str, ms: u64, modules: &Modules) -> Self {
        Self {
            seed: report.seed,
            config: config.to_owned(),
            modules: hashes(modules),
            result: "ok".to_owned(),
            detail: String::new(),
            trace: format!("{:016x}", report.trace),
            ms,
            blocks: report.blocks,
            switches: report.switches,
            acknowledged: report.acknowledged,
            reads: report.reads,
            events: report.events,
            virtual_ms: report.virtual_ms,
            faults: owned(&report.faults),
            changes: owned(&report.changes),
        }
    }

    pub(crate) fn of_violation(violation: &Violation, config: &str, ms: u64, modules: &Modules) -> Self {
        Self {
            seed: violation.seed,
            config: config.to_owned(),
            modules: hashes(modules),
            result: violation.property.to_owned(),
            detail: violation.detail.chars().take(2_000).collect(),
            trace: format!("{:016x}", violation.trace),
            ms,
            blocks: 0,
            switches: 0,
            acknowledged: 0,
            reads: 0,
            events: 0,
            virtual_ms: violation.at_us / 1000,
            faults: BTreeMap::new(),
            changes: BTreeMap::new(),
        }
    }
}

/// What a line may be compared with: runs of equal digests are equal, seed by seed.
pub(crate) fn config_digest(plan: &Plan, modules: &Modules) -> String {
    hex::encode(&setting(plan, modules).0[..8])
}

/// Of everything that a run depends on but its seed.
pub(crate) fn setting(plan: &Plan, modules: &Modules) -> Digest {
    let text = format!("{}\n{plan:?}\n{:?}", env!("CARGO_PKG_VERSION"), modules.list());
    sha256(text.as_bytes())
}

/// The file, at its end.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens a log or begins one; answers with what it holds. A last line that was cut off is
    /// dropped: its seed runs again.
    pub(crate) fn open(path: &Path, config: &str) -> anyhow::Result<(Self, Vec<Line>)> {
        let what = || format!("the log {}", path.display());
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .with_context(what)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(what)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut lines = Vec::new();
        for (number, line) in text[..whole].lines().enumerate() {
            let place = || format!("line {} of the log {}", number + 1, path.display());
            let line: Line = serde_json::from_str(line).with_context(place)?;
            if line.config != config {
                bail!(
                    "{} is of configuration {}, this run is of {config}: take another file, or the options it was made with",
                    place(),
                    line.config
                );
            }
            lines.push(line);
        }
        file.set_len(whole as u64).with_context(what)?;
        file.seek(SeekFrom::End(0)).with_context(what)?;
        Ok((Self { path: path.to_owned(), file }, lines))
    }

    pub(crate) fn append(&mut self, line: &Line) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes()).with_context(|| format!("the log {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_gone_on_with_and_a_cut_line_runs_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sim.log");
        let (plan, modules) = (Plan::quiet(), Modules::pbft());
        let config = config_digest(&plan, &modules);
        let report = moult_sim::run(3, &plan, &modules, false).expect("a run");
        let line = Line::of_report(&report, &config, 5, &modules);
        let (mut log, known) = Log::open(&path, &config).expect("a log");
        assert!(known.is_empty());
        log.append(&line).expect("a line");
        std::fs::write(&path, std::fs::read_to_string(&path).expect("text") + "{\"seed\":4,")
            .expect("written");
        let (mut log, known) = Log::open(&path, &config).expect("a log");
        assert_eq!(known, std::slice::from_ref(&line));
        log.append(&Line { seed: 4, ..line.clone() }).expect("a line");
        let (_, known) = Log::open(&path, &config).expect("a log");
        assert_eq!(known.iter().map(|line| line.seed).collect::<Vec<_>>(), [3, 4]);
        let other = config_digest(&Plan::short(), &modules);
        let Err(refusal) = Log::open(&path, &other) else { panic!("a log of another configuration") };
        assert!(refusal.to_string().contains("take another file"), "{refusal}");
    }
}
