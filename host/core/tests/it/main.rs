//! Parts of the replica, each against its rules; the whole of it runs in `moult-sim`.

mod execution;
mod finality;
mod governance;
mod support;
