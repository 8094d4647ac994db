//! One program for all fuzz targets: `MOULT_FUZZ_TARGET` names the one to run, the rest is
//! libFuzzer's command line.
#![no_main]

use std::sync::OnceLock;

use moult_fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("MOULT_FUZZ_TARGET").unwrap_or_default();
        let Some(target) = moult_fuzz::target(&name) else {
            eprintln!("MOULT_FUZZ_TARGET is `{name}`: no such target");
            std::process::exit(2);
        };
        TARGET.get_or_init(|| target);
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(data);
        }
    }
);
