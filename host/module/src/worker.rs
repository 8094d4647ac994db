//! The child process that compiles: it may hang or grow, and its limits end it.
//!
//! Standard input: memory limit in bytes and CPU limit in seconds (little-endian u64 each),
//! then the component to the end. Standard output: [`DONE`] and the machine code, or
//! [`REFUSED`] and a message.

use std::io::{Read, Write};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::config::deterministic_config;

pub(crate) const DONE: &[u8] = b"moult-compiled\n";
pub(crate) const REFUSED: &[u8] = b"moult-refused\n";

/// What the child process does. The program that a
/// [`CompileWorker`](crate::CompileWorker) names calls this and nothing else.
pub fn worker_main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compile worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> std::io::Result<()> {
    let mut input = std::io::stdin().lock();
    let mut header = [0; 16];
    input.read_exact(&mut header)?;
    let (memory, cpu) = header.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    limit(Resource::As, number(memory))?;
    limit(Resource::Cpu, number(cpu))?;
    limit(Resource::Core, 0)?;
    // The node that asks may be ordering transactions meanwhile: that goes first. Refused
    // where the process is as nice already as may be; then nothing is lost.
    let _ = rustix::process::nice(5);
    let mut module = Vec::new();
    input.read_to_end(&mut module)?;
    let mut output = std::io::stdout().lock();
    match compile(&module) {
        Ok(code) => {
            output.write_all(DONE)?;
            output.write_all(&code)?;
        }
        Err(problem) => {
            output.write_all(REFUSED)?;
            output.write_all(problem.as_bytes())?;
        }
    }
    output.flush()
}

/// Compiles a component with the settings that every node shares.
pub(crate) fn compile(module: &[u8]) -> Result<Vec<u8>, String> {
    wasmtime::Engine::new(&deterministic_config())
        .and_then(|engine| engine.precompile_component(module))
        .map_err(|error| error.root_cause().to_string())
}

fn limit(resource: Resource, amount: u64) -> std::io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(amount), maximum: Some(amount) })?)
}
