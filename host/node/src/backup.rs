//! Backups of the store while the node runs: before every epoch transition, and upon demand.
//!
//! One at a time, on a thread of its own at a low priority. The replica and the log's thread never
//! wait for it: they go on while it reads a snapshot. What a backup is, and what it is not, is in
//! `moult-store`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use moult_store::{Backup, BackupError, BackupProgress, Store, prune_backups};

use crate::config::BackupConfig;

/// Why none is begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotBegun {
    /// The configuration keeps none.
    Off,
    /// One is under way, or the node stops.
    Busy,
}

/// What can be said of backups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Whether one is under way, and how many bytes of it are written.
    pub(crate) running: Option<u64>,
    /// How many were made since the start.
    pub(crate) made: u64,
    /// How many failed since the start.
    pub(crate) failed: u64,
    /// Transitions before which none was made because one was under way.
    pub(crate) skipped: u64,
    /// The last one, with what it took in milliseconds.
    pub(crate) last: Option<(Backup, u64)>,
    /// What the last one failed of, if the last one failed.
    pub(crate) problem: Option<String>,
}

/// The backups of a node.
pub(crate) struct Backups {
    dir: PathBuf,
    keep: usize,
    bytes_max: u64,
    store: Store,
    progress: Arc<BackupProgress>,
    running: Arc<AtomicBool>,
    skipped: AtomicU64,
    report: Arc<Mutex<Report>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Backups {
    pub(crate) fn new(config: &BackupConfig, default_dir: PathBuf, store: Store) -> Self {
        Self {
            dir: config.dir.clone().unwrap_or(default_dir),
            keep: config.keep,
            bytes_max: config.bytes_max,
            store,
            progress: Arc::default(),
            running: Arc::default(),
            skipped: AtomicU64::new(0),
            report: Arc::default(),
            thread: Mutex::default(),
        }
    }

    /// A transition was scheduled.
    pub(crate) fn before_transition(&self, wall_ms: u64) {
        match self.begin("before an epoch transition", wall_ms) {
            Ok(()) | Err(NotBegun::Off) => {}
            Err(NotBegun::Busy) => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(target: "backup", "no backup before this epoch transition: the one before is still being written");
            }
        }
    }

    /// Begins one. Returns at once.
    pub(crate) fn begin(&self, reason: &'static str, wall_ms: u64) -> Result<(), NotBegun> {
        if self.keep == 0 {
            return Err(NotBegun::Off);
        }
        if self.progress.is_cancelled() || self.running.swap(true, Ordering::AcqRel) {
            return Err(NotBegun::Busy);
        }
        tracing::info!(target: "backup", reason, "a backup begins");
        let (store, dir, keep, bytes_max) = (self.store.clone(), self.dir.clone(), self.keep, self.bytes_max);
        let (progress, report, running) = (self.progress.clone(), self.report.clone(), self.running.clone());
        let work = move || {
            // What it takes of a machine that is busy, it takes from the rest of it.
            let _ = rustix::process::nice(10);
            let began = Instant::now();
            let made = store.back_up(&dir, wall_ms, bytes_max, &progress).and_then(|backup| {
                prune_backups(&dir, keep)?;
                Ok(backup)
            });
            let took_ms = began.elapsed().as_millis() as u64;
            drop(store);
            note(&mut report.lock().unwrap_or_else(PoisonError::into_inner), made, took_ms);
            running.store(false, Ordering::Release);
        };
        match std::thread::Builder::new().name("moult-backup".into()).spawn(work) {
            Ok(thread) => {
                // The former one has ended: it set `running` last.
                *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
                Ok(())
            }
            Err(e) => {
                tracing::error!(target: "backup", error = %e, "the system gives no thread for a backup");
                self.running.store(false, Ordering::Release);
                Err(NotBegun::Busy)
            }
        }
    }

    pub(crate) fn report(&self) -> Report {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        report.running = self.running.load(Ordering::Acquire).then(|| self.progress.written());
        report.skipped = self.skipped.load(Ordering::Relaxed);
        report
    }

    /// Gives up the one that is under way, and waits for its end: the store can be closed then.
    pub(crate) fn stop(&self) {
        self.progress.cancel();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(target: "backup", "the thread of a backup panicked");
        }
    }
}

fn note(report: &mut Report, made: Result<Backup, BackupError>, took_ms: u64) {
    match made {
        Ok(backup) => {
            let block = backup.header.last_final.0;
            // Its folder is in the configuration.
            let file = backup.path.file_name().and_then(|name| name.to_str());
            tracing::info!(target: "backup", file, block, bytes = backup.bytes, took_ms, hash = %backup.hash, "a backup was made");
            report.made += 1;
            report.problem = None;
            report.last = Some((backup, took_ms));
        }
        Err(e) => {
            tracing::error!(target: "backup", error = %e, "no backup was made; the node goes on");
            report.failed += 1;
            report.problem = Some(e.to_string());
        }
    }
}
