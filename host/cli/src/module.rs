//! `moult module`: files, and the modules of a node.

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use moult_module::ModuleReport;
use moult_node::api_types::ModuleBody;
use moult_types::{ModuleHash, World};
use serde_json::json;

use crate::builtin::{BUILTIN, Builtin};
use crate::client::{ApiArgs, Client, ClientError};
use crate::conform;
use crate::failure::negative;
use crate::output::{self, grouped, say, table};
use crate::pins::{checker, label};

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what a module is: world, imports, exports, size, hash, and what it may use.
    Inspect { file: PathBuf },
    /// Print a module's hash.
    Hash { file: PathBuf },
    /// Check a module as a node would: form, imports, exports, compilation, instantiation.
    Verify {
        file: PathBuf,
        /// The world it is for [default: the one whose interface it exports].
        #[arg(long)]
        world: Option<World>,
    },
    /// Run the conformance suite on an engine: probes, scenarios, seeded faults. Takes minutes.
    Conform(conform::Args),
    /// Compare a module with modules.lock; within a checkout also build it from source.
    RebuildCheck {
        file: PathBuf,
        /// Only compare the hash.
        #[arg(long)]
        no_build: bool,
    },
    /// List the modules that came with this program.
    Builtin,
    /// List the modules that a node holds.
    List(ApiArgs),
    /// Give a node a module, without proposing it.
    Add {
        #[command(flatten)]
        api: ApiArgs,
        file: PathBuf,
    },
}

pub(crate) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    match args.command {
        Command::Inspect { file } => inspect(&file, json),
        Command::Hash { file } => hash(&file, json),
        Command::Verify { file, world } => verify(&file, world, json),
        Command::Conform(args) => conform::run(&args, json),
        Command::RebuildCheck { file, no_build } => rebuild_check(&file, no_build, json),
        Command::Builtin => list_builtin(json),
        Command::List(api) => list(&mut api.client()?, json).await,
        Command::Add { api, file } => add(&mut api.client()?, &file, json).await,
    }
}

pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn hash(file: &Path, json: bool) -> anyhow::Result<()> {
    let hash = ModuleHash::of(&read(file)?);
    if json {
        return output::json(&json!({ "hash": hash }));
    }
    say!("{hash}");
    Ok(())
}

/// The world whose interface it exports, or why it fits none.
pub(crate) fn fit(bytes: &[u8], world: Option<World>) -> anyhow::Result<ModuleReport> {
    let host = checker()?;
    if let Some(world) = world {
        return host.check(bytes, world).map_err(|e| negative(e.to_string()));
    }
    let mut refusals = Vec::new();
    for world in World::ALL {
        match host.check(bytes, world) {
            Ok(report) => return Ok(report),
            Err(error) => refusals.push(error),
        }
    }
    // The most telling refusal is one that got past the exports.
    let told =
        |error: &moult_module::ModuleError| !matches!(error, moult_module::ModuleError::MissingExport { .. });
    let best = refusals.iter().position(told).unwrap_or(0);
    Err(negative(refusals[best].to_string()))
}

fn inspect(file: &Path, json: bool) -> anyhow::Result<()> {
    let bytes = read(file)?;
    let report = fit(&bytes, None)?;
    let limits = moult_module::Limits::default();
    let world = limits.world(report.world);
    let known = in_lock(report.hash);
    if json {
        return output::json(&json!({
            "hash": report.hash,
            "bytes": report.bytes,
            "world": report.world,
            "exports": report.exports,
            "imports": report.imports,
            "builtin": known.map(|module| module.name),
            "limits": {
                "module_bytes": limits.module_bytes,
                "memory_bytes": world.memory_bytes,
                "output_bytes": world.output_bytes,
                "fuel_per_call": world.call.fuel,
            },
        }));
    }
    say!("{}", file.display());
    say!("  hash     {}", report.hash);
    say!("  bytes    {} of at most {}", grouped(report.bytes as u64), grouped(limits.module_bytes as u64));
    say!("  world    {}", report.world);
    say!("  exports  {}", report.exports.join("\n           "));
    let imports =
        if report.imports.is_empty() { "nothing".to_owned() } else { report.imports.join("\n           ") };
    say!("  imports  {imports}");
    say!(
        "  may use  {} MiB of memory, {} MiB of output a call, {} units of fuel a call",
        world.memory_bytes >> 20,
        world.output_bytes >> 20,
        grouped(world.call.fuel)
    );
    if let Some(module) = known {
        say!("  is       {} {}, built in and in modules.lock", module.name, module.version);
    }
    Ok(())
}

fn verify(file: &Path, world: Option<World>, json: bool) -> anyhow::Result<()> {
    let bytes: Arc<[u8]> = read(file)?.into();
    let report = fit(&bytes, world)?;
    let prepared = checker()?.prepare(bytes, report.hash, report.world);
    let prepared = prepared.map_err(|e| negative(e.to_string()))?;
    let (name, version) = (prepared.info().name(), prepared.info().version());
    if json {
        let world = report.world;
        return output::json(
            &json!({ "valid": true, "hash": report.hash, "world": world, "name": name, "version": version }),
        );
    }
    say!("{}: valid for the world `{}`; it calls itself {name} {version}", file.display(), report.world);
    say!("  {}", report.hash);
    Ok(())
}

fn in_lock(hash: ModuleHash) -> Option<&'static Builtin> {
    let hash = hash.to_string();
    BUILTIN.iter().find(|module| module.hash == hash)
}

fn rebuild_check(file: &Path, no_build: bool, json: bool) -> anyhow::Result<()> {
    let hash = ModuleHash::of(&read(file)?);
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let Some(module) = in_lock(hash) else {
        return Err(negative(match BUILTIN.iter().find(|module| module.name == stem) {
            Some(module) => format!(
                "{} is {hash}; modules.lock has {} {} as {}: it is another build, or not from this source",
                file.display(),
                module.name,
                module.version,
                module.hash
            ),
            None => format!("{} ({hash}) is not in modules.lock of this version", file.display()),
        }));
    };
    if !json {
        say!("{} is {} {} of modules.lock, byte for byte", file.display(), module.name, module.version);
        say!("  {hash}");
        say!("  built with {}", module.compiler);
    }
    let checkout = checkout().filter(|_| !no_build);
    let rebuilt = match &checkout {
        Some(root) => Some(rebuild(root, module.name, json)?),
        None => None,
    };
    if json {
        output::json(
            &json!({ "hash": hash, "name": module.name, "compiler": module.compiler, "rebuilt": rebuilt }),
        )?;
    } else if checkout.is_none() {
        say!(
            "To build it from source and compare: `cargo xtask modules --check --only {}` in a checkout.",
            module.name
        );
    }
    if rebuilt == Some(false) {
        Err(negative(format!("building {} afresh gives something else", module.name)))
    } else {
        Ok(())
    }
}

/// The checkout that the current folder lies in.
fn checkout() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let root =
        here.ancestors().find(|dir| dir.join("modules/modules.lock").is_file() && dir.join("xtask").is_dir());
    root.map(Path::to_owned)
}

/// Builds it from the sources there, and tells whether the hash comes out.
fn rebuild(root: &Path, name: &str, json: bool) -> anyhow::Result<bool> {
    let mut cargo = Process::new("cargo");
    cargo.current_dir(root).args(["run", "--release", "--quiet", "--package", "xtask", "--"]);
    cargo.args(["modules", "--check", "--only", name]);
    if json {
        cargo.stdout(std::io::stderr());
    }
    let status =
        cargo.status().context("cannot run cargo: is it installed? (--no-build only compares the hash)")?;
    Ok(status.success())
}

fn list_builtin(json: bool) -> anyhow::Result<()> {
    if json {
        let entry = |module: &Builtin| json!({ "name": module.name, "version": module.version, "world": module.world, "hash": module.hash, "bytes": module.bytes.len() });
        return output::json(&BUILTIN.iter().map(entry).collect::<Vec<_>>());
    }
    let mut rows = vec![["NAME", "VERSION", "WORLD", "BYTES", "HASH"].map(String::from).to_vec()];
    for Builtin { name, version, world, hash, bytes, .. } in BUILTIN {
        rows.push(vec![
            (*name).into(),
            (*version).into(),
            world.to_string(),
            grouped(bytes.len() as u64),
            (*hash).into(),
        ]);
    }
    table(&rows);
    Ok(())
}

async fn list(client: &mut Client, json: bool) -> anyhow::Result<()> {
    let modules: Vec<ModuleBody> = client.get("/v1/modules").await?;
    if json {
        return output::json(&modules);
    }
    let mut rows = vec![["MODULE", "BYTES", "PINNED FOR", "HASH"].map(String::from).to_vec()];
    for module in modules {
        let pinned: Vec<_> = module.pinned.iter().map(|world| world.name()).collect();
        let pinned = if pinned.is_empty() { "-".to_owned() } else { pinned.join(", ") };
        rows.push(vec![label(module.hash), grouped(module.bytes), pinned, module.hash.to_string()]);
    }
    table(&rows);
    Ok(())
}

async fn add(client: &mut Client, file: &Path, json: bool) -> anyhow::Result<()> {
    let bytes = read(file)?;
    let report = fit(&bytes, None)?;
    upload(client, report.hash, &bytes).await?;
    if json {
        return output::json(&json!({ "hash": report.hash, "bytes": bytes.len() }));
    }
    say!(
        "{} holds {} now; propose it with `moult propose --{} {}`",
        client.url(),
        report.hash,
        report.world,
        report.hash
    );
    Ok(())
}

/// Gives a node the bytes of a module.
pub(crate) async fn upload(client: &mut Client, hash: ModuleHash, bytes: &[u8]) -> Result<(), ClientError> {
    let headers = [("content-type", "application/wasm")];
    client.call("PUT", &format!("/v1/modules/{hash}"), &headers, bytes).await.map(|_| ())
}
