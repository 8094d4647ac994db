//! The log writer: a thread that makes steps durable and then lets them go, in order.
//!
//! Upon a step: it is queued (bounded; the submitter waits). Upon a free thread: every step
//! that is queued is applied, one sync covers them all, then their continuations are handed
//! on in the order of submission. While a sync runs the next group collects.
//!
//! # Invariants
//! - Nothing is handed on before a sync that began after its writes were applied, unless all
//!   writes since the last sync are lazy (a step that waits behind others waits for theirs).
//! - After an error nothing is handed on any more, and nothing is retried.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use moult_core::io::Persist;
use thiserror::Error;

use crate::error::StoreError;

/// Most steps of one group: bounds the memory of a write.
const GROUP_STEPS_MAX: usize = 256;

/// Where writes go.
pub trait Sink: Send {
    /// Takes up the writes of one step.
    ///
    /// # Errors
    /// The process must end.
    fn apply(&mut self, writes: &[Persist]) -> Result<(), StoreError>;

    /// Stores everything taken up; `durable`: returns when it is synced.
    ///
    /// # Errors
    /// The process must end.
    fn commit(&mut self, durable: bool) -> Result<(), StoreError>;

    /// How often the log was full and began anew; a sink without such a log never does.
    fn times_anew(&self) -> u64 {
        0
    }
}

/// The writer has ended: it was stopped, or a write failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the log writer has ended")]
pub struct WriterEnded;

struct Job<T> {
    writes: Vec<Persist>,
    then: T,
}

/// What the writer did so far. Sums, not samples; a node's metrics read them.
#[derive(Debug, Default)]
pub struct WriterStats {
    /// Steps handed on.
    pub steps: AtomicU64,
    /// Groups committed, synced or not.
    pub groups: AtomicU64,
    /// Groups that were synced.
    pub syncs: AtomicU64,
    /// How often the log was full and began anew.
    pub times_anew: AtomicU64,
    /// Microseconds in commits with a sync, all together.
    pub sync_us: AtomicU64,
    /// Syncs by duration: bucket `i` counts those of less than 2^i microseconds (and not
    /// less than 2^(i-1)); the last one counts all that were longer.
    pub sync_buckets: [AtomicU64; 24],
}

impl WriterStats {
    fn synced(&self, us: u64) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_us.fetch_add(us, Ordering::Relaxed);
        let bucket = ((u64::BITS - us.leading_zeros()) as usize).min(self.sync_buckets.len() - 1);
        self.sync_buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }
}

/// The handle of the thread. Dropping it stops the thread after what is queued.
#[derive(Debug)]
pub struct LogWriter<T> {
    queue: Option<SyncSender<Job<T>>>,
    thread: Option<JoinHandle<()>>,
    stats: Arc<WriterStats>,
    failed: Arc<AtomicBool>,
}

impl<T: Send + 'static> LogWriter<T> {
    /// Starts the thread. `queue` is how many steps may wait. `hand_on` gets the
    /// continuations in order, each after its writes are durable; or once an error, after
    /// which it is not called any more. It runs on the writer's thread and holds the next
    /// group up while it runs: hand over to a channel, and let that be bounded.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        sink: impl Sink + 'static,
        queue: usize,
        hand_on: impl FnMut(Result<T, StoreError>) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let (sender, receiver) = sync_channel(queue);
        let stats = Arc::new(WriterStats::default());
        let failed = Arc::new(AtomicBool::new(false));
        let run = {
            let (stats, failed) = (Arc::clone(&stats), Arc::clone(&failed));
            move || run(sink, &receiver, hand_on, &stats, &failed)
        };
        let thread = std::thread::Builder::new().name("moult-log".into()).spawn(run);
        let thread = thread.map_err(|e| StoreError::io("moult-log".as_ref(), "start the thread", e))?;
        Ok(Self { queue: Some(sender), thread: Some(thread), stats, failed })
    }

    /// Queues a step; waits while the queue is full.
    ///
    /// # Errors
    /// The writer has ended; the step is lost, and the process is to end.
    pub fn submit(&self, writes: Vec<Persist>, then: T) -> Result<(), WriterEnded> {
        let queue = self.queue.as_ref().ok_or(WriterEnded)?;
        queue.send(Job { writes, then }).map_err(|_| WriterEnded)
    }

    /// What the writer did so far.
    pub fn stats(&self) -> &Arc<WriterStats> {
        &self.stats
    }

    /// Whether a write failed. Nothing is handed on any more.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Writes what is queued, hands it on and ends the thread.
    pub fn stop(mut self) {
        self.end();
    }
}

impl<T> LogWriter<T> {
    fn end(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

impl<T> Drop for LogWriter<T> {
    fn drop(&mut self) {
        self.end();
    }
}

fn run<T>(
    mut sink: impl Sink,
    queue: &Receiver<Job<T>>,
    mut hand_on: impl FnMut(Result<T, StoreError>),
    stats: &WriterStats,
    failed: &AtomicBool,
) {
    let mut group: Vec<T> = Vec::new();
    while let Ok(first) = queue.recv() {
        let waiting = std::iter::once(first).chain(queue.try_iter().take(GROUP_STEPS_MAX - 1));
        if let Err(e) = write_group(&mut sink, waiting, &mut group, stats) {
            failed.store(true, Ordering::Release);
            tracing::error!(error = %e, "a write failed: nothing more leaves this node");
            hand_on(Err(e));
            return;
        }
        stats.steps.fetch_add(group.len() as u64, Ordering::Relaxed);
        for then in group.drain(..) {
            hand_on(Ok(then));
        }
    }
    // Lazy writes of the last group: a node that is stopped in order loses nothing.
    if let Err(e) = sink.commit(true) {
        failed.store(true, Ordering::Release);
        hand_on(Err(e));
    }
}

fn write_group<T>(
    sink: &mut impl Sink,
    jobs: impl Iterator<Item = Job<T>>,
    group: &mut Vec<T>,
    stats: &WriterStats,
) -> Result<(), StoreError> {
    let (mut durable, mut any) = (false, false);
    for job in jobs {
        if !job.writes.is_empty() {
            sink.apply(&job.writes)?;
            any = true;
            durable |= job.writes.iter().any(|write| !write.is_lazy());
        }
        group.push(job.then);
    }
    if any {
        let began = Instant::now();
        sink.commit(durable)?;
        stats.groups.fetch_add(1, Ordering::Relaxed);
        stats.times_anew.store(sink.times_anew(), Ordering::Relaxed);
        if durable {
            stats.synced(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
    Ok(())
}
