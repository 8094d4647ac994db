//! The calls, in one long life of one node.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use moult_kv::{Command, Query};
use moult_types::AuthorityId;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use crate::client::{Answer, Client};
use crate::setup::Setup;
use crate::{admin, rough};

/// Largest value of the key-value store.
const VALUE_MAX: usize = moult_kv::VALUE_BYTES_MAX;

pub(crate) fn run() {
    let mut setup = Setup::new();
    let node = setup.start();
    let address = node.address;
    let slow = rough::slow_head(address);
    let mut c = Client::new(address);
    let mut admin = Client::with(address, &[("authorization", &format!("Bearer {}", setup.token))]);
    for (name, part) in [
        ("values", values as fn(&mut Client)),
        ("keys", keys),
        ("compare-and-swap", compare_and_swap),
        ("exactly once", exactly_once),
        ("transactions", transactions),
        ("queries", queries),
        ("chain", chain),
        ("refusals", refusals),
        ("bodies", bodies),
    ] {
        println!("{name}");
        part(&mut c);
    }
    println!("anything");
    anything(&mut c);
    println!("access");
    admin::access(&mut c, &mut admin);
    println!("modules");
    admin::modules(&mut c, &mut admin);
    println!("proposals");
    admin::proposals(&mut c, &mut admin);
    println!("metrics");
    admin::metrics(&mut c);
    println!("raw bytes");
    rough::raw(address);
    slow.join().expect("the slow client");

    println!("stop");
    c.put("/v1/kv/kept", b"value").is(200);
    let answers = rough::load_while(address, || node.terminate());
    assert!(TcpStream::connect(address).is_err(), "it listens still");

    println!("restart, {} writes were acknowledged while it stopped", answers);
    setup.config.limits.requests_max = 1;
    let node = setup.start();
    rough::after_restart(node.address, answers);
    rough::overload(node.address);
    node.terminate();
}

pub(crate) fn wait_for(
    what: &str,
    mut ask: impl FnMut() -> Answer,
    done: impl Fn(&Answer) -> bool,
) -> Answer {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = ask();
        if done(&answer) {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: {}", String::from_utf8_lossy(&answer.body));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn values(c: &mut Client) {
    c.get("/v1/kv/a").refused(404, "not-found");
    let every_byte: Vec<u8> = (0..=255).collect();
    for value in [b"1".as_slice(), b"", &every_byte, &vec![7; VALUE_MAX]] {
        let written = c.put("/v1/kv/a", value).is(200).json();
        assert!(written["index"].as_u64() > Some(0), "{written}");
        let answer = c.get("/v1/kv/a").is(200);
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        assert!(answer.body == value);
        assert!(c.get("/v1/kv/a?consistency=local").is(200).body == value);
        assert!(c.get("/v1/kv/a?consistency=linearizable").is(200).body == value);
    }
    let head = c.call("HEAD", "/v1/kv/a", &[], b"").is(200);
    assert_eq!(head.header("content-length"), Some(VALUE_MAX.to_string().as_str()));
    c.put("/v1/kv/a", &vec![7; VALUE_MAX + 1]).refused(413, "too-large");
    assert_eq!(c.get("/v1/kv/a").is(200).body.len(), VALUE_MAX);
    c.delete("/v1/kv/a").is(200);
    c.get("/v1/kv/a").refused(404, "not-found");
    c.delete("/v1/kv/a").is(200);
    c.call("DELETE", "/v1/kv/a", &[], b"x").refused(413, "too-large");
}

fn keys(c: &mut Client) {
    c.put("/v1/kv/a%2Fb%00%ff", b"odd").is(200);
    assert_eq!(c.get("/v1/kv/a/b%00%FF").is(200).body, b"odd");
    let longest = "k".repeat(1024);
    c.put(&format!("/v1/kv/{longest}"), b"long").is(200);
    assert_eq!(c.get(&format!("/v1/kv/{longest}")).is(200).body, b"long");
    c.put(&format!("/v1/kv/{longest}k"), b"").refused(400, "bad-request");
    for path in ["/v1/kv/%", "/v1/kv/%g0", "/v1/kv/a?x=1", "/v1/kv/a?consistency=eventual"] {
        c.get(path).refused(400, "bad-request");
    }
    for path in
        ["/v1/kv/a?expected=none", "/v1/kv/a?expect=0", "/v1/kv/a?expect=zz", "/v1/kv/a?expect=00&expect=00"]
    {
        c.put(path, b"").refused(400, "bad-request");
    }
    c.get("/v1/kv/a").refused(404, "not-found");
}

fn compare_and_swap(c: &mut Client) {
    c.put("/v1/kv/cas?expect=none", b"one").is(200);
    let answer = c.put("/v1/kv/cas?expect=none", b"two").refused(409, "mismatch");
    assert_eq!(answer.json()["present"], hex::encode("one"));
    c.put(&format!("/v1/kv/cas?expect={}", hex::encode("one")), b"").is(200);
    c.put("/v1/kv/cas?expect=", b"three").is(200);
    let answer = c.delete("/v1/kv/cas?expect=00").refused(409, "mismatch");
    c.delete(&format!("/v1/kv/cas?expect={}", answer.json()["present"].as_str().expect("hex"))).is(200);
    let answer = c.delete("/v1/kv/cas?expect=00").refused(409, "mismatch");
    assert_eq!(answer.json()["present"], "none");
    c.delete("/v1/kv/cas?expect=none").is(200);
}

fn exactly_once(c: &mut Client) {
    let named = |seq: &'static str| [("moult-client", "shop"), ("moult-seq", seq)];
    let first = c.call("PUT", "/v1/kv/once", &named("5"), b"first").is(200).json();
    c.put("/v1/kv/once", b"other").is(200);
    // A retry changes nothing and gets the first answer, whatever it asks for.
    assert_eq!(c.call("PUT", "/v1/kv/once", &named("5"), b"first").is(200).json(), first);
    assert_eq!(c.call("DELETE", "/v1/kv/once", &named("5"), b"").is(200).json(), first);
    assert_eq!(c.get("/v1/kv/once").is(200).body, b"other");
    let lost = c.call("PUT", "/v1/kv/once?expect=none", &named("6"), b"x").refused(409, "mismatch").json();
    c.delete("/v1/kv/once").is(200);
    assert_eq!(
        c.call("PUT", "/v1/kv/once?expect=none", &named("6"), b"x").refused(409, "mismatch").json(),
        lost
    );
    // A number of the window's size above takes the place: nothing is known of the lower one.
    c.call("PUT", "/v1/kv/once", &named("1031"), b"late").is(200);
    c.call("PUT", "/v1/kv/once", &named("7"), b"x").refused(504, "stale");
    assert_eq!(c.get("/v1/kv/once").is(200).body, b"late");
    for headers in [
        [("moult-client", "shop"), ("x", "y")],
        [("moult-seq", "1"), ("x", "y")],
        [("moult-client", "shop"), ("moult-seq", "-1")],
        [("moult-client", ""), ("moult-seq", "1")],
    ] {
        c.call("PUT", "/v1/kv/once", &headers, b"x").refused(400, "bad-request");
    }
}

fn transactions(c: &mut Client) {
    let command = Command::Put { key: b"tx".to_vec(), value: b"1".to_vec() };
    let headers = [("moult-client", "tx"), ("moult-seq", "1")];
    let receipt = c.call("POST", "/v1/tx", &headers, &command.encode()).is(200).json();
    assert_eq!(
        (&receipt["status"], &receipt["code"], &receipt["output_hex"]),
        (&json!("executed"), &json!(0), &json!(""))
    );
    let id = receipt["id"].as_str().expect("an id").to_owned();
    assert_eq!(c.get(&format!("/v1/tx/{id}")).is(200).json(), receipt);
    assert_eq!(c.get(&format!("/v1/tx/{id}?consistency=local")).is(200).json(), receipt);
    assert_eq!(c.get("/v1/kv/tx").is(200).body, b"1");
    // An application's refusal is a receipt, too.
    let receipt = c.post("/v1/tx", b"no command").is(200).json();
    assert_eq!((&receipt["status"], &receipt["code"]), (&json!("executed"), &json!(2)));
    let own = c.get("/v1/status").is(200).json()["authority"].as_str().expect("an id").to_owned();
    assert_eq!(id, format!("{own}.{}.1", hex::encode("tx")));
    c.get(&format!("/v1/tx/{own}.{}.2", hex::encode("tx"))).refused(404, "not-found");
    c.get(&format!("/v1/tx/{}.aa.1", AuthorityId([9; 32]))).refused(404, "not-found");
    for id in [
        "x",
        "..",
        "a.b.c",
        &format!("{own}..1"),
        &format!("{own}.aa.-1"),
        &format!("{own}.{}.1", "aa".repeat(65)),
    ] {
        c.get(&format!("/v1/tx/{id}")).is(400);
    }
    c.post("/v1/tx", &vec![0; (2 << 20) + 1]).refused(413, "too-large");
    c.post("/v1/tx?x", b"").refused(400, "bad-request");
}

fn queries(c: &mut Client) {
    let question = Query::Get { key: b"tx".to_vec() }.encode();
    for path in ["/v1/query", "/v1/query?consistency=local"] {
        let answer = c.post(path, &question).is(200);
        assert_eq!(moult_kv::decode_value(&answer.body).expect("a value"), Some(b"1".to_vec()));
    }
    c.post("/v1/query", b"what?").refused(400, "refused");
    c.post("/v1/query", &vec![0; (1 << 20) + 1]).refused(413, "too-large");
}

fn chain(c: &mut Client) {
    let status = c.get("/v1/status").is(200).json();
    assert_eq!(
        (&status["epoch"], &status["role"], &status["authority_index"]),
        (&json!(0), &json!("authority"), &json!(0))
    );
    let executed = status["global_exec_index"].as_u64().expect("a number");
    let mut parent = status["identity"].clone();
    for index in 1..=executed {
        let block = c.get(&format!("/v1/blocks/{index}")).is(200).json();
        assert_eq!((&block["global_exec_index"], &block["parent"]), (&json!(index), &parent));
        assert_eq!(block["certificate"]["hash"], block["hash"]);
        assert_eq!(block["certificate"]["votes"].as_array().map(Vec::len), Some(1));
        parent = block["hash"].clone();
    }
    let stretch = c.get("/v1/chain?from=2").is(200).body;
    let stretch: moult_types::message::Blocks = moult_types::decode(&stretch).expect("a stretch");
    let top = stretch.blocks.last().expect("a block");
    assert_eq!((stretch.blocks[0].global.0, stretch.proof.certificate().hash), (2, top.hash));
    for path in ["/v1/chain?from=0", "/v1/chain?from=18446744073709551615"] {
        c.get(path).refused(404, "not-found");
    }
    for path in
        ["/v1/blocks/0", "/v1/blocks/18446744073709551615", &format!("/v1/blocks/{}", executed + 1_000_000)]
    {
        c.get(path).refused(404, "not-found");
    }
    for path in [
        "/v1/blocks/x",
        "/v1/blocks/-1",
        "/v1/blocks/18446744073709551616",
        "/v1/blocks?from=a",
        "/v1/blocks?to=1",
        "/v1/epochs?limit=x",
        "/v1/chain?from=x",
    ] {
        c.get(path).refused(400, "bad-request");
    }
    let indices = |answer: Answer| -> Vec<u64> {
        let blocks = answer.is(200).json();
        blocks
            .as_array()
            .expect("a list")
            .iter()
            .map(|b| b["global_exec_index"].as_u64().expect("a number"))
            .collect()
    };
    assert_eq!(indices(c.get("/v1/blocks?from=2&limit=3")), [2, 3, 4]);
    assert_eq!(indices(c.get("/v1/blocks?limit=2")).len(), 2);
    assert!(indices(c.get("/v1/blocks")).last() >= Some(&executed));
    assert!(indices(c.get("/v1/blocks?from=18446744073709551615&limit=18446744073709551615")).is_empty());
    assert!(indices(c.get("/v1/blocks?limit=0")).is_empty());
    let epochs = c.get("/v1/epochs?from=0&limit=5").is(200).json();
    assert_eq!(
        (epochs.as_array().map(Vec::len), &epochs[0]["number"], &epochs[0]["quorum"]),
        (Some(1), &json!(0), &json!(1))
    );
}

fn refusals(c: &mut Client) {
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v2/status"),
        ("POST", "/v1/kv"),
        ("PUT", "/v1/kv/"),
        ("GET", "/v1/blocks/1/2"),
        ("GET", "//"),
    ] {
        c.call(method, path, &[], b"").refused(404, "not-found");
    }
    for (method, path) in [
        ("POST", "/v1/kv/a"),
        ("DELETE", "/v1/status"),
        ("GET", "/v1/tx"),
        ("PATCH", "/v1/proposals"),
        ("PUT", "/v1/proposals/1/vote"),
        ("OPTIONS", "/v1/kv/a"),
    ] {
        let answer = c.call(method, path, &[], b"").refused(405, "method-not-allowed");
        assert!(answer.header("allow").is_some());
    }
    c.get("/healthz").is(200);
    c.get("/readyz").is(200);
}

fn bodies(c: &mut Client) {
    // In chunks, as clients send what they do not have in whole.
    let chunked = b"PUT /v1/kv/chunks HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
    let answer = c.raw(chunked);
    answer.is(200);
    assert_eq!(c.get("/v1/kv/chunks").is(200).body, b"abcd");
    // A length beyond the limit is refused before the body is there.
    let answer = c.raw(b"PUT /v1/kv/huge HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n");
    answer.refused(413, "too-large");
    // The client waits for leave to send.
    let answer = c.raw(
        b"PUT /v1/kv/huge HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9999999\r\n\r\n",
    );
    answer.refused(413, "too-large");
    // A client that goes away in the middle has written nothing.
    drop(c.send(b"PUT /v1/kv/half HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf"));
    c.get("/v1/kv/half").refused(404, "not-found");
}

/// Whatever is asked, the answer is no failure of the node.
fn anything(c: &mut Client) {
    let method = prop::sample::select(vec!["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH"]);
    let start = prop::sample::select(vec![
        "/",
        "/v1/",
        "/v1/kv/",
        "/v1/tx/",
        "/v1/tx",
        "/v1/query",
        "/v1/blocks/",
        "/v1/blocks",
        "/v1/epochs",
        "/v1/proposals/",
        "/v1/proposals",
        "/v1/modules/",
        "/v1/status",
        "/metrics",
    ]);
    let rest = "[a-z0-9%./:=&?_~+-]{0,24}";
    let seq = "([0-9]{1,20}|[!-~]{1,8})";
    let body = prop::collection::vec(any::<u8>(), 0..64);
    let mut runner = TestRunner::new_with_rng(
        Config { failure_persistence: None, ..Config::with_cases(300) },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let cell = std::cell::RefCell::new(c);
    let all = (method, start, rest, prop::option::of(seq), body);
    let result = runner.run(&all, |(method, start, rest, seq, body)| {
        let seq = seq.unwrap_or_default();
        let headers = [("moult-client", "any"), ("moult-seq", seq.as_str())];
        let headers = if seq.is_empty() { &headers[..0] } else { &headers };
        let answer = cell.borrow_mut().call(method, &format!("{start}{rest}"), headers, &body);
        prop_assert!(answer.status != 500 && answer.status != 503, "{answer:?}");
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}
