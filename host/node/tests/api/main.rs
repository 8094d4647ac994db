//! A node of its own (a committee of one), asked over HTTP as any client asks it.
//!
//! Not run by libtest: this program is also the node, and the compile worker
//! that the node starts.
#![allow(clippy::disallowed_methods, reason = "a test of the shell, which has clocks")]

mod admin;
mod calls;
mod client;
mod closed;
mod rough;
mod setup;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(setup::WORKER) => return moult_module::worker_main(),
        Some(setup::NODE) => {
            let ended = setup::node(arguments.get(1).map(String::as_ref).expect("a configuration"));
            return ended.map_or_else(|e| panic!("{e}"), |()| ExitCode::SUCCESS);
        }
        Some("--list") => {
            println!("calls: test\nclosed: test");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    calls::run();
    println!("closed");
    closed::run();
    ExitCode::SUCCESS
}
