//! Counters for metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moult_core::ports::Fault;
use moult_types::World;

/// Counters of a host, of its calls by world; each only rises.
#[derive(Debug, Default)]
pub struct ModuleStats {
    worlds: [Arc<WorldStats>; 3],
    /// Modules whose machine code came from the cache.
    pub cache_hits: AtomicU64,
    /// Modules that were not in the cache.
    pub cache_misses: AtomicU64,
    /// Files of the cache that were damaged or not this node's; each was recompiled.
    pub cache_rejected: AtomicU64,
    /// Compilations that ended well.
    pub compiled: AtomicU64,
    /// Time they took together, in milliseconds.
    pub compile_ms: AtomicU64,
    /// Modules refused, for whatever reason.
    pub refused: AtomicU64,
}

/// Counters of a world.
#[derive(Debug, Default)]
pub struct WorldStats {
    /// Calls into modules.
    pub calls: AtomicU64,
    /// Fuel that they used.
    pub fuel: AtomicU64,
    /// Calls that trapped.
    pub traps: AtomicU64,
    /// Calls that used up their budget.
    pub budget_stops: AtomicU64,
    /// Calls that the watchdog stopped, and local failures of this machine.
    pub watchdog_stops: AtomicU64,
    /// Answers that broke the contract.
    pub bad_outputs: AtomicU64,
    /// Most linear memory that an instance had at the end of a call, in bytes.
    pub memory_bytes: AtomicU64,
}

impl ModuleStats {
    /// The counters of a world.
    pub fn world(&self, world: World) -> &Arc<WorldStats> {
        match world {
            World::Engine => &self.worlds[0],
            World::Approval => &self.worlds[1],
            World::Application => &self.worlds[2],
        }
    }
}

impl WorldStats {
    pub(crate) fn count(&self, fuel: u64, memory_bytes: usize, fault: Option<&Fault>) {
        add(&self.calls, 1);
        add(&self.fuel, fuel);
        self.memory_bytes.fetch_max(memory_bytes as u64, Ordering::Relaxed);
        match fault {
            None => {}
            Some(Fault::Trap(_)) => add(&self.traps, 1),
            Some(Fault::Budget { .. }) => add(&self.budget_stops, 1),
            Some(Fault::Watchdog { .. }) => add(&self.watchdog_stops, 1),
            Some(Fault::Output(_)) => add(&self.bad_outputs, 1),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
