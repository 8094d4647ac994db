//! Linearizability of histories of registers, one register a key.
//!
//! A history is linearizable if each operation can be given one instant between its call and
//! its return so that, taken in the order of these instants, every result is what a register
//! gives. Registers are independent, and linearizability is local, so each key is checked by
//! itself (P-compositionality, Horn and Kroening 2015). The search is Wing and Gong's with
//! Lowe's memory of what was tried: a set of operations taken and the value they left.
//!
//! An operation without a known outcome may take effect at any time after its call, or
//! never: it stays open to the end of the history, where an effect is seen by no one.

mod check;
mod history;
mod tests;

pub use check::{NotLinearizable, check, decide};
pub use history::{Entry, History, Outcome, Request, Value};
