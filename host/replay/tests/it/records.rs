//! What is written is what is run again; what is not whole is told from what was changed.

use std::path::{Path, PathBuf};

use moult_core::ports::EngineInstance;
use moult_module::{Limits, NativeEngine};
use moult_pbft_reverse::PbftReverse;
use moult_replay::{
    EndReason, Ending, RecordError, RecordLimits, RecordReader, Recorder, Replayed, Start, replay,
};
use moult_types::{ChainId, EpochIdentity, EpochNumber, ModuleHash, ModulePin};
use tempfile::TempDir;

use crate::net::{Net, pbft};

fn start(started_ms: u64) -> Start {
    Start {
        chain: ChainId([1; 32]),
        epoch: EpochNumber(3),
        identity: EpochIdentity([2; 32]),
        engine: ModulePin { hash: ModuleHash([3; 32]), config: Vec::new() },
        name: "pbft 0.1.0".into(),
        limits: (&Limits::default().engine).into(),
        started_ms,
        program: "0.1.0".into(),
    }
}

fn limits(dir: &Path) -> RecordLimits {
    RecordLimits {
        dir: dir.to_owned(),
        file_bytes_max: 2 << 10,
        total_bytes_max: 64 << 20,
        queue_bytes_max: 64 << 20,
        whole_outcomes: false,
    }
}

/// Records a run; the folder of its record.
fn recorded(limits: &RecordLimits, started_ms: u64, batches: u64) -> PathBuf {
    let recorder = Recorder::new(limits.clone()).expect("a folder");
    let recording = recorder.record(start(started_ms), pbft()).map_err(|(e, _)| e).expect("a record");
    let mut net = Net::new(Box::new(recording));
    assert_eq!(net.order(batches), batches, "everything is ordered");
    drop(net);
    recorder.finish();
    let mut folders =
        std::fs::read_dir(&limits.dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let name = format!("{started_ms:013}-");
    folders
        .find(|path| path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(&name)))
        .expect("a record")
}

fn run(record: &Path, engine: &mut dyn EngineInstance) -> Result<(Replayed, Option<Ending>), RecordError> {
    let mut reader = RecordReader::open(record)?;
    let done = replay(&mut reader, engine, None, &mut |_, _, _| {})?;
    Ok((done, reader.ending().cloned()))
}

fn parts(record: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(record).expect("a folder");
    let mut parts: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    parts.sort();
    parts
}

#[test]
fn a_record_in_many_parts_runs_again_bit_for_bit() {
    for whole_outcomes in [false, true] {
        let dir = TempDir::new().expect("a folder");
        let record = recorded(&RecordLimits { whole_outcomes, ..limits(dir.path()) }, 1, 30);
        assert!(parts(&record).len() > 3, "the limit of a file makes several");
        let (done, ending) = run(&record, pbft().as_mut()).expect("a record");
        assert_eq!((done.difference, done.commits), (None, 30));
        assert!(done.calls > 30 && done.events > done.calls);
        assert_eq!(ending, Some(Ending::Closed(EndReason::Engine)));
    }
}

#[test]
fn another_engine_answers_otherwise_and_the_first_difference_is_told() {
    for (whole_outcomes, told) in [(false, "hash"), (true, "nothing")] {
        let dir = TempDir::new().expect("a folder");
        let record = recorded(&RecordLimits { whole_outcomes, ..limits(dir.path()) }, 1, 5);
        let mut other = NativeEngine::<PbftReverse>::new();
        let (done, ending) = run(&record, &mut other).expect("a record");
        let difference = done.difference.expect("another leader leads");
        assert_ne!(difference.recorded, difference.replayed);
        assert!(!difference.at.is_empty());
        let texts = format!("{} {}", difference.recorded, difference.replayed);
        assert!(texts.contains(told) || whole_outcomes, "{texts}");
        assert_eq!(ending, None, "the run ends at the difference");
    }
}

#[test]
fn a_tail_torn_anywhere_is_recognised_and_what_is_before_it_runs() {
    let dir = TempDir::new().expect("a folder");
    let record = recorded(&RecordLimits { file_bytes_max: 64 << 10, ..limits(dir.path()) }, 1, 6);
    let (whole, _) = run(&record, pbft().as_mut()).expect("a record");
    let last = parts(&record).pop().expect("a part");
    let bytes = std::fs::read(&last).expect("read");
    let mut seen_torn = 0;
    // What it begins with is whole.
    for length in (1_000..bytes.len()).rev().step_by(7) {
        std::fs::write(&last, &bytes[..length]).expect("written");
        let (done, ending) = run(&record, pbft().as_mut()).expect("the rest is a record");
        assert!(done.difference.is_none() && done.calls <= whole.calls);
        match ending.expect("an end") {
            Ending::Torn { path, .. } => {
                assert_eq!(path, last);
                seen_torn += 1;
            }
            // Between two entries nothing shows that more was to come.
            Ending::Open => {}
            Ending::Closed(reason) => panic!("{reason:?} after {length} bytes"),
        }
        // A file that is longer than what was written.
        let blank = [&bytes[..length], &[0; 100]].concat();
        std::fs::write(&last, blank).expect("written");
        let (_, ending) = run(&record, pbft().as_mut()).unwrap_or_else(|e| panic!("{length}: {e}"));
        // One zero is what the last entry ends with.
        let is_whole = length + 1 == bytes.len();
        assert_eq!(matches!(ending, Some(Ending::Closed(_))), is_whole, "{length}: {ending:?}");
        assert!(is_whole || matches!(ending, Some(Ending::Torn { .. })), "{length}: {ending:?}");
    }
    assert!(seen_torn > 50, "{seen_torn}");
}

#[test]
fn damage_and_missing_and_foreign_parts_are_refused_by_name() {
    let dir = TempDir::new().expect("a folder");
    let record = recorded(&limits(dir.path()), 1, 30);
    let files = parts(&record);
    let originals: Vec<_> = files.iter().map(|file| std::fs::read(file).expect("read")).collect();
    for at in [3, 9, 30, 45, 50, 60, 70, 100, 1_000] {
        let mut changed = originals[1].clone();
        changed[at] ^= 1;
        std::fs::write(&files[1], changed).expect("written");
        let error = run(&record, pbft().as_mut()).expect_err("a changed byte");
        match at {
            3 => assert!(matches!(error, RecordError::NotARecord { .. }), "{at}: {error}"),
            9 => assert!(matches!(error, RecordError::NewerFormat { .. }), "{at}: {error}"),
            _ => assert!(matches!(error, RecordError::Damaged { .. }), "{at}: {error}"),
        }
        assert!(error.to_string().contains("00001.rec"), "{error}");
    }
    std::fs::remove_file(&files[1]).expect("removed");
    let error = run(&record, pbft().as_mut()).expect_err("a missing part");
    assert!(matches!(error, RecordError::MissingPart { part: 1, .. }), "{error}");

    let other = recorded(&limits(dir.path()), 2, 30);
    std::fs::copy(&parts(&other)[1], &files[1]).expect("copied");
    let error = run(&record, pbft().as_mut()).expect_err("a foreign part");
    assert!(matches!(error, RecordError::OtherPart { .. }), "{error}");

    std::fs::write(&files[1], &originals[2]).expect("written");
    let error = run(&record, pbft().as_mut()).expect_err("parts in another order");
    assert!(matches!(error, RecordError::OtherPart { .. }), "{error}");
}

#[test]
fn the_oldest_records_make_room_and_one_that_is_too_long_ends() {
    let dir = TempDir::new().expect("a folder");
    let bounded = RecordLimits { total_bytes_max: 50 << 10, ..limits(dir.path()) };
    std::fs::create_dir(dir.path().join("mine")).expect("a folder of somebody else");
    let first = recorded(&bounded, 1, 30);
    let second = recorded(&bounded, 2, 30);
    assert!(first.exists() && second.exists(), "both fit");
    let third = recorded(&bounded, 3, 30);
    assert!(!first.exists() && second.exists() && third.exists(), "the oldest went");
    assert!(dir.path().join("mine").exists(), "nothing else is touched");

    let long = recorded(&bounded, 4, 200);
    let taken: u64 = parts(&long).iter().map(|part| part.metadata().expect("a file").len()).sum();
    assert!(taken <= bounded.total_bytes_max, "{taken}");
    assert!(!third.exists(), "one record took everything");
    let (done, ending) = run(&long, pbft().as_mut()).expect("a record");
    assert_eq!((done.difference, ending), (None, Some(Ending::Closed(EndReason::Full))));
    assert!(done.commits > 10 && done.commits < 200, "{}", done.commits);
}
