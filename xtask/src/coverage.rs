//! `cargo xtask coverage`: which lines of the core and the engines the tests run through.
//!
//! Their own tests, the conformance suite and the simulator are built with counters, in the
//! ordinary profile and into the ordinary folder: only what this workspace holds is instrumented,
//! so no dependency is built again. Lines of tests are not counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::toolchain::{self, cargo, output};

/// What is reported, by folder.
const PARTS: [&str; 3] = ["host/core/src", "guests/pbft/src", "guests/raft/src"];
/// Packages whose tests are run; none of them needs the module host.
const PACKAGES: [&str; 4] = ["moult-core", "moult-pbft", "moult-raft", "moult-conformance"];
/// A part that falls below this is an error, in percent of its lines.
const FLOOR_PERCENT: f64 = 80.0;

/// Lines of a file or of a part.
#[derive(Clone, Copy, Default)]
struct Lines {
    all: u64,
    run: u64,
}

impl Lines {
    fn percent(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.run as f64 * 100.0 / self.all as f64 }
    }
}

/// `seeds` of the simulator for each engine; `files`: print every file, too.
pub(crate) fn run(root: &Path, seeds: u64, files: bool) -> Result<()> {
    let tools = toolchain::llvm()?;
    let folder = root.join("target/coverage");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let build = Instrumented { root, wrapper: wrapper(&folder)?, folder: &folder };

    let mut programs = build.tests()?;
    for (path, home) in &programs {
        println!("---- {}", path.display());
        // The seeds of the conformance suite find what they find elsewhere; here they cost time.
        build.profiled(Command::new(path).current_dir(home).env("MOULT_CONFORM_SEEDS", "20"))?;
    }
    let moult = build.moult()?;
    for plan in ["short", "aborts"] {
        for engine in ["pbft", "raft"] {
            let mut command = Command::new(&moult);
            command.current_dir(root).args(["sim", "--native", "--engine", engine, "--plan", plan]);
            command.args(["--first", "0", "--seeds", &seeds.to_string()]);
            build.profiled(&mut command)?;
        }
    }
    programs.push((moult, root.to_path_buf()));
    let objects: Vec<PathBuf> = programs.into_iter().map(|(path, _)| path).collect();
    report(root, &folder, &tools, &objects, files)
}

/// A compiler that puts counters into what it compiles. Cargo keeps what goes through it apart.
fn wrapper(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("rustc-with-counters");
    let script = "#!/bin/sh\nrustc=\"$1\"\nshift\nexec \"$rustc\" \"$@\" -C instrument-coverage\n";
    fs::write(&path, script).with_context(|| path.display().to_string())?;
    let status = Command::new("chmod").arg("+x").arg(&path).status().context("chmod cannot be run")?;
    ensure!(status.success(), "{} cannot be made executable", path.display());
    Ok(path)
}

struct Instrumented<'a> {
    root: &'a Path,
    folder: &'a Path,
    wrapper: PathBuf,
}

impl Instrumented<'_> {
    /// Runs something whose counters are kept.
    fn profiled(&self, command: &mut Command) -> Result<()> {
        command.env("LLVM_PROFILE_FILE", self.folder.join("%m-%p.profraw"));
        let out = command.output().with_context(|| format!("cannot run {command:?}"))?;
        if !out.status.success() {
            print!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            bail!("{command:?} failed ({})", out.status);
        }
        Ok(())
    }

    /// What cargo builds: the programs, each with the folder of its package.
    fn build(&self, args: &[&str]) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut command = Command::new(cargo());
        command.current_dir(self.root).args(args).env("RUSTC_WORKSPACE_WRAPPER", &self.wrapper);
        command.args(["--release", "--locked", "--message-format", "json-render-diagnostics"]);
        // Build scripts have counters, too; theirs are of no interest.
        command.env("LLVM_PROFILE_FILE", "/dev/null").stderr(std::process::Stdio::inherit());
        let out = command.output().context("cargo cannot be run")?;
        ensure!(out.status.success(), "`cargo {}` failed ({})", args.join(" "), out.status);
        let mut programs = Vec::new();
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            let message: Value = serde_json::from_str(line).context("cargo's messages")?;
            // Tests bring the examples and programs of their packages along.
            let is_wanted = message["profile"]["test"].as_bool() == Some(args.contains(&"test"));
            if let (true, Some(path)) = (is_wanted, message["executable"].as_str()) {
                let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
                let home = manifest.parent().context("a manifest without a folder")?;
                programs.push((PathBuf::from(path), home.to_path_buf()));
            }
        }
        ensure!(!programs.is_empty(), "`cargo {}` built no program", args.join(" "));
        Ok(programs)
    }

    fn tests(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut args = vec!["test", "--no-run"];
        PACKAGES.iter().for_each(|package| args.extend(["--package", package]));
        self.build(&args)
    }

    /// The program with counters; the one without gets its place back.
    fn moult(&self) -> Result<PathBuf> {
        let args = ["build", "--workspace", "--bin", "moult"];
        let built = self.build(&args)?;
        let (built, _) = built.first().context("no program")?;
        let kept = self.folder.join("moult");
        fs::rename(built, &kept).with_context(|| kept.display().to_string())?;
        let mut command = Command::new(cargo());
        command.current_dir(self.root).args(args).args(["--release", "--locked", "--quiet"]);
        let status = command.status().context("cargo cannot be run")?;
        ensure!(status.success(), "the program without counters does not build ({status})");
        Ok(kept)
    }
}

fn report(
    root: &Path,
    folder: &Path,
    tools: &toolchain::Llvm,
    objects: &[PathBuf],
    with_files: bool,
) -> Result<()> {
    let merged = folder.join("merged.profdata");
    let raw = fs::read_dir(folder)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let raw = raw.filter(|path| path.extension().is_some_and(|ending| ending == "profraw"));
    output(Command::new(&tools.profdata).args(["merge", "-sparse", "-o"]).arg(&merged).args(raw))?;
    let mut command = Command::new(&tools.cov);
    command.current_dir(root).args(["export", "-summary-only", "-instr-profile"]).arg(&merged);
    for (number, object) in objects.iter().enumerate() {
        if number > 0 {
            command.arg("-object");
        }
        command.arg(object);
    }
    command.arg("-sources").args(PARTS);
    let exported: Value = serde_json::from_str(&output(&mut command)?).context("llvm-cov's answer")?;
    let files = exported["data"][0]["files"].as_array().context("llvm-cov names no files")?;
    let mut low = Vec::new();
    println!("\nlines run through by tests, conformance suite and simulator");
    for part in PARTS {
        let mut sum = Lines::default();
        let mut rows = Vec::new();
        for file in files {
            let name = file["filename"].as_str().unwrap_or_default();
            let Some((_, name)) = name.split_once(part).filter(|(_, name)| !is_test(name)) else { continue };
            let count = |what: &str| file["summary"]["lines"][what].as_u64().unwrap_or(0);
            let lines = Lines { all: count("count"), run: count("covered") };
            sum = Lines { all: sum.all + lines.all, run: sum.run + lines.run };
            rows.push((lines, name.trim_start_matches('/').to_owned()));
        }
        println!("{:6.1} %  {:6} of {:6}  {part}", sum.percent(), sum.run, sum.all);
        rows.sort_by(|a, b| a.0.percent().total_cmp(&b.0.percent()));
        for (lines, name) in rows.iter().filter(|_| with_files) {
            println!("{:6.1} %  {:6} of {:6}    {name}", lines.percent(), lines.run, lines.all);
        }
        if sum.percent() < FLOOR_PERCENT {
            low.push(part);
        }
    }
    ensure!(low.is_empty(), "below {FLOOR_PERCENT} %: {}", low.join(", "));
    Ok(())
}

fn is_test(name: &str) -> bool {
    name.ends_with("_test.rs") || name.ends_with("/tests.rs") || name.contains("/tests/")
}
