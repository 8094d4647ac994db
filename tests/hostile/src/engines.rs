//! The broken engine in the simulator: every kind of it, natively or as the component that a
//! node would load, in whole clusters with all other faults.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use moult_broken::{Broken, Kind};
use moult_module::{Compile, HostConfig, Limits, ModuleHost, Prepared};
use moult_sim::{EngineModule, Modules, Plan, Report, Violation, run};
use moult_types::{ModuleHash, World};

use crate::guest::module;

/// The component of the broken engine, as checked in.
pub const BROKEN: &[u8] = include_bytes!("../modules/broken.wasm");

/// Instances for one thread, as `moult sim` has it.
const INSTANCES_A_THREAD: u32 = 64;

/// The modules of a run, with PBFT to begin with and to fall back to; as components for so many
/// threads, or as native code.
pub struct Bench {
    modules: Modules,
    broken: EngineModule,
}

/// What all runs with one kind of broken engine came to.
#[derive(Default)]
pub struct Tally {
    /// Sums.
    pub report: Report,
    /// Runs.
    pub seeds: u64,
    /// Those that broke a promise, by seed.
    pub failed: BTreeMap<u64, Violation>,
}

impl Bench {
    /// Everything as native code.
    pub fn native() -> Self {
        Self { modules: Modules::pbft(), broken: EngineModule::native::<Broken>("broken") }
    }

    /// Everything as components, in a module host as a node has it.
    ///
    /// # Errors
    /// What could not be loaded, for a person.
    pub fn components(threads: u32) -> Result<Self, String> {
        let limits = Limits { instances: INSTANCES_A_THREAD * threads.max(1), ..Limits::default() };
        let config = HostConfig { cache_dir: None, cache_key: [0; 32], compile: Compile::InProcess, limits };
        let host = ModuleHost::new(config).map_err(|e| e.to_string())?;
        let prepare = |bytes: &[u8], world| -> Result<Prepared, String> {
            host.prepare(bytes.into(), ModuleHash::of(bytes), world).map_err(|e| e.to_string())
        };
        let engine = |name: &str, bytes: &[u8]| -> Result<EngineModule, String> {
            EngineModule::component(name, prepare(bytes, World::Engine)?)
                .ok_or(format!("{name} is no engine"))
        };
        let engines = ["pbft", "pbft-reverse"].map(|name| engine(name, &module(name)));
        let engines = engines.into_iter().collect::<Result<_, _>>()?;
        let kv = |name: &str| prepare(&module(name), World::Application);
        let policy = prepare(&module("approve-valid"), World::Approval)?;
        let modules = Modules::components(engines, [kv("kv")?, kv("kv2")?], policy);
        Ok(Self { modules: modules.ok_or("a module of another world")?, broken: engine("broken", BROKEN)? })
    }

    /// One run, in which the chain is moved to this kind again and again.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(&self, kind: Kind, seed: u64, trace: bool) -> Result<Report, Violation> {
        let modules = self.modules.clone();
        let modules = modules.with_broken(self.broken.clone(), &format!("broken={}\n", kind.name()));
        run(seed, &Plan::broken(), &modules, trace)
    }

    /// Many seeds of one kind, on so many threads; `told` hears of each as it ends.
    pub fn campaign(
        &self,
        kind: Kind,
        seeds: std::ops::Range<u64>,
        threads: usize,
        told: impl Fn(u64, Option<&Violation>) + Sync,
    ) -> Tally {
        let (next, tally) = (AtomicU64::new(seeds.start), Mutex::new(Tally::default()));
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            return;
                        }
                        let result = self.run(kind, seed, false);
                        told(seed, result.as_ref().err());
                        let Ok(mut tally) = tally.lock() else { return };
                        tally.seeds += 1;
                        match result {
                            Ok(report) => tally.report.add(&report),
                            Err(violation) => drop(tally.failed.insert(seed, violation)),
                        }
                    }
                });
            }
        });
        tally.into_inner().unwrap_or_default()
    }
}
