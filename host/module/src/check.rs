//! What can be said of a module without compiling it.

use moult_types::{ModuleHash, World};
use wasmparser::component_types::ComponentEntityType;
use wasmparser::types::Types;
use wasmparser::{BinaryReaderError, Parser, Payload, Validator, WasmFeatures};

use crate::error::ModuleError;
use crate::limits::Limits;

/// What a module is, seen from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleReport {
    /// SHA-256 of the bytes.
    pub hash: ModuleHash,
    /// How many.
    pub bytes: usize,
    /// The world that it was matched against.
    pub world: World,
    /// Names of its exports.
    pub exports: Vec<String>,
    /// Names of its imports.
    pub imports: Vec<String>,
}

/// The interface that a world is about.
pub(crate) fn export_of(world: World) -> &'static str {
    match world {
        World::Engine => "moult:engine/engine@0.1.0",
        World::Approval => "moult:approval/approval@0.1.0",
        World::Application => "moult:application/application@0.1.0",
    }
}

/// The interface with functions that a world grants.
fn grant_of(world: World) -> Option<&'static str> {
    match world {
        World::Engine | World::Approval => None,
        World::Application => Some("moult:application/state@0.1.0"),
    }
}

/// The interface without functions that any world may name.
const TYPES: &str = "moult:types/types@0.1.0";

/// Everything short of compiling; `features` are those of the engine that will compile.
pub(crate) fn check(
    bytes: &[u8],
    hash: ModuleHash,
    world: World,
    limits: &Limits,
    features: WasmFeatures,
) -> Result<ModuleReport, ModuleError> {
    check_form(bytes, hash, limits)?;
    let types = Validator::new_with_features(features).validate_all(bytes).map_err(|e| refuse(hash, &e))?;
    let outside = outside(bytes).map_err(|e| refuse(hash, &e))?;
    check_count(hash, "core modules", outside.modules, u64::from(limits.core_instances))?;
    check_exports(hash, world, &outside.exports, &types)?;
    check_imports(hash, world, &outside.imports, &types)?;
    Ok(ModuleReport { hash, bytes: bytes.len(), world, exports: outside.exports, imports: outside.imports })
}

/// Size and header.
fn check_form(bytes: &[u8], module: ModuleHash, limits: &Limits) -> Result<(), ModuleError> {
    if bytes.is_empty() {
        return Err(ModuleError::Empty { module });
    }
    if bytes.len() > limits.module_bytes {
        return Err(ModuleError::TooLarge { module, bytes: bytes.len(), limit: limits.module_bytes });
    }
    let start = &bytes[..bytes.len().min(8)];
    match start {
        [0, b'a', b's', b'm', 1, 0, 0, 0] => Err(ModuleError::CoreModule { module }),
        [0, b'a', b's', b'm', _, _, _, _] => Ok(()),
        _ if b"\0asm".starts_with(start) || (start.starts_with(b"\0asm") && start.len() < 8) => {
            Err(ModuleError::Truncated { module, problem: format!("it has {} bytes", bytes.len()) })
        }
        _ => Err(ModuleError::NotWasm { module, start: hex::encode(start) }),
    }
}

fn refuse(module: ModuleHash, error: &BinaryReaderError) -> ModuleError {
    let problem = format!("{} (at byte {})", error.message(), error.offset());
    if error.message().starts_with("unexpected end") {
        ModuleError::Truncated { module, problem }
    } else {
        ModuleError::Invalid { module, problem }
    }
}

/// Top-level names, and how many core modules there are inside.
#[derive(Default)]
struct Outside {
    exports: Vec<String>,
    imports: Vec<String>,
    modules: u64,
}

fn outside(bytes: &[u8]) -> Result<Outside, BinaryReaderError> {
    let mut outside = Outside::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } => {
                outside.modules += 1;
                depth += 1;
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    outside.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    outside.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(outside)
}

/// What is needed must be there; more is allowed (scripting languages export helpers).
fn check_exports(
    module: ModuleHash,
    world: World,
    exports: &[String],
    types: &Types,
) -> Result<(), ModuleError> {
    let needed = export_of(world);
    let item = types.as_ref().component_item_for_export(needed);
    if let Some(ComponentEntityType::Instance(_)) = item.map(|item| item.ty) {
        return Ok(());
    }
    match exports.iter().find(|name| unversioned(name) == unversioned(needed) && *name != needed) {
        Some(found) => {
            Err(ModuleError::WrongVersion { module, found: shorten(found), served: needed.to_owned() })
        }
        None => {
            Err(ModuleError::MissingExport { module, world, name: needed.to_owned(), found: listed(exports) })
        }
    }
}

/// Nothing but what the world grants; an interface of types alone grants nothing.
fn check_imports(
    module: ModuleHash,
    world: World,
    imports: &[String],
    types: &Types,
) -> Result<(), ModuleError> {
    let types = types.as_ref();
    for name in imports {
        let item = types.component_item_for_import(name);
        let granted = match item.map(|item| item.ty) {
            Some(ComponentEntityType::Instance(id)) => {
                let only_types = types[id]
                    .exports
                    .values()
                    .all(|item| matches!(item.ty, ComponentEntityType::Type { .. }));
                grant_of(world) == Some(name) || (name == TYPES && only_types)
            }
            _ => false,
        };
        if !granted {
            return Err(ModuleError::ImportNotGranted { module, world, name: shorten(name) });
        }
    }
    Ok(())
}

pub(crate) fn check_count(
    module: ModuleHash,
    what: &'static str,
    has: u64,
    limit: u64,
) -> Result<(), ModuleError> {
    if has > limit { Err(ModuleError::Resources { module, what, has, limit }) } else { Ok(()) }
}

fn unversioned(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// Names come from the module: long ones are cut.
fn shorten(name: &str) -> String {
    name.chars().take(120).collect()
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let shown: Vec<_> = names.iter().take(8).map(|name| format!("`{}`", shorten(name))).collect();
    let more = if names.len() > 8 { format!(" and {} more", names.len() - 8) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
