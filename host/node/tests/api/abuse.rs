//! Clients that mean harm: caps hold, and honest clients get on with their work.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Scope, scope};
use std::time::{Duration, Instant};

use moult_node::proto::{SubmitRequest, Transaction};
use tokio::time::timeout;

use crate::abuse_h2;
use crate::client::Client;
use crate::grpc::{put, stub};
use crate::setup::{Running, Setup};

const MEASUREMENTS_MAX: usize = 3;
/// Quiet and attacked spans, one after the other: noise of the machine meets both.
const SLICES: usize = 7;
const SLICE: Duration = Duration::from_millis(400);
const WRITERS: usize = 4;
/// Hostile connections of each of the attackers in a second: an attack beside the node takes
/// the processor from it by being there.
const PAUSE: Duration = Duration::from_millis(4);
/// What the node may hold in memory, whatever is done to it.
const RESIDENT_BYTES_MAX: f64 = 512.0 * (1 << 20) as f64;

pub(crate) fn run() {
    let mut setup = Setup::new();
    setup.config.limits.requests_max = 256;
    let node = setup.start();
    println!("  giants");
    giants(&node);
    println!("  frames");
    abuse_h2::frames(node.grpc);
    println!("  a flood over HTTP");
    withstands(&node, &[half_heads, half_bodies, no_http, lying_lengths]);
    println!("  a flood over gRPC");
    withstands(&node, &[abuse_h2::silent, abuse_h2::no_preface, abuse_h2::resets, abuse_h2::half_messages]);
    println!("  idle connections");
    idle(&node);
    println!("  clients that leave");
    leavers(&node);
    node.terminate();
}

type Attack = fn(&Running);

/// Asserts that honest writers get at least 70 % of their answers while all attackers are at
/// work: by the medians of quiet and attacked spans. What else runs on the machine can only
/// take from that, so it is enough that one of a few measurements shows it.
fn withstands(node: &Running, attacks: &[Attack]) {
    let mut measured = Vec::new();
    let is_shown = (0..MEASUREMENTS_MAX).any(|_| {
        let (quiet, attacked) = measure(node, attacks);
        measured.push((quiet, attacked));
        quiet > 0 && attacked * 10 >= quiet * 7
    });
    assert!(is_shown, "writes in quiet and under attack: {measured:?}");
    let text = String::from_utf8(Client::new(node.address).get("/metrics").is(200).body).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    let resident: f64 = line.expect("a line").parse().expect("a number");
    assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes resident");
}

fn measure(node: &Running, attacks: &[Attack]) -> (u64, u64) {
    let (acknowledged, is_on, is_over) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    let rounds = AtomicU64::new(0);
    let (quiet, attacked) = scope(|scope| {
        for writer in 0..WRITERS {
            honest(scope, node.address, writer, &acknowledged, &is_over);
        }
        for attack in attacks {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    if is_on.load(Ordering::Relaxed) {
                        attack(node);
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(PAUSE);
                }
            });
        }
        let (mut quiet, mut attacked) = (Vec::new(), Vec::new());
        for _ in 0..SLICES {
            for (on, counts) in [(false, &mut quiet), (true, &mut attacked)] {
                is_on.store(on, Ordering::Relaxed);
                let before = acknowledged.load(Ordering::Relaxed);
                std::thread::sleep(SLICE);
                counts.push(acknowledged.load(Ordering::Relaxed) - before);
            }
        }
        is_over.store(true, Ordering::Relaxed);
        (median(quiet), median(attacked))
    });
    let rounds = rounds.into_inner();
    println!("    writes in {SLICE:?}: {quiet} in quiet, {attacked} under attack of {rounds} rounds");
    assert!(rounds > 100, "the attack itself does not run: {rounds}");
    (quiet, attacked)
}

fn honest<'a>(
    scope: &'a Scope<'a, '_>,
    address: SocketAddr,
    writer: usize,
    acknowledged: &'a AtomicU64,
    is_over: &'a AtomicBool,
) {
    scope.spawn(move || {
        let mut client = Client::new(address);
        while !is_over.load(Ordering::Relaxed) {
            client.put(&format!("/v1/kv/honest-{writer}"), b"value").is(200);
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    });
}

fn median(mut counts: Vec<u64>) -> u64 {
    counts.sort_unstable();
    counts[counts.len() / 2]
}

/// Sends bytes and goes away without looking for an answer.
pub(crate) fn hit(address: SocketAddr, bytes: &[u8]) {
    // The node may be faster to close.
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.write_all(bytes);
    }
}

fn half_heads(node: &Running) {
    hit(node.address, b"PUT /v1/kv/evil HTTP/1.1\r\nhost: x\r\ncontent-le");
}

fn half_bodies(node: &Running) {
    hit(node.address, b"PUT /v1/kv/evil HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc");
}

fn no_http(node: &Running) {
    hit(node.address, &[0x16; 4096]);
}

fn lying_lengths(node: &Running) {
    hit(node.address, b"POST /v1/tx HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\nabc");
}

/// Heads and bodies without an end are cut off, and what they claimed is not kept.
fn giants(node: &Running) {
    let endless = |start: &[u8], piece: Vec<u8>| -> usize {
        let mut stream = TcpStream::connect(node.address).expect("connected");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream.write_all(start).expect("sent");
        let mut sent = 0;
        while stream.write_all(&piece).is_ok() {
            sent += piece.len();
            assert!(sent < 64 << 20, "the node reads for ever");
        }
        sent
    };
    let head = endless(b"GET /v1/status HTTP/1.1\r\n", [b"x: ".as_slice(), &[b'y'; 4000], b"\r\n"].concat());
    assert!(head < 8 << 20, "{head} bytes of a head were taken");
    let chunks = [b"10000\r\n".as_slice(), &[0; 65_536], b"\r\n"].concat();
    let body = b"PUT /v1/kv/evil HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = endless(body, chunks);
    assert!(body < 32 << 20, "{body} bytes of a body were taken");
    let mut client = Client::new(node.address);
    client.get("/v1/kv/evil").refused(404, "not-found");
    // Nothing, a byte, and all that is allowed are no attack.
    for bytes in [0, 1, moult_kv::VALUE_BYTES_MAX] {
        client.put("/v1/kv/size", &vec![7; bytes]).is(200);
    }
}

/// More connections than there are places: those who have one keep it, and the idle ones are
/// closed, so that others get in.
fn idle(node: &Running) {
    let mut honest = Client::new(node.address);
    honest.put("/v1/kv/before", b"x").is(200);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut over_grpc = runtime.block_on(stub(node.grpc));
    let mut write = |key: &str| {
        let request = SubmitRequest { transaction: Some(put(key, b"x")) };
        runtime.block_on(async { timeout(Duration::from_secs(60), over_grpc.submit(request)).await })
    };
    write("before").expect("in time").expect("executed");
    let open = |address, count: usize| -> JoinHandle<Vec<TcpStream>> {
        std::thread::spawn(move || {
            (0..count).map(|_| TcpStream::connect(address).expect("connected")).collect()
        })
    };
    let (http, grpc) = (open(node.address, 1_500), open(node.grpc, 400));
    let mut rounds = 0;
    while rounds < 20 || !http.is_finished() || !grpc.is_finished() {
        honest.put("/v1/kv/during", b"x").is(200);
        write("during").expect("in time").expect("executed");
        rounds += 1;
    }
    let (http, grpc) = (http.join().expect("opened"), grpc.join().expect("opened"));
    // A newcomer waits for a place, and gets one.
    Client::new(node.address).get("/v1/status").is(200);
    let newcomer = runtime.block_on(async {
        let mut stub = stub(node.grpc).await;
        let request = SubmitRequest { transaction: Some(put("newcomer", b"x")) };
        timeout(Duration::from_secs(60), stub.submit(request)).await
    });
    newcomer.expect("in time").expect("executed");
    for (streams, what) in [(http, "HTTP"), (grpc, "gRPC")] {
        for mut stream in streams {
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            let mut rest = Vec::new();
            // A reset is as good an end as any other.
            let end = stream.read_to_end(&mut rest);
            let is_closed =
                end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
            assert!(is_closed, "an idle connection of {what} stays");
        }
    }
}

/// Clients that send and do not wait for the answer: each write counts once, also when it is
/// sent again on many connections at once.
fn leavers(node: &Running) {
    const SEQS: u64 = 50;
    let request = |seq: u64| {
        format!(
            "PUT /v1/kv/left-{seq}?expect=none HTTP/1.1\r\nhost: x\r\nmoult-client: leaver\r\nmoult-seq: {seq}\r\ncontent-length: 4\r\n\r\nleft"
        )
    };
    (0..SEQS).for_each(|seq| hit(node.address, request(seq).as_bytes()));
    let address = node.address;
    let again: Vec<JoinHandle<Vec<u64>>> = (0..3)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::new(address);
                let mut put = |seq: u64| {
                    let seq_text = seq.to_string();
                    let headers = [("moult-client", "leaver"), ("moult-seq", seq_text.as_str())];
                    let path = format!("/v1/kv/left-{seq}?expect=none");
                    let answer = client.call("PUT", &path, &headers, b"left").is(200);
                    answer.json()["index"].as_u64().expect("an index")
                };
                (0..SEQS).map(&mut put).collect()
            })
        })
        .collect();
    let indices: Vec<Vec<u64>> = again.into_iter().map(|thread| thread.join().expect("written")).collect();
    assert!(indices.iter().all(|of_one| *of_one == indices[0]), "one write has two receipts");

    // The same over gRPC, with calls that are given up.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client: Arc<[u8]> = Arc::from(&b"canceller"[..]);
        let mut stub = stub(node.grpc).await;
        let request = |seq| {
            let transaction = Transaction { client: client.to_vec().into(), seq, ..put("cancelled", b"x") };
            SubmitRequest { transaction: Some(transaction) }
        };
        for seq in 0..SEQS {
            // However far it got.
            let _ = timeout(Duration::from_micros(seq * 100), stub.submit(request(seq))).await;
        }
        for seq in 0..SEQS {
            let receipt = async |stub: &mut crate::grpc::Stub| {
                stub.submit(request(seq)).await.expect("executed").into_inner().receipt.expect("a receipt")
            };
            let first = receipt(&mut stub).await;
            assert_eq!(receipt(&mut stub).await, first, "one write has two receipts");
        }
    });
    let began = Instant::now();
    while Client::new(address).get("/readyz").status != 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "the node has not recovered");
    }
}
