//! Modules from a seed: good ones with damage, and such as no compiler would make. Each is
//! taken through the host as a node does it: checked, compiled in a child process, made an
//! instance of and called.
//!
//! What must hold: no panic; whatever is refused is refused by name and for the module's own
//! fault; every call ends within its budget, never by the watchdog; two instances that are
//! called alike answer alike.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arbitrary::Unstructured;
use moult_module::{Limits, ModuleError, ModuleHost, Prepared};
use moult_sim::Rng;
use moult_types::{ModuleHash, World};
use wasm_smith::Config;

use crate::calls::calls;
use crate::guest::{fill, module, try_component};

/// What is made from a seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A module of this repository, with some of its bytes changed.
    Mutant,
    /// A module generated over the functions of a world.
    Generated,
}

impl Kind {
    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mutant => "mutant",
            Self::Generated => "generated",
        }
    }
}

/// A promise that a module broke.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// From what.
    pub seed: u64,
    /// See `seed`.
    pub kind: Kind,
    /// What happened.
    pub problem: String,
    /// The module's bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, kind, problem, .. } = self;
        write!(
            f,
            "{} of seed {seed}: {problem}\nrepeat it: cargo run --release -p moult-hostile --bin fuzz-modules -- \
             --kind {} --first-seed {seed} --count 1",
            kind.name(),
            kind.name()
        )
    }
}

/// How modules ended, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally(pub BTreeMap<String, u64>);

impl Tally {
    pub(crate) fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, count)| *self.0.entry(what.clone()).or_default() += count);
    }

    /// Of what begins with these words.
    pub fn of(&self, words: &str) -> u64 {
        self.0.iter().filter(|(what, _)| what.starts_with(words)).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, count)| writeln!(f, "{count:>9}  {what}"))
    }
}

/// Limits under which a module is tried: small, so that every limit is met.
pub fn limits() -> Limits {
    let mut limits = Limits { instances: 8, module_bytes: 4 << 20, compile_ms: 10_000, ..Limits::default() };
    for world in [&mut limits.engine, &mut limits.approval, &mut limits.application] {
        world.memory_bytes = 16 << 20;
        world.output_bytes = 1 << 20;
        world.call.fuel = 5_000_000;
        world.call.state_work = 5_000_000;
    }
    limits.upgrade = limits.application.call;
    limits
}

/// Most damaged copies that a seed makes before one has the form of a component.
const TRIES: usize = 12;

/// Makes the module of a seed and tries it.
///
/// # Errors
/// What must not happen.
pub fn run_seed(host: &ModuleHost, kind: Kind, seed: u64) -> Result<Tally, Finding> {
    let mut bytes = Vec::new();
    let run = || {
        let mut rng = Rng::new(seed);
        let mut tally = Tally::default();
        match kind {
            Kind::Mutant => mutants(host, &mut rng, &mut bytes, &mut tally)?,
            Kind::Generated => generated(host, &mut rng, &mut bytes, &mut tally)?,
        }
        Ok(tally)
    };
    let result = catch_unwind(AssertUnwindSafe(run));
    result.unwrap_or_else(|_| Err("the host panicked".to_owned())).map_err(|problem| Finding {
        seed,
        kind,
        problem,
        bytes,
    })
}

/// The modules of this repository with their worlds; small ones more often, since a large
/// one takes a second to compile.
const MODULES: [(&str, World); 12] = [
    ("null", World::Application),
    ("null", World::Application),
    ("approve-valid", World::Approval),
    ("approve-valid", World::Approval),
    ("manual", World::Approval),
    ("kv", World::Application),
    ("kv", World::Application),
    ("kv2", World::Application),
    ("kv2", World::Application),
    ("raft", World::Engine),
    ("pbft", World::Engine),
    ("pbft-reverse", World::Engine),
];

fn pick_module(rng: &mut Rng) -> (&'static str, World) {
    MODULES[rng.below(MODULES.len() as u64) as usize]
}

fn mutants(host: &ModuleHost, rng: &mut Rng, bytes: &mut Vec<u8>, tally: &mut Tally) -> Result<(), String> {
    let (name, world) = pick_module(rng);
    for _ in 0..TRIES {
        *bytes = mutant(rng, name);
        let world = if rng.chance(30) { World::ALL[rng.below(3) as usize] } else { world };
        match host.check(bytes, world) {
            Ok(_) => return try_module(host, world, bytes, rng, tally),
            Err(error) => tally.count(format!("refused: {}", name_of(&error)?)),
        }
    }
    Ok(())
}

/// A module with a few changes.
fn mutant(rng: &mut Rng, name: &str) -> Vec<u8> {
    let mut bytes = module(name).to_vec();
    for _ in 0..rng.range(1, 4) {
        let length = bytes.len() as u64;
        let at = rng.below(length) as usize;
        let end = (at + rng.range(1, 24) as usize).min(bytes.len());
        match rng.below(20) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let copy = bytes[at..end].to_vec();
                let to = rng.below(length) as usize;
                bytes.splice(to..to, copy);
            }
            2 => {
                let from = rng.below(length) as usize;
                let copy: Vec<u8> = bytes.iter().skip(from).take(end - at).copied().collect();
                bytes.splice(at..end, copy);
            }
            3 => bytes.truncate(at.max(1)),
            4..8 => bytes[at] = *[0, 1, 0x40, 0x7f, 0x80, 0xff].get(rng.below(6) as usize).unwrap_or(&0),
            _ => bytes[at] ^= 1 << rng.below(8),
        }
    }
    bytes
}

fn generated(host: &ModuleHost, rng: &mut Rng, bytes: &mut Vec<u8>, tally: &mut Tally) -> Result<(), String> {
    match generate(rng) {
        Ok((world, made)) => {
            *bytes = made;
            try_module(host, world, bytes, rng, tally)
        }
        Err(what) => {
            tally.count(format!("not made: {what}"));
            Ok(())
        }
    }
}

/// A module with the imports and exports of a world and arbitrary code behind them.
fn generate(rng: &mut Rng) -> Result<(World, Vec<u8>), String> {
    let world = World::ALL[rng.below(3) as usize];
    let shape = wat::parse_str(fill(world, "")).map_err(|error| error.to_string())?;
    let all = rng.chance(50);
    let config = Config {
        module_shape: Some(shape),
        max_memories: 2,
        max_tables: if all { 4 } else { 1 },
        max_instructions: rng.range(20, 600) as usize,
        memory_max_size_required: false,
        // Now and then what this host has turned off; external references are, too.
        reference_types_enabled: all,
        memory64_enabled: all,
        gc_enabled: all,
        threads_enabled: all,
        exceptions_enabled: all,
        ..Config::default()
    };
    let raw: Vec<u8> = (0..rng.range(256, 16_384)).map(|_| rng.number() as u8).collect();
    let module = wasm_smith::Module::new(config, &mut Unstructured::new(&raw));
    let core = module.map_err(|error| error.to_string())?.to_bytes();
    let bytes = try_component(world, &core).map_err(|_| "no component can be made of it".to_owned())?;
    Ok((world, bytes))
}

/// From the bytes to calls.
fn try_module(
    host: &ModuleHost,
    world: World,
    bytes: &[u8],
    rng: &mut Rng,
    tally: &mut Tally,
) -> Result<(), String> {
    let prepared: Prepared = match host.prepare(bytes.into(), ModuleHash::of(bytes), world) {
        Ok(prepared) => prepared,
        Err(error) => {
            tally.count(format!("refused: {}", name_of(&error)?));
            return Ok(());
        }
    };
    tally.count(format!("came up: {world}"));
    let seed = rng.number();
    let first = calls(&prepared, world, &mut Rng::new(seed), tally)?;
    let second = calls(&prepared, world, &mut Rng::new(seed), &mut Tally::default())?;
    if first != second {
        return Err(format!("two instances differ:\n{first:?}\n{second:?}"));
    }
    Ok(())
}

/// The name of a refusal that is the module's own fault.
fn name_of(error: &ModuleError) -> Result<&'static str, String> {
    Ok(match error {
        ModuleError::Empty { .. } => "empty",
        ModuleError::TooLarge { .. } => "too large",
        ModuleError::NotWasm { .. } => "not WebAssembly",
        ModuleError::CoreModule { .. } => "a core module",
        ModuleError::Truncated { .. } => "truncated",
        ModuleError::Invalid { .. } => "invalid",
        ModuleError::MissingExport { .. } => "an export is missing",
        ModuleError::WrongVersion { .. } => "another version",
        ModuleError::ImportNotGranted { .. } => "an import is not granted",
        ModuleError::Resources { .. } => "resources",
        ModuleError::CompileTimeout { .. } => "compiling took too long",
        ModuleError::Compile { problem, .. } if problem.starts_with("the worker ended") => {
            "the compiler ended"
        }
        ModuleError::Compile { .. } => "the compiler refused",
        ModuleError::Contract { .. } => "the contract",
        other => return Err(format!("the host is at fault: {other}")),
    })
}
