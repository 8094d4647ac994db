//! HTTP/2 by hand: what no client library sends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::abuse::hit;
use crate::setup::Running;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The start of a connection.
fn start() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// The head of a call, in HPACK without its tables.
fn head(path: &str) -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    // `:method: POST` and `:scheme: http` are entries 3 and 6 of the static table.
    let mut head = vec![0x83, 0x86];
    for (name, value) in
        [(":path", path), (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")]
    {
        head.extend(literal(name, value));
    }
    head
}

fn call(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head(path))
}

/// Asserts that the node ends the connection.
fn ends(address: SocketAddr, bytes: &[u8], rest: impl Fn() -> Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.write_all(bytes).expect("sent");
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let (mut buffer, began) = ([0; 4096], Instant::now());
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        assert!(began.elapsed() < Duration::from_secs(40), "the connection stays");
        let rest = rest();
        if !rest.is_empty() && stream.write_all(&rest).is_err() {
            return;
        }
    }
}

/// What breaks HTTP/2 ends the connection; what breaks gRPC ends the call.
pub(crate) fn frames(address: SocketAddr) {
    let nothing = Vec::new;
    for bytes in [
        // No HTTP/2 at all.
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0xff; 64],
        // A frame of 16 MiB, one on no stream, one that ends before it begins.
        [start(), vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]].concat(),
        [start(), frame(DATA, 0, 0, b"x")].concat(),
        [start(), frame(PING, 0, 0, b"short")].concat(),
        // A head that is no HPACK, and one within which something else begins.
        [start(), frame(HEADERS, END_HEADERS, 1, &[0xff; 32])].concat(),
        [start(), frame(HEADERS, 0, 1, &head("/x")), frame(DATA, 0, 1, b"x")].concat(),
        // A stream with a number of the server's.
        [start(), call(2, "/x")].concat(),
    ] {
        ends(address, &bytes, nothing);
    }
    // A head that never ends, in pieces.
    let drip = || frame(CONTINUATION, 0, 1, &head("/x")[..1]);
    ends(address, &[start(), frame(HEADERS, 0, 1, &head("/x"))].concat(), drip);
    // A connection that begins and says nothing more.
    ends(address, &start(), nothing);
    ends(address, &PREFACE[..10], nothing);
    // Calls that are opened and reset in a row.
    let storm: Vec<u8> = (0..2_000).flat_map(|i| reset_call(2 * i + 1)).collect();
    ends(address, &[start(), storm].concat(), nothing);
    // A message that claims 4 GiB is refused by its claim.
    let claim = [call(1, "/moult.v1.Consensus/Submit"), frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff, 1])];
    assert!(is_refused(address, &[start(), claim.concat()].concat()), "the call is not refused");
}

/// Whether the answer to call 1 is nothing but a status.
fn is_refused(address: SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(40))).expect("a timeout");
    stream.write_all(bytes).expect("sent");
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).expect("a frame");
        let [a, b, c, kind, flags, stream_id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).expect("its payload");
        if (kind, u32::from_be_bytes(stream_id)) == (HEADERS, 1) {
            return flags & END_STREAM != 0;
        }
    }
}

fn reset_call(stream: u32) -> Vec<u8> {
    [call(stream, "/moult.v1.Consensus/GetState"), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
        .concat()
}

/// Connects, and says nothing.
pub(crate) fn silent(node: &Running) {
    hit(node.grpc, &PREFACE[..3]);
}

pub(crate) fn no_preface(node: &Running) {
    hit(node.grpc, &[0x16; 4096]);
}

/// Calls that are taken back at once.
pub(crate) fn resets(node: &Running) {
    let calls: Vec<u8> = (0..50).flat_map(|i| reset_call(2 * i + 1)).collect();
    hit(node.grpc, &[start(), calls].concat());
}

/// A message without its end, and the end of the connection.
pub(crate) fn half_messages(node: &Running) {
    let message = frame(DATA, 0, 1, &[0, 0, 0, 0, 200, 1, 2, 3]);
    hit(node.grpc, &[start(), call(1, "/moult.v1.Consensus/Submit"), message].concat());
}
