//! The glue between the plain traits of this crate and the component model.
//!
//! Only in builds for `wasm32` with the feature `component`; authors meet it through the
//! `export_*!` macros. Each module below holds the generated bindings of one world and the
//! conversions between the generated types and the plain ones. A module of yours links in
//! only the world that it exports.

pub mod application;
pub mod approval;
pub mod engine;
mod types;
