//! Embeds the modules that `modules/modules.lock` lists.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde::Deserialize;

#[derive(Deserialize)]
struct Lock {
    #[serde(rename = "module", default)]
    modules: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    version: String,
    world: String,
    hash: String,
    compiler: String,
}

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let folder = here.join("../../modules");
    let lock = folder.join("modules.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = fs::read_to_string(&lock).unwrap_or_else(|e| panic!("cannot read {}: {e}", lock.display()));
    let parsed: Lock =
        toml::from_str(&text).unwrap_or_else(|e| panic!("cannot parse {}: {e}", lock.display()));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("builtin.rs");
    fs::write(out, table(&folder, &parsed)).expect("cargo's folder can be written");
}

/// The text of a constant with one entry a module.
fn table(folder: &Path, lock: &Lock) -> String {
    let mut text = "pub(crate) const BUILTIN: &[Builtin] = &[\n".to_owned();
    for Entry { name, version, world, hash, compiler } in &lock.modules {
        let path = folder.join(format!("{name}.wasm"));
        println!("cargo::rerun-if-changed={}", path.display());
        assert!(
            path.is_file(),
            "modules.lock lists {name}, but {} is missing: run `cargo xtask modules`",
            path.display()
        );
        let world = match world.as_str() {
            "engine" => "World::Engine",
            "approval" => "World::Approval",
            "application" => "World::Application",
            other => panic!("modules.lock: module {name} is for the unknown world {other}"),
        };
        writeln!(
            text,
            "    Builtin {{ name: {name:?}, version: {version:?}, world: {world}, hash: {hash:?}, \
             compiler: {compiler:?}, bytes: include_bytes!({path:?}) }},"
        )
        .expect("writing to a String cannot fail");
    }
    text.push_str("];\n");
    text
}
