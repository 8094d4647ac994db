//! The log writer over a recording sink, and over the real one.
#![allow(clippy::disallowed_methods, reason = "measures how long syncs take")]

mod common;

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use common::*;
use moult_core::io::{GuardUpdate, Persist};
use moult_store::{DurableLog, GuardFile, LogWriter, Sink, StoreError, WriterEnded};
use moult_types::{CommitIndex, Digest};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    /// A step's writes, by the first one's number.
    Applied(u64),
    Committed {
        durable: bool,
    },
    HandedOn(u64),
    Failed,
}

/// Records; waits for a permit before every commit, so that a test decides what queues up.
struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    permits: Receiver<bool>,
}

impl Sink for Recorder {
    fn apply(&mut self, writes: &[Persist]) -> Result<(), StoreError> {
        let number = match &writes[0] {
            Persist::TruncateRecords(number) => *number,
            Persist::Record(record) => record.record.id,
            other => panic!("{other:?}"),
        };
        self.seen.lock().expect("lock").push(Seen::Applied(number));
        Ok(())
    }

    fn commit(&mut self, durable: bool) -> Result<(), StoreError> {
        self.seen.lock().expect("lock").push(Seen::Committed { durable });
        // At the end of a test the permits run out: all is well.
        if self.permits.recv().unwrap_or(true) {
            Ok(())
        } else {
            Err(StoreError::Poisoned { path: "here".into() })
        }
    }
}

fn recorder() -> (Arc<Mutex<Vec<Seen>>>, Sender<bool>, LogWriter<u64>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (permit, permits) = channel();
    let sink = Recorder { seen: Arc::clone(&seen), permits };
    let of = Arc::clone(&seen);
    let hand_on = move |done: Result<u64, StoreError>| {
        of.lock().expect("lock").push(done.map_or(Seen::Failed, Seen::HandedOn));
    };
    (seen, permit, LogWriter::start(sink, 1000, hand_on).expect("started"))
}

fn hard(number: u64) -> Vec<Persist> {
    vec![Persist::Record(engine_record(number))]
}

fn lazy(number: u64) -> Vec<Persist> {
    vec![Persist::TruncateRecords(number)]
}

/// Every step is handed on after a durable commit that began after its writes were applied,
/// unless only lazy writes were open; in order, each once.
fn check_order(seen: &[Seen], steps: u64, is_hard: impl Fn(u64) -> bool) {
    let (mut applied, mut open, mut synced_to, mut next) = (0, false, 0, 1);
    for event in seen {
        match event {
            Seen::Applied(number) => {
                assert_eq!(*number, applied + 1);
                applied = *number;
                open |= is_hard(*number);
            }
            Seen::Committed { durable } => {
                assert!(*durable || !open, "hard writes were committed without a sync");
                open = false;
                synced_to = applied;
            }
            Seen::HandedOn(number) => {
                assert_eq!(*number, next);
                assert!(*number <= synced_to, "step {number} left before its commit");
                next += 1;
            }
            Seen::Failed => panic!("failed"),
        }
    }
    assert_eq!(next, steps + 1);
}

#[test]
fn every_step_is_synced_before_it_is_handed_on_and_steps_are_grouped() {
    const STEPS: u64 = 100;
    let (seen, permit, writer) = recorder();
    let is_hard = |number: u64| !number.is_multiple_of(3);
    for number in 1..=STEPS {
        writer.submit(if is_hard(number) { hard(number) } else { lazy(number) }, number).expect("queued");
    }
    let stats = Arc::clone(writer.stats());
    drop(permit);
    writer.stop();
    let seen = seen.lock().expect("lock").clone();
    check_order(&seen, STEPS, is_hard);
    assert_eq!(stats.steps.load(Ordering::Relaxed), STEPS);
    let groups = stats.groups.load(Ordering::Relaxed);
    // The first commit waited until all were queued: it and one more, as long as the group's bound lets it.
    assert!(groups <= 2 + STEPS / 256, "{groups} groups");
    let buckets: u64 = stats.sync_buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum();
    assert_eq!(buckets, stats.syncs.load(Ordering::Relaxed));
}

#[test]
fn lazy_writes_do_not_sync() {
    let (seen, permit, writer) = recorder();
    writer.submit(lazy(1), 1).expect("queued");
    writer.submit(Vec::new(), 2).expect("queued");
    let stats = Arc::clone(writer.stats());
    drop(permit);
    writer.stop();
    let seen = seen.lock().expect("lock").clone();
    assert_eq!(seen[..2], [Seen::Applied(1), Seen::Committed { durable: false }]);
    assert_eq!(stats.syncs.load(Ordering::Relaxed), 0);
    // Stopping in order syncs what is left.
    assert_eq!(seen.last(), Some(&Seen::Committed { durable: true }));
}

#[test]
fn after_an_error_nothing_is_handed_on() {
    let (seen, permit, writer) = recorder();
    for number in 1..=5 {
        // Not all need to find the writer alive.
        let _ = writer.submit(hard(number), number);
        if number == 1 {
            permit.send(false).expect("sent");
        }
    }
    while !writer.has_failed() {
        std::thread::yield_now();
    }
    while writer.submit(hard(9), 9) != Err(WriterEnded) {
        std::thread::yield_now();
    }
    writer.stop();
    let seen = seen.lock().expect("lock").clone();
    assert_eq!(seen.iter().filter(|s| matches!(s, Seen::HandedOn(_))).count(), 0);
    assert_eq!(seen.iter().filter(|s| **s == Seen::Failed).count(), 1);
    assert_eq!(seen.iter().filter(|s| matches!(s, Seen::Committed { .. })).count(), 1);
}

/// The real sink: everything is there after a restart. Prints what a commit takes here.
#[test]
fn store_and_guard_are_durable_and_a_group_commit_is_measured() {
    const STEPS: u64 = 300;
    let dir = tempfile::tempdir().expect("a directory");
    let store = create(dir.path());
    let file = GuardFile::create(&dir.path().join("guard"), guard()).expect("created");
    let log = DurableLog::new(store.writer().expect("a writer"), Some(file));
    let (sender, handed_on) = channel();
    let hand_on = move |done: Result<u64, StoreError>| sender.send(done.expect("written")).expect("sent");
    let writer = LogWriter::start(log, 8, hand_on).expect("started");
    let mut chain = Chain::new();
    let mut took = Vec::new();
    for number in 1..=STEPS {
        let mut step = ordered(&mut chain);
        step.push(Persist::Record(engine_record(number)));
        step.push(Persist::TruncateRecords(number.saturating_sub(10)));
        step.push(Persist::Guard(GuardUpdate::Prepared {
            index: CommitIndex(number),
            hash: Digest([1; 32]),
        }));
        step.push(chain.finality(1));
        let began = std::time::Instant::now();
        writer.submit(step, number).expect("queued");
        assert_eq!(handed_on.recv().expect("handed on"), number);
        took.push(began.elapsed().as_micros());
    }
    writer.stop();
    took.sort_unstable();
    println!(
        "group commit of store and guard: p50 {} us, p99 {} us",
        took[took.len() / 2],
        took[took.len() * 99 / 100]
    );
    let (_, state) = GuardFile::open(&dir.path().join("guard"), genesis().chain(), NODE).expect("opened");
    assert_eq!(state.prepared.0, CommitIndex(STEPS));
    drop(store);
    let loaded = open(dir.path()).expect("opened").load().expect("loaded");
    assert_eq!(loaded.last_final.map(|(block, _)| block.global.0), Some(STEPS));
    assert_eq!(loaded.records.len(), 10);
}
