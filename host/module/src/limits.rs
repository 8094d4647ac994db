//! What a module may use.

use moult_types::World;

/// All limits of a host, each with its reason.
///
/// The memory, table and output limits decide whether a module traps, and so may decide
/// replicated state: keep them equal on all nodes of a chain. Fuel and times are local
/// stops. Worst case of linear memory on this machine: `instances` times the largest
/// `memory_bytes`; what is in use is what the running modules have touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest module, in bytes (32 MiB: a Python component has 18).
    pub module_bytes: usize,
    /// Longest compilation, in milliseconds (60 s: an 18 MiB component takes 30).
    pub compile_ms: u64,
    /// Address space of the compile worker, in bytes (2 GiB).
    pub compile_memory_bytes: u64,
    /// Largest machine code, in bytes (512 MiB: about ten times a large module).
    pub artefact_bytes: usize,
    /// Instances alive at once, half of them for engines (128). Each reserves 4 GiB of
    /// address space, and memory only as it is touched.
    pub instances: u32,
    /// Core modules that one component may instantiate (32: a component of a scripting
    /// language has up to ten).
    pub core_instances: u32,
    /// Linear memories in one component (4).
    pub memories: u32,
    /// Tables in one component (32).
    pub tables: u32,
    /// Engines.
    pub engine: WorldLimits,
    /// Approval policies.
    pub approval: WorldLimits,
    /// Applications, but for `upgrade`.
    pub application: WorldLimits,
    /// `upgrade` of applications, which may rewrite the whole state.
    pub upgrade: CallLimits,
}

/// Limits of a world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorldLimits {
    /// All linear memories of an instance together, in bytes.
    pub memory_bytes: usize,
    /// Entries of each table.
    pub table_elements: usize,
    /// What the module may hand to the host in one crossing, in bytes (roughly what the
    /// host allocates for it).
    pub output_bytes: usize,
    /// One call.
    pub call: CallLimits,
}

/// Limits of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallLimits {
    /// Fuel, about one a WebAssembly instruction: 1e9 is some 1.5 s.
    pub fuel: u64,
    /// Work that the call may cause in `state`: 1,000 an operation, 100 an entry of a scan,
    /// one a byte read or written. 1e9 is about a second.
    pub state_work: u64,
    /// When the watchdog stops a call that fuel did not: several times what the fuel takes.
    pub watchdog_ms: u64,
}

const MIB: usize = 1 << 20;

impl Default for Limits {
    fn default() -> Self {
        let world = |output_bytes, fuel, state_work, watchdog_ms| WorldLimits {
            memory_bytes: 256 * MIB,
            table_elements: 20_000,
            output_bytes,
            call: CallLimits { fuel, state_work, watchdog_ms },
        };
        Self {
            module_bytes: 32 * MIB,
            compile_ms: 60_000,
            compile_memory_bytes: 2 << 30,
            artefact_bytes: 512 * MIB,
            instances: 128,
            core_instances: 32,
            memories: 4,
            tables: 32,
            // A full step of 1,024 events takes about 1e7: a hundred times that means that
            // the engine hangs, and is found out within two seconds.
            engine: world(32 * MIB, 1_000_000_000, 0, 15_000),
            // One verdict over a committee of a hundred takes about 1e5.
            approval: world(MIB, 100_000_000, 0, 5_000),
            // A block of 10,000 small transactions takes about 1e8; a heavy application may
            // need a hundred times that. Running out stalls this node's execution.
            application: world(64 * MIB, 10_000_000_000, 10_000_000_000, 120_000),
            upgrade: CallLimits {
                fuel: 100_000_000_000,
                state_work: 100_000_000_000,
                watchdog_ms: 1_200_000,
            },
        }
    }
}

impl Limits {
    /// The limits of a world.
    pub fn world(&self, world: World) -> &WorldLimits {
        match world {
            World::Engine => &self.engine,
            World::Approval => &self.approval,
            World::Application => &self.application,
        }
    }
}
