//! What each write adds to the cost of the state root:
//! `cargo bench -p moult-core --bench state_root`, about ten seconds.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use moult_core::execution::StateAccumulator;

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(200)).sample_size(20);
    let mut criterion = criterion.measurement_time(Duration::from_secs(1)).configure_from_args();
    let (key, former, value) = ([1; 24], [2; 256], [3; 256]);
    let mut accumulator = StateAccumulator::default();
    let mut group = criterion.benchmark_group("state root, values of 256 bytes");
    group.bench_function("a new key", |b| {
        b.iter(|| accumulator.replace(black_box(&key), None, Some(black_box(&value))));
    });
    group.bench_function("another value", |b| {
        b.iter(|| accumulator.replace(black_box(&key), Some(black_box(&former)), Some(black_box(&value))));
    });
    group.bench_function("the root itself", |b| b.iter(|| black_box(&accumulator).root()));
    group.finish();
    criterion.final_summary();
}
