//! Modules from seeds, a short run of the fuzzer; `fuzz-modules` runs it for as long as wanted.

use moult_hostile::{Kind, Tally, fuzz_limits, run_seed};
use moult_module::{HostConfig, ModuleHost};

use crate::common::{lives, worker};

fn run(kind: Kind, seeds: std::ops::Range<u64>) -> Tally {
    let compile = worker();
    let config = HostConfig { cache_dir: None, cache_key: [0; 32], compile, limits: fuzz_limits() };
    let host = ModuleHost::new(config).expect("a host");
    let mut total = Tally::default();
    for seed in seeds {
        match run_seed(&host, kind, seed) {
            Ok(tally) => total.add(&tally),
            Err(finding) => panic!("{finding}"),
        }
    }
    println!("{total}");
    lives(&host);
    total
}

#[test]
fn damaged_modules_do_no_harm() {
    let total = run(Kind::Mutant, 0..40);
    assert!(total.of("came up") >= 5 && total.of("refused") >= 20, "{total}");
}

#[test]
fn generated_modules_do_no_harm() {
    let total = run(Kind::Generated, 0..150);
    // They are compiled, instantiated and called once: to `describe`, which arbitrary code
    // does not answer as the contract wants it.
    assert!(total.of("refused: the contract") >= 50 && total.of("refused: resources") >= 10, "{total}");
}
