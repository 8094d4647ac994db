//! `cargo xtask imports`: what the modules ask of a host.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use wasmparser::component_types::ComponentEntityType;
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

pub(crate) fn run(root: &Path, bless: bool) -> Result<()> {
    let folder = root.join("modules");
    let mut names: Vec<_> = std::fs::read_dir(&folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".wasm"))
        .collect();
    names.sort();
    let mut found = String::new();
    for name in names {
        let bytes = std::fs::read(folder.join(&name))?;
        let imports = imports(&bytes).with_context(|| format!("cannot read {name}"))?;
        writeln!(found, "{name}{}", if imports.is_empty() { ": nothing" } else { "" })?;
        for import in imports {
            writeln!(found, "  {import}")?;
        }
    }
    print!("{found}");
    let golden = folder.join("imports.golden");
    if bless {
        return Ok(std::fs::write(golden, found)?);
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    ensure!(found == expected, "this differs from {}:\n{expected}", golden.display());
    Ok(())
}

/// Top-level names of a component.
#[derive(Default)]
pub(crate) struct Outside {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

pub(crate) fn outside(bytes: &[u8]) -> Result<Outside> {
    let mut outside = Outside::default();
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
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

/// One line an import: its name and its functions.
fn imports(bytes: &[u8]) -> Result<Vec<String>> {
    let types = Validator::new_with_features(WasmFeatures::default()).validate_all(bytes)?;
    let types = types.as_ref();
    let mut lines = Vec::new();
    for name in outside(bytes)?.imports {
        let item = types.component_item_for_import(&name).context("an untyped import")?;
        let ComponentEntityType::Instance(id) = item.ty else {
            lines.push(format!("{name}: not an instance"));
            continue;
        };
        let of_types = |ty: &ComponentEntityType| matches!(ty, ComponentEntityType::Type { .. });
        let exports = types[id].exports.iter().filter(|(_, item)| !of_types(&item.ty));
        let mut functions: Vec<_> = exports.map(|(name, _)| name.as_str()).collect();
        functions.sort_unstable();
        let what = if functions.is_empty() { "types only".into() } else { functions.join(" ") };
        lines.push(format!("{name}: {what}"));
    }
    Ok(lines)
}
