//! Hosts and modules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moult_core::ports::ApplicationInstance;
use moult_module::{Compile, HostConfig, Limits, ModuleError, ModuleHost, Prepared};
use moult_sdk::application::Block;
use moult_types::state::Overlay;
use moult_types::{ModuleHash, World};

pub(crate) const BLOCK: Block = Block { global_index: 7, epoch: 1, time_ms: 1_700_000_000_000 };

/// Compiles in this process and keeps nothing.
pub(crate) fn host() -> ModuleHost {
    let (compile, limits) = (Compile::InProcess, Limits::default());
    ModuleHost::new(HostConfig { cache_dir: None, cache_key: [7; 32], compile, limits }).expect("a host")
}

/// A module of this repository: as checked in, or from MOULT_MODULES_DIR.
pub(crate) fn module(name: &str) -> Arc<[u8]> {
    let folder = std::env::var_os("MOULT_MODULES_DIR").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../modules"));
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

pub(crate) fn prepare(host: &ModuleHost, bytes: &[u8], world: World) -> Result<Prepared, ModuleError> {
    host.prepare(bytes.into(), ModuleHash::of(bytes), world)
}

pub(crate) fn application(host: &ModuleHost, bytes: &[u8]) -> Arc<dyn ApplicationInstance> {
    let prepared = prepare(host, bytes, World::Application).expect("an application");
    prepared.application().expect("an application")
}

pub(crate) fn empty_state() -> Overlay {
    Overlay::new(Arc::new(BTreeMap::new()), 1)
}
