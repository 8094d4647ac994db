//! The program under test and its command line.

use std::path::PathBuf;
use std::process::{Command, Output};

/// Where the program is: `MOULT_BIN`, or beside the tests in the target folder.
///
/// # Panics
/// It is not there.
pub fn moult() -> PathBuf {
    let path = match std::env::var_os("MOULT_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let test = std::env::current_exe().expect("a test has a path");
            test.ancestors().nth(2).expect("target/<profile>/deps/<test>").join("moult")
        }
    };
    assert!(path.exists(), "{} is not there: run `cargo build --release -p moult`", path.display());
    path
}

/// Runs a command of the program to its end.
///
/// # Panics
/// It cannot be started.
pub fn run(args: &[&str]) -> Output {
    Command::new(moult()).args(args).env_remove("MOULT_LOG").output().expect("the program starts")
}

/// Runs a command that has to work; gives its standard output.
///
/// # Panics
/// It fails.
pub fn run_ok(args: &[&str]) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "moult {}: {}\n{stderr}", args.join(" "), output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
