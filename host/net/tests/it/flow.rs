//! Full queues and slow handlers.

use bytes::Bytes;
use moult_net::{Class, NetLimits, PerClass, SendOutcome};

use crate::support::{Node, connect, eventually, limits};

const FRAME: usize = 64 * 1024;

fn small() -> NetLimits {
    NetLimits {
        queue_frames_max: PerClass { consensus: 8, batches: 8, sync: 8 },
        stream_window_bytes: 256 * 1024,
        ..limits()
    }
}

/// Sends until the queue stays full: what QUIC takes is bounded by the windows.
async fn fill(from: &Node, to: &Node, class: Class) -> usize {
    let mut queued = 0;
    let mut full_in_a_row = 0;
    while full_in_a_row < 50 {
        assert!(queued < 1000, "something takes frames without bound");
        match from.net.send(&to.key, class, Bytes::from(vec![class as u8; FRAME])) {
            SendOutcome::Queued => {
                queued += 1;
                full_in_a_row = 0;
            }
            SendOutcome::Full => {
                full_in_a_row += 1;
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            other => panic!("{other:?}"),
        }
    }
    queued
}

#[tokio::test]
async fn a_handler_that_does_not_return_stops_the_sender_and_not_the_other_classes() {
    let (a, b) = (Node::with(1, small(), 0, false), Node::with(2, small(), 0, true));
    connect(&[&a, &b]).await;
    let queued = fill(&a, &b, Class::Batches).await;
    // Queue, window and read-ahead, the frame in the handler, and the writer's batch.
    let bound = 8 + (256 * 1024 + 1024 * 1024) / FRAME + 1 + 8;
    assert!(queued <= bound, "{queued} frames taken, {bound} expected at most");
    assert_eq!(b.seen().frames.len(), 1, "the second one waits for the first");
    assert!(a.net.stats().frames_dropped.batches >= 50);

    // The other classes have windows of their own.
    assert_eq!(a.net.send(&b.key, Class::Sync, Bytes::from_static(b"sync")), SendOutcome::Queued);
    assert_eq!(a.net.send(&b.key, Class::Consensus, Bytes::from_static(b"vote")), SendOutcome::Queued);
    b.until("the other classes", |s| s.frames.len() == 3).await;

    // Everything queued arrives as soon as the handler goes on.
    b.release(queued + 2);
    let seen = b.until("all", |s| s.frames.len() == queued + 2).await;
    assert!(seen.downs(a.key).is_empty());
}

#[tokio::test]
async fn a_full_consensus_queue_keeps_the_newest() {
    let (a, b) = (Node::with(1, small(), 0, false), Node::with(2, small(), 0, true));
    connect(&[&a, &b]).await;
    let queued = fill(&a, &b, Class::Consensus).await;
    let before = a.net.stats().frames_dropped.consensus;
    assert!(before >= 50);
    for n in 0..8_u8 {
        let last = Bytes::from(vec![100 + n]);
        assert_eq!(a.net.send(&b.key, Class::Consensus, last), SendOutcome::Full);
    }
    assert_eq!(a.net.stats().frames_dropped.consensus, before + 8);
    b.release(queued + 100);
    let is_last = |f: &Bytes| f.len() == 1 && f[0] == 107;
    let seen = b.until("the newest", |s| s.frames.iter().any(|f| is_last(&f.2))).await;
    let tail: Vec<_> = seen.frames.iter().filter(|f| f.2.len() == 1).map(|f| f.2[0]).collect();
    assert_eq!(tail, (100..108).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_handler_that_waits_is_stopped_when_the_peer_goes() {
    let (a, b) = (Node::start(1), Node::with(2, limits(), 0, true));
    connect(&[&a, &b]).await;
    assert_eq!(a.net.send(&b.key, Class::Sync, Bytes::from_static(b"stuck")), SendOutcome::Queued);
    b.until("frame", |s| s.frames.len() == 1).await;
    b.lets_in(&[]);
    b.until("down", |s| s.downs(a.key).len() == 1).await;
    eventually("closed", || b.net.stats().connections_open == 0).await;
}
