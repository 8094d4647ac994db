//! A node of its own (a committee of one), asked over HTTP as any client asks it.
//!
//! Not run by libtest: this program is also the compile worker that the node starts.
#![allow(clippy::disallowed_methods, reason = "a test of the shell, which has clocks")]

mod calls;
mod client;
mod setup;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(setup::WORKER) => return moult_module::worker_main(),
        Some("--list") => {
            println!("calls: test");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    calls::run(&runtime);
    ExitCode::SUCCESS
}
