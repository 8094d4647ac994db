//! The settings that every node must share for modules to behave alike.

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy, WasmFeatures,
};

use crate::limits::Limits;

/// Stack of a module, in bytes. With the same machine code the depth at which recursion
/// traps is the same.
pub(crate) const STACK_BYTES: usize = 512 << 10;

/// Settings of the compiler and of the runtime for deterministic execution.
///
/// Why each is there:
/// - no threads, shared memory, stack switching, async: one order of execution;
/// - NaN bits are canonical, relaxed SIMD has its deterministic meaning: one result on
///   every processor;
/// - no garbage collection, exceptions, 64-bit memories: not needed, less to trust;
/// - fuel stops a call at the same instruction everywhere, under one compiler version; the
///   epoch is a watchdog against what fuel does not see;
/// - one code generator at one level, compiled on one thread.
pub fn deterministic_config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .concurrency_support(false)
        .shared_memory(false)
        .wasm_component_model(true)
        .relaxed_simd_deterministic(true)
        .wasm_features(off_features(), false)
        .memory_reservation(MEMORY_SLOT_BYTES as u64)
        .memory_guard_size(32 << 20)
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_backtrace_max_frames(None)
        .memory_init_cow(true);
    config
}

/// Features that no module may use.
fn off_features() -> WasmFeatures {
    WasmFeatures::THREADS
        | WasmFeatures::SHARED_EVERYTHING_THREADS
        | WasmFeatures::MEMORY64
        | WasmFeatures::GC
        | WasmFeatures::GC_TYPES
        | WasmFeatures::FUNCTION_REFERENCES
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::LEGACY_EXCEPTIONS
        | WasmFeatures::STACK_SWITCHING
        | WasmFeatures::CUSTOM_PAGE_SIZES
        | WasmFeatures::WIDE_ARITHMETIC
        | WasmFeatures::CM_ASYNC
        | WasmFeatures::CM_THREADING
        | WasmFeatures::CM_ERROR_CONTEXT
}

/// The same with this host's pool of instances, which does not reach the machine code.
pub(crate) fn runtime_config(limits: &Limits) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(limits.instances)
        .total_core_instances(limits.instances.saturating_mul(8).max(limits.core_instances))
        .total_memories(limits.instances.saturating_add(limits.memories))
        .total_tables(limits.instances.saturating_mul(4).max(limits.tables))
        .max_core_instances_per_component(limits.core_instances)
        // What a component may really have is checked by name and number when it is
        // prepared, and again as it grows.
        .max_memories_per_component(VALID_MAX)
        .max_memories_per_module(VALID_MAX)
        .max_tables_per_component(VALID_MAX)
        .max_tables_per_module(VALID_MAX)
        .max_memory_size(MEMORY_SLOT_BYTES)
        .table_elements(TABLE_SLOT_ELEMENTS)
        .max_component_instance_size(MAX_INSTANCE_BYTES)
        .max_core_instance_size(MAX_INSTANCE_BYTES)
        .linear_memory_keep_resident(MEMORY_KEPT_BYTES)
        .table_keep_resident(TABLE_KEPT_BYTES)
        .pagemap_scan(Enabled::Auto);
    let mut config = deterministic_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Memories and tables of any module that the validator lets through.
const VALID_MAX: u32 = 100;

/// Address space of a memory: all that 32 bits reach, so that no access needs a check.
const MEMORY_SLOT_BYTES: usize = 4 << 30;

/// Address space of a table: 8 MiB.
const TABLE_SLOT_ELEMENTS: usize = 1 << 20;

/// Bookkeeping of one instance (imports, globals, functions): scripting languages need
/// some hundred kilobytes.
const MAX_INSTANCE_BYTES: usize = 4 << 20;

/// Memory of a slot that is set back by hand rather than given back to the kernel and faulted
/// in anew, page by page, by the next instance; an application has one for each block. Where
/// the kernel tells which pages were written (Linux 6.7), only those of them count.
const MEMORY_KEPT_BYTES: usize = 1 << 20;

/// The same of a table.
const TABLE_KEPT_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Engine;

    #[test]
    fn the_settings_are_the_deterministic_ones() {
        let engine = Engine::new(&deterministic_config()).expect("an engine");
        assert_eq!(engine.get_cranelift_nan_canonicalization(), Some(true));
        assert!(engine.get_relaxed_simd_deterministic());
        assert!(engine.get_consume_fuel());
        assert!(engine.get_epoch_interruption());
        assert!(!engine.get_concurrency_support());
        assert!(!engine.get_shared_memory());
        assert_eq!(engine.get_strategy(), Some(Strategy::Cranelift));
        assert_eq!(engine.get_cranelift_opt_level(), Some(OptLevel::Speed));
        assert_eq!(engine.get_max_wasm_stack(), STACK_BYTES);
        // All features, spelled out: a new version of the runtime must not add one unseen.
        let expected = WasmFeatures::MUTABLE_GLOBAL
            | WasmFeatures::SATURATING_FLOAT_TO_INT
            | WasmFeatures::SIGN_EXTENSION
            | WasmFeatures::REFERENCE_TYPES
            | WasmFeatures::MULTI_VALUE
            | WasmFeatures::BULK_MEMORY
            | WasmFeatures::SIMD
            | WasmFeatures::RELAXED_SIMD
            | WasmFeatures::TAIL_CALL
            | WasmFeatures::FLOATS
            | WasmFeatures::MULTI_MEMORY
            | WasmFeatures::EXTENDED_CONST
            | WasmFeatures::COMPONENT_MODEL;
        let found = engine.get_wasm_features();
        assert_eq!(found, expected, "more: {:?}, less: {:?}", found - expected, expected - found);
    }

    #[test]
    fn the_pool_does_not_reach_the_machine_code() {
        use crate::compile::compatibility;
        let plain = Engine::new(&deterministic_config()).expect("an engine");
        let pooled = Engine::new(&runtime_config(&Limits::default())).expect("an engine");
        assert_eq!(compatibility(&plain), compatibility(&pooled));
    }
}
