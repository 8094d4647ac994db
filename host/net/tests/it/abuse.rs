//! Floods: caps hold, and a listed peer gets on with its work.

use std::net::SocketAddr;

use moult_net::NetLimits;
use quinn::VarInt;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::load::{Honest, Rate, until_on};
use crate::raw::{Presents, Raw, closed};
use crate::support::{eventually, key, limits};

const SPOOFED_PER_SECOND: u64 = 10_000;
/// Frames of 64 KiB: half a gigabit a second. More is a question of who gets the processor,
/// since the attacker of a test runs beside its victim.
const GREEDY_PER_SECOND: u64 = 1_000;

/// First packets of handshakes that nobody means, as they go over the wire.
async fn first_packets(count: usize) -> Vec<Vec<u8>> {
    let trap = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let to = trap.local_addr().expect("bound");
    let flooder = Raw::new();
    let mut packets = Vec::new();
    let mut packet = [0; 2048];
    for _ in 0..count {
        let caught = async { trap.recv_from(&mut packet).await.expect("packet").0 };
        let length = tokio::select! {
            _ = flooder.dial(to, Presents::RawKey(3), b"moult/2") => panic!("nobody is there"),
            length = caught => length,
        };
        packets.push(packet[..length].to_vec());
    }
    packets
}

/// The same, and worse: other versions, other ids, cut, and no QUIC at all.
async fn garbage() -> Vec<Vec<u8>> {
    let mut packets = first_packets(100).await;
    for place in 0..100 {
        let mut version = packets[place].clone();
        version[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, place as u8]);
        let mut id = packets[place].clone();
        id[6] ^= 0xff;
        let cut = packets[place][..place * 11].to_vec();
        let noise = (0..1200).map(|i: usize| (i * (place + 7) * 31 % 251) as u8).collect();
        packets.extend([version, id, cut, noise]);
    }
    packets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_first_packets_a_second_do_not_slow_a_listed_peer() {
    let honest = Honest::start(limits(), &[]).await;
    let (packets, to) = (garbage().await, honest.address);
    let mut sockets = Vec::new();
    for _ in 0..32 {
        sockets.push(UdpSocket::bind("127.0.0.1:0").await.expect("bind"));
    }
    let (mut sent, mut received) = (0, 0);
    let flood = async |mut is_on: watch::Receiver<bool>| {
        let mut rate = Rate::new(SPOOFED_PER_SECOND);
        for round in 0_usize.. {
            until_on(&mut is_on).await;
            for i in 0..rate.due().await as usize {
                let place = round * 31 + i;
                let socket = &sockets[place % sockets.len()];
                sent += socket.send_to(&packets[place % packets.len()], to).await.expect("sent");
                received += answers(socket, to);
            }
        }
    };
    honest.withstands(flood).await;
    let stats = honest.victim.stats();
    assert!(stats.retries_sent + stats.handshakes_shed > 0, "the flood was not noticed: {stats:?}");
    assert!(received <= 3 * sent, "{received} bytes out for {sent} in");
    assert_eq!(stats.connections_open, 1);
}

/// Bytes that came back.
fn answers(socket: &UdpSocket, from: SocketAddr) -> usize {
    let (mut buffer, mut bytes) = ([0; 2048], 0);
    while let Ok((length, sender)) = socket.try_recv_from(&mut buffer) {
        bytes += if sender == from { length } else { 0 };
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_peer_that_floods_does_not_slow_another() {
    let honest = Honest::start(limits(), &[key(3)]).await;
    let raw = Raw::new();
    let connection = raw.enter(honest.address, Presents::RawKey(3)).await.expect("listed");
    let mut streams = Vec::new();
    for class in 1..=3 {
        let mut stream = connection.open_uni().await.expect("allowed");
        stream.write_all(&[class, 1]).await.expect("open");
        streams.push(stream);
    }
    let frame = [&(64_u32 << 10).to_be_bytes()[..], &[7; 64 << 10]].concat();
    let flood = async |mut is_on: watch::Receiver<bool>| {
        let mut rate = Rate::new(GREEDY_PER_SECOND);
        loop {
            until_on(&mut is_on).await;
            for number in 0..rate.due().await as usize {
                streams[number % 3].write_all(&frame).await.expect("open");
            }
            connection.force_key_update();
        }
    };
    honest.withstands(flood).await;
    assert!(connection.close_reason().is_none(), "a flood of what is allowed is no reason to close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_peer_that_breaks_rules_and_comes_back_does_not_slow_another() {
    let hasty = NetLimits { penalty_min_ms: 20, penalty_max_ms: 50, ..limits() };
    let honest = Honest::start(hasty, &[key(3)]).await;
    let mut rounds = 0;
    let attack = async |mut is_on: watch::Receiver<bool>| {
        let raw = Raw::new();
        loop {
            until_on(&mut is_on).await;
            // Refused while it is held off.
            let Ok(connection) = raw.enter(honest.address, Presents::RawKey(3)).await else { continue };
            for code in 0..8 {
                let Ok(mut stream) = connection.open_uni().await else { break };
                let _ = stream.write_all(&[1, 1, 0, 0, 1, 0, 7]).await;
                let _ = stream.reset(VarInt::from_u32(code));
            }
            closed(&connection).await;
            rounds += 1;
        }
    };
    honest.withstands(attack).await;
    assert!(rounds >= 3, "only {rounds} rounds");
    assert!(honest.victim.stats().violations >= 3, "{:?}", honest.victim.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_shake_hands_all_day_do_not_slow_a_listed_peer() {
    let honest = Honest::start(limits(), &[]).await;
    let attack = async |mut is_on: watch::Receiver<bool>| {
        let raw = Raw::new();
        let mut rate = Rate::new(100);
        loop {
            until_on(&mut is_on).await;
            for _ in 0..rate.due().await {
                for presents in [Presents::RawKey(9), Presents::Certificate, Presents::StolenKey(2, 9)] {
                    if let Ok(connection) = raw.dial(honest.address, presents, b"moult/2").await {
                        closed(&connection).await;
                    }
                }
            }
        }
    };
    honest.withstands(attack).await;
    let stats = honest.victim.stats();
    assert!(stats.handshakes_failed > 30 && stats.connections_up == 1, "{stats:?}");
    eventually("no handshake is left", || honest.victim.stats().connections_open == 1).await;
}
