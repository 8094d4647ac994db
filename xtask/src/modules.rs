//! `cargo xtask modules`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::build::{GUESTS, Guest, component, target_dir};
use crate::lock::{Entry, Lock, hash};
use crate::toolchain::{Kind, Toolchain, cargo, output};

pub(crate) fn run(root: &Path, check: bool, compiler: Option<Kind>, only: &[String]) -> Result<()> {
    // Each folder has a lock of its own: what is for tests is not among what ships.
    let lock_path = |folder: &str| root.join(folder).join("modules.lock");
    let mut locks: BTreeMap<&str, Lock> = BTreeMap::new();
    for guest in GUESTS {
        locks.insert(guest.out, Lock::read(&lock_path(guest.out))?);
    }
    let locked_compiler = locks.values().find_map(|lock| Some(lock.modules.first()?.compiler.clone()));
    let toolchain = Toolchain::find(compiler, locked_compiler.as_deref())?;
    println!("compiler: {}", toolchain.description);
    let versions = versions(root)?;
    let mut differences = Vec::new();
    for guest in chosen(only)? {
        let bytes = component(root, &toolchain, guest)?;
        let version = versions.get(guest.package).with_context(|| format!("no package {}", guest.package))?;
        let entry = Entry {
            name: guest.file.to_owned(),
            version: version.clone(),
            world: guest.world.to_owned(),
            hash: hash(&bytes),
            bytes: bytes.len() as u64,
            compiler: toolchain.description.clone(),
        };
        let lock = locks.entry(guest.out).or_default();
        let verdict = verdict(&root.join(guest.out), lock, &entry);
        println!("{:14} {:8} {:>8} bytes  {}  {verdict}", entry.name, entry.version, entry.bytes, entry.hash);
        if verdict == Verdict::Different {
            differences.push(entry.name.clone());
        }
        let folder = if check { target_dir(root).join("modules") } else { root.join(guest.out) };
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("{}.wasm", guest.file)), bytes)?;
        lock.set(entry);
    }
    if !check {
        return locks.iter().try_for_each(|(folder, lock)| lock.write(&lock_path(folder)));
    }
    println!("the fresh build is in {}", target_dir(root).join("modules").display());
    ensure!(differences.is_empty(), "{} differ from what modules.lock says", differences.join(", "));
    Ok(())
}

fn chosen(only: &[String]) -> Result<Vec<&'static Guest>> {
    if let Some(unknown) = only.iter().find(|name| !GUESTS.iter().any(|guest| guest.file == name.as_str())) {
        bail!("there is no module {unknown}");
    }
    Ok(GUESTS.iter().filter(|guest| only.is_empty() || only.iter().any(|name| name == guest.file)).collect())
}

/// How a fresh build compares with the lock and with the file that is checked in.
#[derive(PartialEq)]
enum Verdict {
    New,
    Same,
    NotComparable,
    Different,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Same => "same",
            Self::NotComparable => "not comparable: the lock names another compiler",
            Self::Different => "DIFFERENT",
        })
    }
}

fn verdict(folder: &Path, lock: &Lock, fresh: &Entry) -> Verdict {
    let Some(locked) = lock.find(&fresh.name) else { return Verdict::New };
    // The file must be what the lock says, whoever built it.
    let file = std::fs::read(folder.join(format!("{}.wasm", fresh.name)));
    if !file.is_ok_and(|bytes| hash(&bytes) == locked.hash) {
        return Verdict::Different;
    }
    if locked.compiler != fresh.compiler {
        return Verdict::NotComparable;
    }
    if locked == fresh { Verdict::Same } else { Verdict::Different }
}

/// Versions of the workspace's packages.
fn versions(root: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Manifest {
        package: Package,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: toml::Value,
    }
    let mut command = Command::new(cargo());
    let of_workspace = output(command.current_dir(root).args(["pkgid", "--package", "xtask"]))?;
    let of_workspace = of_workspace.rsplit(['@', '#']).next().unwrap_or_default().to_owned();
    let mut versions = BTreeMap::new();
    for guest in GUESTS {
        let path = root.join(guest.folder).join("Cargo.toml");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let Package { name, version } = toml::from_str::<Manifest>(&text)?.package;
        let version = version.as_str().map_or_else(|| of_workspace.clone(), ToOwned::to_owned);
        versions.insert(name, version);
    }
    Ok(versions)
}
