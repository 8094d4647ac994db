//! Engines that are wrong on purpose and that the whole cluster is moved to. The program
//! `broken-engines` runs hundreds of seeds; here are enough to see that each kind gets to office,
//! is given up, and is the same twice.

use moult_broken::Kind;
use moult_hostile::Bench;

#[test]
fn each_kind_gets_to_office_and_is_given_up() {
    let bench = Bench::native();
    for kind in Kind::ALL {
        let (mut swapped_in, mut given_up) = (0, 0);
        for seed in 0..20 {
            let report = bench.run(kind, seed, false).unwrap_or_else(|violation| panic!("{violation}"));
            swapped_in += report.broken.0;
            given_up += report.broken.1;
            if given_up >= 2 {
                break;
            }
        }
        assert!(swapped_in >= given_up && given_up >= 2, "{kind:?}: {swapped_in} and {given_up}");
    }
}

#[test]
fn components_are_given_up_like_native_code_and_one_seed_is_one_run() {
    let bench = Bench::components(1).expect("modules load");
    for kind in Kind::ALL {
        let once = bench.run(kind, 3, false).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(once, bench.run(kind, 3, false).expect("as before"), "{kind:?}");
        assert!(once.blocks > 20, "{kind:?}: {once}");
    }
}
