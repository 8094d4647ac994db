//! Listed peers that break the rules, and unlisted ones that come in numbers.

use std::time::Duration;

use moult_net::{CloseCode, NetLimits};
use quinn::{Connection, VarInt};

use crate::raw::{Presents, Raw, close_code};
use crate::support::{Node, PATIENCE, eventually, key, limits};

/// A node that lets in key 2, and key 2 made by hand.
async fn hostile(limits: NetLimits) -> (Node, Raw, Connection) {
    let node = Node::with(1, limits, 0, false);
    node.lets_in(&[key(2)]);
    let raw = Raw::new();
    let connection = raw.enter(node.address(), Presents::RawKey(2)).await.expect("listed");
    node.until_up(key(2)).await;
    (node, raw, connection)
}

async fn write(connection: &Connection, bytes: &[u8]) -> quinn::SendStream {
    let mut stream = connection.open_uni().await.expect("allowed");
    stream.write_all(bytes).await.expect("open");
    stream
}

/// What one stream of these bytes is closed with.
async fn code_for(bytes: &[u8], finish: bool) -> CloseCode {
    let (node, _raw, connection) = hostile(limits()).await;
    let mut stream = write(&connection, bytes).await;
    if finish {
        stream.finish().expect("open");
    }
    let code = close_code(&connection).await;
    eventually("counted", || node.net.stats().violations == 1).await;
    assert!(node.seen().frames.is_empty());
    code
}

#[tokio::test]
async fn garbage_in_a_stream_header_is_named() {
    assert_eq!(code_for(&[0, 1], false).await, CloseCode::BadStreamHeader);
    assert_eq!(code_for(&[9, 1], false).await, CloseCode::BadStreamHeader);
    assert_eq!(code_for(&[1, 2], false).await, CloseCode::BadStreamHeader);
    assert_eq!(code_for(&[1], true).await, CloseCode::BadStreamHeader);
}

#[tokio::test]
async fn impossible_lengths_are_named() {
    let too_long = (5_u32 << 20) + 1;
    let header = |length: u32| [&[1, 1], &length.to_be_bytes()[..]].concat();
    assert_eq!(code_for(&header(too_long), false).await, CloseCode::FrameTooLong);
    assert_eq!(code_for(&header(u32::MAX), false).await, CloseCode::FrameTooLong);
    assert_eq!(code_for(&header(0), false).await, CloseCode::FrameEmpty);
}

#[tokio::test]
async fn a_frame_that_ends_early_is_named() {
    assert_eq!(code_for(&[1, 1, 0, 0, 0, 5, 7, 7], true).await, CloseCode::StreamBroken);
    assert_eq!(code_for(&[1, 1, 0, 0], true).await, CloseCode::StreamBroken);
}

#[tokio::test]
async fn a_reset_stream_is_named() {
    let (_node, _raw, connection) = hostile(limits()).await;
    let mut stream = write(&connection, &[1, 1]).await;
    stream.reset(VarInt::from_u32(77)).expect("open");
    assert_eq!(close_code(&connection).await, CloseCode::StreamBroken);
}

#[tokio::test]
async fn a_class_twice_and_a_fourth_stream_are_named() {
    let (_node, _raw, connection) = hostile(limits()).await;
    let _streams = [write(&connection, &[1, 1]).await, write(&connection, &[1, 1]).await];
    assert_eq!(close_code(&connection).await, CloseCode::TooManyStreams);

    let (_node, _raw, connection) = hostile(limits()).await;
    let mut streams = Vec::new();
    for first in [1, 2, 3, 1] {
        streams.push(write(&connection, &[first]).await);
    }
    assert_eq!(close_code(&connection).await, CloseCode::TooManyStreams);
}

#[tokio::test]
async fn ten_thousand_streams_end_at_the_fourth() {
    let (node, _raw, connection) = hostile(limits()).await;
    let mut opened = 0;
    let mut streams = Vec::new();
    let flood = async {
        while let Ok(mut stream) = connection.open_uni().await {
            opened += 1;
            let _ = stream.write_all(&[1]).await;
            streams.push(stream);
            assert!(opened < 10_000);
        }
    };
    tokio::time::timeout(PATIENCE, flood).await.expect("closed");
    assert!(opened <= limits().streams_max as usize, "{opened}");
    assert_eq!(close_code(&connection).await, CloseCode::TooManyStreams);
    eventually("closed", || node.net.stats().connections_open == 0).await;
    // Two-way streams do not exist at all.
    let (_node, _raw, connection) = hostile(limits()).await;
    tokio::select! {
        biased;
        _ = connection.open_bi() => panic!("opened"),
        () = tokio::task::yield_now() => {}
    }
}

#[tokio::test]
async fn a_peer_that_opens_no_streams_is_closed() {
    let hasty = NetLimits { handshake_timeout_ms: 300, ..limits() };
    let (_node, _raw, connection) = hostile(hasty).await;
    assert_eq!(close_code(&connection).await, CloseCode::Stalled);
}

#[tokio::test]
async fn a_frame_that_drips_is_closed() {
    let hasty = NetLimits { frame_stall_ms: 300, ..limits() };
    let (_node, _raw, connection) = hostile(hasty).await;
    let _others = [write(&connection, &[2, 1]).await, write(&connection, &[3, 1]).await];
    let mut stream = write(&connection, &[1, 1, 0, 1, 0, 0]).await;
    let drip = async {
        while stream.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, drip).await.expect("closed");
    assert_eq!(close_code(&connection).await, CloseCode::Stalled);
}

#[tokio::test]
async fn a_frame_that_is_slow_but_makes_progress_arrives() {
    let hasty = NetLimits { frame_stall_ms: 100, frame_progress_bytes_min: 100, ..limits() };
    let (node, _raw, connection) = hostile(hasty).await;
    let _others = [write(&connection, &[2, 1]).await, write(&connection, &[3, 1]).await];
    let mut stream = write(&connection, &[1, 1, 0, 0, 0x40, 0]).await;
    for _ in 0..32 {
        stream.write_all(&[7; 512]).await.expect("open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen = node.until("frame", |s| !s.frames.is_empty()).await;
    assert_eq!(seen.frames[0].2.len(), 0x4000);
}

#[tokio::test]
async fn rules_broken_are_followed_by_a_hold_off() {
    let patient = NetLimits { penalty_min_ms: 60_000, ..limits() };
    let (node, raw, connection) = hostile(patient).await;
    let _stream = write(&connection, &[9, 9]).await;
    close_code(&connection).await;
    node.until("down", |s| s.downs(key(2)).len() == 1).await;
    let error = raw.enter(node.address(), Presents::RawKey(2)).await.expect_err("held off");
    assert!(error.to_string().contains("held off"), "{error}");
}

/// First packets of many who never answer, then one who is listed.
#[tokio::test]
async fn a_flood_of_first_packets_is_shed_and_a_listed_peer_still_comes_in() {
    let small = NetLimits {
        handshakes_max: 4,
        handshakes_per_ip_max: 4,
        handshakes_before_retry: 2,
        handshake_timeout_ms: 2_000,
        ..limits()
    };
    let node = Node::with(1, small, 0, false);
    node.lets_in(&[key(2)]);
    let sink = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    // A real first packet, caught and sent again under other connection ids by dialling anew.
    let flooder = Raw::new();
    let trap = sink.local_addr().expect("bound");
    let mut received = 0_usize;
    let mut sent = 0_usize;
    let mut packet = [0; 2048];
    for _ in 0..50 {
        let dialling = flooder.dial(trap, Presents::RawKey(3), b"moult/2");
        let caught = async {
            let (length, _) = sink.recv_from(&mut packet).await.expect("packet");
            length
        };
        let length = tokio::select! {
            _ = dialling => panic!("nobody is there"),
            length = caught => length,
        };
        sent += sink.send_to(&packet[..length], node.address()).await.expect("sent");
    }
    eventually("retries asked for", || node.net.stats().retries_sent > 0).await;
    let raw = Raw::new();
    raw.enter(node.address(), Presents::RawKey(2)).await.expect("listed");
    while let Ok((length, from)) = sink.try_recv_from(&mut packet) {
        if from == node.address() {
            received += length;
        }
    }
    assert!(received <= 3 * sent, "{received} bytes out for {sent} in");
}
