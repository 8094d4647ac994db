//! A node of its own (a committee of one), asked over HTTP as any client asks it.
//!
//! Not run by libtest: this program is also the node, and the compile worker
//! that the node starts.
#![allow(clippy::disallowed_methods, reason = "a test of the shell, which has clocks")]

mod abuse;
mod abuse_h2;
mod admin;
mod calls;
mod client;
mod closed;
mod grpc;
mod grpc_streams;
mod rough;
mod setup;

use std::process::ExitCode;

const TESTS: [(&str, fn()); 4] =
    [("calls", calls::run), ("closed", closed::run), ("grpc", grpc::run), ("abuse", abuse::run)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(setup::WORKER) => return moult_module::worker_main(),
        Some(setup::NODE) => {
            let ended = setup::node(arguments.get(1).map(String::as_ref).expect("a configuration"));
            return ended.map_or_else(|e| panic!("{e}"), |()| ExitCode::SUCCESS);
        }
        Some("--list") => {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    // As libtest does: a word leaves only the tests with it in their names.
    let word = arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", String::as_str);
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(word)) {
        println!("{name}");
        test();
    }
    ExitCode::SUCCESS
}
