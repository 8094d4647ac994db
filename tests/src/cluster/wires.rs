//! The links between nodes, so that tests can cut them: nodes know each other by the addresses
//! of relays, which pass datagrams on as they are, or drop them.
//!
//! A node dials from the socket that it listens on, so the source of a datagram tells who sent
//! it. Each pair has a socket of its own towards the receiver: answers find their way back.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Largest datagram there is.
const DATAGRAM_BYTES: usize = 65_536;

/// Relays between all nodes.
#[derive(Debug)]
pub(super) struct Wires {
    shared: Arc<Shared>,
    /// To wake a thread that waits: any datagram to its socket does.
    sockets: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Where nodes listen.
    nodes: Vec<SocketAddr>,
    /// By sender, then by receiver.
    cut: Vec<Vec<AtomicBool>>,
    stop: AtomicBool,
    /// Datagrams that met a link that was cut.
    lost: AtomicU64,
}

impl Shared {
    /// Whether a datagram gets through; one that does not is counted.
    fn passes(&self, from: usize, to: usize) -> bool {
        let is_cut = self.cut[from][to].load(Ordering::Relaxed);
        if is_cut {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        !is_cut
    }
}

impl Wires {
    /// `relays`: the address that others know of each node; `nodes`: where it listens.
    pub(super) fn new(relays: &[SocketAddr], nodes: &[SocketAddr]) -> Self {
        let row = || nodes.iter().map(|_| AtomicBool::new(false)).collect();
        let cut = nodes.iter().map(|_| row()).collect();
        let shared = Arc::new(Shared {
            nodes: nodes.to_vec(),
            cut,
            stop: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let mut wires = Self { shared, sockets: Vec::new(), threads: Vec::new() };
        for (to, relay) in relays.iter().enumerate() {
            wires.add_node(to, *relay);
        }
        wires
    }

    fn add_node(&mut self, to: usize, relay: SocketAddr) {
        let count = self.shared.nodes.len();
        let known = Arc::new(UdpSocket::bind(relay).expect("the relay's port is free"));
        let towards: Vec<Arc<UdpSocket>> = (0..count)
            .map(|_| Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")))
            .collect();
        for (from, socket) in towards.iter().enumerate().filter(|(from, _)| *from != to) {
            let (shared, known) = (self.shared.clone(), known.clone());
            let dialer = shared.nodes[from];
            self.run(socket.clone(), move |datagram, _| {
                if shared.passes(to, from) {
                    pass(&known, datagram, dialer);
                }
            });
        }
        let shared = self.shared.clone();
        self.run(known, move |datagram, source| {
            let from = shared.nodes.iter().position(|node| *node == source);
            if let Some(from) = from.filter(|from| shared.passes(*from, to)) {
                pass(&towards[from], datagram, shared.nodes[to]);
            }
        });
    }

    fn run(&mut self, socket: Arc<UdpSocket>, take: impl Fn(&[u8], SocketAddr) + Send + 'static) {
        self.sockets.push(socket.local_addr().expect("it is bound"));
        let shared = self.shared.clone();
        self.threads.push(std::thread::spawn(move || {
            let mut buffer = vec![0; DATAGRAM_BYTES];
            while !shared.stop.load(Ordering::Relaxed) {
                // An error is what a node that is gone answered to an earlier datagram.
                if let Ok((bytes, source)) = socket.recv_from(&mut buffer) {
                    take(&buffer[..bytes], source);
                }
            }
        }));
    }

    /// Nothing that `from` sends reaches `to` any more; the other direction stays.
    pub(super) fn cut(&self, from: usize, to: usize) {
        self.shared.cut[from][to].store(true, Ordering::Relaxed);
    }

    /// All links work again.
    pub(super) fn heal(&self) {
        self.shared.cut.iter().flatten().for_each(|cut| cut.store(false, Ordering::Relaxed));
    }
}

/// Like a network: what cannot be passed on is lost.
fn pass(socket: &UdpSocket, datagram: &[u8], to: SocketAddr) {
    let _ = socket.send_to(datagram, to);
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let waker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        for socket in &self.sockets {
            let _ = waker.send_to(&[], socket);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait::{LONG, until_true};

    #[test]
    fn datagrams_and_their_answers_pass_until_the_link_is_cut() {
        let bind = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
            socket
        };
        let (a, b) = (bind(), bind());
        let relays: Vec<SocketAddr> =
            [bind(), bind()].iter().map(|socket| socket.local_addr().expect("bound")).collect();
        let nodes = [a.local_addr().expect("bound"), b.local_addr().expect("bound")];
        let wires = Wires::new(&relays, &nodes);
        let mut buffer = [0; 16];
        a.send_to(b"ask", relays[1]).expect("sent");
        let (bytes, source) = b.recv_from(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..bytes], b"ask");
        b.send_to(b"answer", source).expect("sent");
        assert_eq!(a.recv_from(&mut buffer).expect("it arrives"), (6, relays[1]));

        wires.cut(1, 0);
        b.send_to(b"lost", source).expect("sent");
        a.send_to(b"still", relays[1]).expect("sent");
        assert_eq!(b.recv_from(&mut buffer).expect("the other direction stays").0, 5);
        until_true("the datagram is lost", LONG, || wires.shared.lost.load(Ordering::Relaxed) == 1);
        wires.heal();
        b.send_to(b"late", source).expect("sent");
        let (bytes, _) = a.recv_from(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..bytes], b"late", "what was sent while the link was cut is lost");
    }
}
