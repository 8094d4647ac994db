//! The suite against the engines of this repository, and against itself.

mod engines;
mod rogue;
mod scenarios;
