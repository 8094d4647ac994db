//! Modules as named on the command line: `--engine`, `--approval`, `--application`, `--config`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use moult_module::{Compile, CompileWorker, HostConfig, Limits, ModuleHost};
use moult_node::genesis::PinFile;
use moult_types::{ModuleHash, ModulePin, World};

use crate::builtin::{builtin, name_of, names};

/// Which modules. Each is the name of a built-in module, a file, or `sha256:<hex>`.
#[derive(Args, Clone, Default)]
pub(crate) struct PinArgs {
    /// The engine, which orders: NAME, FILE or HASH.
    #[arg(long, value_name = "MODULE")]
    pub(crate) engine: Option<String>,
    /// The approval policy, which decides a node's votes: NAME, FILE or HASH.
    #[arg(long, value_name = "MODULE")]
    pub(crate) approval: Option<String>,
    /// The application, which holds the state: NAME, FILE or HASH.
    #[arg(long, value_name = "MODULE")]
    pub(crate) application: Option<String>,
    /// The configuration of a world's module, from a file; may be given for each world.
    #[arg(long, value_name = "WORLD=FILE", value_parser = parse_config)]
    pub(crate) config: Vec<(World, PathBuf)>,
}

fn parse_config(text: &str) -> Result<(World, PathBuf), String> {
    let (world, file) = text.split_once('=').ok_or("expected WORLD=FILE, such as engine=pbft.conf")?;
    Ok((world.parse().map_err(|e| format!("{e}"))?, file.into()))
}

/// A module that was chosen.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) hash: ModuleHash,
    /// Nothing where only the hash was given.
    pub(crate) bytes: Option<Cow<'static, [u8]>>,
    /// For messages and file names: the name or the stem of the file.
    pub(crate) name: String,
    /// Came as a file, not with this program.
    pub(crate) from_file: bool,
}

impl PinArgs {
    /// What was chosen, by world.
    pub(crate) fn chosen(&self) -> anyhow::Result<BTreeMap<World, Chosen>> {
        let mut chosen = BTreeMap::new();
        for (world, text) in [
            (World::Engine, &self.engine),
            (World::Approval, &self.approval),
            (World::Application, &self.application),
        ] {
            if let Some(text) = text {
                chosen.insert(world, choose(world, text).with_context(|| format!("--{world}"))?);
            }
        }
        Ok(chosen)
    }

    /// The same with the default for each world that was left out.
    pub(crate) fn chosen_or_default(&self) -> anyhow::Result<BTreeMap<World, Chosen>> {
        let or =
            |given: &Option<String>, default: &str| Some(given.clone().unwrap_or_else(|| default.to_owned()));
        let all = Self {
            engine: or(&self.engine, "pbft"),
            approval: or(&self.approval, "approve-valid"),
            application: or(&self.application, "kv"),
            config: Vec::new(),
        };
        all.chosen()
    }

    /// The configurations, read.
    pub(crate) fn configs(&self) -> anyhow::Result<BTreeMap<World, Vec<u8>>> {
        let mut configs = BTreeMap::new();
        for (world, path) in &self.config {
            let bytes =
                std::fs::read(path).with_context(|| format!("--config: cannot read {}", path.display()))?;
            if configs.insert(*world, bytes).is_some() {
                bail!("--config: two configurations for the world `{world}`");
            }
        }
        Ok(configs)
    }

    /// Pins for all worlds, defaults included.
    pub(crate) fn pins(&self) -> anyhow::Result<(BTreeMap<World, Chosen>, BTreeMap<World, PinFile>)> {
        let chosen = self.chosen_or_default()?;
        let mut configs = self.configs()?;
        let pin = |(world, chosen): (&World, &Chosen)| {
            let config = configs.remove(world).unwrap_or_default();
            (*world, PinFile::from(&ModulePin { hash: chosen.hash, config }))
        };
        let pins = chosen.iter().map(pin).collect();
        Ok((chosen, pins))
    }
}

/// A module by name, hash or file; its bytes, if known, are checked for the world.
pub(crate) fn choose(world: World, text: &str) -> anyhow::Result<Chosen> {
    if let Some(module) = builtin(text) {
        if module.world != world {
            bail!("`{text}` is for the world `{}`; built in for `{world}`: {}", module.world, names(world));
        }
        let hash = module.hash.parse()?;
        let bytes = Some(Cow::Borrowed(module.bytes));
        return Ok(Chosen { hash, bytes, name: text.to_owned(), from_file: false });
    }
    let path = Path::new(text);
    if path.is_file() {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {text}"))?;
        checker()?.check(&bytes, world)?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(Chosen {
            hash: ModuleHash::of(&bytes),
            bytes: Some(Cow::Owned(bytes)),
            name,
            from_file: true,
        });
    }
    match text.parse::<ModuleHash>() {
        Ok(hash) => {
            let name = name_of(hash);
            let bytes = name.and_then(builtin).map(|module| Cow::Borrowed(module.bytes));
            Ok(Chosen { hash, bytes, name: name.unwrap_or("module").to_owned(), from_file: false })
        }
        Err(_) => bail!(
            "`{text}` is no built-in module for the world `{world}` ({}), no file, and no hash (sha256:<64 hex digits>)",
            names(world)
        ),
    }
}

/// A module by its name, if it is a built-in one, and the beginning of its hash.
pub(crate) fn label(hash: ModuleHash) -> String {
    match name_of(hash) {
        Some(name) => format!("{name} ({hash:?})"),
        None => format!("{hash:?}"),
    }
}

/// A module host that checks as a node would, and has room for little else.
pub(crate) fn checker() -> anyhow::Result<ModuleHost> {
    host_for(4)
}

/// The same with room for so many instances, half of them engines.
pub(crate) fn host_for(instances: u32) -> anyhow::Result<ModuleHost> {
    host_with(Limits { instances, ..Limits::default() })
}

/// The same under any limits.
pub(crate) fn host_with(limits: Limits) -> anyhow::Result<ModuleHost> {
    let compile = Compile::Worker(compile_worker());
    Ok(ModuleHost::new(HostConfig { cache_dir: None, cache_key: [0; 32], compile, limits })?)
}

/// This program, as the compiler of its own modules.
pub(crate) fn compile_worker() -> CompileWorker {
    CompileWorker { program: own_program(), args: vec!["compile-worker".into()] }
}

/// This program; on Linux also after its file was replaced by a newer one.
pub(crate) fn own_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if link.exists() { link.to_owned() } else { std::env::current_exe().unwrap_or_else(|_| "moult".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hashes_and_files_are_told_apart() {
        let kv = builtin("kv").expect("built in");
        let by_name = choose(World::Application, "kv").expect("by name");
        let by_hash = choose(World::Application, kv.hash).expect("by hash");
        assert_eq!((by_name.hash, by_name.bytes.is_some()), (by_hash.hash, by_hash.bytes.is_some()));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mine.wasm");
        std::fs::write(&file, kv.bytes).expect("written");
        let by_file = choose(World::Application, &file.to_string_lossy()).expect("by file");
        assert_eq!((by_file.hash, by_file.name.as_str(), by_file.from_file), (by_name.hash, "mine", true));
    }

    #[test]
    fn the_wrong_thing_is_refused_with_what_there_is() {
        let error = choose(World::Approval, "kv").expect_err("another world").to_string();
        assert!(error.contains("application") && error.contains("approve-valid"), "{error}");
        let error = choose(World::Approval, "nonsense").expect_err("nothing").to_string();
        assert!(error.contains("no built-in") && error.contains("sha256"), "{error}");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("kv.wasm");
        std::fs::write(&file, builtin("kv").expect("built in").bytes).expect("written");
        assert!(choose(World::Approval, &file.to_string_lossy()).is_err(), "a file for another world");
    }

    #[test]
    fn configurations_name_their_world() {
        assert_eq!(parse_config("engine=a=b"), Ok((World::Engine, "a=b".into())));
        assert!(parse_config("engine").is_err());
        assert!(parse_config("enigne=a").is_err());
    }
}
