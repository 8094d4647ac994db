//! Connections that come back, and that come twice.

use std::time::Duration;

use bytes::Bytes;
use moult_net::{Class, CloseCode, DownReason, NetLimits, PeerEvent, SendOutcome};
use tokio::time::Instant;

use crate::raw::{Presents, Raw, close_code, closed};
use crate::support::{Node, by_key, connect, eventually, key, limits};

/// A node in a runtime of its own, that can be stopped without a goodbye.
struct Mortal {
    runtime: tokio::runtime::Runtime,
    node: Node,
}

impl Mortal {
    fn start(seed: u8, port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("runtime");
        let node = {
            let _inside = runtime.enter();
            Node::with(seed, limits(), port, false)
        };
        Self { runtime, node }
    }

    /// As a kill would.
    fn die(self) {
        self.runtime.shutdown_background();
    }
}

async fn restart(survivor: u8, mortal: u8) {
    let survivor = Node::start(survivor);
    let first = Mortal::start(mortal, 0);
    connect(&[&survivor, &first.node]).await;
    let (key, port) = (first.node.key, first.node.address().port());
    first.die();
    let died = Instant::now();
    // The port is free when the runtime is gone.
    eventually("free port", || std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok()).await;
    let second = Mortal::start(mortal, port);
    second.node.net.set_peers(vec![survivor.entry()]);
    survivor.until("up again", |s| s.ups(key) == 2).await;
    let took = died.elapsed();
    assert!(took < Duration::from_secs(4), "well before the idle timeout, not {took:?}");
    second.node.until_up(survivor.key).await;
    assert_eq!(survivor.net.send(&key, Class::Sync, Bytes::from_static(b"again")), SendOutcome::Queued);
    second.node.until("frame", |s| s.frames.len() == 1).await;
    assert_eq!(survivor.net.stats().reconnects, 1);
    assert_eq!(survivor.net.stats().duplicate_identities, 0);
    second.die();
}

#[tokio::test]
async fn a_restarted_peer_with_the_larger_key_is_back_before_the_idle_timeout() {
    let (smaller, larger) = by_key(1, 2);
    restart(smaller, larger).await;
}

#[tokio::test]
async fn a_restarted_peer_with_the_smaller_key_is_back_before_the_idle_timeout() {
    let (smaller, larger) = by_key(1, 2);
    restart(larger, smaller).await;
}

#[tokio::test]
async fn a_peer_that_is_gone_is_dialled_until_it_comes() {
    let a = Node::start(1);
    let free = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound");
    a.net.set_peers(vec![(key(2), Some(free.to_string()))]);
    let quick = NetLimits { handshake_timeout_ms: 100, ..limits() };
    let b = Node::with(3, quick, 0, false);
    b.net.set_peers(vec![(key(2), Some(free.to_string())), (key(4), Some("no-such-host.invalid:1".into()))]);
    eventually("several attempts", || b.net.stats().dials_failed >= 4).await;
    let late = Node::with(2, limits(), free.port(), false);
    late.lets_in(&[a.key, b.key]);
    late.until_up(a.key).await;
    late.until_up(b.key).await;
}

#[tokio::test]
async fn the_larger_key_dials_when_the_smaller_one_does_not() {
    let (smaller, larger) = by_key(1, 2);
    let (smaller, larger) = (Node::start(smaller), Node::start(larger));
    smaller.lets_in(&[larger.key]);
    larger.net.set_peers(vec![smaller.entry()]);
    smaller.until_up(larger.key).await;
    larger.until_up(smaller.key).await;
}

/// Both dial at once, over and over; each time both ends must come to the same connection.
#[tokio::test]
async fn of_two_connections_both_ends_keep_the_same_one() {
    for round in 0..20 {
        let eager = NetLimits { dial_fallback_ms: 0, ..NetLimits::default() };
        let (a, b) = (Node::with(1, eager.clone(), 0, false), Node::with(2, eager, 0, false));
        a.net.set_peers(vec![b.entry()]);
        b.net.set_peers(vec![a.entry()]);
        // An answer over the connection that either end thinks is the one.
        let mut sent = 0;
        eventually("both directions", || {
            sent += 1;
            let _ = a.net.send(&b.key, Class::Sync, Bytes::from_static(b"to b"));
            let _ = b.net.send(&a.key, Class::Sync, Bytes::from_static(b"to a"));
            !a.seen().frames.is_empty() && !b.seen().frames.is_empty()
        })
        .await;
        eventually("one connection", || {
            a.net.stats().connections_open == 1 && b.net.stats().connections_open == 1
        })
        .await;
        let (ups, downs) = (a.seen().ups(b.key), a.seen().downs(b.key));
        assert!(ups - downs.len() == 1, "round {round}: {downs:?}");
        assert_eq!(a.net.stats().duplicate_identities + b.net.stats().duplicate_identities, 0);
    }
}

#[tokio::test]
async fn a_younger_connection_of_the_same_dialler_takes_over() {
    let node = Node::start(1);
    node.lets_in(&[key(2)]);
    let (first, second) = (Raw::new(), Raw::new());
    let old = first.enter(node.address(), Presents::RawKey(2)).await.expect("listed");
    let new = second.enter(node.address(), Presents::RawKey(2)).await.expect("listed");
    assert_eq!(close_code(&old).await, CloseCode::Replaced);
    let seen = node.until("up again", |s| s.ups(key(2)) == 2).await;
    // Strictly one after the other for the handler.
    assert!(matches!(seen.events[1].1, PeerEvent::Down { .. }), "{:?}", seen.events);
    assert!(new.close_reason().is_none());
    assert_eq!(node.net.stats().duplicate_identities, 0, "a restart is no alarm");
}

#[tokio::test]
async fn one_key_at_two_living_places_raises_the_alarm() {
    let node = Node::start(1);
    node.lets_in(&[key(2)]);
    let (here, there) = (Raw::new(), Raw::new());
    let mut open = Vec::new();
    for raw in [&here, &there, &here] {
        open.push(raw.enter(node.address(), Presents::RawKey(2)).await.expect("listed"));
    }
    let is_alarm = |e: &PeerEvent| matches!(e, PeerEvent::DuplicateIdentity { .. });
    let seen = node.until("alarm", |s| s.events.iter().any(|(_, e)| is_alarm(e))).await;
    let addresses = [there, here].map(|raw| raw.endpoint.local_addr().expect("bound"));
    let expected = PeerEvent::DuplicateIdentity { addresses: addresses.to_vec() };
    assert!(seen.events.contains(&(key(2), expected)), "{:?}", seen.events);
    assert_eq!(node.net.stats().duplicate_identities, 1);
}

#[tokio::test]
async fn a_penalized_peer_is_held_off_and_comes_back_later() {
    let patient = NetLimits { penalty_min_ms: 300, ..limits() };
    let (a, b) = (Node::with(1, patient, 0, false), Node::start(2));
    connect(&[&a, &b]).await;
    let began = Instant::now();
    assert_eq!(a.net.penalize(&b.key, "sent nonsense"), Some(Duration::from_millis(300)));
    let seen = b.until("down", |s| s.downs(a.key).len() == 1).await;
    let DownReason::ClosedByPeer { code: Some(CloseCode::Penalized), detail } = &seen.downs(a.key)[0] else {
        panic!("{:?}", seen.downs(a.key))
    };
    assert_eq!(detail, "sent nonsense");
    a.until("up again", |s| s.ups(b.key) >= 2).await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(a.net.penalize(&b.key, "again"), Some(Duration::from_millis(600)));
    let stats = a.net.stats();
    assert_eq!((stats.penalties, stats.violations), (2, 0));
}

#[tokio::test]
async fn a_held_off_peer_is_refused_in_the_handshake() {
    let patient = NetLimits { penalty_min_ms: 60_000, ..limits() };
    let node = Node::with(1, patient, 0, false);
    node.lets_in(&[key(2)]);
    node.net.penalize(&key(2), "a test").expect("listed");
    let raw = Raw::new();
    let connection = raw.dial(node.address(), Presents::RawKey(2), b"moult/2").await.expect("client side");
    let error = closed(&connection).await.to_string();
    assert!(error.contains("held off"), "{error}");
}
