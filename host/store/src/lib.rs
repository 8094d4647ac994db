//! Durable things: the store, the signer guard's file, and the thread that writes both.
//!
//! - [`GuardFile`]: what was signed, in a file of its own, outside the database and outside
//!   every backup; and the log of what the database has not synced yet.
//! - [`Store`]: chain, batches, engine records, history and the replicated state in one
//!   database. [`Store::load`] checks what it reads; [`Store::check_guard`] finds a store
//!   that has silently lost its tail.
//! - [`WorkingState`]: the executor's copy of the replicated state.
//! - [`Store::back_up`] and [`restore`]: the whole store as a file, and back.
//! - [`LogWriter`]: takes the durable part of steps, syncs whole groups, and only then lets
//!   the rest of each step go.
//!
//! No error of a write or a sync is ever retried: the process ends, and what reached the
//! disk is read again by the next one.
#![allow(clippy::disallowed_methods, reason = "measures how long syncs take; no decision depends on it")]

mod backup;
mod carry;
mod durable;
mod error;
mod guard_file;
mod guard_format;
mod load;
mod lock;
mod modules;
mod moving;
mod restore;
mod serve;
mod state;
mod store;
mod tables;
mod working;
mod write;
mod writer;

/// The bytes of the guard's file, without a file; for fuzzing.
pub mod guard_image {
    pub use crate::guard_format::{Image, ImageError, decode_image};
}

pub use backup::{
    BACKUP_FORMAT, Backup, BackupError, BackupHeader, BackupProgress, check_backup, list_backups,
    prune_backups,
};
pub use carry::{accumulator_of, build_carried};
pub use durable::DurableLog;
pub use error::StoreError;
pub use guard_file::{GuardFile, GuardFileError, LOG_BYTES_MIN};
pub use guard_format::StoreWrites;
pub use load::{GuardCheck, Loaded};
pub use lock::DirLock;
pub use modules::ModuleFiles;
pub use restore::{RestoreStep, Restored, refuse_half_restored, restore};
pub use state::{Applied, StateStore};
pub use store::{STORE_FORMAT, Store, StoreOptions};
pub use working::WorkingState;
pub use write::StoreWriter;
pub use writer::{LogWriter, Sink, WriterEnded, WriterStats};
