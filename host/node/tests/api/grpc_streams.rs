//! Streams of gRPC: order, bounds, slow clients, their end.

use std::collections::BTreeSet;
use std::time::Duration;

use moult_kv::Command;
use moult_node::proto::receipt::Status as Executed;
use moult_node::proto::submit_result::Outcome;
use moult_node::proto::{
    StreamBlocksRequest, SubmitRequest, SubmitResult, SubmitStreamRequest, SubmitStreamResponse, Transaction,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::client::Client;
use crate::grpc::{Stub, assert_refused, put, stub};
use crate::setup::Running;

/// Generous: only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(60);

type Sender = mpsc::Sender<SubmitStreamRequest>;

async fn open(stub: &mut Stub) -> (Sender, Streaming<SubmitStreamResponse>) {
    let (sender, receiver) = mpsc::channel(1);
    let answers = stub.submit_stream(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
    (sender, answers)
}

/// All results up to the end of the stream, and how it ended.
async fn all(mut answers: Streaming<SubmitStreamResponse>) -> (Vec<SubmitResult>, Result<(), Status>) {
    let mut results = Vec::new();
    loop {
        match timeout(PATIENCE, answers.message()).await.expect("in time") {
            Ok(Some(answer)) => results.extend(answer.results),
            Ok(None) => return (results, Ok(())),
            Err(status) => return (results, Err(status)),
        }
    }
}

fn index_of(result: &SubmitResult) -> u64 {
    match &result.outcome {
        Some(Outcome::Receipt(receipt)) if receipt.status() == Executed::Executed => receipt.index,
        other => panic!("{}: {other:?}", result.number),
    }
}

fn numbers(results: &[SubmitResult]) -> BTreeSet<u64> {
    results.iter().map(|result| result.number).collect()
}

/// Each transaction has one result, in the order of execution; of one client in its order.
pub(crate) async fn results(node: &Running) {
    const ALL: u64 = 10_000;
    let (mut stub, mut http) = (stub(node.grpc).await, Client::new(node.address));
    let (sender, answers) = open(&mut stub).await;
    let sending = tokio::spawn(async move {
        let write = |seq: u64| {
            let value = put(&format!("stream-{}", seq % 10), &seq.to_be_bytes());
            if seq.is_multiple_of(2) {
                Transaction { client: b"streamer"[..].into(), seq, ..value }
            } else {
                value
            }
        };
        let mut next = 0;
        for size in [97, 1, 0, 500].into_iter().cycle() {
            let end = ALL.min(next + size);
            let transactions = (next..end).map(write).collect();
            sender.send(SubmitStreamRequest { transactions }).await.expect("taken");
            next = end;
            if next == ALL {
                break;
            }
        }
    });
    let (results, end) = all(answers).await;
    sending.await.expect("sent");
    end.expect("a clean end");
    assert_eq!((results.len() as u64, numbers(&results)), (ALL, (0..ALL).collect()));
    assert!(results.is_sorted_by_key(index_of), "not in the order of execution");
    let named: Vec<u64> =
        results.iter().map(|result| result.number).filter(|number| number.is_multiple_of(2)).collect();
    assert!(named.is_sorted(), "one client's writes out of order");
    assert_eq!(http.get("/v1/kv/stream-8").is(200).body, 9_998_u64.to_be_bytes());

    // A number that is sent again gets the same receipt, also twice in one message.
    let (sender, answers) = open(&mut stub).await;
    let again = Transaction { client: b"streamer"[..].into(), seq: 9_998, ..put("stream-8", b"other") };
    let transactions = vec![again.clone(), again];
    sender.send(SubmitStreamRequest { transactions }).await.expect("taken");
    drop(sender);
    let (again, end) = all(answers).await;
    end.expect("a clean end");
    let first = results.iter().find(|result| result.number == 9_998).map(index_of);
    assert_eq!(again.iter().map(|result| Some(index_of(result))).collect::<Vec<_>>(), [first, first]);
    assert_eq!(http.get("/v1/kv/stream-8").is(200).body, 9_998_u64.to_be_bytes());
}

/// What is wrong ends the stream, after the results of what came before.
pub(crate) async fn refusals(node: &Running) {
    let mut stub = stub(node.grpc).await;
    let wrong = |transaction| SubmitStreamRequest { transactions: vec![put("late", b""), transaction] };
    let named = |client: &[u8]| Transaction { client: client.to_vec().into(), seq: 1, ..put("late", b"") };
    let many = SubmitStreamRequest { transactions: vec![Transaction::default(); 4097] };
    let long = Transaction { payload: vec![0; 1 << 20].into(), ..Transaction::default() };
    for (message, code, name) in [
        (wrong(named(b"")), Code::InvalidArgument, "bad-request"),
        (wrong(named(b"\0a")), Code::InvalidArgument, "bad-request"),
        (many, Code::InvalidArgument, "bad-request"),
        (wrong(long), Code::ResourceExhausted, "too-large"),
    ] {
        let (sender, answers) = open(&mut stub).await;
        sender.send(SubmitStreamRequest { transactions: vec![put("early", b"")] }).await.expect("taken");
        sender.send(message).await.expect("taken");
        let (results, end) = all(answers).await;
        assert_refused(&end.expect_err("refused"), code, name);
        assert_eq!(results.len(), 1, "{results:?}");
        index_of(&results[0]);
    }
    Client::new(node.address).get("/v1/kv/late").refused(404, "not-found");
}

/// A client that sends and does not read is not read from; it loses nothing and costs nobody
/// else anything.
pub(crate) async fn back_pressure(node: &Running) {
    const ALL: u64 = 1_000;
    const PRESENT: usize = 100_000;
    const EXPECT: usize = 30_000;
    let mut stub = stub(node.grpc).await;
    let request = SubmitRequest { transaction: Some(put("large", &vec![1; PRESENT])) };
    stub.submit(request).await.expect("executed");
    let (sender, answers) = open(&mut stub).await;
    // Each finds another value, and the answer brings it.
    let swap = Command::CompareAndSwap { key: b"large".to_vec(), expect: Some(vec![2; EXPECT]), value: None };
    let swap = Transaction { payload: swap.encode().into(), ..Transaction::default() };
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = sent.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..ALL {
            sender.send(SubmitStreamRequest { transactions: vec![swap.clone()] }).await.expect("taken");
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    // Others are served meanwhile; then the sender has come to a stand.
    let mut other = crate::grpc::stub(node.grpc).await;
    let mut before = u64::MAX;
    for round in 0.. {
        let request = SubmitRequest { transaction: Some(put("other", &[1])) };
        timeout(PATIENCE, other.submit(request)).await.expect("in time").expect("executed");
        let now = sent.load(std::sync::atomic::Ordering::Relaxed);
        if round % 200 == 199 {
            if now == before {
                break;
            }
            before = now;
        }
        assert!(round < 20_000, "the node takes and takes: {now} of {ALL}");
    }
    assert!(before < ALL / 2, "{before} of {ALL} transactions were taken from a client that does not read");
    let (results, end) = all(answers).await;
    end.expect("a clean end");
    sending.await.expect("sent");
    assert_eq!((results.len() as u64, numbers(&results)), (ALL, (0..ALL).collect()));
    for result in &results {
        let Some(Outcome::Receipt(receipt)) = &result.outcome else { panic!("{result:?}") };
        assert!(receipt.code != 0 && receipt.output.len() >= PRESENT, "no mismatch");
    }
}

/// Blocks from the first on, without a gap, and then as they come.
pub(crate) async fn blocks(node: &Running) {
    let (mut stub, mut http) = (stub(node.grpc).await, Client::new(node.address));
    let executed = http.get("/v1/status").is(200).json()["global_exec_index"].as_u64().expect("an index");
    let mut all = stub.stream_blocks(StreamBlocksRequest { from: 1 }).await.expect("blocks").into_inner();
    let mut new = stub.stream_blocks(StreamBlocksRequest { from: 0 }).await.expect("blocks").into_inner();
    let mut blocks = Vec::new();
    while (blocks.len() as u64) < executed {
        let message = timeout(PATIENCE, all.message()).await.expect("in time").expect("blocks");
        blocks.extend(message.expect("it goes on").blocks);
    }
    for (block, place) in blocks.iter().zip(1..) {
        assert_eq!(block.global_exec_index, place);
    }
    for pair in blocks.windows(2) {
        assert!(pair[0].epoch != pair[1].epoch || pair[0].hash == pair[1].parent, "the chain breaks");
    }
    let block = &blocks[blocks.len() / 2];
    let over_http = http.get(&format!("/v1/blocks/{}", block.global_exec_index)).is(200).json();
    assert_eq!(over_http["hash"], hex::encode(&block.hash));
    let certificate = block.certificate.as_ref().expect("a certificate");
    assert_eq!(
        over_http["certificate"]["votes"][0]["signature"],
        hex::encode(&certificate.votes[0].signature)
    );

    // A write that is acknowledged now is in a block that both are sent.
    let index = http.put("/v1/kv/followed", b"x").is(200).json()["index"].as_u64().expect("an index");
    for stream in [&mut all, &mut new] {
        let mut last = 0;
        while last < index {
            let message = timeout(PATIENCE, stream.message()).await.expect("in time").expect("blocks");
            last = message.expect("it goes on").blocks.last().expect("a block").global_exec_index;
        }
    }
}

/// A stop gives every transaction on its way a result, and the streams a reason.
pub(crate) fn stop(runtime: &tokio::runtime::Runtime, node: Running) {
    let grpc = node.grpc;
    let (mut client, sender, answers, mut blocks) = runtime.block_on(async {
        let mut client = stub(grpc).await;
        let (sender, answers) = open(&mut client).await;
        let request = StreamBlocksRequest { from: 0 };
        let blocks = client.stream_blocks(request).await.expect("blocks").into_inner();
        sender.send(SubmitStreamRequest { transactions: vec![put("last", b""); 100] }).await.expect("taken");
        (client, sender, answers, blocks)
    });
    let reading = runtime.spawn(all(answers));
    let last = runtime.spawn(async move {
        loop {
            if let Err(status) = timeout(PATIENCE, blocks.message()).await.expect("in time") {
                return status;
            }
        }
    });
    node.terminate();
    runtime.block_on(async {
        let (results, end) = reading.await.expect("read");
        assert_refused(&end.expect_err("the node ended"), Code::Unavailable, "draining");
        assert_eq!(numbers(&results), (0..100).collect());
        assert_refused(&last.await.expect("read"), Code::Unavailable, "draining");
        let _ = sender.send(SubmitStreamRequest::default()).await;
        assert!(client.submit(SubmitRequest::default()).await.is_err());
    });
}
