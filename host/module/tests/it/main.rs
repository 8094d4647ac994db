//! The module host against the modules of this repository and against bad guests.
#![allow(clippy::disallowed_methods, reason = "a loop must end within seconds")]

mod common;

mod cache;
mod contain;
mod differential;
mod engines;
mod refuse;
mod upgrade;
