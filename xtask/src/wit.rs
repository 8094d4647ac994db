//! `cargo xtask wit`: the contracts parse and fit together.

use std::path::Path;

use anyhow::{Context, Result};
use wit_parser::Resolve;

/// In the order of their dependencies.
const PACKAGES: [&str; 4] = ["types", "engine", "approval", "application"];

pub(crate) fn run(root: &Path) -> Result<()> {
    let mut resolve = Resolve::default();
    for package in PACKAGES {
        let path = root.join("wit").join(package);
        resolve.push_path(&path).with_context(|| format!("wit/{package} does not parse"))?;
    }
    for (_, world) in resolve.worlds.iter() {
        let package = world.package.map(|id| resolve.packages[id].name.to_string()).unwrap_or_default();
        println!("{package} world {}", world.name);
        let names = |items: &mut dyn Iterator<Item = &wit_parser::WorldKey>| {
            items.map(|key| resolve.name_world_key(key)).collect::<Vec<_>>().join(", ")
        };
        println!("  imports {}", names(&mut world.imports.keys()));
        println!("  exports {}", names(&mut world.exports.keys()));
    }
    Ok(())
}
