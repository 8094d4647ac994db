//! What is no HTTP, slow clients, stops, restarts, overload.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::calls::wait_for;
use crate::client::{Answer, Client, read_answer};

/// What is no HTTP ends the connection and nothing else.
pub(crate) fn raw(address: SocketAddr) {
    for bytes in [
        b"\0\xff\x16\x03\x01\r\n\r\n".as_slice(),
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nbad header\r\n\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"GET * HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(bytes).expect("sent");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let mut answer = [0; 16];
        let n = stream.read(&mut answer).unwrap_or(0);
        let status = String::from_utf8_lossy(&answer[..n]).into_owned();
        assert!(status.is_empty() || status.starts_with("HTTP/1.1 4"), "{bytes:?}: {status}");
    }
    let mut c = Client::new(address);
    let long = format!("/v1/kv/{}", "a".repeat(70_000));
    assert!((400..500).contains(&c.get(&long).status));
    c.get("/healthz").is(200);
}

/// A client that never ends its request is closed.
pub(crate) fn slow_head(address: SocketAddr) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost:").expect("sent");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let began = Instant::now();
        let closed = stream.read(&mut [0; 64]);
        assert!(began.elapsed() < Duration::from_secs(20) && closed.is_ok(), "{closed:?}");
    })
}

/// Writes from several clients while something happens; how many were acknowledged. None
/// may be lost or end in anything but an answer.
pub(crate) fn load_while(address: SocketAddr, happening: impl FnOnce()) -> u64 {
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            std::thread::spawn(move || {
                let mut stream = BufReader::new(TcpStream::connect(address).expect("connected"));
                for i in 0.. {
                    let path = format!("/v1/kv/load{writer}");
                    let body = i.to_string();
                    let request = format!(
                        "PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if stream.get_mut().write_all(request.as_bytes()).is_err() {
                        return i;
                    }
                    let Some(answer) = try_read(&mut stream) else { return i };
                    match answer.status {
                        200 => {}
                        503 => return i,
                        _ => panic!("{answer:?}"),
                    }
                }
                unreachable!("it ends with the node")
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    happening();
    let written: Vec<u64> = writers.into_iter().map(|writer| writer.join().expect("a writer")).collect();
    assert!(written.iter().all(|n| *n > 0), "{written:?}");
    written.iter().sum()
}

fn try_read(stream: &mut BufReader<TcpStream>) -> Option<Answer> {
    let has_some = std::io::BufRead::fill_buf(stream).is_ok_and(|bytes| !bytes.is_empty());
    has_some.then(|| read_answer(stream, false))
}

pub(crate) fn after_restart(address: SocketAddr, acknowledged: u64) {
    let mut c = Client::new(address);
    assert_eq!(c.get("/v1/kv/kept").is(200).body, b"value");
    let last = |c: &mut Client, writer: u64| -> u64 {
        let value = c.get(&format!("/v1/kv/load{writer}")).is(200).body;
        String::from_utf8_lossy(&value).parse::<u64>().expect("a number") + 1
    };
    let kept: u64 = (0..4).map(|writer| last(&mut c, writer)).sum();
    assert!(kept >= acknowledged, "{kept} of {acknowledged}");
    // Receipts outlive the process, too.
    let named = [("moult-client", "shop"), ("moult-seq", "1031")];
    let again = c.call("PUT", "/v1/kv/once", &named, b"again").is(200).json();
    let id = again["id"].as_str().expect("an id");
    assert_eq!(c.get(&format!("/v1/tx/{id}")).is(200).json()["index"], again["index"]);
    assert_eq!(c.get("/v1/kv/once").is(200).body, b"late");
}

/// One request at once (the limit of this start) is held open by a slow body.
pub(crate) fn overload(address: SocketAddr) {
    let mut c = Client::new(address);
    let slow = b"PUT /v1/kv/slow HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab";
    let mut held = c.send(slow);
    let mut asked = 0;
    let refused = wait_for(
        "overload",
        || {
            asked += 1;
            // It may have come in beside one of these calls, and then it was the one refused.
            if asked % 50 == 0 {
                held = c.send(slow);
            }
            c.get("/v1/status")
        },
        |answer| answer.status == 503,
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.refused(503, "overloaded");
    c.get("/healthz").is(200);
    c.get("/metrics").is(200);
    held.get_mut().write_all(b"cde").expect("sent");
    read_answer(&mut held, false).is(200);
    assert_eq!(c.get("/v1/kv/slow").is(200).body, b"abcde");
}
