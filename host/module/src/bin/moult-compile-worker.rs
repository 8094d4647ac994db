//! The compile worker on its own, for tests; the `moult` program has it built in.

use std::process::ExitCode;

fn main() -> ExitCode {
    moult_module::worker_main()
}
