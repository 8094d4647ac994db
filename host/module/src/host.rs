//! The module host itself.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moult_types::{ModuleHash, World};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, EngineWeak};

use crate::bindings;
use crate::cache::{Cache, Found};
use crate::check::{ModuleReport, check, check_count};
use crate::compile::{self, Compile, compatibility};
use crate::config::runtime_config;
use crate::error::ModuleError;
use crate::instance::HostData;
use crate::limits::Limits;
use crate::prepared::Prepared;
use crate::stats::{ModuleStats, add};

/// How a host is set up.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Folder of the machine code; made if it is not there. `None`: nothing is kept.
    pub cache_dir: Option<PathBuf>,
    /// Authenticates the cache: derived from this node's own key, known to no one else.
    pub cache_key: [u8; 32],
    /// Where modules are compiled.
    pub compile: Compile,
    /// What modules may use.
    pub limits: Limits,
}

/// Loads, checks, compiles and instantiates modules; one a process is enough.
pub struct ModuleHost {
    shared: Arc<Shared>,
    cache: Option<Cache>,
    compile: Compile,
}

/// What instances need of the host.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) limits: Limits,
    pub(crate) stats: Arc<ModuleStats>,
    pub(crate) engines: Places,
    pub(crate) calls: Places,
    linkers: [Linker<HostData>; 2],
    /// Its end stops the ticker.
    _ticker: Sender<()>,
}

impl ModuleHost {
    /// A host with its own pool of instances.
    ///
    /// # Errors
    /// [`ModuleError::Setup`]: the limits do not fit this machine (address space).
    pub fn new(config: HostConfig) -> Result<Self, ModuleError> {
        let setup = |error: wasmtime::Error| ModuleError::Setup { problem: format!("{error:#}") };
        let HostConfig { cache_dir, cache_key, compile, limits } = config;
        let engine = Engine::new(&runtime_config(&limits)).map_err(setup)?;
        let cache = cache_dir.map(|folder| Cache::new(folder, cache_key, compatibility(&engine), &limits));
        let nothing = Linker::new(&engine);
        let mut state = Linker::new(&engine);
        bindings::application::ReplicatedApplication::add_to_linker::<_, HasSelf<HostData>>(
            &mut state,
            |data| data,
        )
        .map_err(setup)?;
        let shared = Shared {
            engines: Places::new((limits.instances / 2).max(1)),
            calls: Places::new((limits.instances / 2).max(1)),
            _ticker: start_ticker(engine.weak()),
            linkers: [nothing, state],
            stats: Arc::default(),
            engine,
            limits,
        };
        Ok(Self { shared: Arc::new(shared), cache, compile })
    }

    /// Looks at a module without compiling it.
    ///
    /// # Errors
    /// What is wrong with it; see [`ModuleError`].
    pub fn check(&self, bytes: &[u8], world: World) -> Result<ModuleReport, ModuleError> {
        self.counted(self.inspect(bytes, ModuleHash::of(bytes), world))
    }

    /// Makes a module ready to run: checks hash and form, compiles it or takes the machine
    /// code from the cache, instantiates it once and asks what it is. Takes as long as
    /// [`Limits::compile_ms`] allows; blocks.
    ///
    /// # Errors
    /// What is wrong; see [`ModuleError`].
    pub fn prepare(
        &self,
        bytes: Arc<[u8]>,
        expected: ModuleHash,
        world: World,
    ) -> Result<Prepared, ModuleError> {
        self.counted(self.try_prepare(&bytes, expected, world))
    }

    /// Counters of this host.
    pub fn stats(&self) -> &Arc<ModuleStats> {
        &self.shared.stats
    }

    /// The limits of this host.
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Removes the machine code of all modules but these; returns how many files went.
    ///
    /// # Errors
    /// The folder cannot be read or a file not be removed.
    pub fn prune_cache(&self, keep: &[ModuleHash]) -> std::io::Result<usize> {
        let Some(cache) = &self.cache else { return Ok(0) };
        let keep: Vec<_> = keep.iter().map(|module| cache.path(*module)).collect();
        let mut removed = 0;
        for entry in std::fs::read_dir(cache.folder())? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == "code") && !keep.contains(&path) {
                std::fs::remove_file(path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn inspect(&self, bytes: &[u8], hash: ModuleHash, world: World) -> Result<ModuleReport, ModuleError> {
        check(bytes, hash, world, &self.shared.limits, self.shared.engine.get_wasm_features())
    }

    fn counted<T>(&self, result: Result<T, ModuleError>) -> Result<T, ModuleError> {
        if result.is_err() {
            add(&self.shared.stats.refused, 1);
        }
        result
    }

    fn try_prepare(&self, bytes: &[u8], expected: ModuleHash, world: World) -> Result<Prepared, ModuleError> {
        let found = ModuleHash::of(bytes);
        if found != expected {
            return Err(ModuleError::HashMismatch { expected, found });
        }
        let report = self.inspect(bytes, expected, world)?;
        let component = self.component(expected, bytes)?;
        self.check_resources(expected, world, &component)?;
        let linker = match world {
            World::Engine | World::Approval => &self.shared.linkers[0],
            World::Application => &self.shared.linkers[1],
        };
        let contract = |error: wasmtime::Error| ModuleError::Contract {
            module: expected,
            world,
            problem: format!("{error:#}"),
        };
        let pre = linker.instantiate_pre(&component).map_err(contract)?;
        Prepared::new(self.shared.clone(), report, pre)
    }

    /// From the cache if it can be trusted, else from the compiler.
    fn component(&self, module: ModuleHash, bytes: &[u8]) -> Result<Component, ModuleError> {
        let stats = &self.shared.stats;
        let loaded = match self.cache.as_ref().map_or(Found::Nothing, |cache| cache.load(module)) {
            Found::Code(code) => deserialize(&self.shared.engine, &code).ok(),
            Found::Nothing => {
                add(&stats.cache_misses, 1);
                None
            }
            Found::Rejected => {
                add(&stats.cache_rejected, 1);
                tracing::warn!(%module, "the cached machine code is damaged or not this node's: compiling again");
                None
            }
        };
        if let Some(component) = loaded {
            add(&stats.cache_hits, 1);
            return Ok(component);
        }
        let started = Instant::now();
        let code = compile::run(&self.compile, module, bytes, &self.shared.limits)?;
        let took_ms = started.elapsed().as_millis() as u64;
        add(&stats.compiled, 1);
        add(&stats.compile_ms, took_ms);
        tracing::info!(%module, took_ms, code_bytes = code.len(), "module compiled");
        if let Some(Err(error)) = self.cache.as_ref().map(|cache| cache.store(module, &code)) {
            tracing::warn!(%module, %error, "the machine code cannot be cached");
        }
        deserialize(&self.shared.engine, &code)
            .map_err(|error| ModuleError::Compile { module, problem: format!("{error:#}") })
    }

    fn check_resources(
        &self,
        module: ModuleHash,
        world: World,
        component: &Component,
    ) -> Result<(), ModuleError> {
        let limits = &self.shared.limits;
        let Some(needs) = component.resources_required() else {
            let problem = "it instantiates a module that it imports".to_owned();
            return Err(ModuleError::Contract { module, world, problem });
        };
        check_count(module, "memories", needs.num_memories.into(), limits.memories.into())?;
        check_count(module, "tables", needs.num_tables.into(), limits.tables.into())?;
        // Told in pages of 64 KiB.
        let memory = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(1 << 16);
        check_count(module, "bytes of initial memory", memory, limits.world(world).memory_bytes as u64)?;
        let table = needs.max_initial_table_size.unwrap_or(0);
        check_count(module, "entries in a table", table, limits.world(world).table_elements as u64)
    }
}

/// Loads machine code that this process compiled, or that the cache authenticated.
#[allow(unsafe_code, reason = "machine code has to be trusted; this is the only place that does")]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` was made by `Engine::precompile_component` of this very version of
    // wasmtime: it comes straight from our own worker process, or from a file whose tag,
    // under a key that only this node has, covers all of it. It is in memory, so that
    // nobody can change it between the check and this call.
    unsafe { Component::deserialize(engine, code) }
}

/// Counts the places for instances in the pool.
pub(crate) struct Places {
    free: Mutex<u32>,
    limit: u32,
    freed: Condvar,
}

/// A place taken; given back when dropped.
pub(crate) struct Place {
    shared: Arc<Shared>,
    of: fn(&Shared) -> &Places,
}

impl Places {
    fn new(limit: u32) -> Self {
        Self { free: Mutex::new(limit), limit, freed: Condvar::new() }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }
}

impl Place {
    /// A place for a long-lived engine, if there is one.
    pub(crate) fn of_engine(shared: &Arc<Shared>) -> Option<Self> {
        let mut free = shared.engines.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        Some(Self { shared: shared.clone(), of: |shared| &shared.engines })
    }

    /// A place for one call; waits for another call to end if all are taken.
    pub(crate) fn of_call(shared: &Arc<Shared>) -> Self {
        let places = &shared.calls;
        let free = places.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            places.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Self { shared: shared.clone(), of: |shared| &shared.calls }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = (self.of)(&self.shared);
        *places.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        places.freed.notify_one();
    }
}

/// Length of an epoch of the watchdog.
pub(crate) const TICK_MS: u64 = 50;

/// Moves the engine's epoch on until the sender is dropped.
fn start_ticker(engine: EngineWeak) -> Sender<()> {
    let (stop, stopped) = channel();
    std::thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(TICK_MS)) == Err(RecvTimeoutError::Timeout) {
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
        }
    });
    stop
}
