//! The log's groups with their syncs, and reads: `cargo bench -p moult-store --bench store`,
//! about twenty seconds. It writes below `target`, so to the disk that this lies on.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a benchmark measures time")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Chain, create, guard};
use criterion::{Criterion, Throughput};
use moult_core::io::{EngineRecord, Persist};
use moult_sdk::engine::DurableRecord;
use moult_store::{DurableLog, GuardFile, Sink as _, Store};
use moult_types::{GlobalIndex, HeldBatch, Signature, SignedBatch};

/// Keys of the replicated state that is read.
const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(200)).sample_size(20);
    let mut criterion = criterion.measurement_time(Duration::from_secs(1)).configure_from_args();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    disk(&mut criterion, folder.path());
    let store = create(&folder.path().join("data"));
    reads(&mut criterion, &store);
    groups(&mut criterion, &store, folder.path());
    criterion.final_summary();
}

/// What the disk itself takes, to hold the rest against.
fn disk(criterion: &mut Criterion, folder: &Path) {
    let file = File::create(folder.join("raw")).expect("a file");
    file.write_all_at(&[0; 1 << 20], 0).expect("written");
    file.sync_all().expect("synced");
    criterion.bench_function("the disk: 4 KiB over what was there, and fdatasync", |b| {
        b.iter(|| {
            file.write_all_at(&[1; 4096], 0).expect("written");
            file.sync_data().expect("synced");
        });
    });
}

fn groups(criterion: &mut Criterion, store: &Store, folder: &Path) {
    let guard = GuardFile::create(&folder.join("guard"), guard()).expect("a guard");
    let mut log = DurableLog::new(store.writer().expect("the writer"), Some(guard));
    let mut next_record = 1;
    let mut group = criterion.benchmark_group("group of the log, with its sync");
    for steps in [1, 16, 128] {
        group.throughput(Throughput::Elements(steps));
        group.bench_function(format!("{steps} steps with a record of 256 bytes"), |b| {
            b.iter(|| {
                for id in next_record..next_record + steps {
                    log.apply(&[record(id)]).expect("applied");
                }
                next_record += steps;
                log.commit(true).expect("durable");
            });
        });
        // As after a checkpoint: what is read at a start stays small.
        log.apply(&[Persist::TruncateRecords(next_record - 1)]).expect("applied");
        log.commit(true).expect("durable");
    }
    let mut chain = Chain::new();
    group.throughput(Throughput::Bytes(BATCH_BYTES as u64));
    group.bench_function("a block with a batch of 256 KiB", |b| {
        b.iter(|| {
            let (block, batch) = chain.block();
            log.apply(&[Persist::Batch(large(&batch)), Persist::Block(block)]).expect("applied");
            log.commit(true).expect("durable");
        });
    });
    group.finish();
}

fn reads(criterion: &mut Criterion, store: &Store) {
    let state = store.state();
    let writes: BTreeMap<_, _> = (0..KEYS).map(|n| (key(n), Some(vec![n as u8; VALUE_BYTES]))).collect();
    state.apply(GlobalIndex(1), &writes, &[0; 2048]).expect("applied");
    let mut n = 0;
    let mut group = criterion.benchmark_group("replicated state of 100,000 keys");
    group.bench_function("a snapshot", |b| b.iter(|| black_box(state.snapshot())));
    let snapshot = state.snapshot();
    group.bench_function("a value", |b| {
        b.iter(|| {
            n = (n + 7_919) % KEYS;
            snapshot.get(&key(n)).expect("it is there")
        });
    });
    group.bench_function("a scan of 100", |b| {
        b.iter(|| {
            n = (n + 7_919) % (KEYS - 100);
            let found = snapshot.scan(&key(n), None, 100);
            assert_eq!(found.len(), 100);
            found
        });
    });
    group.finish();
}

fn key(number: u64) -> Vec<u8> {
    format!("\x01bench-{number:08}").into_bytes()
}

fn record(id: u64) -> Persist {
    let record = DurableRecord { id, body: vec![id as u8; 256], statements: Vec::new() };
    Persist::Record(EngineRecord { record, signed: Vec::new() })
}

/// The same batch, as long as a full one: what is written is the encoding.
fn large(batch: &HeldBatch) -> Arc<HeldBatch> {
    let signed = SignedBatch { batch: batch.batch().clone(), signature: Signature([0; 64]) };
    Arc::new(HeldBatch { digest: batch.digest, encoded: vec![7; BATCH_BYTES].into(), signed })
}
