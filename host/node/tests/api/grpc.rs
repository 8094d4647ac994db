//! gRPC: each call, each refusal, as HTTP has them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moult_kv::{Command, Query, decode_value};
use moult_node::proto::consensus_client::ConsensusClient;
use moult_node::proto::{
    self, CastVoteRequest, Channel, GetStateRequest, GetStateResponse, ModulePin, ProposeRequest,
    StreamBlocksRequest, SubmitRequest, SubmitResponse, Transaction, get_state_request,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::calls::wait_for;
use crate::client::Client;
use crate::grpc_streams;
use crate::setup::{Running, Setup, hash_of};

pub(crate) type Stub = ConsensusClient<Channel>;

pub(crate) fn run() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut setup = Setup::new();
    let node = setup.start();
    runtime.block_on(async {
        println!("  one transaction");
        submit(&node).await;
        println!("  reads");
        reads(&node).await;
        println!("  streams");
        grpc_streams::results(&node).await;
        grpc_streams::refusals(&node).await;
        grpc_streams::back_pressure(&node).await;
        grpc_streams::blocks(&node).await;
        println!("  reflection");
        reflection(node.grpc).await;
        println!("  administration");
        administration(&node, &setup.token).await;
    });
    println!("  stop");
    grpc_streams::stop(&runtime, node);

    setup.config.limits.requests_max = 1;
    let node = setup.start();
    runtime.block_on(overload(&node));
    node.terminate();
    println!("  closed");
    closed(&runtime);
}

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("connected");
    // A call is two writes: without this the second one waits for the first one's answer.
    stream.set_nodelay(true).expect("no delay");
    stream
}

pub(crate) async fn stub(address: SocketAddr) -> Stub {
    let stream = connect(address).await;
    let channel = Channel::connect(stream).await.expect("HTTP/2");
    ConsensusClient::with_origin(channel, format!("http://{address}").parse().expect("an address"))
}

pub(crate) fn put(key: &str, value: &[u8]) -> Transaction {
    let payload = Command::Put { key: key.into(), value: value.to_vec() }.encode();
    Transaction { payload: payload.into(), ..Transaction::default() }
}

/// The refusal has this code and name, and says whether anything was applied.
#[track_caller]
pub(crate) fn assert_refused(status: &Status, code: Code, name: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let value = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
    assert_eq!(value("moult-code"), Some(name), "{status:?}");
    let applied = if code == Code::DeadlineExceeded { "unknown" } else { "no" };
    assert_eq!(value("moult-applied"), Some(applied), "{status:?}");
    assert!(status.message().starts_with(&format!("{name}: ")), "{status:?}");
}

async fn one(stub: &mut Stub, transaction: Transaction) -> Result<SubmitResponse, Status> {
    let request = SubmitRequest { transaction: Some(transaction) };
    stub.submit(request).await.map(tonic::Response::into_inner)
}

async fn submit(node: &Running) {
    let (mut stub, mut http) = (stub(node.grpc).await, Client::new(node.address));
    let answer = one(&mut stub, put("a", b"1")).await.expect("executed");
    let receipt = answer.receipt.expect("a receipt");
    assert_eq!((receipt.status(), receipt.code), (proto::receipt::Status::Executed, 0));
    // What one interface did the other one sees.
    assert_eq!(http.get("/v1/kv/a").is(200).body, b"1");
    assert_eq!(http.get(&format!("/v1/tx/{}", answer.id)).is(200).json()["index"], receipt.index);

    // A name and a number count once, over both.
    let named = Transaction { client: b"shop"[..].into(), seq: 7, ..put("once", b"first") };
    let first = one(&mut stub, named.clone()).await.expect("executed");
    let again = Transaction { payload: put("once", b"second").payload, ..named };
    assert_eq!(one(&mut stub, again).await.expect("its receipt"), first);
    let headers = [("moult-client", "shop"), ("moult-seq", "7")];
    let over_http = http.call("PUT", "/v1/kv/once", &headers, b"third").is(200).json();
    assert_eq!(over_http["id"], first.id.as_str());
    assert_eq!(http.get("/v1/kv/once").is(200).body, b"first");

    for (client, seq) in [(&b""[..], 1), (b"a\0", 1), (b"\0", 1), (&[b'a'; 65], 1)] {
        let wrong = Transaction { client: client.into(), seq, ..put("wrong", b"") };
        let status = one(&mut stub, wrong).await.expect_err("no client");
        assert_refused(&status, Code::InvalidArgument, "bad-request");
    }
    let status = stub.submit(SubmitRequest { transaction: None }).await.expect_err("nothing");
    assert_refused(&status, Code::InvalidArgument, "bad-request");
    // Beyond the epoch's limit, beyond the call's, and beyond the message's.
    for bytes in [(2 << 20) + 1, (4 << 20) + 1, 5 << 20] {
        let large = Transaction { payload: vec![0; bytes].into(), ..Transaction::default() };
        let status = one(&mut stub, large).await.expect_err("too large");
        assert_refused(&status, Code::ResourceExhausted, "too-large");
    }
    // What is no message of this call, and what is no call.
    let nonsense = get_state_request::Request::Key(vec![0xff; 8].into());
    let nonsense = GetStateRequest { request: Some(nonsense) };
    let status = raw(node.grpc, "/moult.v1.Consensus/Submit", nonsense.clone()).await;
    assert_refused(&status, Code::InvalidArgument, "bad-request");
    for path in ["/moult.v1.Consensus/Nothing", "/moult.v2.Consensus/Submit", "/"] {
        assert_refused(
            &raw(node.grpc, path, nonsense.clone()).await,
            Code::Unimplemented,
            "method-not-allowed",
        );
    }
    // What the application does not understand is its matter, as over HTTP.
    let answer = one(&mut stub, Transaction::default()).await.expect("executed");
    assert_ne!(answer.receipt.expect("a receipt").code, 0);
    http.get("/v1/kv/wrong").refused(404, "not-found");
}

/// The refusal of a message that is sent to any path.
async fn raw(address: SocketAddr, path: &'static str, message: GetStateRequest) -> Status {
    let stream = connect(address).await;
    let channel = Channel::connect(stream).await.expect("HTTP/2");
    let mut client = tonic::client::Grpc::with_origin(channel, "http://x".parse().expect("an address"));
    client.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<GetStateRequest, SubmitResponse>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    client.unary(Request::new(message), path, codec).await.expect_err("refused")
}

async fn state(stub: &mut Stub, request: get_state_request::Request) -> Result<GetStateResponse, Status> {
    let request = GetStateRequest { request: Some(request) };
    stub.get_state(request).await.map(tonic::Response::into_inner)
}

async fn reads(node: &Running) {
    use get_state_request::Request::{Key, Query as Question};
    let mut stub = stub(node.grpc).await;
    for round in 0..20_u64 {
        let written = one(&mut stub, put("read", &round.to_be_bytes())).await.expect("executed");
        let index = written.receipt.expect("a receipt").index;
        // This node answered after it had executed.
        let read = state(&mut stub, Key(b"read"[..].into())).await.expect("a value");
        assert_eq!(read.value[..], round.to_be_bytes());
        assert!(read.index >= index, "read at {} after a write in {index}", read.index);
        let question = Query::Get { key: b"read".to_vec() }.encode();
        let asked = state(&mut stub, Question(question.into())).await.expect("an answer");
        assert_eq!(decode_value(&asked.value).expect("a value"), Some(round.to_be_bytes().to_vec()));
        assert!(asked.index >= read.index);
    }
    let status = state(&mut stub, Key(b"nothing"[..].into())).await.expect_err("nothing there");
    assert_refused(&status, Code::NotFound, "not-found");
    for key in [0, moult_kv::KEY_BYTES_MAX + 1] {
        let status = state(&mut stub, Key(vec![1; key].into())).await.expect_err("no key");
        assert_refused(&status, Code::InvalidArgument, "bad-request");
    }
    let status = state(&mut stub, Question(vec![255].into())).await.expect_err("no question");
    assert_refused(&status, Code::InvalidArgument, "refused");
    let status = state(&mut stub, Question(vec![0; (1 << 20) + 1].into())).await.expect_err("too long");
    assert_refused(&status, Code::ResourceExhausted, "too-large");
    let status = stub.get_state(GetStateRequest { request: None }).await.expect_err("no request");
    assert_refused(&status, Code::InvalidArgument, "bad-request");
}

/// A client that knows nothing finds the service and what it takes.
async fn reflection(address: SocketAddr) {
    let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let stream = connect(address).await;
    let channel = Channel::connect(stream).await.expect("HTTP/2");
    let origin = format!("http://{address}").parse().expect("an address");
    let mut client = ServerReflectionClient::with_origin(channel, origin);
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("moult.v1.Consensus".into())),
    ];
    let answers = client.server_reflection_info(tonic::codegen::tokio_stream::iter(questions)).await;
    let mut answers = answers.expect("reflection").into_inner();
    let mut next = async || answers.message().await.expect("an answer").and_then(|a| a.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!("no list") };
    assert!(list.service.iter().any(|service| service.name == "moult.v1.Consensus"), "{list:?}");
    let Some(MessageResponse::FileDescriptorResponse(files)) = next().await else { panic!("no file") };
    let all = files.file_descriptor_proto.concat();
    for call in ["Submit", "SubmitStream", "GetState", "Propose", "CastVote", "StreamBlocks"] {
        assert!(all.windows(call.len()).any(|window| window == call.as_bytes()), "{call} is not described");
    }
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(format!("Bearer {token}")).expect("a header");
    request.metadata_mut().insert("authorization", value);
    request
}

/// Long after the test: such a proposal waits, open.
const LATER_MS: u64 = 32_503_680_000_000;

async fn administration(node: &Running, token: &str) {
    let (mut stub, mut http) = (stub(node.grpc).await, Client::new(node.address));
    let vote = |proposal| CastVoteRequest { proposal, approve: true, reason: String::new() };
    for token in [None, Some(""), Some("00")] {
        let request =
            |token: Option<&str>| token.map_or_else(|| Request::new(vote(1)), |t| with_token(vote(1), t));
        assert_refused(
            &stub.cast_vote(request(token)).await.expect_err("no token"),
            Code::Unauthenticated,
            "unauthorized",
        );
    }
    let status = stub.propose(ProposeRequest::default()).await.expect_err("no token");
    assert_refused(&status, Code::Unauthenticated, "unauthorized");

    // What breaks a rule is refused at once.
    let pin = |world: &str, hash: &[u8]| ProposeRequest {
        modules: [(world.to_owned(), ModulePin { hash: hash.to_vec().into(), ..Default::default() })].into(),
        ..ProposeRequest::default()
    };
    let member = proto::Member { id: vec![0; 31].into(), ..Default::default() };
    for wrong in [
        pin("engine", &[0; 31]),
        pin("unknown", &[0; 32]),
        ProposeRequest { fault_model: 9, ..ProposeRequest::default() },
        ProposeRequest { committee: vec![member], ..ProposeRequest::default() },
        ProposeRequest { deadline_blocks: Some(u64::MAX), ..ProposeRequest::default() },
    ] {
        let status = stub.propose(with_token(wrong, token)).await.expect_err("wrong");
        assert_refused(&status, Code::InvalidArgument, "bad-request");
    }
    let limits = Some(proto::Limits::default());
    let status = stub.propose(with_token(ProposeRequest { limits, ..Default::default() }, token)).await;
    assert_refused(&status.expect_err("no limits"), Code::InvalidArgument, "invalid-proposal");
    let status = stub.cast_vote(with_token(vote(1), token)).await.expect_err("no proposal");
    assert_refused(&status, Code::NotFound, "not-found");
    let long = CastVoteRequest { proposal: 1, approve: false, reason: "x".repeat(513) };
    let status = stub.cast_vote(with_token(long, token)).await.expect_err("too long");
    assert_refused(&status, Code::InvalidArgument, "bad-request");

    // One that is put forward is answered before it is final, and becomes so.
    let kv2 = hash_of("kv2");
    let later = ProposeRequest { not_before_ms: Some(LATER_MS), ..pin("application", &kv2.0) };
    let began = Instant::now();
    let made = stub.propose(with_token(later, token)).await.expect("put forward").into_inner();
    let mut took = vec![began.elapsed()];
    let open = wait_for("the proposal", || http.get("/v1/proposals?open=true"), |a| a.json()[0]["id"] == 1);
    let open = &open.json()[0];
    assert_eq!((&open["new_epoch"], &open["not_before_ms"]), (&made.new_epoch.into(), &LATER_MS.into()));
    assert_eq!(open["modules"]["application"]["hash"], serde_json::json!(kv2));
    assert_eq!(open["proposer"], hex::encode(&made.proposer));
    wait_for(
        "readiness",
        || {
            http.put("/v1/kv/tick", b"").is(200);
            http.get("/v1/proposals/1")
        },
        |a| a.json()["ready"] == serde_json::json!([0]),
    );
    for _ in 0..20 {
        let began = Instant::now();
        let status = stub.cast_vote(with_token(vote(1), token)).await.expect_err("decided");
        took.push(began.elapsed());
        assert_refused(&status, Code::FailedPrecondition, "decided");
        let began = Instant::now();
        let status = stub.propose(with_token(ProposeRequest::default(), token)).await.expect_err("a rival");
        took.push(began.elapsed());
        assert_refused(&status, Code::FailedPrecondition, "rival-approved");
    }
    took.sort();
    let median = took[took.len() / 2];
    assert!(median < Duration::from_millis(10), "half of the calls took longer than {median:?}");
    let mut admin = Client::with(node.address, &[("authorization", &format!("Bearer {token}"))]);
    admin.delete("/v1/proposals/1").is(200);
}

/// A slow message of another client takes the only place.
async fn overload(node: &Running) {
    let mut stub = stub(node.grpc).await;
    one(&mut stub, put("place", b"")).await.expect("there is a place");
    let mut http = Client::new(node.address);
    let held = http.send(b"PUT /v1/kv/slow HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab");
    wait_for("overload", || http.get("/v1/status"), |answer| answer.status == 503);
    let status = one(&mut stub, put("place", b"")).await.expect_err("no place");
    assert_refused(&status, Code::Unavailable, "overloaded");
    drop(held);
}

/// Beyond loopback: TLS with HTTP/2 agreed on, and the token for everything.
fn closed(runtime: &tokio::runtime::Runtime) {
    let mut setup = Setup::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/tls");
    setup.config.api.tls_cert = Some(folder.join("test-only.cert.pem"));
    setup.config.api.tls_key = Some(folder.join("test-only.key.pem"));
    setup.config.api.listen.set_ip(Ipv4Addr::UNSPECIFIED.into());
    let node = setup.spawn();
    runtime.block_on(async {
        let mut stub = tls_stub(&folder.join("test-only.cert.pem"), node.grpc).await;
        let status = stub.get_state(GetStateRequest::default()).await.expect_err("no token");
        assert_refused(&status, Code::Unauthenticated, "unauthorized");
        let status = stub.stream_blocks(StreamBlocksRequest { from: 1 }).await.expect_err("no token");
        assert_refused(&status, Code::Unauthenticated, "unauthorized");
        let request = || SubmitRequest { transaction: Some(put("a", b"x")) };
        let status = stub.submit(request()).await.expect_err("no token");
        assert_refused(&status, Code::Unauthenticated, "unauthorized");
        let end = Instant::now() + Duration::from_secs(60);
        while let Err(status) = stub.submit(with_token(request(), &setup.token)).await {
            assert!(status.code() == Code::Unavailable && Instant::now() < end, "{status:?}");
        }
        // Plain HTTP/2 is not spoken.
        let plain = connect(node.grpc).await;
        let Ok(channel) = Channel::connect(plain).await else { return };
        let mut plain = ConsensusClient::with_origin(channel, "http://x".parse().expect("an address"));
        assert!(plain.submit(with_token(request(), &setup.token)).await.is_err());
    });
    node.terminate();

    // Without TLS the configuration is refused.
    setup.config.api.listen.set_ip(Ipv4Addr::LOCALHOST.into());
    (setup.config.api.tls_cert, setup.config.api.tls_key) = (None, None);
    let e = setup.load_config().expect_err("beyond loopback").to_string();
    assert!(e.contains("`grpc.listen` is beyond loopback"), "{e}");
}

async fn tls_stub(trusted: &Path, address: SocketAddr) -> Stub {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = connect(address).await;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let channel = Channel::connect(stream).await.expect("HTTP/2");
    ConsensusClient::with_origin(channel, "https://localhost".parse().expect("an address"))
}
