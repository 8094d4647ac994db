//! Ports that no one else takes, and one cluster at a time.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};

/// Below the ports that systems give to outgoing connections: a node that is restarted finds
/// its own again.
const FIRST: u16 = 21_000;
const LAST: u16 = 31_000;

/// Hands out free ports; none twice, so that no client of a former cluster meets a later one.
#[derive(Debug)]
pub(super) struct Ports;

impl Ports {
    /// A loopback address at which nobody listens, neither TCP nor UDP. Processes of one
    /// time start at different places.
    pub(super) fn free(&self) -> SocketAddr {
        static TAKEN: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() % 200) as u16 * 50;
        loop {
            let port = FIRST + (start + TAKEN.fetch_add(1, Ordering::Relaxed)) % (LAST - FIRST);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return address;
            }
        }
    }
}

static IN_PROCESS: Mutex<()> = Mutex::new(());

/// Held while a cluster lives: tests of one process wait for each other, and so do runners
/// with a process for each test.
#[derive(Debug)]
pub(super) struct Turn {
    _file: File,
    _guard: MutexGuard<'static, ()>,
}

impl Turn {
    pub(super) fn wait() -> Self {
        // A test that failed leaves nothing behind that others need.
        let guard = IN_PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
        let path = std::env::temp_dir().join("moult-tests.lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(path).expect("the lock opens");
        flock(&file, FlockOperation::LockExclusive).expect("the lock can be waited for");
        Self { _file: file, _guard: guard }
    }
}
