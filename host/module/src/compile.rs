//! Compiling in a child process under limits.

use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use moult_types::ModuleHash;
use wasmtime::Engine;

use crate::error::ModuleError;
use crate::limits::Limits;
use crate::worker::{DONE, REFUSED, compile};

/// Where modules are compiled.
#[derive(Clone, Debug)]
pub enum Compile {
    /// In a child process, under time and memory limits.
    Worker(CompileWorker),
    /// In this process, without limits: for simulators and tests with modules of their own.
    InProcess,
}

/// A program that calls [`worker_main`](crate::worker_main).
#[derive(Clone, Debug)]
pub struct CompileWorker {
    /// The program; a node names itself.
    pub program: PathBuf,
    /// What makes it the worker.
    pub args: Vec<OsString>,
}

/// Machine code for one module.
pub(crate) fn run(
    how: &Compile,
    module: ModuleHash,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Vec<u8>, ModuleError> {
    match how {
        Compile::InProcess => compile(bytes).map_err(|problem| ModuleError::Compile { module, problem }),
        Compile::Worker(worker) => run_worker(worker, module, bytes, limits),
    }
}

fn run_worker(
    worker: &CompileWorker,
    module: ModuleHash,
    bytes: &[u8],
    limits: &Limits,
) -> Result<Vec<u8>, ModuleError> {
    let failed = |source| ModuleError::Worker { program: worker.program.display().to_string(), source };
    let deadline = Instant::now() + Duration::from_millis(limits.compile_ms);
    let mut command = Command::new(&worker.program);
    command.args(&worker.args).env_clear();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let result = talk(&mut child, bytes, deadline, limits);
    // Whatever happened, the child is gone when this returns. It may be gone already.
    drop(child.kill());
    let status = child.wait().map_err(failed)?;
    match result {
        Talk::Timeout => Err(ModuleError::CompileTimeout { module, limit_ms: limits.compile_ms }),
        Talk::TooLarge => Err(ModuleError::Compile {
            module,
            problem: format!("the machine code is over {} bytes", limits.artefact_bytes),
        }),
        Talk::Answer(answer, complaint) => {
            if let Some(code) = answer.strip_prefix(DONE) {
                return Ok(code.to_vec());
            }
            let problem = match answer.strip_prefix(REFUSED) {
                Some(problem) => String::from_utf8_lossy(problem).chars().take(500).collect(),
                None if status.signal() == Some(XCPU) => {
                    return Err(ModuleError::CompileTimeout { module, limit_ms: limits.compile_ms });
                }
                None => format!(
                    "the worker ended with {status} under {} bytes of memory: {}",
                    limits.compile_memory_bytes,
                    complaint.trim()
                ),
            };
            Err(ModuleError::Compile { module, problem })
        }
    }
}

const XCPU: i32 = rustix::process::Signal::XCPU.as_raw();

enum Talk {
    Answer(Vec<u8>, String),
    Timeout,
    TooLarge,
}

/// Feeds the child and reads its answer until the deadline; then leaves it as it is, and
/// the threads end when the child is killed.
fn talk(child: &mut Child, bytes: &[u8], deadline: Instant, limits: &Limits) -> Talk {
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Talk::Answer(Vec::new(), "no pipes".to_owned());
    };
    let cpu_s = limits.compile_ms.div_ceil(1000).saturating_add(1);
    let mut input = Vec::with_capacity(bytes.len() + 16);
    input.extend_from_slice(&limits.compile_memory_bytes.to_le_bytes());
    input.extend_from_slice(&cpu_s.to_le_bytes());
    input.extend_from_slice(bytes);
    // A child that dies early breaks the pipe; its answer says more than that.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    let (complaints, complaint) = sync_channel(1);
    std::thread::spawn(move || complaints.send(read_some(stderr, 4096)));
    let (answers, answer) = sync_channel(1);
    let most = limits.artefact_bytes + DONE.len();
    std::thread::spawn(move || answers.send(read_some(stdout, most + 1)));
    let left = || deadline.saturating_duration_since(Instant::now());
    match answer.recv_timeout(left()) {
        Ok(answer) if answer.len() > most => Talk::TooLarge,
        Ok(answer) if answer.starts_with(DONE) => Talk::Answer(answer, String::new()),
        Ok(answer) => {
            let complaint = complaint.recv_timeout(left().min(Duration::from_secs(1))).unwrap_or_default();
            Talk::Answer(answer, String::from_utf8_lossy(&complaint).into_owned())
        }
        Err(RecvTimeoutError::Timeout) => Talk::Timeout,
        Err(RecvTimeoutError::Disconnected) => Talk::Answer(Vec::new(), "the reader ended".to_owned()),
    }
}

fn read_some(from: impl Read, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before an error is what there is.
    drop(from.take(most as u64).read_to_end(&mut bytes));
    bytes
}

/// A digest of all that machine code depends on but the module: version of the compiler,
/// settings, processor.
pub(crate) fn compatibility(engine: &Engine) -> [u8; 32] {
    struct Blake(blake3::Hasher);
    impl Hasher for Blake {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            0 // Not asked for: the whole digest is taken below.
        }
    }
    let mut hasher = Blake(blake3::Hasher::new_derive_key("moult 2025 compile compatibility"));
    engine.precompile_compatibility_hash().hash(&mut hasher);
    *hasher.0.finalize().as_bytes()
}
