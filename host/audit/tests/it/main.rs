//! A chain made by hand, whole and with everything that can be wrong with it.

mod chain;
mod checks;
