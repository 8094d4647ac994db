//! `cargo xtask bench-etcd`: gets etcd, builds what is needed and hands over to the program
//! `bench-etcd` of `tests/peers`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::toolchain::{self, cargo};

/// Returns only where it fails: the program takes this one's place, with its signals and its
/// exit code.
pub(crate) fn run(root: &Path, mut options: Vec<OsString>) -> Result<()> {
    let asks = ["--help", "-h"].iter().any(|name| is_given(&options, name));
    let has_moult = is_given(&options, "--moult") || std::env::var_os("MOULT_BIN").is_some();
    let has_etcd = is_given(&options, "--etcd") || std::env::var_os("ETCD_BIN").is_some();
    if !asks && !has_etcd {
        toolchain::etcd()?;
    }
    let builds_moult = !asks && !has_moult;
    build(root, builds_moult)?;
    let target = target(root, std::env::var_os("CARGO_TARGET_DIR"));
    if builds_moult {
        options.extend(["--moult".into(), target.join("release/moult").into()]);
    }
    if !is_given(&options, "--dir") {
        // On the disk of this tree: the folder for temporary files is often in memory.
        options.extend(["--dir".into(), target.clone().into()]);
    }
    let mut program = Command::new(target.join("release/bench-etcd"));
    let problem = program.args(options).exec();
    Err(problem).with_context(|| format!("cannot run {}", program.get_program().display()))
}

/// As `--name VALUE` or `--name=VALUE`.
fn is_given(options: &[OsString], name: &str) -> bool {
    let is_it = |option: &OsString| {
        let rest = option.as_encoded_bytes().strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    };
    options.iter().any(is_it)
}

fn build(root: &Path, with_moult: bool) -> Result<()> {
    let mut command = Command::new(cargo());
    command.current_dir(root).args(["build", "--release", "--locked", "--package", "moult-peers"]);
    if with_moult {
        command.args(["--package", "moult"]);
    }
    let status = command.status().context("cargo cannot be run")?;
    ensure!(
        status.success(),
        "building {} failed ({status})",
        if with_moult { "moult" } else { "bench-etcd" }
    );
    Ok(())
}

/// Where cargo puts programs; a relative folder is relative to where it is called, the root.
fn target(root: &Path, given: Option<OsString>) -> PathBuf {
    root.join(given.map_or_else(|| "target".into(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_however_they_are_written() {
        let options = |all: &[&str]| all.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(is_given(&options(&["--json", "--moult", "m"]), "--moult"));
        assert!(is_given(&options(&["--moult=m"]), "--moult"));
        assert!(!is_given(&options(&["--moultx", "m", "moult"]), "--moult"));
    }

    #[test]
    fn programs_are_under_the_root_unless_told_otherwise() {
        let root = Path::new("/src/moult");
        let target = |given: Option<&str>| target(root, given.map(OsString::from));
        assert_eq!(target(None), Path::new("/src/moult/target"));
        assert_eq!(target(Some("t")), Path::new("/src/moult/t"));
        assert_eq!(target(Some("/t")), Path::new("/t"));
    }
}
