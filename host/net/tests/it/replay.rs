//! What was sent once and comes again: packets, tickets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::net::UdpSocket;

use crate::raw::{Presents, Raw, returning_client};
use crate::support::{Node, eventually, key, soon};

type Packets = Arc<Mutex<Vec<Vec<u8>>>>;

/// Stands between a client and a node, and keeps what the client sends.
async fn between(node: SocketAddr, kept: Packets) -> (SocketAddr, Arc<UdpSocket>) {
    let front = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("bind"));
    let (address, out) = (front.local_addr().expect("bound"), back.clone());
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 65_536], [0; 65_536]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut up) => {
                    client = Some(from);
                    kept.lock().expect("kept").push(up[..length].to_vec());
                    out.send_to(&up[..length], node).await.expect("sent");
                }
                Ok((length, _)) = out.recv_from(&mut down) => {
                    if let Some(client) = client {
                        front.send_to(&down[..length], client).await.expect("sent");
                    }
                }
            }
        }
    });
    (address, back)
}

#[tokio::test]
async fn packets_that_come_again_deliver_nothing_again() {
    let node = Node::start(1);
    node.lets_in(&[key(2)]);
    let packets = Packets::default();
    let (through, same_source) = between(node.address(), packets.clone()).await;
    let raw = Raw::new();
    let connection = raw.enter(through, Presents::RawKey(2)).await.expect("listed");
    let mut stream = connection.open_uni().await.expect("allowed");
    stream.write_all(&[1, 1]).await.expect("open");
    for number in 0..3 {
        stream.write_all(&[0, 0, 0, 1, number]).await.expect("open");
    }
    node.until("frames", |seen| seen.frames.len() == 3).await;

    // The whole connection once more: from where it came, and from elsewhere.
    let other_source = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let all = packets.lock().expect("kept").clone();
    for packet in &all {
        same_source.send_to(packet, node.address()).await.expect("sent");
        other_source.send_to(packet, node.address()).await.expect("sent");
    }
    // It lives, and what comes after the replay is the fourth frame.
    stream.write_all(&[0, 0, 0, 1, 3]).await.expect("open");
    let seen = node.until("the next frame", |seen| seen.frames.len() > 3).await;
    let frames: Vec<Bytes> = seen.frames.into_iter().map(|(_, _, frame)| frame).collect();
    assert_eq!(frames, (0..4).map(|n| Bytes::from(vec![n])).collect::<Vec<_>>());
    assert_eq!((node.net.stats().connections_up, node.net.stats().violations), (1, 0));
}

#[tokio::test]
async fn nobody_comes_back_without_a_whole_handshake() {
    let node = Node::start(1);
    node.lets_in(&[key(2)]);
    let (raw, config) = (Raw::new(), returning_client(Presents::RawKey(2)));
    let dial = || raw.endpoint.connect_with(config.clone(), node.address(), "moult").expect("valid");
    for round in 1..=3 {
        // No ticket was ever given: there is nothing to send data with before the handshake.
        let Err(connecting) = dial().into_0rtt() else { panic!("early data in round {round}") };
        let connection = soon("handshake", connecting).await.expect("listed");
        soon("first stream", connection.accept_uni()).await.expect("let in");
        connection.close(0_u32.into(), b"");
        eventually("gone", || node.net.stats().connections_open == 0).await;
    }
    // One that was a member: what it learnt as one is worth nothing.
    node.lets_in(&[]);
    let Err(connecting) = dial().into_0rtt() else { panic!("early data") };
    let refused = match soon("handshake", connecting).await {
        Ok(connection) => crate::raw::closed(&connection).await,
        Err(error) => error,
    };
    assert!(refused.to_string().contains("not in committee"), "{refused}");
    assert!(node.seen().frames.is_empty());
}
