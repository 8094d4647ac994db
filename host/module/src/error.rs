//! Why a module is refused.

use moult_types::{ModuleHash, World};
use thiserror::Error;

/// A refusal: which module, which rule, and the name or number that broke it.
///
/// Unless a variant says otherwise the module is at fault: it cannot be used, here or on
/// any other node with the same limits.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// There are no bytes.
    #[error("module {module} is empty")]
    Empty {
        /// The hash of nothing.
        module: ModuleHash,
    },
    /// Over [`Limits::module_bytes`](crate::Limits::module_bytes).
    #[error("module {module} has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Which.
        module: ModuleHash,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The bytes are not those that were asked for: whoever delivered them is at fault.
    #[error("the bytes delivered for module {expected} are {found}")]
    HashMismatch {
        /// What was asked for.
        expected: ModuleHash,
        /// What came.
        found: ModuleHash,
    },
    /// Not WebAssembly at all.
    #[error("module {module} is not WebAssembly: it begins with {start}")]
    NotWasm {
        /// Which.
        module: ModuleHash,
        /// The first bytes in hex.
        start: String,
    },
    /// A core module; `wasm-tools component new` was forgotten.
    #[error("module {module} is a core WebAssembly module; a component is needed")]
    CoreModule {
        /// Which.
        module: ModuleHash,
    },
    /// The file ends too early.
    #[error("module {module} is truncated: {problem}")]
    Truncated {
        /// Which.
        module: ModuleHash,
        /// Where.
        problem: String,
    },
    /// Malformed, or uses a feature that is turned off.
    #[error("module {module} is not valid: {problem}")]
    Invalid {
        /// Which.
        module: ModuleHash,
        /// What and where.
        problem: String,
    },
    /// The export that the world is about is missing.
    #[error("module {module} does not export `{name}`, which the world `{world}` needs; it exports {found}")]
    MissingExport {
        /// Which.
        module: ModuleHash,
        /// The world it was to serve.
        world: World,
        /// What is missing.
        name: String,
        /// What is there.
        found: String,
    },
    /// The export is there in a version that this host does not serve.
    #[error("module {module} exports `{found}`; this host serves `{served}`")]
    WrongVersion {
        /// Which.
        module: ModuleHash,
        /// What the module speaks.
        found: String,
        /// What this host speaks.
        served: String,
    },
    /// An import that is not on the world's list.
    #[error("module {module} imports `{name}`, which the world `{world}` does not grant")]
    ImportNotGranted {
        /// Which.
        module: ModuleHash,
        /// The world it was to serve.
        world: World,
        /// The import.
        name: String,
    },
    /// An instance, memory or table too many or too large.
    #[error("module {module} has {has} {what}; the limit is {limit}")]
    Resources {
        /// Which.
        module: ModuleHash,
        /// Of what.
        what: &'static str,
        /// How many.
        has: u64,
        /// The limit.
        limit: u64,
    },
    /// Over [`Limits::compile_ms`](crate::Limits::compile_ms).
    #[error("compiling module {module} took longer than {limit_ms} ms")]
    CompileTimeout {
        /// Which.
        module: ModuleHash,
        /// The limit.
        limit_ms: u64,
    },
    /// The compiler refused, or died of its memory limit.
    #[error("compiling module {module} failed: {problem}")]
    Compile {
        /// Which.
        module: ModuleHash,
        /// What it said.
        problem: String,
    },
    /// The worker could not be run: this machine is at fault, not the module.
    #[error("the compile worker `{program}` cannot be run: {source}")]
    Worker {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// Exports of the right names have the wrong types, or the first call failed.
    #[error("module {module} does not keep to the world `{world}`: {problem}")]
    Contract {
        /// Which.
        module: ModuleHash,
        /// The world it was to serve.
        world: World,
        /// What is wrong.
        problem: String,
    },
    /// The caller asked a module of one world for an instance of another.
    #[error("module {module} was prepared for the world `{prepared}`, not for `{asked}`")]
    OtherWorld {
        /// Which.
        module: ModuleHash,
        /// What it was prepared for.
        prepared: World,
        /// What was asked.
        asked: World,
    },
    /// Every place for an instance is taken: see [`Limits::instances`](crate::Limits::instances).
    #[error("no place for an instance of module {module}: {limit} engines run already")]
    Busy {
        /// Which.
        module: ModuleHash,
        /// The limit.
        limit: u32,
    },
    /// The host itself could not be set up: configuration or machine are at fault.
    #[error("the module host cannot be set up: {problem}")]
    Setup {
        /// What is wrong.
        problem: String,
    },
}
