//! Engines that a certifier has put through the simulator, and those that nobody has.

use std::path::Path;

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::Setup;
use moult_tests::load::{Load, Plan};
use moult_tests::program::{run, run_ok};
use serde_json::{Value, json};

use crate::change::{carry_through, modules, propose};
use crate::hostile::ENDED;

const ALL: [usize; 4] = [0, 1, 2, 3];

fn text(path: &Path) -> &str {
    path.to_str().expect("folders of tests are text")
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn an_engine_is_let_in_with_a_report_of_a_listed_certifier_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let made = json_of(&run_ok(&["certify", "--make-key", text(&path("key")), "--json"]));
    let certifier = made["certifier"].as_str().expect("a key");
    let config = path("policy");
    std::fs::write(&config, format!("certifier={certifier}\nmin_seeds=2\n")).expect("written");
    let config = format!("approval={}", text(&config));
    let cluster = Setup::new(4).genesis(&["--approval", "require-certified", "--config", &config]).start();
    let load = Load::start(&cluster, &Plan::at(&ALL));

    // Nobody has certified it.
    let change = modules(&cluster, &[("engine", "pbft-reverse")]);
    let ended = cluster.until_proposal(0, propose(&cluster, 0, &change).id, &ENDED);
    assert_eq!(ended.state, "rejected", "{ended:?}");
    assert!(format!("{:?}", ended.votes).contains("the proposal carries no report on it"), "{ended:?}");

    // A report that was changed is refused by whoever is handed it.
    let report = path("report");
    let certified = certify(&path("key"), &report);
    assert_eq!(certified["report"]["failed_seeds"], 0, "{certified}");
    let bytes = std::fs::read(&report).expect("a report");
    let mut forged = bytes.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    std::fs::write(path("forged"), &forged).expect("written");
    assert_eq!(run(&["certify", "--check", text(&path("forged"))]).status.code(), Some(3));
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let with = |bytes: &[u8]| {
        let mut change = change.clone();
        change["reports"] = json!([digits(bytes)]);
        change
    };
    let refused = cluster.client(1).propose(&with(&forged)).expect_err("a forged report");
    assert!(refused.to_string().contains("the signature of its report"), "{refused}");

    // With the report every node lets it in.
    let active = carry_through(&cluster, 1, &with(&bytes), &ALL);
    let seen: Value = cluster.client(2).get(&format!("/v1/proposals/{}", active.id)).expect("it answers");
    assert_eq!(seen["reports"][0]["certifier"], certifier);
    load.until_more(50);
    load.finish(&cluster, 0);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}

/// Two seeds of the simulator, one of the suite; and the same again, as somebody else would.
fn certify(key: &Path, report: &Path) -> Value {
    let made = run_ok(&[
        "certify",
        "pbft-reverse",
        "--seeds",
        "2",
        "--suite-seeds",
        "1",
        "--key",
        text(key),
        "--out",
        text(report),
        "--json",
    ]);
    let checked =
        json_of(&run_ok(&["certify", "--check", text(report), "pbft-reverse", "--sample", "2", "--json"]));
    assert_eq!((&checked["seeds_run_again"], &checked["differences"]), (&json!(2), &json!([])), "{checked}");
    let other = run(&["certify", "--check", text(report), "pbft"]);
    assert_eq!(other.status.code(), Some(3), "the report is on another module");
    json_of(&made)
}
