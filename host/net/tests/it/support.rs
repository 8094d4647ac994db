//! A network with a handler that writes everything down.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moult_crypto::{KeyPair, Signer as _};
use moult_net::{BoxFuture, Class, DownReason, Handler, NetConfig, NetLimits, Network, PeerEvent};
use moult_types::PublicKey;
use tokio::sync::{Semaphore, watch};

/// Generous: only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a node has seen, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) frames: Vec<(PublicKey, Class, Bytes)>,
    pub(crate) events: Vec<(PublicKey, PeerEvent)>,
}

impl Seen {
    pub(crate) fn ups(&self, key: PublicKey) -> usize {
        self.events.iter().filter(|(k, e)| *k == key && matches!(e, PeerEvent::Up { .. })).count()
    }

    pub(crate) fn downs(&self, key: PublicKey) -> Vec<DownReason> {
        let of = |(k, e): &(PublicKey, PeerEvent)| match e {
            PeerEvent::Down { reason } if *k == key => Some(reason.clone()),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }
}

pub(crate) struct Recorder {
    seen: watch::Sender<Seen>,
    /// One permit lets one frame return.
    gate: Option<Semaphore>,
}

impl Handler for Recorder {
    fn on_frame(&self, from: PublicKey, class: Class, frame: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.seen.send_modify(|s| s.frames.push((from, class, frame)));
            if let Some(gate) = &self.gate {
                gate.acquire().await.expect("never closed").forget();
            }
        })
    }

    fn on_peer(&self, key: PublicKey, event: PeerEvent) {
        self.seen.send_modify(|s| s.events.push((key, event)));
    }
}

pub(crate) struct Node {
    pub(crate) net: Network,
    pub(crate) key: PublicKey,
    recorder: Arc<Recorder>,
}

impl Node {
    pub(crate) fn start(seed: u8) -> Self {
        Self::with(seed, limits(), 0, false)
    }

    pub(crate) fn with(seed: u8, limits: NetLimits, port: u16, gated: bool) -> Self {
        let keys = keys(seed);
        let key = keys.public_key();
        let gate = gated.then(|| Semaphore::new(0));
        let recorder = Arc::new(Recorder { seen: watch::Sender::default(), gate });
        let config = NetConfig { keys: keys.into(), bind: SocketAddr::from(([127, 0, 0, 1], port)), limits };
        let handler: Arc<dyn Handler> = recorder.clone();
        let net = Network::start(config, handler).expect("start");
        Self { net, key, recorder }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.net.local_addr().expect("bound")
    }

    /// How others list this node.
    pub(crate) fn entry(&self) -> (PublicKey, Option<String>) {
        (self.key, Some(self.address().to_string()))
    }

    pub(crate) fn lets_in(&self, keys: &[PublicKey]) {
        self.net.set_peers(keys.iter().map(|k| (*k, None)).collect());
    }

    pub(crate) fn seen(&self) -> Seen {
        self.recorder.seen.borrow().clone()
    }

    pub(crate) async fn until(&self, what: &str, holds: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.recorder.seen.subscribe();
        let mut holds = holds;
        match tokio::time::timeout(PATIENCE, seen.wait_for(|s| holds(s))).await {
            Ok(found) => found.expect("the recorder lives").clone(),
            Err(_) => {
                let events = self.seen().events;
                panic!("{what} did not happen; events {events:#?}, stats {:#?}", self.net.stats());
            }
        }
    }

    pub(crate) async fn until_up(&self, key: PublicKey) {
        self.until("up", |s| s.ups(key) > s.downs(key).len()).await;
    }

    pub(crate) fn release(&self, frames: usize) {
        self.recorder.gate.as_ref().expect("gated").add_permits(frames);
    }
}

/// Everyone lists and dials everyone.
pub(crate) async fn connect(nodes: &[&Node]) {
    for node in nodes {
        node.net.set_peers(nodes.iter().map(|n| n.entry()).collect());
    }
    for node in nodes {
        for other in nodes.iter().filter(|o| o.key != node.key) {
            node.until_up(other.key).await;
        }
    }
}

/// Asks again and again, for what is counted and has no event.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, poll).await.is_ok(), "{what} did not happen");
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(PATIENCE, future).await else { panic!("{what} took too long") };
    value
}

pub(crate) fn keys(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32])
}

pub(crate) fn key(seed: u8) -> PublicKey {
    keys(seed).public_key()
}

/// Two seeds, that of the smaller key first.
pub(crate) fn by_key(a: u8, b: u8) -> (u8, u8) {
    if key(a) < key(b) { (a, b) } else { (b, a) }
}

pub(crate) fn limits() -> NetLimits {
    NetLimits { dial_fallback_ms: 200, ..NetLimits::default() }
}
