//! The public face.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use moult_crypto::{NodeKey, Signer as _};
use moult_types::PublicKey;
use quinn::Endpoint;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::class::Class;
use crate::error::{CloseCode, DownReason, NetError};
use crate::identity::{certified_key, is_weak};
use crate::limits::NetLimits;
use crate::link::Link;
use crate::peers::{Peers, Slot};
use crate::queue::Pushed;
use crate::stats::{Stats, StatsSnapshot, add};
use crate::{accept, dial, quic, tls};

/// A future on the heap.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a network needs to start.
#[derive(Debug)]
pub struct NetConfig {
    /// This node's key.
    pub keys: NodeKey,
    /// Where to listen and from where to dial; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Every bound.
    pub limits: NetLimits,
}

/// Who takes what arrives.
///
/// For one peer the events are ordered: `Up`, frames, `Down`, and so on. Different peers
/// and, within a connection, different classes call at the same time.
pub trait Handler: Send + Sync + 'static {
    /// Takes a frame of 1 to [`NetLimits::frame_bytes_max`] bytes.
    ///
    /// The next frame of this peer and class is read when the future is done: a slow
    /// handler slows down the peer in this class and nobody else. The future is dropped
    /// wherever it waits when the connection ends.
    fn on_frame(&self, from: PublicKey, class: Class, frame: Bytes) -> BoxFuture<'_, ()>;

    /// Takes an event. Must not block; may call the [`Network`].
    fn on_peer(&self, key: PublicKey, event: PeerEvent);
}

/// What happened to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// A connection is there. What was sent before it was up may be lost.
    Up {
        /// Round trip measured in the handshake.
        rtt: Duration,
        /// Where the peer is.
        address: SocketAddr,
    },
    /// The connection ended, and what was queued on it is lost. A new one is sought.
    Down {
        /// Why.
        reason: DownReason,
    },
    /// Two living processes take turns with one key: somebody runs a copy, or stole it.
    DuplicateIdentity {
        /// From where to where the connection went back.
        addresses: Vec<SocketAddr>,
    },
}

/// What became of a frame to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum SendOutcome {
    /// It waits to be written. It arrives unless the connection ends first.
    Queued,
    /// The queue was full. In [`Class::Consensus`] the oldest frames were dropped and this
    /// one waits; in the other classes this one was dropped.
    Full,
    /// No connection, or the key is not listed.
    NotConnected,
    /// The frame is empty or longer than its class allows: a mistake of the caller.
    Invalid,
}

/// A connected peer, for status pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Who.
    pub key: PublicKey,
    /// Where.
    pub address: SocketAddr,
    /// The current estimate.
    pub rtt: Duration,
    /// How long the connection has been up.
    pub up_for: Duration,
}

/// Authenticated connections to listed peers. Clones are the same network; when the last
/// one is dropped it closes without flushing. A handler that holds a clone keeps it alive
/// until [`Network::shutdown`].
#[derive(Clone, Debug)]
pub struct Network {
    guard: Arc<Guard>,
}

pub(crate) struct Shared {
    pub(crate) limits: NetLimits,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) endpoint: Endpoint,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) runtime: Handle,
    own: PublicKey,
    stopping: AtomicBool,
}

impl Network {
    /// Binds the address and lets listed peers in; at first nobody is listed.
    ///
    /// # Errors
    /// A limit is out of range, the address cannot be bound, or there is no tokio runtime
    /// around. Nothing is left behind.
    pub fn start(config: NetConfig, handler: Arc<dyn Handler>) -> Result<Self, NetError> {
        let NetConfig { keys, bind, limits } = config;
        let runtime = Handle::try_current().map_err(|_| NetError::NoRuntime)?;
        limits.check()?;
        let own = keys.public_key();
        let stats = Arc::new(Stats::default());
        let peers = Arc::new(Peers::new(own, Arc::clone(&stats)));
        let (provider, certified) = (tls::provider(), certified_key(&keys));
        let server = tls::server_config(&provider, &certified, &peers)?;
        let local = Arc::new(quic::server(server.clone(), &limits, true)?);
        let endpoint = quic::endpoint(&keys, bind, &limits, quic::server(server, &limits, false)?)?;
        let stopping = AtomicBool::new(false);
        let shared =
            Shared { limits, handler, peers, stats, endpoint, provider, certified, runtime, own, stopping };
        let shared = Arc::new(shared);
        shared.runtime.spawn(accept::run(Arc::clone(&shared), local));
        tracing::info!(target: "network", key = %own, %bind, "listening");
        Ok(Self { guard: Arc::new(Guard(shared)) })
    }

    /// Lists exactly these peers, all at once; those with a `host:port` are dialled.
    ///
    /// Connections of keys that are gone are closed. The own key and keys for which anyone
    /// could sign are left out. Of a key given twice the last address counts.
    pub fn set_peers(&self, peers: Vec<(PublicKey, Option<String>)>) {
        let shared = self.shared();
        let mut slots = shared.peers.write();
        let mut before = std::mem::take(&mut *slots);
        for (key, address) in peers {
            if key == shared.own {
                continue;
            }
            if is_weak(&key) {
                tracing::warn!(target: "network", %key, "weak key left out");
                continue;
            }
            let slot = before.remove(&key).or_else(|| slots.get(&key).cloned());
            let slot = slot.unwrap_or_else(|| Arc::new(Slot::new(key, shared.own)));
            shared.dial_at(&slot, address);
            slots.insert(key, slot);
        }
        drop(slots);
        for slot in before.into_values() {
            shared.forget(&slot);
        }
    }

    /// Queues a frame for a peer; never waits.
    pub fn send(&self, to: &PublicKey, class: Class, frame: Bytes) -> SendOutcome {
        let shared = self.shared();
        if !shared.may_send(class, &frame) {
            return SendOutcome::Invalid;
        }
        match shared.peers.get(to).and_then(|slot| slot.current()) {
            Some(link) => shared.push(&link, class, frame),
            None => SendOutcome::NotConnected,
        }
    }

    /// Queues a frame for every connected peer, which share its bytes; never waits.
    /// Returns for how many it was queued.
    pub fn broadcast(&self, class: Class, frame: Bytes) -> usize {
        let shared = self.shared();
        if !shared.may_send(class, &frame) {
            return 0;
        }
        let links: Vec<_> = shared.peers.read().values().filter_map(|slot| slot.current()).collect();
        let queued = |link: &Arc<Link>| match shared.push(link, class, frame.clone()) {
            SendOutcome::Queued => true,
            SendOutcome::Full => class == Class::Consensus,
            SendOutcome::NotConnected | SendOutcome::Invalid => false,
        };
        links.iter().filter(|l| queued(l)).count()
    }

    /// Closes the peer's connection and holds it off, each time for longer. Returns for how
    /// long, `None` if the key is not listed.
    pub fn penalize(&self, key: &PublicKey, reason: &str) -> Option<Duration> {
        let shared = self.shared();
        let slot = shared.peers.get(key)?;
        let mut state = slot.state();
        let held = state.penalty.trip(&shared.limits);
        add(&shared.stats.penalties, 1);
        tracing::warn!(target: "network", %key, reason, ?held, "peer penalized");
        if let Some(link) = slot.current() {
            link.close(CloseCode::Penalized, reason.chars().take(200).collect::<String>());
        }
        drop(state);
        Some(held)
    }

    /// The current estimate of the round trip to a connected peer.
    pub fn rtt(&self, key: &PublicKey) -> Option<Duration> {
        Some(self.shared().peers.get(key)?.current()?.connection.rtt())
    }

    /// Every connected peer, by key.
    pub fn connected(&self) -> Vec<PeerInfo> {
        let links: Vec<_> = self.shared().peers.read().values().filter_map(|slot| slot.current()).collect();
        let info = |link: &Arc<Link>| PeerInfo {
            key: link.key,
            address: link.address,
            rtt: link.connection.rtt(),
            up_for: link.since.elapsed(),
        };
        links.iter().filter(|link| link.is_open()).map(info).collect()
    }

    /// What happened so far.
    pub fn stats(&self) -> StatsSnapshot {
        self.shared().stats.snapshot()
    }

    /// Where this node listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.shared().endpoint.local_addr()
    }

    /// This node's key.
    pub fn public_key(&self) -> PublicKey {
        self.shared().own
    }

    /// Flushes the queues, says goodbye and closes; takes at most twice
    /// [`NetLimits::flush_timeout_ms`]. Later sends find nobody connected.
    pub async fn shutdown(&self) {
        let shared = self.shared();
        shared.stopping.store(true, Ordering::SeqCst);
        let slots: Vec<_> = shared.peers.read().values().cloned().collect();
        for slot in &slots {
            shared.dial_at(slot, None);
        }
        let links: Vec<_> = slots.iter().filter_map(|slot| slot.current()).collect();
        let flush = async {
            for link in &links {
                link.flushed().await;
            }
        };
        if timeout(shared.limits.flush_timeout(), flush).await.is_err() {
            tracing::info!(target: "network", "shutdown did not wait for all queues");
        }
        shared.close("shutdown");
        let _ = timeout(shared.limits.flush_timeout(), shared.endpoint.wait_idle()).await;
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.guard.0
    }
}

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn may_send(&self, class: Class, frame: &Bytes) -> bool {
        !frame.is_empty() && frame.len() <= *self.limits.frame_bytes_max.of(class)
    }

    fn push(&self, link: &Link, class: Class, frame: Bytes) -> SendOutcome {
        let dropped = match link.queues.of(class).push(frame) {
            Pushed::Queued => return SendOutcome::Queued,
            Pushed::Closed => return SendOutcome::NotConnected,
            Pushed::Displaced(dropped) => dropped,
            Pushed::Refused => 1,
        };
        add(self.stats.frames_dropped.of(class), dropped);
        SendOutcome::Full
    }

    /// Lets one task keep the connection to the peer at `address`, or none.
    fn dial_at(self: &Arc<Self>, slot: &Arc<Slot>, address: Option<String>) {
        let mut state = slot.state();
        let address = address.filter(|_| !self.is_stopping());
        if state.address == address {
            return;
        }
        if let Some(task) = state.dialler.take() {
            task.abort();
        }
        state.address.clone_from(&address);
        state.dialler = address.map(|address| {
            let task = dial::keep_connected(Arc::clone(self), Arc::clone(slot), address);
            self.runtime.spawn(task).abort_handle()
        });
    }

    /// Ends everything with a peer that is no longer listed.
    fn forget(self: &Arc<Self>, slot: &Arc<Slot>) {
        self.dial_at(slot, None);
        let mut state = slot.state();
        state.removed = true;
        if let Some(link) = slot.current() {
            link.close(CloseCode::Removed, "key no longer listed");
        }
        drop(state);
    }

    fn close(self: &Arc<Self>, why: &str) {
        self.stopping.store(true, Ordering::SeqCst);
        for slot in self.peers.read().values() {
            self.dial_at(slot, None);
            if let Some(link) = slot.current() {
                link.close(CloseCode::Shutdown, why);
            }
        }
        self.endpoint.close(CloseCode::Shutdown.into(), why.as_bytes());
    }
}

/// Closes when the last handle is gone; the tasks hold [`Shared`] itself.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close("dropped");
        // The endpoint knows the list and a connection knows the endpoint: without this
        // circle everything goes even if the runtime is gone and no task tidies up.
        self.0.peers.write().clear();
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.own)
    }
}
