//! The replica as a sans-IO state machine: inputs in, one ordered [`io::Step`] out.
//!
//! Here live the order of effects, finality, epochs, the signer guard's decisions and the
//! deterministic execution of blocks. No clock, no randomness, no threads, no files, no
//! sockets and no Wasm: the node and the simulator bring these.

pub mod execution;
pub mod governance;
pub mod guard;
mod guard_merge;
pub mod io;
pub mod kernel;
pub mod ports;
pub mod replica;
pub mod stop;
pub mod verify;

pub use guard_merge::GuardConflict;
pub use io::{Effect, Event, Input, Now, Persist, Step};
pub use replica::{Recovery, Replica};
