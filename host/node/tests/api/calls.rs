//! The calls, in one long life of one node.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use moult_kv::{Command, Query};
use moult_types::AuthorityId;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::client::{Answer, Client, read_answer};
use crate::setup::{Setup, bytes_of, hash_of};

/// Largest value of the key-value store.
const VALUE_MAX: usize = moult_kv::VALUE_BYTES_MAX;

pub(crate) fn run() {
    let mut setup = Setup::new();
    let node = setup.start();
    let address = node.address;
    let slow = slow_head(address);
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
    access(&mut c, &mut admin);
    println!("modules");
    modules(&mut c, &mut admin);
    println!("proposals");
    proposals(&mut c, &mut admin);
    println!("metrics");
    metrics(&mut c);
    println!("raw bytes");
    raw(address);
    slow.join().expect("the slow client");

    println!("stop");
    c.put("/v1/kv/kept", b"value").is(200);
    let answers = load_while(address, || node.terminate());
    assert!(TcpStream::connect(address).is_err(), "it listens still");

    println!("restart, {} writes were acknowledged while it stopped", answers);
    setup.config.limits.requests_max = 1;
    let node = setup.start();
    after_restart(node.address, answers);
    overload(node.address);
    node.terminate();
}

fn wait_for(what: &str, mut ask: impl FnMut() -> Answer, done: impl Fn(&Answer) -> bool) -> Answer {
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
    // Far behind the client's highest number nothing is known any more.
    c.call("PUT", "/v1/kv/once", &named("5000"), b"late").is(200);
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

fn access(c: &mut Client, admin: &mut Client) {
    let hash = hash_of("kv2");
    for (method, path) in [
        ("POST", "/v1/proposals".to_owned()),
        ("DELETE", "/v1/proposals/1".to_owned()),
        ("POST", "/v1/proposals/1/vote".to_owned()),
        ("PUT", format!("/v1/modules/{hash}")),
    ] {
        let answer = c.call(method, &path, &[], b"{}").refused(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        for wrong in [
            "Bearer",
            "Bearer ",
            "Bearer x",
            "Basic eA==",
            "bearer 000000000000000000000000000000000000000000000000",
        ] {
            c.call(method, &path, &[("authorization", wrong)], b"{}").refused(401, "unauthorized");
        }
    }
    c.call("POST", "/v1/tx", &[("origin", "http://evil.example")], b"").refused(403, "origin");
    c.call("GET", "/v1/status", &[("origin", "http://evil.example")], b"").refused(403, "origin");
    admin.call("GET", "/v1/status", &[("origin", "http://ops.example")], b"").is(200);
}

fn modules(c: &mut Client, admin: &mut Client) {
    let held = c.get("/v1/modules").is(200).json();
    let pinned: Vec<&Value> =
        held.as_array().expect("a list").iter().filter(|m| m["pinned"] != json!([])).collect();
    assert_eq!(pinned.len(), 3, "{held}");
    let (hash, bytes) = (hash_of("kv"), bytes_of("kv"));
    assert_eq!(c.get(&format!("/v1/modules/{hash}")).is(200).body, bytes);
    assert_eq!(c.get(&format!("/v1/modules/{}", hash.to_string().replace(':', "%3a"))).is(200).body, bytes);
    c.get(&format!("/v1/modules/sha256:{}", "0".repeat(64))).refused(404, "not-found");
    c.get("/v1/modules/sha256:00").refused(400, "bad-request");
    admin.put(&format!("/v1/modules/{hash}"), b"something else").refused(400, "hash-mismatch");
    let new = b"not even a module";
    let hash = moult_types::ModuleHash::of(new);
    for _ in 0..2 {
        let added = admin.put(&format!("/v1/modules/{hash}"), new).is(200).json();
        assert_eq!((&added["bytes"], &added["pinned"]), (&json!(new.len()), &json!([])));
    }
    assert_eq!(c.get(&format!("/v1/modules/{hash}")).is(200).body, new);
    admin.put(&format!("/v1/modules/{hash}"), &vec![0; (4 << 20) + 1]).refused(413, "too-large");
}

fn proposals(c: &mut Client, admin: &mut Client) {
    assert_eq!(c.get("/v1/proposals").is(200).json(), json!([]));
    let answer = admin.post("/v1/proposals", b"{\"modules\": 1}").refused(400, "bad-request");
    assert!(answer.json()["message"].as_str().is_some_and(|m| m.contains("line 1 column")));
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{\"module\":{}}",
        "{\"modules\":{\"x\":{}}}",
        "{\"deadline_blocks\":-1}",
        "{\"deadline_blocks\":18446744073709551615}",
    ] {
        admin.post("/v1/proposals", body.as_bytes()).refused(400, "bad-request");
    }
    let both = json!({"modules": {"engine": {"hash": hash_of("pbft"), "config": "", "config_hex": ""}}});
    admin.post("/v1/proposals", both.to_string().as_bytes()).refused(400, "bad-request");
    for body in
        [json!({"committee": []}), json!({"deadline_blocks": 0}), json!({"limits": {"window_blocks": 0}})]
    {
        admin.post("/v1/proposals", body.to_string().as_bytes()).refused(400, "invalid-proposal");
    }
    for path in ["/v1/proposals/1", "/v1/proposals/18446744073709551615"] {
        c.get(path).refused(404, "not-found");
    }
    c.get("/v1/proposals/x").refused(400, "bad-request");
    c.get("/v1/proposals?open=maybe").refused(400, "bad-request");
    admin.delete("/v1/proposals/1").refused(404, "not-found");
    admin.post("/v1/proposals/1/vote", b"{\"approve\":true}").refused(404, "not-found");
    admin.post("/v1/proposals/1/vote", b"{}").refused(400, "bad-request");

    // An upgrade of the application, approved and activated by itself.
    let upgrade = json!({"modules": {"application": {"hash": hash_of("kv2")}}});
    let made = admin.post("/v1/proposals", upgrade.to_string().as_bytes()).is(200).json();
    assert_eq!((&made["id"], &made["new_epoch"]), (&json!(1), &json!(1)));
    let active = wait_for(
        "the upgrade",
        || {
            c.put("/v1/kv/tick", b"").is(200);
            c.get("/v1/proposals/1")
        },
        |a| a.json()["state"] == "active",
    )
    .json();
    assert_eq!(
        (&active["stake_approve"], &active["quorum"], &active["votes"][0]["approve"]),
        (&json!(1), &json!(1), &json!(true))
    );
    assert!(
        active["explanation"]
            .as_str()
            .is_some_and(|text| text.starts_with("active: epoch 1 began after block")),
        "{active}"
    );
    wait_for("the epoch", || c.get("/v1/status"), |a| a.json()["epoch"] == 1);
    c.put("/v1/kv/upgraded", b"yes").is(200);
    assert_eq!(c.get("/v1/kv/upgraded").is(200).body, b"yes");
    assert_eq!(
        c.get("/v1/epochs?from=1").is(200).json()[0]["modules"]["application"]["hash"],
        json!(hash_of("kv2"))
    );

    // One that waits for its time; then it is withdrawn.
    let later = json!({"not_before_ms": 32_503_680_000_000u64});
    let made = admin.post("/v1/proposals", later.to_string().as_bytes()).is(200).json();
    assert_eq!((&made["id"], &made["modules"]["application"]["hash"]), (&json!(2), &json!(hash_of("kv2"))));
    let waits = wait_for(
        "readiness",
        || {
            c.put("/v1/kv/tick", b"").is(200);
            c.get("/v1/proposals/2")
        },
        |a| a.json()["ready"] == json!([0]),
    )
    .json();
    assert_eq!((&waits["state"], &waits["barrier"]), (&json!("approved"), &json!(null)));
    assert_eq!(
        waits["explanation"],
        "approved and ready (stake 1 of 1 needed); waits for block time 32503680000000"
    );
    assert_eq!(c.get("/v1/proposals?open=true").is(200).json().as_array().map(Vec::len), Some(1));
    admin.post("/v1/proposals", b"{}").refused(409, "rival-approved");
    admin.post("/v1/proposals/2/vote", b"{\"approve\":false}").refused(409, "decided");
    let withdrawn = admin.delete("/v1/proposals/2").is(200).json();
    assert_eq!(withdrawn["state"], "withdrawn");
    admin.delete("/v1/proposals/2").refused(409, "decided");
    let all = c.get("/v1/proposals").is(200).json();
    let ids: Vec<_> = all.as_array().expect("a list").iter().map(|p| p["id"].as_u64()).collect();
    assert_eq!(ids, [Some(2), Some(1)]);
    assert_eq!(c.get("/v1/proposals?open=true").is(200).json(), json!([]));

    // One that pins a module that nobody has is rejected by the voters, not by the call.
    let missing = json!({"modules": {"application": {"hash": format!("sha256:{}", "1".repeat(64))}}});
    admin.post("/v1/proposals", missing.to_string().as_bytes()).is(200);
    let rejected = wait_for(
        "the rejection",
        || {
            c.put("/v1/kv/tick", b"").is(200);
            c.get("/v1/proposals/3")
        },
        |a| a.json()["state"] != "proposed",
    )
    .json();
    assert_eq!(rejected["state"], "rejected");
    assert!(
        rejected["explanation"]
            .as_str()
            .is_some_and(|text| text.starts_with("rejected by quorum: ") && text.len() > 30),
        "{rejected}"
    );

    // One whose deadline comes first.
    let brief = json!({"not_before_ms": 32_503_680_000_000u64, "deadline_blocks": 5});
    admin.post("/v1/proposals", brief.to_string().as_bytes()).is(200);
    let expired = wait_for(
        "the deadline",
        || {
            c.put("/v1/kv/tick", b"").is(200);
            c.get("/v1/proposals/4")
        },
        |a| a.json()["state"] == "expired",
    )
    .json();
    assert!(
        expired["explanation"].as_str().is_some_and(|text| text.starts_with("expired at block ")),
        "{expired}"
    );

    other_application(c, admin);
}

/// Where the application is no key-value store, and back.
fn other_application(c: &mut Client, admin: &mut Client) {
    let activate = |c: &mut Client, admin: &mut Client, name: &str, epoch: u64| {
        let body = json!({"modules": {"application": {"hash": hash_of(name)}}});
        admin.post("/v1/proposals", body.to_string().as_bytes()).is(200);
        wait_for(
            name,
            || {
                c.post("/v1/tx", b"tick").is(200);
                c.get("/v1/status")
            },
            |a| a.json()["epoch"] == epoch,
        );
    };
    activate(c, admin, "null", 2);
    c.post("/v1/tx", b"anything").is(200);
    for answer in [c.get("/v1/kv/a"), c.put("/v1/kv/a", b"x"), c.delete("/v1/kv/a")] {
        answer.refused(409, "not-a-key-value-store");
    }
    assert_eq!(c.post("/v1/query", b"anything").is(200).body, b"");
    activate(c, admin, "kv", 3);
    c.post("/v1/tx", b"tick").is(200);
    assert_eq!(c.get("/v1/kv/upgraded").is(200).body, b"yes");
}

fn metrics(c: &mut Client) {
    let answer = c.get("/metrics").is(200);
    assert!(
        answer.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text"))
    );
    let text = String::from_utf8(answer.body).expect("text");
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
    };
    for name in [
        "block_height",
        "blocks_total",
        "batches_total",
        "transactions_total",
        "epoch_commits_total{epoch=\"0\"}",
        "epoch_transactions_total{epoch=\"1\"}",
        "epoch_rounds_total{epoch=\"1\"}",
        "consensus_latency_seconds_count",
        "consensus_round_duration_seconds_count",
        "log_sync_duration_seconds_count",
        "log_syncs_total",
        "module_calls_total{world=\"engine\"}",
        "module_calls_total{world=\"approval\"}",
        "module_fuel_total{world=\"application\"}",
        "module_cache_misses_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "epoch_transition_activation_seconds_sum",
        "http_requests_total{endpoint=\"/v1/kv/{*key}\",status=\"200\"}",
        "http_request_duration_seconds_count{endpoint=\"/v1/status\"}",
    ] {
        assert!(value(name) > 0.0, "{name}");
    }
    for (name, wanted) in [
        ("epoch_number", 3.0),
        ("epoch_transition_success_total", 3.0),
        ("epoch_transition_duration_seconds_count", 3.0),
        ("epoch_transition_failure_total{reason=\"withdrawn\"}", 1.0),
        ("epoch_transition_failure_total{reason=\"rejected\"}", 1.0),
        ("epoch_transition_failure_total{reason=\"expired\"}", 1.0),
        ("total_nodes", 1.0),
        ("nodes_in_sync", 1.0),
        ("stake_in_sync", 1.0),
        ("fork_detected_total", 0.0),
        ("engine_faults_total", 0.0),
        ("signing_stopped", 0.0),
        ("sync_lag_blocks", 0.0),
        ("peers_connected", 0.0),
    ] {
        assert_eq!(value(name), wanted, "{name}");
    }
}

/// What is no HTTP ends the connection and nothing else.
fn raw(address: SocketAddr) {
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
fn slow_head(address: SocketAddr) -> std::thread::JoinHandle<()> {
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
fn load_while(address: SocketAddr, happening: impl FnOnce()) -> u64 {
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

fn after_restart(address: SocketAddr, acknowledged: u64) {
    let mut c = Client::new(address);
    assert_eq!(c.get("/v1/kv/kept").is(200).body, b"value");
    let last = |c: &mut Client, writer: u64| -> u64 {
        let value = c.get(&format!("/v1/kv/load{writer}")).is(200).body;
        String::from_utf8_lossy(&value).parse::<u64>().expect("a number") + 1
    };
    let kept: u64 = (0..4).map(|writer| last(&mut c, writer)).sum();
    assert!(kept >= acknowledged, "{kept} of {acknowledged}");
    // Receipts outlive the process, too.
    let named = [("moult-client", "shop"), ("moult-seq", "5000")];
    let again = c.call("PUT", "/v1/kv/once", &named, b"again").is(200).json();
    let id = again["id"].as_str().expect("an id");
    assert_eq!(c.get(&format!("/v1/tx/{id}")).is(200).json()["index"], again["index"]);
    assert_eq!(c.get("/v1/kv/once").is(200).body, b"late");
}

/// One request at once (the limit of this start) is held open by a slow body.
fn overload(address: SocketAddr) {
    let mut c = Client::new(address);
    let held = c.send(b"PUT /v1/kv/slow HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab");
    let refused = wait_for("overload", || c.get("/v1/status"), |answer| answer.status == 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.refused(503, "overloaded");
    c.get("/healthz").is(200);
    c.get("/metrics").is(200);
    let mut held = held;
    held.get_mut().write_all(b"cde").expect("sent");
    read_answer(&mut held, false).is(200);
    assert_eq!(c.get("/v1/kv/slow").is(200).body, b"abcde");
}
