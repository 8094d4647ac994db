//! The module host against the modules of this repository and against bad guests.

mod common;

mod cache;
mod contain;
mod differential;
mod refuse;
mod upgrade;
