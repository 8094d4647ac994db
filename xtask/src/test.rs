//! `cargo xtask test`: every check of the repository, one build of everything, and a summary
//! with the minutes that each part took.
//!
//! All test programs come from a single `cargo test --workspace --no-run`: building package
//! by package would compile the large dependencies once for each set of features.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::toolchain::{self, cargo};

/// What is left out by `--quick`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Always,
    Long,
}

struct Suite {
    root: PathBuf,
    /// This program's path, asked for before anything is built: a build may put a new file in its place, after which
    /// the system names the old one, which is gone.
    me: PathBuf,
    quick: bool,
    seeds: u64,
    /// Words in the names of parts that are left out.
    skip: Vec<String>,
    done: Vec<(String, f64, Outcome)>,
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    /// What failed tests said, for the end of the output.
    told: Vec<String>,
}

enum Outcome {
    Ok,
    Failed(String),
}

/// A built test program.
struct Program {
    package: String,
    target: String,
    folder: PathBuf,
    path: PathBuf,
}

pub(crate) fn run(root: &Path, quick: bool, seeds: u64, skip: Vec<String>) -> Result<()> {
    let mut suite = Suite {
        root: root.to_path_buf(),
        me: std::env::current_exe().context("this program does not know its own path")?,
        quick,
        seeds,
        skip,
        done: Vec::new(),
        passed: 0,
        failed: 0,
        skipped: Vec::new(),
        told: Vec::new(),
    };
    suite.part("format", Part::Always, |suite| suite.cargo(&["fmt", "--all", "--check"]));
    suite.part("bans, licences, sources", Part::Long, |suite| suite.deny());
    suite.part("modules are reproducible", Part::Long, |suite| suite.xtask(&["modules", "--check"]));
    suite.part("imports of modules", Part::Always, |suite| suite.xtask(&["imports"]));
    suite.part("lints", Part::Always, |suite| {
        suite.cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--release",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])
    });
    let mut programs = Vec::new();
    suite.part("build", Part::Always, |suite| {
        programs = suite.build()?;
        Ok(())
    });
    let slow = |program: &&Program| program.package == "moult-tests";
    let model = |program: &&Program| program.package == "moult-model";
    suite.part("unit and integration tests", Part::Always, |suite| {
        suite.run_programs(programs.iter().filter(|program| !slow(program) && !model(program)), &[])
    });
    suite.part("documentation examples", Part::Long, |suite| suite.cargo_tests(&["--doc", "--workspace"]));
    suite.part("seeds in the simulator", Part::Always, |suite| suite.simulate());
    suite.part("specification", Part::Long, |suite| {
        suite.run_programs(programs.iter().filter(model), &["--show-output"])?;
        suite.xtask(&["spec"])
    });
    suite.part("lines covered", Part::Long, |suite| suite.coverage());
    suite.part("planted bugs are caught", Part::Long, |suite| suite.planted());
    suite.part("clusters of processes", Part::Long, |suite| {
        suite.strace();
        suite.run_programs(programs.iter().filter(slow), &["--test-threads", "1"])
    });
    suite.finish()
}

impl Suite {
    fn part(&mut self, name: &str, part: Part, work: impl FnOnce(&mut Self) -> Result<()>) {
        if self.quick && part == Part::Long {
            self.skipped.push(format!("{name} (--quick)"));
            return;
        }
        if let Some(word) = self.skip.iter().find(|word| name.contains(word.as_str())) {
            self.skipped.push(format!("{name} (--skip {word})"));
            return;
        }
        println!("\n==== {name}");
        let started = Instant::now();
        let outcome = match work(self) {
            Ok(()) => Outcome::Ok,
            Err(problem) => {
                println!("{problem:#}");
                Outcome::Failed(format!("{problem:#}").lines().next().unwrap_or_default().to_owned())
            }
        };
        self.done.push((name.to_owned(), started.elapsed().as_secs_f64() / 60.0, outcome));
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        command
    }

    fn cargo(&self, args: &[&str]) -> Result<()> {
        let status = self.command(&cargo()).args(args).status().context("cargo cannot be run")?;
        ensure!(status.success(), "`cargo {}` failed ({status})", args.join(" "));
        Ok(())
    }

    fn xtask(&self, args: &[&str]) -> Result<()> {
        let status =
            self.command(&self.me).args(args).status().context("this program cannot be started again")?;
        ensure!(status.success(), "`cargo xtask {}` failed ({status})", args.join(" "));
        Ok(())
    }

    /// Installs cargo-deny where it is missing.
    fn deny(&self) -> Result<()> {
        let here =
            self.command(&cargo()).args(["deny", "--version"]).output().is_ok_and(|out| out.status.success());
        if !here {
            println!("cargo-deny is not installed: installing it");
            // A folder of its own: the settings of this workspace do not apply to it.
            let folder = self.root.join("target/tools");
            self.cargo(&[
                "install",
                "--locked",
                "cargo-deny",
                "--version",
                "0.20.2",
                "--target-dir",
                &folder.display().to_string(),
            ])?;
        }
        self.cargo(&["deny", "check", "bans", "licenses", "sources"])
    }

    /// Installs strace where it is missing; tests that need it are named where it cannot be had.
    fn strace(&mut self) {
        if let Err(problem) = toolchain::strace() {
            println!("{problem:#}");
            self.skipped.push(format!("power losses ({problem:#})"));
        }
    }

    /// Named where the tools cannot be had.
    fn coverage(&mut self) -> Result<()> {
        match toolchain::llvm() {
            Ok(_) => self.xtask(&["coverage"]),
            Err(problem) => {
                println!("{problem:#}");
                self.skipped.push(format!("lines covered ({problem:#})"));
                Ok(())
            }
        }
    }

    fn build(&self) -> Result<Vec<Program>> {
        let mut command = self.command(&cargo());
        command.args([
            "test",
            "--workspace",
            "--release",
            "--locked",
            "--no-run",
            "--message-format",
            "json-render-diagnostics",
        ]);
        let output = command.stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
        ensure!(output.status.success(), "the tests do not build");
        let mut programs = Vec::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let message: serde_json::Value = serde_json::from_str(line).context("cargo's messages")?;
            let is_test = message["profile"]["test"].as_bool() == Some(true);
            if let (true, Some(path)) = (is_test, message["executable"].as_str()) {
                let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
                let folder = manifest.parent().context("a manifest without a folder")?.to_path_buf();
                programs.push(Program {
                    package: package_name(&manifest)?,
                    target: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
                    folder,
                    path: PathBuf::from(path),
                });
            }
        }
        ensure!(!programs.is_empty(), "cargo built no test program");
        // The programs that tests start.
        self.cargo(&["build", "--workspace", "--release", "--locked", "--bins"])?;
        programs.sort_by(|a, b| (&a.package, &a.target).cmp(&(&b.package, &b.target)));
        Ok(programs)
    }

    fn run_programs<'a>(&mut self, programs: impl Iterator<Item = &'a Program>, args: &[&str]) -> Result<()> {
        let mut bad = Vec::new();
        for program in programs {
            println!("---- {} {}", program.package, program.target);
            let mut command = self.command(&program.path);
            command.current_dir(&program.folder).args(args);
            command.env("MOULT_BIN", self.built("moult")).env("CARGO_MANIFEST_DIR", &program.folder);
            if !self.count(&mut command)? {
                bad.push(format!("{} {}", program.package, program.target));
            }
        }
        ensure!(bad.is_empty(), "tests failed in: {}", bad.join(", "));
        Ok(())
    }

    fn cargo_tests(&mut self, args: &[&str]) -> Result<()> {
        let mut command = self.command(&cargo());
        command.args(["test", "--release", "--locked"]).args(args);
        ensure!(self.count(&mut command)?, "`cargo test {}` failed", args.join(" "));
        Ok(())
    }

    /// Runs a test program, shows what it prints and adds up its closing lines.
    fn count(&mut self, command: &mut Command) -> Result<bool> {
        let output =
            command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {command:?}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = !output.status.success();
        if failed {
            self.told.extend(said(&text));
        }
        for line in text.lines() {
            let passes = line.starts_with("test ") && line.ends_with("... ok");
            if failed || !passes {
                println!("{line}");
            }
            if let Some(counts) = line.strip_prefix("test result: ") {
                let number = |what: &str| -> u64 {
                    let before = counts.split(what).next().unwrap_or_default();
                    before.split_whitespace().next_back().and_then(|n| n.parse().ok()).unwrap_or(0)
                };
                self.passed += number(" passed");
                self.failed += number(" failed");
                if number(" ignored") > 0 {
                    self.skipped.push(format!("{} ignored tests in {command:?}", number(" ignored")));
                }
            }
        }
        Ok(!failed)
    }

    /// The same seeds every time, and a tenth as many that nobody ran before; with components fewer.
    /// Then engines that are wrong on purpose.
    fn simulate(&mut self) -> Result<()> {
        let seeds = if self.quick { 30 } else { self.seeds };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let fresh = now.as_secs() * 1000;
        for engine in ["pbft", "raft"] {
            self.seeds_of(&["--engine", engine, "--native"], 0, seeds)?;
            self.seeds_of(&["--engine", engine, "--native"], fresh, seeds / 10)?;
            self.seeds_of(&["--engine", engine], fresh, seeds / 15)?;
        }
        self.broken_engines(&[], seeds / 10)?;
        self.broken_engines(&["--components"], seeds / 10)
    }

    /// Every kind of broken engine, in clusters that have to give it up.
    fn broken_engines(&mut self, how: &[&str], seeds: u64) -> Result<()> {
        let mut command = self.command(&self.built("broken-engines"));
        command.args(how).args(["--seeds", &seeds.to_string()]);
        println!("---- {command:?}");
        let status = command.status().context("broken-engines is not built")?;
        ensure!(status.success(), "a broken engine broke a promise ({status}): see above how to repeat it");
        self.passed += seeds;
        Ok(())
    }

    fn seeds_of(&mut self, how: &[&str], first: u64, seeds: u64) -> Result<()> {
        let mut command = self.command(&self.built("moult"));
        command.arg("sim").args(how).args(["--first", &first.to_string(), "--seeds", &seeds.to_string()]);
        println!("---- {command:?}");
        let status = command.status().context("moult is not built")?;
        if status.success() {
            self.passed += seeds;
            return Ok(());
        }
        self.failed += 1;
        bail!("a seed failed ({status}): the lines above say how to repeat it")
    }

    /// Builds with bugs planted on purpose, apart from everything that ships. The simulator's is built
    /// as a part of the workspace: alone it would want another build of the module host.
    fn planted(&mut self) -> Result<()> {
        self.cargo_tests(&["--package", "moult-pbft", "--features", "planted"])?;
        self.cargo_tests(&["--package", "moult-raft", "--features", "planted"])?;
        let planted = ["--workspace", "--features", "moult-sim/planted", "--test", "planted"];
        self.cargo_tests(&[&planted[..], &["--", "--show-output"]].concat())
    }

    fn built(&self, program: &str) -> PathBuf {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        target.join("release").join(program)
    }

    fn finish(self) -> Result<()> {
        println!("\n==== summary");
        let mut bad = 0;
        for (name, minutes, outcome) in &self.done {
            let verdict = match outcome {
                Outcome::Ok => "ok".to_owned(),
                Outcome::Failed(problem) => {
                    bad += 1;
                    format!("FAILED: {problem}")
                }
            };
            println!("{minutes:6.1} min  {name}: {verdict}");
        }
        let all: f64 = self.done.iter().map(|(_, minutes, _)| minutes).sum();
        println!("{all:6.1} min  in all");
        for skipped in &self.skipped {
            println!("skipped: {skipped}");
        }
        for told in &self.told {
            println!("\n{told}");
        }
        let failed = self.failed.max(bad);
        println!("\n{} passed, {failed} failed, {} skipped", self.passed, self.skipped.len());
        ensure!(failed == 0, "not everything passed");
        Ok(())
    }
}

/// The panics of failed tests in what a test program printed: the name, the place and the first
/// lines of the message.
fn said(output: &str) -> Vec<String> {
    const LINES: usize = 6;
    const LINE_CHARS: usize = 400;
    let mut told = Vec::new();
    let mut lines = output.lines().peekable();
    let mut test = "";
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            test = name;
        }
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            let mut text = format!("FAILED {test}");
            let message = std::iter::from_fn(|| {
                lines.next_if(|line| !["", "stack backtrace:"].contains(line) && !line.starts_with("note: "))
            });
            for line in std::iter::once(line).chain(message.take(LINES)) {
                text.push_str("\n    ");
                text.extend(line.chars().take(LINE_CHARS));
            }
            told.push(text);
        }
    }
    told
}

fn package_name(manifest: &Path) -> Result<String> {
    let text = std::fs::read_to_string(manifest).with_context(|| manifest.display().to_string())?;
    let parsed: toml::Table = text.parse().with_context(|| manifest.display().to_string())?;
    let name = parsed.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    Ok(name.context("a manifest without a name")?.to_owned())
}
