//! From text to a component.
//!
//! A guest is the fields of a core module in `guests/NAME.wat`; its first line names its
//! world. What it leaves out comes from the world's skeleton: whichever of the functions
//! `$describe`, `$execute`, ... (and the memory) it defines replaces the skeleton's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moult_types::World;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A hostile guest by its name.
///
/// # Panics
/// There is none of that name, or its text is not WebAssembly: a mistake of the tests.
pub fn guest(name: &str) -> Vec<u8> {
    guest_with(name, &[])
}

/// The same with words of the text replaced: `$LIMIT` by a number, for one.
///
/// # Panics
/// See [`guest`].
pub fn guest_with(name: &str, replace: &[(&str, &str)]) -> Vec<u8> {
    let path = here().join("guests").join(format!("{name}.wat"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let world = text.lines().next().and_then(|line| line.strip_prefix(";; world: "));
    let world = world.and_then(|name| name.trim().parse().ok());
    let world: World = world.unwrap_or_else(|| panic!("{name}: its first line does not name a world"));
    let text = replace.iter().fold(text, |text, (from, to)| text.replace(from, to));
    component(world, fill(world, &text))
}

/// A module of this repository: as checked in, or from `MOULT_MODULES_DIR`.
///
/// # Panics
/// It is not there.
pub fn module(name: &str) -> Arc<[u8]> {
    let folder = std::env::var_os("MOULT_MODULES_DIR").map(PathBuf::from);
    let path = folder.unwrap_or_else(|| here().join("../../modules")).join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into()
}

/// The text of a core module: fields, and the skeleton's where these have none.
///
/// # Panics
/// The skeleton cannot be read.
pub fn fill(world: World, fields: &str) -> String {
    let skeleton = skeleton(world);
    let (imports, rest): (Vec<_>, Vec<_>) =
        skeleton.split("\n\n").partition(|block| block.trim_start().starts_with("(import"));
    let is_left_out = |block: &str| {
        let name = block.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let defines = name.starts_with("(func $") || name.starts_with("(memory $");
        !defines || !fields.contains(&format!("{name} "))
    };
    let rest: Vec<_> = rest.into_iter().filter(|block| is_left_out(block)).collect();
    // Last, so that the guest's data lies over the skeleton's.
    format!("(module\n{}\n{}\n{fields}\n)", imports.join("\n"), rest.join("\n"))
}

/// The functions of a world that do as little as they may, as fields of a module.
///
/// # Panics
/// It cannot be read.
pub fn skeleton(world: World) -> String {
    let path = here().join("guests/skeleton").join(format!("{}.wat", world.name()));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A component of a world, made of a core module in text or binary form.
///
/// # Panics
/// It does not fit the world.
pub fn component(world: World, core: impl AsRef<[u8]>) -> Vec<u8> {
    try_component(world, core.as_ref()).unwrap_or_else(|problem| panic!("{problem}"))
}

/// The same for a core module that nobody has looked at.
pub(crate) fn try_component(world: World, core: &[u8]) -> Result<Vec<u8>, String> {
    let mut resolve = Resolve::default();
    let mut package = None;
    for name in packages(world) {
        let path = here().join("../../wit").join(name);
        package = Some(resolve.push_path(path).map_err(|error| format!("{error:#}"))?.0);
    }
    let package = package.ok_or("no package")?;
    let world = resolve.select_world(&[package], None).map_err(|error| format!("{error:#}"))?;
    let mut module = wat::parse_bytes(core).map_err(|error| error.to_string())?.into_owned();
    let embedded = embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8);
    embedded.map_err(|error| format!("{error:#}"))?;
    let encoder = ComponentEncoder::default().module(&module);
    let encoded = encoder.and_then(|encoder| encoder.validate(true).encode());
    encoded.map_err(|error| format!("{error:#}"))
}

fn packages(world: World) -> &'static [&'static str] {
    match world {
        World::Engine => &["types", "engine"],
        World::Approval => &["types", "approval"],
        World::Application => &["application"],
    }
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
