//! Encoding, strict decoding and hashing of what travels and is stored most:
//! `cargo bench -p moult-types --bench codec`, about ten seconds.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use moult_types::{
    AuthorityId, AuthorityIndex, Batch, Block, BlockRecord, ClientId, ClientTransaction, CommitIndex, Digest,
    EpochIdentity, EpochNumber, GlobalIndex, Signature, SignedBatch, Transaction, decode, encode,
};

const TRANSACTIONS: u64 = 1_000;
const TRANSACTION_BYTES: usize = 256;
const BATCHES: u8 = 16;

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(200)).sample_size(20);
    let mut criterion = criterion.measurement_time(Duration::from_secs(1)).configure_from_args();
    batches(&mut criterion);
    blocks(&mut criterion);
    criterion.final_summary();
}

fn batches(criterion: &mut Criterion) {
    let (value, bytes) = (batch(), encode(&batch()));
    let mut group = criterion.benchmark_group("batch of 1,000 transactions of 256 bytes");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |b| b.iter(|| encode(black_box(&value))));
    group.bench_function("decode", |b| {
        b.iter(|| decode::<SignedBatch>(black_box(&bytes)).expect("it decodes"))
    });
    group.bench_function("digest", |b| b.iter(|| black_box(&value).batch.digest()));
    group.finish();
}

fn blocks(criterion: &mut Criterion) {
    let (value, bytes) = (block(), encode(&block()));
    let mut group = criterion.benchmark_group("block of 16 batches");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |b| b.iter(|| encode(black_box(&value))));
    group.bench_function("decode", |b| {
        b.iter(|| decode::<BlockRecord>(black_box(&bytes)).expect("it decodes"))
    });
    group.bench_function("body", |b| b.iter(|| black_box(&value).block.body()));
    group.finish();
}

fn batch() -> SignedBatch {
    let transaction = |seq| {
        let client = ClientId { ingress: AuthorityId([3; 32]), name: b"a client".to_vec() };
        Transaction::Client(ClientTransaction { client, seq, payload: vec![seq as u8; TRANSACTION_BYTES] })
    };
    let batch = Batch {
        number: EpochNumber(1),
        author: AuthorityIndex(0),
        start: 1,
        seq: 7,
        time_ms: 1_700_000_000_000,
        transactions: (0..TRANSACTIONS).map(transaction).collect(),
    };
    SignedBatch { batch, signature: Signature([5; 64]) }
}

fn block() -> BlockRecord {
    let batches = (0..BATCHES).map(|n| Digest([n; 32])).collect();
    BlockRecord {
        epoch: EpochNumber(1),
        identity: EpochIdentity([1; 32]),
        global: GlobalIndex(9),
        parent: Digest([2; 32]),
        hash: Digest([3; 32]),
        block: Block {
            index: CommitIndex(9),
            time_ms: 1_700_000_000_000,
            batches,
            state_root: None,
            resumed: None,
        },
    }
}
