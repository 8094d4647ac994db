//! Power losses: what a node wrote and did not sync is taken from its disk.
//!
//! A watched node runs under `strace`, which writes down each call that changes a file. From
//! that, [`disk::Disk`] knows of each file below the node's data folder what it holds and what
//! of it was synced. [`lose_power`] kills all nodes at once and writes the synced bytes over
//! the files; to the next life they are all that there ever was.
//!
//! # What counts as synced
//! - Bytes and length of a file are synced by a completed `fsync` or `fdatasync` of it,
//!   through any descriptor: those of the calls that had completed when the sync began. A sync
//!   without an end syncs nothing; neither does `sync_file_range`. A file that was never
//!   synced becomes empty.
//! - Names are durable when made: creating, renaming and removing are not taken back. They go
//!   through the journal of the file system; it is the data that is dropped.
//! - All unsynced bytes are lost, so a file is as it was at its last sync. Files of which some
//!   later pages survive and others do not are not produced.
//!
//! # What makes the model fail instead of being wrong
//! A call on a data file that it does not know, a shared mapping of one, a descriptor that a
//! child process would inherit, two writes to one file at a time; and after the kill each file
//! must hold on the disk what the model says that it holds, so that nothing was overlooked.

pub mod disk;
mod image;
#[cfg(test)]
mod tests;
pub mod trace;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::cluster::Cluster;
use crate::wait::{LONG, until};

pub use disk::{Disk, Loss};

/// Whether nodes can be watched; says so on standard error if not.
pub fn is_available() -> bool {
    let found = Command::new("strace").arg("-V").output().is_ok_and(|out| out.status.success());
    if !found {
        eprintln!("SKIPPED: power losses need strace: apt-get install -y --no-install-recommends strace");
    }
    found
}

/// Calls that change files, or could. Reading is not among them: where it moves a position that
/// a write depends on, the comparison with the disk fails.
const CALLS: &str = "open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,lseek,truncate,\
ftruncate,fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,msync,mmap,rename,renameat,renameat2,\
unlink,unlinkat,link,linkat,symlink,symlinkat,copy_file_range,sendfile,splice,dup,dup2,dup3,fcntl,ioctl,\
io_uring_setup";

/// The life of one node, watched from its start.
#[derive(Debug)]
pub struct Watch {
    disk: Disk,
    trace: PathBuf,
    log: PathBuf,
}

/// `strace` gave up before it had seen the node's death. Where a thread is killed while it
/// stops for a signal, `strace` (6.1 and later ones) takes the stop for one of the whole
/// process, is refused and ends: a trace then lacks its last calls and shows nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("strace gave up while the node died: {0}")]
pub struct WatcherEnded(String);

impl Watch {
    /// Of a node that does not run; its data folder is durable as it is.
    ///
    /// # Panics
    /// The folder cannot be read.
    pub fn new(node: &Path) -> Self {
        let node = node.canonicalize().expect("a node has a folder");
        Self { disk: Disk::read(&node.join("data")), trace: node.join("trace"), log: node.join("log") }
    }

    /// What runs a program so that it is watched. Its own process is the child; the watcher
    /// ends with it.
    pub fn command(&self) -> Command {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-q", "-y", "-xx", "-s", "20000000", "--seccomp-bpf"]);
        // The end of the last thread is the end of the trace.
        command.args(["-e", "signal=SIGKILL", "-e", &format!("trace={CALLS}"), "-o"]).arg(&self.trace);
        command
    }

    /// After the kill: reads the trace, checks the model and takes the unsynced bytes away.
    ///
    /// # Errors
    /// Nothing is known of the disk and nothing was taken.
    ///
    /// # Panics
    /// The trace holds what the model does not know, or disk and model differ.
    pub fn lose(mut self, pid: u32) -> Result<Loss, WatcherEnded> {
        until("the trace is whole", LONG, || match complaint(&self.log) {
            _ if ends_with_death(&self.trace, pid) => Ok(Ok(())),
            Some(text) => Ok(Err(WatcherEnded(text))),
            None => Err(format!("{pid} has no end")),
        })?;
        let mut lines = BufReader::new(File::open(&self.trace).expect("a trace"));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).expect("the trace can be read") > 0 {
            let text = std::str::from_utf8(&line).expect("-xx writes ASCII").trim_end_matches('\n');
            if let Err(problem) = self.disk.take(text) {
                panic!("{}: {problem}\n{:.300}", self.trace.display(), text);
            }
            line.clear();
        }
        std::fs::remove_file(&self.trace).expect("removed");
        Ok(self.disk.lose())
    }
}

fn ends_with_death(trace: &Path, pid: u32) -> bool {
    let Ok(mut file) = File::open(trace) else { return false };
    let length = file.metadata().expect("a length").len();
    file.seek(SeekFrom::Start(length.saturating_sub(200))).expect("a position");
    let mut end = String::new();
    file.read_to_string(&mut end).is_ok()
        && end.strip_suffix(" +++ killed by SIGKILL +++\n").is_some_and(|before| {
            before.trim_end().rsplit(['\n', ' ']).next() == Some(pid.to_string().as_str())
        })
}

/// What `strace` said as it gave up: it shares the standard error of the node.
fn complaint(log: &Path) -> Option<String> {
    let text = std::fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| line.starts_with("strace: ptrace(")).map(str::to_owned)
}

/// All nodes lose power at once; none runs afterwards. What each of them lost, by number.
///
/// # Errors
/// The scenario has to begin anew, with another cluster.
///
/// # Panics
/// See [`Watch::lose`]; a node is not watched.
pub fn lose_power(cluster: &mut Cluster) -> Result<Vec<Loss>, WatcherEnded> {
    let running = cluster.running();
    let watches: Vec<_> = running.iter().map(|&i| cluster.take_watch(i)).collect();
    cluster.kill_all(&running);
    watches.into_iter().map(|(watch, pid)| watch.lose(pid)).collect()
}
