//! Running instances: stores, limits and faults.

pub(crate) mod application;
pub(crate) mod approval;
mod convert;
mod convert_approval;
pub(crate) mod engine;

use std::sync::Arc;

use moult_core::ports::Fault;
use moult_types::World;
use thiserror::Error;
use wasmtime::{ResourceLimiter, Store, Trap};

use crate::host::{Place, Shared, TICK_MS};
use crate::limits::CallLimits;
use crate::state::{GuestState, StateFault};
use crate::stats::WorldStats;

/// What belongs to a store.
pub(crate) struct HostData {
    memory_left: usize,
    memory_limit: usize,
    table_limit: usize,
    /// The map, for the length of an application's call.
    pub(crate) state: Option<GuestState>,
}

/// This machine failed, not the module.
#[derive(Debug, Error)]
#[error("this machine cannot grow a memory: {0}")]
struct LocalFailure(wasmtime::Error);

impl ResourceLimiter for HostData {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        if more > self.memory_left || maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.memory_left -= more;
        Ok(true)
    }

    /// A growth that the limits allow must not fail on one node alone: then the call ends.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        if error.downcast_ref::<std::io::Error>().is_some() {
            return Err(LocalFailure(error).into());
        }
        Ok(())
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= self.table_limit && maximum.is_none_or(|maximum| desired <= maximum))
    }
}

/// A store for one instance of a world.
pub(crate) fn store(shared: &Shared, world: World, state: Option<GuestState>) -> Store<HostData> {
    let limits = shared.limits.world(world);
    let data = HostData {
        memory_left: limits.memory_bytes,
        memory_limit: limits.memory_bytes,
        table_limit: limits.table_elements,
        state,
    };
    let mut store = Store::new(&shared.engine, data);
    store.limiter(|data| data);
    store.set_hostcall_fuel(limits.output_bytes);
    store
}

/// Fills up the budgets; to be called before anything of the module runs.
pub(crate) fn start(store: &mut Store<HostData>, limits: CallLimits) -> wasmtime::Result<()> {
    store.set_epoch_deadline(limits.watchdog_ms.div_ceil(TICK_MS).saturating_add(1));
    store.set_fuel(limits.fuel)
}

/// Runs one call within its limits, counts it, and says what went wrong.
pub(crate) fn run<T>(
    stats: &WorldStats,
    world: World,
    limits: CallLimits,
    store: &mut Store<HostData>,
    call: impl FnOnce(&mut Store<HostData>) -> wasmtime::Result<T>,
) -> Result<T, Fault> {
    let result = start(store, limits).and_then(|()| call(store));
    let left = store.get_fuel().unwrap_or(0);
    let memory_in_use = store.data().memory_limit - store.data().memory_left;
    let result = result.map_err(|error| fault(&error, limits));
    if let Err(fault) = &result {
        tracing::debug!(%world, %fault, memory_in_use, "a call into a module failed");
    }
    stats.count(limits.fuel.saturating_sub(left), memory_in_use, result.as_ref().err());
    result
}

/// Counts a fault that was found in an answer after the call.
pub(crate) fn bad_output(stats: &WorldStats, problem: String) -> Fault {
    crate::stats::add(&stats.bad_outputs, 1);
    Fault::Output(problem)
}

/// Texts hold no addresses and no backtrace: they are the same on every node.
fn fault(error: &wasmtime::Error, limits: CallLimits) -> Fault {
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return match trap {
            Trap::OutOfFuel => Fault::Budget { fuel: limits.fuel },
            Trap::Interrupt => Fault::Watchdog { limit_ms: limits.watchdog_ms },
            trap => Fault::Trap(trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        };
    }
    if let Some(state) = error.downcast_ref::<StateFault>() {
        return state_fault(state);
    }
    if let Some(local) = error.downcast_ref::<LocalFailure>() {
        tracing::error!(%local, "a call into a module failed for want of memory on this machine");
        return Fault::Watchdog { limit_ms: limits.watchdog_ms };
    }
    Fault::Output(error.root_cause().to_string())
}

/// A call that could not even begin, since this machine could not make an instance. The
/// module was instantiated once when it was prepared, so that it is not at fault.
pub(crate) fn no_instance(error: &wasmtime::Error, limits: CallLimits) -> Fault {
    match fault(error, limits) {
        Fault::Output(problem) => {
            tracing::error!(problem, "no instance can be made on this machine");
            Fault::Watchdog { limit_ms: limits.watchdog_ms }
        }
        fault => fault,
    }
}

pub(crate) fn state_fault(fault: &StateFault) -> Fault {
    match fault {
        StateFault::Work(limit) => Fault::Budget { fuel: *limit },
        fault => Fault::Trap(fault.to_string()),
    }
}

/// Makes an instance and drops it.
pub(crate) fn trial(
    shared: &Arc<Shared>,
    world: World,
    pre: &wasmtime::component::InstancePre<HostData>,
) -> wasmtime::Result<()> {
    let _place = Place::of_call(shared);
    let mut store = store(shared, world, None);
    let limits = shared.limits.world(world).call;
    start(&mut store, limits)?;
    pre.instantiate(&mut store).map(drop)
}
