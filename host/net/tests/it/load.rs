//! A steady load between two listed nodes, and what is left of it during an attack.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use moult_net::{BoxFuture, Class, Handler, NetConfig, NetLimits, Network, PeerEvent, SendOutcome};
use moult_types::PublicKey;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::support::{eventually, key, keys, soon};

/// Quiet and attacked spans, one after the other: noise of the machine meets both.
const SLICES: usize = 7;
const SLICE: Duration = Duration::from_millis(300);
/// One frame each: 2,000 frames of 1 KiB a second, far below what the transport carries.
const PAUSE: Duration = Duration::from_micros(500);
const FRAME_BYTES: usize = 1024;

/// Counts frames by peer and keeps none.
#[derive(Default)]
struct Counter(Mutex<BTreeMap<PublicKey, u64>>);

impl Handler for Counter {
    fn on_frame(&self, from: PublicKey, _: Class, _: Bytes) -> BoxFuture<'_, ()> {
        *self.0.lock().expect("counted").entry(from).or_default() += 1;
        Box::pin(std::future::ready(()))
    }

    fn on_peer(&self, _: PublicKey, _: PeerEvent) {}
}

/// The node that is attacked (key 1), with an honest peer (key 2) that sends to it.
pub(crate) struct Honest {
    pub(crate) victim: Network,
    pub(crate) address: SocketAddr,
    counter: Arc<Counter>,
    peer: Network,
}

impl Honest {
    /// Lets in the honest peer and these keys.
    pub(crate) async fn start(limits: NetLimits, others: &[PublicKey]) -> Self {
        let counter = Arc::new(Counter::default());
        let network = |seed, handler: Arc<Counter>, limits| {
            let bind = SocketAddr::from(([127, 0, 0, 1], 0));
            Network::start(NetConfig { keys: keys(seed).into(), bind, limits }, handler).expect("start")
        };
        let victim = network(1, counter.clone(), limits);
        let peer = network(2, Arc::default(), crate::support::limits());
        let address = victim.local_addr().expect("bound");
        let mut listed: Vec<_> = others.iter().map(|key| (*key, None)).collect();
        listed.push((key(2), Some(peer.local_addr().expect("bound").to_string())));
        victim.set_peers(listed);
        peer.set_peers(vec![(key(1), Some(address.to_string()))]);
        eventually("up", || victim.stats().connections_up > 0 && peer.stats().connections_up > 0).await;
        Self { victim, address, counter, peer }
    }

    /// Frames of the honest peer that arrived so far.
    fn arrived(&self) -> u64 {
        self.counter.0.lock().expect("counted").get(&key(2)).copied().unwrap_or(0)
    }

    /// Runs the attack in every other span (it is told when), and asserts that at least 70 %
    /// of what arrives in quiet ones arrives in the others: by their medians.
    pub(crate) async fn withstands<F: Future<Output = ()>>(
        &self,
        attack: impl FnOnce(watch::Receiver<bool>) -> F,
    ) {
        let (switch, is_on) = watch::channel(false);
        let measure = async {
            let (mut quiet, mut attacked) = (Vec::new(), Vec::new());
            for _ in 0..SLICES {
                for (on, counts) in [(false, &mut quiet), (true, &mut attacked)] {
                    switch.send_replace(on);
                    let before = self.arrived();
                    sleep(SLICE).await;
                    counts.push(self.arrived() - before);
                }
            }
            (median(quiet), median(attacked))
        };
        let load = async {
            let frame = Bytes::from(vec![7; FRAME_BYTES]);
            let mut pace = interval(PAUSE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                let outcome = self.peer.send(&key(1), Class::Batches, frame.clone());
                assert!(outcome == SendOutcome::Queued || outcome == SendOutcome::Full, "{outcome:?}");
            }
        };
        let attack = async {
            attack(is_on).await;
            panic!("the attack ended");
        };
        let (quiet, attacked) = soon("the attack", async {
            tokio::select! {
                medians = measure => medians,
                () = load => unreachable!("it goes on"),
                () = attack => unreachable!("it goes on"),
            }
        })
        .await;
        println!("frames in {SLICE:?}: {quiet} in quiet, {attacked} under attack");
        assert!(quiet > 100, "the load itself does not run: {quiet}");
        assert!(attacked * 10 >= quiet * 7, "{attacked} of {quiet} frames are left under attack");
    }
}

/// Waits until the attack is on; how long it goes on, the caller asks again.
pub(crate) async fn until_on(is_on: &mut watch::Receiver<bool>) {
    is_on.wait_for(|on| *on).await.expect("the test goes on");
}

fn median(mut counts: Vec<u64>) -> u64 {
    counts.sort_unstable();
    counts[counts.len() / 2]
}

/// Ten thousand of something a second: how many are due by now, since the last question.
pub(crate) struct Rate {
    per_second: u64,
    last: Instant,
}

impl Rate {
    pub(crate) fn new(per_second: u64) -> Self {
        Self { per_second, last: Instant::now() }
    }

    pub(crate) async fn due(&mut self) -> u64 {
        sleep(Duration::from_millis(1)).await;
        let now = Instant::now();
        let micros = now.duration_since(self.last).as_micros() as u64;
        self.last = now;
        // What a stalled machine missed is not caught up.
        (micros.min(20_000) * self.per_second).div_ceil(1_000_000)
    }
}
