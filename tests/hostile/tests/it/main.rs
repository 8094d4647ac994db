//! Every attack of the table in `docs/TESTING.md`, row by row.
#![allow(clippy::disallowed_methods, reason = "a budget is held against the clock")]

mod broken;
mod common;
mod doubles;

mod fuzzed;
mod g01_loops;
mod g02_recursion;
mod g03_bombs;
mod g04_output;
mod g05_traps;
mod g06_determinism;
mod g07_requests;
mod g08_form;
mod g09_compile;
mod g10_cache;
mod g11_state;
mod g12_policy;
