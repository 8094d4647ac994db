//! Which compiler builds the guests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

/// Where a compiler for wasm32-unknown-unknown comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// The toolchain of this repository with its target installed by rustup.
    Rustup,
    /// Debian's `rustc-web` with `rust-web-src`; the standard library is built, too.
    Debian,
}

/// A compiler that is here.
pub(crate) struct Toolchain {
    pub(crate) kind: Kind,
    pub(crate) rustc: PathBuf,
    pub(crate) linker: PathBuf,
    /// Everything that the bytes depend on, for the lock.
    pub(crate) description: String,
}

const TARGET: &str = "wasm32-unknown-unknown";
const PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

impl Toolchain {
    /// The wanted compiler; without a wish the one that `locked` describes, else any.
    pub(crate) fn find(wish: Option<Kind>, locked: Option<&str>) -> Result<Self> {
        if let Some(kind) = wish {
            return Self::of_kind(kind);
        }
        let mut found = Vec::new();
        let mut problems = Vec::new();
        for kind in [Kind::Rustup, Kind::Debian] {
            match Self::of_kind(kind) {
                Ok(toolchain) if locked == Some(&toolchain.description) => return Ok(toolchain),
                Ok(toolchain) => found.push(toolchain),
                Err(problem) => problems.push(format!("- {problem:#}")),
            }
        }
        let first = found.into_iter().next();
        first.with_context(|| format!("there is no compiler for {TARGET} here:\n{}", problems.join("\n")))
    }

    fn of_kind(kind: Kind) -> Result<Self> {
        let host_rustc = std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
        let sysroot = PathBuf::from(output(Command::new(&host_rustc).args(["--print", "sysroot"]))?);
        let linker = rust_lld(&host_rustc, &sysroot)?;
        let rustc = match kind {
            Kind::Rustup => {
                let libraries = sysroot.join("lib/rustlib").join(TARGET).join("lib");
                ensure!(libraries.is_dir(), "`rustup target add {TARGET}` has not been run");
                host_rustc
            }
            Kind::Debian => debian_rustc()?,
        };
        let std = match kind {
            Kind::Rustup => "std as shipped",
            Kind::Debian => "std built",
        };
        let version = output(Command::new(&rustc).arg("--version"))?;
        let lld = output(Command::new(&linker).args(["-flavor", "wasm", "--version"]))?;
        let lld: String = lld.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let cargo = output(Command::new(cargo()).arg("--version"))?;
        Ok(Self { kind, rustc, linker, description: format!("{version}, {std}, {lld}, {cargo}") })
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Runs a command and returns what it prints, trimmed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

fn rust_lld(rustc: &Path, sysroot: &Path) -> Result<PathBuf> {
    let verbose = output(Command::new(rustc).arg("-vV"))?;
    let host = verbose.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let linker = sysroot.join("lib/rustlib").join(host).join("bin/rust-lld");
    ensure!(linker.is_file(), "{} does not exist", linker.display());
    Ok(linker)
}

fn debian_rustc() -> Result<PathBuf> {
    if let Some(rustc) = installed_rustc() {
        return Ok(rustc);
    }
    install(&PACKAGES).context("no rustup target")?;
    installed_rustc().with_context(|| format!("{PACKAGES:?} hold no bin/rustc"))
}

/// Sees to it that strace is here, which the tests of power losses need.
pub(crate) fn strace() -> Result<()> {
    let version = || output(Command::new("strace").arg("-V"));
    if version().is_err() {
        install(&["strace"])?;
    }
    version().map(drop)
}

/// Sees to it that etcd is here, which Moult is measured against.
pub(crate) fn etcd() -> Result<()> {
    let version = || output(Command::new("etcd").arg("--version"));
    if version().is_err() {
        install(&["etcd-server"])?;
    }
    version().map(drop)
}

/// Sees to it that npm is here, which the specification's tool comes from.
pub(crate) fn npm() -> Result<()> {
    let version = || output(Command::new("npm").arg("--version"));
    if version().is_err() {
        install(&["nodejs", "npm"]).context("no npm (Node.js 18 or later)")?;
    }
    version().map(drop)
}

/// The tools that read the counters of instrumented programs.
pub(crate) struct Llvm {
    pub(crate) cov: PathBuf,
    pub(crate) profdata: PathBuf,
}

/// Sees to it that LLVM's tools are here, in the version that the compiler writes for: those of
/// rustup's `llvm-tools`, else Debian's.
pub(crate) fn llvm() -> Result<Llvm> {
    let verbose = output(Command::new("rustc").arg("-vV"))?;
    let named = |what: &str| verbose.lines().find_map(|line| line.strip_prefix(what));
    let host = named("host: ").context("rustc names no host")?;
    let version = named("LLVM version: ").and_then(|version| version.split('.').next());
    let version = version.context("rustc names no version of LLVM")?;
    let sysroot = PathBuf::from(output(Command::new("rustc").args(["--print", "sysroot"]))?);
    let shipped = sysroot.join("lib/rustlib").join(host).join("bin");
    if shipped.join("llvm-cov").is_file() && shipped.join("llvm-profdata").is_file() {
        return Ok(Llvm { cov: shipped.join("llvm-cov"), profdata: shipped.join("llvm-profdata") });
    }
    let tools = Llvm {
        cov: format!("llvm-cov-{version}").into(),
        profdata: format!("llvm-profdata-{version}").into(),
    };
    if output(Command::new(&tools.cov).arg("--version")).is_err() {
        install(&[&format!("llvm-{version}")]).context("no `rustup component add llvm-tools` either")?;
        output(Command::new(&tools.cov).arg("--version"))?;
    }
    Ok(tools)
}

/// Installs packages of Debian.
fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" and ");
    let by_hand = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    let root = output(Command::new("id").arg("-u")).is_ok_and(|id| id == "0");
    ensure!(root, "{names} missing; as root: {by_hand}");
    eprintln!("installing {names}: {by_hand}");
    // A machine that never asked has no list of packages; without a network the old one does.
    let _ = Command::new("apt-get").args(["update", "-qq"]).status();
    let mut install = Command::new("apt-get");
    // Standard output is for what the chore itself prints.
    install.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(std::io::stderr());
    install.args(["install", "-y", "--no-install-recommends"]).args(packages);
    match install.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`{by_hand}` failed ({status}); `apt-get update` first?"),
        Err(error) => bail!("there is no apt-get ({error}): {names} cannot be installed"),
    }
}

/// The compiler of the packages, if both are installed.
fn installed_rustc() -> Option<PathBuf> {
    let files = output(Command::new("dpkg").args(["-L"]).args(PACKAGES)).ok()?;
    files.lines().find(|line| line.ends_with("/bin/rustc")).map(PathBuf::from)
}
