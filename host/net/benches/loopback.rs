//! Round trip of small frames and throughput of large ones between two networks in one
//! process, on loopback: `cargo bench -p moult-net [-- mtu...]`.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moult_crypto::KeyPair;
use moult_net::{BoxFuture, Class, Handler, NetConfig, NetLimits, Network, PeerEvent, SendOutcome};
use moult_types::PublicKey;
use tokio::sync::{mpsc, watch};

const SMALL_BYTES: usize = 256;
const LARGE_BYTES: usize = 256 * 1024;
const ROUND_TRIPS: usize = 20_000;
const LARGE_FRAMES: usize = 8_000;

struct Node {
    frames: mpsc::Sender<Bytes>,
    up: watch::Sender<bool>,
}

impl Handler for Node {
    fn on_frame(&self, _: PublicKey, _: Class, frame: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // The receiver is gone at the end of the benchmark.
            let _ = self.frames.send(frame).await;
        })
    }

    fn on_peer(&self, _: PublicKey, event: PeerEvent) {
        self.up.send_replace(matches!(event, PeerEvent::Up { .. }));
    }
}

struct Running {
    net: Network,
    frames: mpsc::Receiver<Bytes>,
    up: watch::Receiver<bool>,
}

fn start(seed: u8, limits: &NetLimits) -> Running {
    let (frames, received) = mpsc::channel(64);
    let (up, is_up) = watch::channel(false);
    let bind = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = NetConfig { keys: KeyPair::from_seed(&[seed; 32]).into(), bind, limits: limits.clone() };
    let net = Network::start(config, Arc::new(Node { frames, up })).expect("start");
    Running { net, frames: received, up: is_up }
}

async fn round_trips(a: &mut Running, b: &mut Running, to_a: PublicKey, to_b: PublicKey, load: &str) {
    let frame = Bytes::from(vec![1; SMALL_BYTES]);
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        assert_eq!(a.net.send(&to_b, Class::Consensus, frame.clone()), SendOutcome::Queued);
        let there = b.frames.recv().await.expect("open");
        assert_eq!(b.net.send(&to_a, Class::Consensus, there), SendOutcome::Queued);
        a.frames.recv().await.expect("open");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 1000];
    println!(
        "  round trip of {SMALL_BYTES} B{load}: p50 {:?}, p99 {:?}, p99.9 {:?}",
        at(500),
        at(990),
        at(999)
    );
}

async fn throughput(a: &Running, b: &mut Running, to_b: PublicKey) {
    let frame = Bytes::from(vec![2; LARGE_BYTES]);
    let began = Instant::now();
    let send = async {
        for _ in 0..LARGE_FRAMES {
            while a.net.send(&to_b, Class::Batches, frame.clone()) != SendOutcome::Queued {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let receive = async {
        for _ in 0..LARGE_FRAMES {
            b.frames.recv().await.expect("open");
        }
    };
    tokio::join!(send, receive);
    let seconds = began.elapsed().as_secs_f64();
    let mib = (LARGE_FRAMES * LARGE_BYTES) as f64 / f64::from(1 << 20);
    println!("  throughput of {LARGE_BYTES} B frames: {:.0} MiB/s", mib / seconds);
}

async fn measure(mtu: u16) {
    println!("mtu_loopback_max {mtu}");
    let limits = NetLimits { mtu_loopback_max: mtu, ..NetLimits::default() };
    let (mut a, mut b) = (start(1, &limits), start(2, &limits));
    let (to_a, to_b) = (a.net.public_key(), b.net.public_key());
    let address = |r: &Running| Some(r.net.local_addr().expect("bound").to_string());
    a.net.set_peers(vec![(to_b, address(&b))]);
    b.net.set_peers(vec![(to_a, address(&a))]);
    for side in [&mut a, &mut b] {
        side.up.wait_for(|up| *up).await.expect("open");
    }
    throughput(&a, &mut b, to_b).await;
    throughput(&a, &mut b, to_b).await;
    round_trips(&mut a, &mut b, to_a, to_b, "").await;
    a.net.shutdown().await;
    b.net.shutdown().await;
}

fn main() {
    let given: Vec<u16> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let mtus = if given.is_empty() { vec![1452, 4096, 6400] } else { given };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    for mtu in mtus {
        runtime.block_on(measure(mtu));
    }
}
