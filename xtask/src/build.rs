//! Builds one guest as a component, byte for byte reproducibly.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use wit_component::ComponentEncoder;

use crate::imports::outside;
use crate::toolchain::{Kind, Toolchain, cargo};

/// A module that this repository builds.
pub(crate) struct Guest {
    /// The name of the file under `out`.
    pub(crate) file: &'static str,
    pub(crate) package: &'static str,
    /// Folder of the package.
    pub(crate) folder: &'static str,
    pub(crate) world: &'static str,
    /// Folder of the component: `modules` for what ships with the program.
    pub(crate) out: &'static str,
}

const fn guest(
    file: &'static str,
    package: &'static str,
    folder: &'static str,
    world: &'static str,
) -> Guest {
    Guest { file, package, folder, world, out: "modules" }
}

/// All of them.
pub(crate) const GUESTS: &[Guest] = &[
    guest("approve-valid", "moult-approve-valid", "policies/approve-valid", "approval"),
    guest("kv", "moult-kv", "guests/kv", "application"),
    guest("kv2", "moult-kv2", "guests/kv2", "application"),
    guest("manual", "moult-manual", "policies/manual", "approval"),
    guest("null", "moult-null", "guests/null", "application"),
    guest("pbft", "moult-pbft", "guests/pbft", "engine"),
    guest("pbft-reverse", "moult-pbft-reverse", "guests/pbft-reverse", "engine"),
    guest("raft", "moult-raft", "guests/raft", "engine"),
    guest("require-certified", "moult-require-certified", "policies/require-certified", "approval"),
    guest("require-shadow", "moult-require-shadow", "policies/require-shadow", "approval"),
    guest("committee-bounds", "moult-committee-bounds", "policies/committee-bounds", "approval"),
    guest("timelock", "moult-timelock", "policies/timelock", "approval"),
    guest("module-allowlist", "moult-module-allowlist", "policies/module-allowlist", "approval"),
    // Wrong on purpose, for tests.
    Guest {
        out: "tests/hostile/modules",
        ..guest("broken", "moult-broken", "tests/hostile/broken", "engine")
    },
];

/// Where the guests' intermediate files go.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // A relative folder is relative to where cargo was called, as cargo itself has it.
    std::path::absolute(&target).unwrap_or(target).join("guests")
}

/// The bytes of the component.
pub(crate) fn component(root: &Path, toolchain: &Toolchain, guest: &Guest) -> Result<Vec<u8>> {
    let target = target_dir(root);
    run_cargo(root, &target, toolchain, guest)?;
    let file = format!("{}.wasm", guest.package.replace('-', "_"));
    let path = target.join("wasm32-unknown-unknown/guest").join(file);
    let core = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let component = ComponentEncoder::default().validate(true).module(&core)?.encode()?;
    let export = format!("moult:{0}/{0}@", guest.world);
    let exports = outside(&component)?.exports;
    ensure!(
        exports.iter().any(|name| name.starts_with(&export)),
        "{} exports {exports:?}: does it call `export_{}!` under the feature `component`?",
        guest.package,
        guest.world
    );
    Ok(component)
}

fn run_cargo(root: &Path, target: &Path, toolchain: &Toolchain, guest: &Guest) -> Result<()> {
    let mut command = Command::new(cargo());
    command.current_dir(root).args(["build", "--locked", "--profile", "guest"]);
    command.args([
        "--target",
        "wasm32-unknown-unknown",
        "--features",
        "component",
        "--package",
        guest.package,
    ]);
    if toolchain.kind == Kind::Debian {
        command.args(["-Zbuild-std=std,panic_abort", "-Zbuild-std-features="]).env("RUSTC_BOOTSTRAP", "1");
    }
    // What a developer's environment says must not reach the bytes.
    for name in [
        "RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_INCREMENTAL",
    ] {
        command.env_remove(name);
    }
    command
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", &toolchain.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(root, target)?);
    let status = command.status().context("cannot run cargo")?;
    ensure!(status.success(), "building {} failed ({status})", guest.package);
    Ok(())
}

/// Takes every path of this machine out of the bytes. The last match counts.
fn rustflags(root: &Path, target: &Path) -> Result<OsString> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo_home =
        std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home.map(|home| home.join(".cargo")));
    let cargo_home = cargo_home.context("neither CARGO_HOME nor HOME is set")?;
    let mut flags = OsString::new();
    for (from, to) in [(root, "/src"), (cargo_home.as_path(), "/cargo"), (target, "/target")] {
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push(format!("={to}\x1f"));
    }
    flags.push("-Cpanic=abort");
    Ok(flags)
}
