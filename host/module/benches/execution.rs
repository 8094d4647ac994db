//! Execution of a block of 1,000 transactions, from the block to its writes and the state root,
//! with native applications and with components:
//! `cargo bench -p moult-module --bench execution`, about fifteen seconds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use moult_core::execution::{StateAccumulator, execute_block};
use moult_core::ports::ApplicationInstance;
use moult_kv::{Command, Kv};
use moult_module::{Compile, HostConfig, Limits, ModuleHost, NativeApplication};
use moult_null::Null;
use moult_types::state::StateReader;
use moult_types::{
    AuthorityId, AuthorityIndex, Batch, Block, BlockRecord, ClientId, ClientTransaction, CommitIndex, Digest,
    EpochIdentity, EpochLimits, EpochNumber, GlobalIndex, HeldBatch, ModuleHash, Signature, SignedBatch,
    Transaction, World,
};

const TRANSACTIONS: u64 = 1_000;
const VALUE_BYTES: usize = 256;

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(300)).sample_size(20);
    let mut criterion = criterion.measurement_time(Duration::from_secs(2)).configure_from_args();
    let host = host();
    let applications: [(&str, Arc<dyn ApplicationInstance>); 4] = [
        ("null, native", Arc::new(NativeApplication::<Null>::new())),
        ("null, component", component(&host, "null")),
        ("kv, native", Arc::new(NativeApplication::<Kv>::new())),
        ("kv, component", component(&host, "kv")),
    ];
    let base: Arc<dyn StateReader> = Arc::new(BTreeMap::new());
    let (limits, accumulator) = (EpochLimits::default(), StateAccumulator::default());
    let (record, batches) = block();
    let mut group = criterion.benchmark_group("block of 1,000 transactions of 256 bytes");
    group.throughput(Throughput::Elements(TRANSACTIONS));
    for (name, application) in &applications {
        group.bench_function(*name, |b| {
            b.iter(|| {
                let done =
                    execute_block(&**application, b"", &limits, &base, &accumulator, &record, &batches);
                let done = done.expect("no limit is hit");
                assert_eq!(done.receipts.len() as u64, TRANSACTIONS);
                done.accumulator.root()
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

/// A block with one batch, of clients that are new.
fn block() -> (BlockRecord, Vec<Arc<HeldBatch>>) {
    let transaction = |number: u64| {
        let name = format!("client-{number}").into_bytes();
        let command = Command::Put { key: format!("key-{number}").into_bytes(), value: vec![1; VALUE_BYTES] };
        Transaction::Client(ClientTransaction {
            client: ClientId { ingress: AuthorityId([1; 32]), name },
            seq: 1,
            payload: command.encode(),
        })
    };
    let batch = Batch {
        number: EpochNumber(0),
        author: AuthorityIndex(0),
        start: 1,
        seq: 1,
        time_ms: 1,
        transactions: (0..TRANSACTIONS).map(transaction).collect(),
    };
    let batch = HeldBatch::new(SignedBatch { batch, signature: Signature([0; 64]) });
    let record = BlockRecord {
        epoch: EpochNumber(0),
        identity: EpochIdentity([1; 32]),
        global: GlobalIndex(1),
        parent: Digest::ZERO,
        hash: Digest::ZERO,
        block: Block {
            index: CommitIndex(1),
            time_ms: 1,
            batches: vec![batch.digest],
            state_root: None,
            resumed: None,
        },
    };
    (record, vec![Arc::new(batch)])
}

fn host() -> ModuleHost {
    let (compile, limits) = (Compile::InProcess, Limits::default());
    ModuleHost::new(HostConfig { cache_dir: None, cache_key: [1; 32], compile, limits }).expect("a host")
}

fn component(host: &ModuleHost, name: &str) -> Arc<dyn ApplicationInstance> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../modules/{name}.wasm"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let hash = ModuleHash::of(&bytes);
    let prepared = host.prepare(bytes.into(), hash, World::Application).expect("an application");
    prepared.application().expect("an application")
}
