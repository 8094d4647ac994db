//! Parts of the replica, each against its rules; the whole of it runs in `moult-sim`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod execution;
mod failed;
mod finality;
mod governance;
mod graduated;
mod phases;
mod repair;
mod replica;
mod rollback;
mod roots;
mod stop;
mod support;
