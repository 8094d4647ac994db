//! Writes down what engines are fed, beside them.
//!
//! The engine's thread encodes a call and hands it over; a thread of the record hashes, frames
//! and writes. Between them is a queue bounded in bytes. When it is full the record ends: an
//! engine never waits for it, and a record never has a gap.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use moult_core::ports::{EngineInstance, Fault};
use moult_sdk::engine::{Event, Info, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, NowMs};
use moult_types::codec::{encode, hash_of};

use crate::entry::{
    Answer, EndReason, Entry, Start, encoded_outcome_hash, init_head, step_head, with_outcome, with_tail,
};
use crate::log::PartWriter;

/// How records are bounded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordLimits {
    /// Folder of all records; made if it is not there.
    pub dir: PathBuf,
    /// A file is closed before it grows beyond this (but holds one entry at least), in bytes.
    pub file_bytes_max: u64,
    /// All records together, in bytes: the oldest are removed, and the one under way ends when
    /// it alone takes as much.
    pub total_bytes_max: u64,
    /// Calls that wait to be written, in bytes. When they take more, the record ends.
    pub queue_bytes_max: usize,
    /// Whether outcomes are kept whole, not by their hash.
    pub whole_outcomes: bool,
}

/// Calls that may wait, whatever their size.
const QUEUE_CALLS: usize = 65_536;

/// Counters of a recorder, for metrics; each only rises.
#[derive(Debug, Default)]
pub struct RecordStats {
    /// Calls written.
    pub calls: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
    /// Records begun.
    pub begun: AtomicU64,
    /// Records that ended before their engine: the queue or the disk was full, a write failed.
    pub cut_short: AtomicU64,
}

/// Begins records and waits for them at the end.
pub struct Recorder {
    limits: RecordLimits,
    stats: Arc<RecordStats>,
    writers: Mutex<Vec<JoinHandle<()>>>,
}

impl Recorder {
    /// Makes the folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(limits: RecordLimits) -> io::Result<Self> {
        std::fs::create_dir_all(&limits.dir)?;
        Ok(Self { limits, stats: Arc::default(), writers: Mutex::default() })
    }

    /// Counters.
    pub fn stats(&self) -> &Arc<RecordStats> {
        &self.stats
    }

    /// Begins a record of an engine that was not initialised yet.
    ///
    /// # Errors
    /// The folder or its first file cannot be made.
    pub fn record(
        &self,
        start: Start,
        engine: Box<dyn EngineInstance>,
    ) -> Result<Recording, (io::Error, Box<dyn EngineInstance>)> {
        match self.begin(start) {
            Ok(feed) => Ok(Recording { engine, feed: Some(feed) }),
            Err(e) => Err((e, engine)),
        }
    }

    fn begin(&self, start: Start) -> io::Result<Feed> {
        let record = hash_of("moult record", &(&start, std::process::id())).0;
        let [a, b, c, d, ..] = record;
        let name =
            format!("{:013}-epoch-{}-{:02x}{:02x}{:02x}{:02x}", start.started_ms, start.epoch.0, a, b, c, d);
        let folder = self.limits.dir.join(name);
        let mut files = PartWriter::create(&folder, record, self.limits.file_bytes_max)?;
        files.append(&encode(&Entry::Start(Box::new(start))))?;
        let (sender, queue) = sync_channel(QUEUE_CALLS);
        let waiting = Arc::new(Waiting::default());
        let mut writer = Writer {
            files,
            folder,
            limits: self.limits.clone(),
            stats: self.stats.clone(),
            waiting: waiting.clone(),
        };
        let thread =
            std::thread::Builder::new().name("moult-record".into()).spawn(move || writer.run(&queue))?;
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        writers.retain(|thread| !thread.is_finished());
        writers.push(thread);
        self.stats.begun.fetch_add(1, Ordering::Relaxed);
        Ok(Feed { sender, waiting, bytes_max: self.limits.queue_bytes_max })
    }

    /// Waits until everything that was handed over is written. The engines must be gone.
    pub fn finish(&self) {
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        for writer in writers {
            // A writer that panicked has written what it could.
            let _ = writer.join();
        }
    }
}

/// What both ends of the queue know.
#[derive(Default)]
struct Waiting {
    bytes: AtomicUsize,
    overflowed: AtomicBool,
    /// The writer takes no more.
    closed: AtomicBool,
}

/// A call on its way to the file.
struct Call {
    head: Vec<u8>,
    took_us: u64,
    answer: Raw,
}

/// An answer; outcomes are encoded, to be hashed elsewhere.
enum Raw {
    Outcome(Vec<u8>),
    Other(Answer),
}

impl Call {
    fn bytes(&self) -> usize {
        let answer = match &self.answer {
            Raw::Outcome(bytes) => bytes.len(),
            Raw::Other(_) => 0,
        };
        self.head.len() + answer + size_of::<Self>()
    }
}

/// The engine's end of the queue.
struct Feed {
    sender: SyncSender<Call>,
    waiting: Arc<Waiting>,
    bytes_max: usize,
}

impl Feed {
    /// Whether the record goes on.
    fn push(&self, call: Call) -> bool {
        let bytes = call.bytes();
        let before = self.waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
        // One call may be larger than the queue.
        let fits = before == 0 || before + bytes <= self.bytes_max;
        if fits && self.sender.try_send(call).is_ok() {
            return true;
        }
        if !self.waiting.closed.load(Ordering::Acquire) {
            self.waiting.overflowed.store(true, Ordering::Release);
        }
        false
    }
}

/// An engine whose calls are recorded. It answers what the engine inside answers.
pub struct Recording {
    engine: Box<dyn EngineInstance>,
    feed: Option<Feed>,
}

impl Recording {
    /// Whether calls are still recorded.
    pub fn is_recording(&self) -> bool {
        self.feed.is_some()
    }

    fn push(&mut self, head: Option<Vec<u8>>, took_us: u64, answer: impl FnOnce() -> Raw) {
        let (Some(feed), Some(head)) = (&self.feed, head) else { return };
        if !feed.push(Call { head, took_us, answer: answer() }) {
            self.feed = None;
        }
    }
}

fn raw(result: &Result<Outcome, Fault>) -> Raw {
    match result {
        Ok(outcome) => Raw::Outcome(encode(outcome)),
        Err(fault) => Raw::Other(Answer::Fault(fault.into())),
    }
}

fn raw_of_init(result: &Result<Result<Outcome, InitError>, Fault>) -> Raw {
    match result {
        Ok(Ok(outcome)) => Raw::Outcome(encode(outcome)),
        Ok(Err(refusal)) => Raw::Other(Answer::Refused(refusal.clone())),
        Err(fault) => Raw::Other(Answer::Fault(fault.into())),
    }
}

impl EngineInstance for Recording {
    fn describe(&mut self) -> Result<Info, Fault> {
        self.engine.describe()
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        let head = self.feed.is_some().then(|| init_head(settings, recovered));
        let (result, took_us) = timed(|| self.engine.init(settings, recovered));
        self.push(head, took_us, || raw_of_init(&result));
        result
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        let head = self.feed.is_some().then(|| step_head(now, &events));
        let (result, took_us) = timed(|| self.engine.step(now, events));
        self.push(head, took_us, || raw(&result));
        result
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        self.engine.judge(committee, proof)
    }
}

pub(crate) fn timed<T>(call: impl FnOnce() -> T) -> (T, u64) {
    let started = Instant::now();
    let result = call();
    (result, started.elapsed().as_micros() as u64)
}

/// The file's end of the queue.
struct Writer {
    files: PartWriter,
    folder: PathBuf,
    limits: RecordLimits,
    stats: Arc<RecordStats>,
    waiting: Arc<Waiting>,
}

impl Writer {
    fn run(&mut self, queue: &Receiver<Call>) {
        let begun = self.make_room();
        let ended = begun.and_then(|()| self.drain(queue));
        self.waiting.closed.store(true, Ordering::Release);
        let (record, calls) = (self.folder.display(), self.stats.calls.load(Ordering::Relaxed));
        let ended = ended.and_then(|reason| {
            self.files.append(&encode(&Entry::End(reason.clone())))?;
            self.files.flush()?;
            Ok(reason)
        });
        match ended {
            Ok(EndReason::Engine) => {
                tracing::info!(target: "record", %record, bytes = self.files.bytes, calls, "the record of an engine is complete");
                return;
            }
            Ok(EndReason::QueueFull) => {
                tracing::error!(target: "record", %record, queue_bytes_max = self.limits.queue_bytes_max, "the record ends here: the disk is slower than the engine, and the queue is full. The engine goes on, unrecorded, until it is started again");
            }
            Ok(EndReason::Full) => {
                tracing::warn!(target: "record", %record, total_bytes_max = self.limits.total_bytes_max, "the record ends here: it takes all the bytes that records may take. The engine goes on, unrecorded, until it is started again");
            }
            Err(error) => {
                tracing::error!(target: "record", %record, %error, "the record ends here: it cannot be written. The engine goes on, unrecorded, until it is started again");
            }
        }
        self.stats.cut_short.fetch_add(1, Ordering::Relaxed);
    }

    fn drain(&mut self, queue: &Receiver<Call>) -> io::Result<EndReason> {
        loop {
            let call = match queue.try_recv() {
                Ok(call) => call,
                Err(TryRecvError::Empty) => {
                    // Nothing to do: what was written can be read by others.
                    self.files.flush()?;
                    match queue.recv() {
                        Ok(call) => call,
                        Err(_) => return Ok(self.reason()),
                    }
                }
                Err(TryRecvError::Disconnected) => return Ok(self.reason()),
            };
            let bytes = call.bytes();
            let entry = self.finish_call(call);
            // The last entry, which says why, must fit, too.
            let room = PartWriter::size_of(&entry) + PartWriter::size_of(&[0; 2]);
            if self.files.bytes + room > self.limits.total_bytes_max {
                return Ok(EndReason::Full);
            }
            let before = self.files.bytes;
            if self.files.append(&entry)? {
                self.make_room()?;
            }
            self.waiting.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.stats.calls.fetch_add(1, Ordering::Relaxed);
            self.stats.bytes.fetch_add(self.files.bytes - before, Ordering::Relaxed);
        }
    }

    fn reason(&self) -> EndReason {
        if self.waiting.overflowed.load(Ordering::Acquire) { EndReason::QueueFull } else { EndReason::Engine }
    }

    fn finish_call(&self, call: Call) -> Vec<u8> {
        match call.answer {
            Raw::Outcome(bytes) if self.limits.whole_outcomes => {
                with_outcome(call.head, call.took_us, &bytes)
            }
            Raw::Outcome(bytes) => {
                with_tail(call.head, call.took_us, &Answer::Hash(encoded_outcome_hash(&bytes)))
            }
            Raw::Other(answer) => with_tail(call.head, call.took_us, &answer),
        }
    }

    /// Removes the oldest records until this one may grow by a file.
    fn make_room(&self) -> io::Result<()> {
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&self.limits.dir)? {
            let path = entry?.path();
            if path.is_dir() && path != self.folder && is_record(&path) {
                records.push((bytes_of(&path)?, path));
            }
        }
        // Names begin with the time.
        records.sort_by(|(_, a), (_, b)| a.file_name().cmp(&b.file_name()));
        let mut taken: u64 = records.iter().map(|(bytes, _)| bytes).sum();
        let needed = self.files.bytes + self.limits.file_bytes_max;
        for (bytes, path) in records {
            if taken + needed <= self.limits.total_bytes_max {
                break;
            }
            std::fs::remove_dir_all(&path)?;
            tracing::info!(target: "record", record = %path.display(), bytes, "the oldest record was removed to make room");
            taken -= bytes;
        }
        Ok(())
    }
}

/// Nothing is removed but what a recorder made.
fn is_record(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() > 13
        && name.bytes().take(13).all(|byte| byte.is_ascii_digit())
        && name[13..].starts_with("-epoch-")
}

fn bytes_of(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(bytes: usize) -> Call {
        Call { head: vec![0; bytes], took_us: 1, answer: Raw::Outcome(Vec::new()) }
    }

    #[test]
    fn a_full_queue_ends_the_feed_and_the_reason_is_known() {
        let (sender, queue) = sync_channel(QUEUE_CALLS);
        let feed = Feed { sender, waiting: Arc::default(), bytes_max: 1_000 };
        assert!(feed.push(call(5_000)), "one call may be larger than the queue");
        assert!(!feed.waiting.overflowed.load(Ordering::Acquire));
        assert!(!feed.push(call(1)), "nobody takes anything out");
        assert!(feed.waiting.overflowed.load(Ordering::Acquire));
        drop(queue);

        let (sender, queue) = sync_channel(QUEUE_CALLS);
        let feed = Feed { sender, waiting: Arc::default(), bytes_max: 1_000 };
        feed.waiting.closed.store(true, Ordering::Release);
        drop(queue);
        assert!(!feed.push(call(1)));
        assert!(!feed.waiting.overflowed.load(Ordering::Acquire), "the writer ended for a reason of its own");
    }
}
