//! The module host with the modules of this repository; hostile ones are in `tests/hostile`.

mod common;

mod differential;
mod engines;
mod upgrade;
