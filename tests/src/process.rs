//! One node as a process.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::program::moult;

/// A running node; killed when dropped, and when the tests end in whatever way.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `moult node`, by `runner` where there is one; its log is appended to a file.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(config: &Path, log: &Path, filter: &str, runner: Option<Command>) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log opens");
        let mut command = match runner {
            None => Command::new(moult()),
            Some(mut runner) => {
                runner.arg(moult());
                runner
            }
        };
        command
            .args(["node", "--config"])
            .arg(config)
            .args(["--log", filter])
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out);
        Self { child: launch(command) }
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGSTOP: the process keeps its sockets and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end of a process that was asked to stop, or that has to fail.
    ///
    /// # Panics
    /// It still runs after `limit`.
    pub fn wait(mut self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < end, "process {} still runs after {limit:?}", self.child.id());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        // A child that was not waited for keeps its number.
        let pid = Pid::from_raw(self.child.id() as i32).expect("not zero");
        let _ = kill_process(pid, signal);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A folder that is left in place when `MOULT_TESTS_KEEP` is set.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Folder {
    /// A new one.
    ///
    /// # Panics
    /// The system gives none.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("moult-test-").tempdir().expect("a folder");
        if std::env::var_os("MOULT_TESTS_KEEP").is_some() {
            let path = folder.keep();
            eprintln!("kept: {}", path.display());
            return Self { path, temporary: None };
        }
        Self { path: folder.path().to_owned(), temporary: Some(folder) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it in place.
    pub fn keep(&mut self) {
        if let Some(folder) = self.temporary.take() {
            let _ = folder.keep();
        }
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

type Order = (Command, std::sync::mpsc::SyncSender<std::io::Result<Child>>);

/// Starts a child from a thread that lives as long as this program: the death signal of a
/// child is bound to the thread that started it.
fn launch(mut command: Command) -> Child {
    static LAUNCHER: OnceLock<Sender<Order>> = OnceLock::new();
    die_with_parent(&mut command);
    let launcher = LAUNCHER.get_or_init(|| {
        let (orders, queue) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, started) = sync_channel(1);
    launcher.send((command, reply)).expect("the launcher lives");
    started.recv().expect("the launcher answers").expect("the program starts")
}

/// Has the child killed when the thread that starts it ends, in whatever way.
#[allow(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one system call (prctl) and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
}
