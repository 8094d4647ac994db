//! Who is let in.

use bytes::Bytes;
use moult_net::{Class, CloseCode, DownReason, SendOutcome};
use moult_types::PublicKey;

use crate::raw::{Presents, Raw, closed};
use crate::support::{Node, connect, eventually, key};

async fn refused(node: &Node, presents: Presents, alpn: &[u8]) -> String {
    let raw = Raw::new();
    let error = match raw.dial(node.address(), presents, alpn).await {
        // In TLS 1.3 the dialler learns it with the first answer.
        Ok(connection) => closed(&connection).await,
        Err(error) => error,
    };
    assert_eq!(node.net.stats().connections_up, 0);
    error.to_string()
}

#[tokio::test]
async fn an_unlisted_key_is_refused_in_the_handshake_and_told_why() {
    let node = Node::start(1);
    node.lets_in(&[key(2)]);
    let error = refused(&node, Presents::RawKey(3), b"moult/2").await;
    let expected = format!("peer key {} not in committee or configured observers", key(3));
    assert!(error.contains(&expected), "{error}");
    eventually("counted", || node.net.stats().handshakes_refused == 1).await;
    // The same way in works for the listed one.
    Raw::new().enter(node.address(), Presents::RawKey(2)).await.expect("listed");
}

#[tokio::test]
async fn the_own_key_is_refused_and_never_dialled() {
    let node = Node::start(1);
    node.net.set_peers(vec![node.entry(), (key(2), None)]);
    let error = refused(&node, Presents::RawKey(1), b"moult/2").await;
    assert!(error.contains("is this node's own"), "{error}");
    assert_eq!(node.net.send(&node.key, Class::Sync, Bytes::from_static(b"me")), SendOutcome::NotConnected);
}

#[tokio::test]
async fn a_listed_key_with_another_ones_signature_is_refused() {
    let node = Node::start(1);
    node.lets_in(&[key(2)]);
    let error = refused(&node, Presents::StolenKey(2, 3), b"moult/2").await;
    assert!(error.contains("crypto") || error.contains("BadSignature"), "{error}");
}

#[tokio::test]
async fn certificates_no_key_and_other_protocols_are_refused() {
    let node = Node::start(1);
    node.lets_in(&[key(2)]);
    refused(&node, Presents::Certificate, b"moult/2").await;
    refused(&node, Presents::Nothing, b"moult/2").await;
    refused(&node, Presents::RawKey(2), b"moult/1").await;
    eventually("counted", || node.net.stats().handshakes_failed == 3).await;
}

#[tokio::test]
async fn whoever_answers_with_another_key_or_a_certificate_is_not_talked_to() {
    for presents in [Presents::RawKey(4), Presents::StolenKey(3, 4), Presents::Certificate] {
        let node = Node::start(1);
        let raw = Raw::listening(presents);
        let address = raw.endpoint.local_addr().expect("bound").to_string();
        // 4 is listed as well: being somebody listed is not enough.
        node.net.set_peers(vec![(key(3), Some(address)), (key(4), None)]);
        let incoming = raw.endpoint.accept().await.expect("dialled");
        let outcome = match incoming.await {
            Ok(connection) => closed(&connection).await,
            Err(error) => error,
        };
        eventually("counted", || node.net.stats().dials_failed > 0).await;
        assert_eq!(node.net.stats().connections_up, 0, "{outcome}");
    }
}

#[tokio::test]
async fn weak_keys_are_not_listed() {
    let node = Node::start(1);
    let weak = PublicKey([0; 32]);
    node.lets_in(&[weak]);
    assert_eq!(node.net.penalize(&weak, "not there"), None);
}

#[tokio::test]
async fn a_removed_peer_is_closed_and_stays_out_until_it_is_listed_again() {
    let (a, b, c) = (Node::start(1), Node::start(2), Node::start(3));
    connect(&[&a, &b, &c]).await;
    a.net.set_peers(vec![b.entry()]);
    let seen = a.until("down", |s| s.downs(c.key).len() == 1).await;
    let removed = |r: &DownReason| matches!(r, DownReason::Closed { code: CloseCode::Removed, .. });
    assert!(removed(&seen.downs(c.key)[0]), "{:?}", seen.downs(c.key));
    let seen = c.until("down", |s| s.downs(a.key).len() == 1).await;
    let removed =
        |r: &DownReason| matches!(r, DownReason::ClosedByPeer { code: Some(CloseCode::Removed), .. });
    assert!(removed(&seen.downs(a.key)[0]), "{:?}", seen.downs(a.key));
    // c goes on dialling and is refused.
    eventually("refused", || a.net.stats().handshakes_refused >= 2).await;
    assert_eq!(a.seen().ups(c.key), 1);
    a.net.set_peers(vec![b.entry(), c.entry()]);
    a.until("up again", |s| s.ups(c.key) == 2).await;
    assert_eq!(a.seen().ups(b.key), 1, "the others do not notice");
}
