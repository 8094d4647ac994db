//! One connection: its queues, its tasks, its end.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use moult_types::PublicKey;
use quinn::{Connection, RecvStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::class::{Class, PerClass};
use crate::contest::new_one_stays;
use crate::error::{CloseCode, DownReason};
use crate::limits::NetLimits;
use crate::network::{PeerEvent, Shared};
use crate::peers::Slot;
use crate::queue::SendQueue;
use crate::reader::Readers;
use crate::stats::{add, subtract};
use crate::writer;

/// A connection that this node and the peer agreed on.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) key: PublicKey,
    pub(crate) connection: Connection,
    pub(crate) since: Instant,
    pub(crate) queues: PerClass<SendQueue>,
    /// Writers that have not flushed and ended their stream.
    pub(crate) writers: watch::Sender<usize>,
    /// Where the connection came from when it was made; it cannot move.
    pub(crate) address: SocketAddr,
    by_smaller: bool,
    closed_here: OnceLock<(CloseCode, String)>,
    /// Set after the last event of this connection was given to the handler.
    ended: watch::Sender<bool>,
}

impl Link {
    fn new(key: PublicKey, connection: Connection, by_smaller: bool, limits: &NetLimits) -> Self {
        let queues = PerClass::from_fn(|class| {
            let (frames, bytes) = (limits.queue_frames_max.of(class), limits.queue_bytes_max.of(class));
            SendQueue::new(*frames, *bytes, class == Class::Consensus)
        });
        Self {
            key,
            since: Instant::now(),
            queues,
            writers: watch::Sender::new(Class::ALL.len()),
            address: connection.remote_address(),
            by_smaller,
            closed_here: OnceLock::new(),
            ended: watch::Sender::new(false),
            connection,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Closes the connection if it is open; the first reason given stays.
    pub(crate) fn close(&self, code: CloseCode, detail: impl Into<String>) {
        // quinn would forget why it was closed.
        if !self.is_open() {
            return;
        }
        let (code, detail) = self.closed_here.get_or_init(|| (code, detail.into()));
        self.connection.close((*code).into(), detail.as_bytes());
        for class in Class::ALL {
            self.queues.of(class).close();
        }
    }

    /// Waits until queues are empty and the peer has everything, or the connection ends.
    pub(crate) async fn flushed(&self) {
        for class in Class::ALL {
            self.queues.of(class).close();
        }
        // The sender lives as long as self.
        let _ = self.writers.subscribe().wait_for(|n| *n == 0).await;
    }

    fn down_reason(&self, error: &quinn::ConnectionError) -> DownReason {
        match (error, self.closed_here.get()) {
            (quinn::ConnectionError::LocallyClosed, Some((code, detail))) => {
                DownReason::Closed { code: *code, detail: detail.clone() }
            }
            (quinn::ConnectionError::LocallyClosed, None) => {
                DownReason::Closed { code: CloseCode::Shutdown, detail: String::new() }
            }
            (other, _) => DownReason::from_quinn(other),
        }
    }
}

/// A connection whose handshake is done, on its way to become the peer's [`Link`].
pub(crate) struct Candidate {
    pub(crate) key: PublicKey,
    pub(crate) connection: Connection,
    pub(crate) dialled_here: bool,
    /// The peer's first stream, where its arrival had to be awaited.
    pub(crate) first_stream: Option<RecvStream>,
}

/// Makes a connection the one of its peer, or closes it. Returns the link if it stays.
pub(crate) fn admit(shared: &Arc<Shared>, candidate: Candidate) -> Option<Arc<Link>> {
    let Candidate { key, connection, dialled_here, first_stream } = candidate;
    let Some(slot) = shared.peers.get(&key) else {
        connection.close(CloseCode::NotAllowed.into(), b"key not listed");
        return None;
    };
    let by_smaller = dialled_here == slot.we_are_smaller;
    let mut state = slot.state();
    if state.removed || state.penalty.hold_off().is_some() || shared.is_stopping() {
        connection.close(CloseCode::NotAllowed.into(), b"key removed or held off");
        return None;
    }
    let current = slot.current();
    let mut alarm = None;
    if let Some(old) = current.as_ref().filter(|l| l.is_open()) {
        add(&shared.stats.duplicates, 1);
        let settle = std::time::Duration::from_millis(shared.limits.settle_ms);
        if !new_one_stays(by_smaller, old.by_smaller, old.since.elapsed(), settle) {
            connection.close(CloseCode::Replaced.into(), b"another connection was there first");
            return None;
        }
        let window = std::time::Duration::from_millis(shared.limits.duplicate_window_ms);
        let (from, to) = (old.address, connection.remote_address());
        alarm = state.takeovers.note(from, to, Instant::now(), window);
        old.close(CloseCode::Replaced, "another connection took over");
    }
    let link = Arc::new(Link::new(key, connection, by_smaller, &shared.limits));
    slot.link.send_replace(Some(Arc::clone(&link)));
    drop(state);

    let task = run(Arc::clone(shared), Arc::clone(&slot), Arc::clone(&link), first_stream, current, alarm);
    shared.runtime.spawn(task);
    Some(link)
}

async fn run(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    link: Arc<Link>,
    first_stream: Option<RecvStream>,
    predecessor: Option<Arc<Link>>,
    alarm: Option<Vec<SocketAddr>>,
) {
    let mut tasks = JoinSet::new();
    for class in Class::ALL {
        tasks.spawn(writer::run(Arc::clone(&shared), Arc::clone(&link), class));
    }
    // So that the handler sees the end of one connection before the next one begins.
    if let Some(old) = predecessor {
        let _ = old.ended.subscribe().wait_for(|ended| *ended).await;
    }
    let key = link.key;
    if let Some(addresses) = alarm {
        add(&shared.stats.duplicate_identities, 1);
        tracing::warn!(target: "network", %key, ?addresses, "duplicate identity");
        shared.handler.on_peer(key, PeerEvent::DuplicateIdentity { addresses });
    }
    let rtt = link.connection.rtt();
    add(&shared.stats.connections_up, 1);
    add(&shared.stats.connections_open, 1);
    if slot.was_up.swap(true, Ordering::Relaxed) {
        add(&shared.stats.reconnects, 1);
    }
    let address = link.address;
    tracing::info!(target: "network", %key, %address, ?rtt, by_smaller = link.by_smaller, "peer up");
    shared.handler.on_peer(key, PeerEvent::Up { rtt, address });

    // Ends after the connection and after its last call of the handler, so that no frame is
    // handed over after `Down`.
    Readers::new(&shared, &link).run(first_stream).await;
    let error = link.connection.closed().await;
    for class in Class::ALL {
        link.queues.of(class).close();
    }
    tasks.shutdown().await;
    let reason = link.down_reason(&error);
    subtract(&shared.stats.connections_open, 1);
    if let DownReason::Closed { code, .. } = &reason
        && code.is_violation()
    {
        let held = slot.state().penalty.trip(&shared.limits);
        add(&shared.stats.violations, 1);
        tracing::warn!(target: "network", %key, %reason, ?held, "peer broke the rules");
    }
    slot.link.send_if_modified(|current| {
        let ours = current.as_ref().is_some_and(|c| Arc::ptr_eq(c, &link));
        if ours {
            *current = None;
        }
        ours
    });
    link.writers.send_replace(0);
    tracing::info!(target: "network", %key, %address, %reason, "peer down");
    shared.handler.on_peer(key, PeerEvent::Down { reason });
    link.ended.send_replace(true);
}
