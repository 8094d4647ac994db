//! Well-behaved nodes.

use bytes::Bytes;
use moult_net::{Class, CloseCode, DownReason, SendOutcome};

use crate::support::{Node, connect, eventually, soon};

#[tokio::test]
async fn two_nodes_exchange_frames_of_every_class_in_order() {
    let (a, b) = (Node::start(1), Node::start(2));
    connect(&[&a, &b]).await;
    let frame = |class: Class, i: usize| {
        let len = [1, 300, 5_000, 70_000, 3_000_000][i % 5];
        Bytes::from(vec![class as u8 + i as u8; len])
    };
    for i in 0..10 {
        for class in Class::ALL {
            assert_eq!(a.net.send(&b.key, class, frame(class, i)), SendOutcome::Queued);
        }
    }
    let seen = b.until("thirty frames", |s| s.frames.len() == 30).await;
    for class in Class::ALL {
        let got: Vec<_> = seen.frames.iter().filter(|f| f.1 == class).map(|f| f.2.clone()).collect();
        assert!(got == (0..10).map(|i| frame(class, i)).collect::<Vec<_>>(), "{class:?}");
    }
    assert!(seen.frames.iter().all(|f| f.0 == a.key));
    eventually("counted", || a.net.stats().frames_sent.sync == 10).await;
    assert_eq!(a.net.stats().bytes_sent, b.net.stats().bytes_received);
    assert_eq!(b.net.stats().frames_received.batches, 10);
    assert!(a.net.rtt(&b.key).is_some());
}

#[tokio::test]
async fn four_nodes_broadcast_to_each_other_over_one_connection_a_pair() {
    let nodes = [1, 2, 3, 4].map(Node::start);
    connect(&nodes.each_ref()).await;
    for node in &nodes {
        let frame = Bytes::copy_from_slice(&node.key.0);
        assert_eq!(node.net.broadcast(Class::Consensus, frame), 3);
    }
    for node in &nodes {
        let seen = node.until("three frames", |s| s.frames.len() == 3).await;
        assert!(seen.frames.iter().all(|(from, _, frame)| from.0 == frame[..]));
        assert_eq!(node.net.connected().len(), 3);
        assert_eq!(node.net.stats().connections_open, 3);
    }
}

#[tokio::test]
async fn frames_that_cannot_be_sent_are_named() {
    let (a, b) = (Node::start(1), Node::start(2));
    let send = |bytes: usize| a.net.send(&b.key, Class::Batches, Bytes::from(vec![0; bytes]));
    assert_eq!(send(1), SendOutcome::NotConnected);
    a.lets_in(&[b.key]);
    assert_eq!(send(1), SendOutcome::NotConnected);
    connect(&[&a, &b]).await;
    assert_eq!(send(0), SendOutcome::Invalid);
    assert_eq!(send((8 << 20) + 1), SendOutcome::Invalid);
    assert_eq!(send(8 << 20), SendOutcome::Queued);
    assert_eq!(send(1), SendOutcome::Queued);
    let seen = b.until("both", |s| s.frames.len() == 2).await;
    assert_eq!(seen.frames[0].2.len(), 8 << 20);
}

#[tokio::test]
async fn a_shutdown_delivers_what_was_queued_and_says_goodbye() {
    let (a, b) = (Node::start(1), Node::start(2));
    connect(&[&a, &b]).await;
    for _ in 0..100 {
        assert_eq!(a.net.send(&b.key, Class::Batches, Bytes::from(vec![1; 10_000])), SendOutcome::Queued);
    }
    soon("shutdown", a.net.shutdown()).await;
    let seen = b.until("down", |s| s.downs(a.key).len() == 1).await;
    assert_eq!(seen.frames.len(), 100);
    let by_peer =
        |r: &DownReason| matches!(r, DownReason::ClosedByPeer { code: Some(CloseCode::Shutdown), .. });
    assert!(by_peer(&seen.downs(a.key)[0]), "{:?}", seen.downs(a.key));
    assert_eq!(a.net.send(&b.key, Class::Batches, Bytes::from_static(b"late")), SendOutcome::NotConnected);
    assert_eq!(a.net.stats().connections_open, 0);
}

#[tokio::test]
async fn a_dropped_network_closes_its_connections() {
    let (a, b) = (Node::start(1), Node::start(2));
    connect(&[&a, &b]).await;
    let key = a.key;
    drop(a);
    b.until("down", |s| s.downs(key).len() == 1).await;
}
