//! Administration: access, modules, epoch changes; and what metrics say of all of it.

use serde_json::{Value, json};

use crate::calls::wait_for;
use crate::client::Client;
use crate::setup::{bytes_of, hash_of};

pub(crate) fn access(c: &mut Client, admin: &mut Client) {
    let hash = hash_of("kv2");
    for (method, path) in [
        ("POST", "/v1/proposals".to_owned()),
        ("DELETE", "/v1/proposals/1".to_owned()),
        ("POST", "/v1/proposals/1/vote".to_owned()),
        ("PUT", format!("/v1/modules/{hash}")),
        ("POST", "/v1/backup".to_owned()),
        ("GET", "/v1/backup".to_owned()),
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

pub(crate) fn modules(c: &mut Client, admin: &mut Client) {
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

pub(crate) fn proposals(c: &mut Client, admin: &mut Client) {
    refused_proposals(c, admin);
    upgrade(c, admin);
    withdrawal(c, admin);
    other_ends(c, admin);
    other_application(c, admin);
}

/// What breaks a rule is refused at once.
fn refused_proposals(c: &mut Client, admin: &mut Client) {
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
}

/// An upgrade of the application, approved and activated by itself.
fn upgrade(c: &mut Client, admin: &mut Client) {
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
}

/// One that waits for its time; then it is withdrawn.
fn withdrawal(c: &mut Client, admin: &mut Client) {
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
}

/// Rejected by the voters, and expired.
fn other_ends(c: &mut Client, admin: &mut Client) {
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

pub(crate) fn metrics(c: &mut Client) {
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
