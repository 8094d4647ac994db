//! What looks on: records of what engines are fed, shadow runs of proposed ones, and audits of
//! the whole chain.

use std::path::{Path, PathBuf};

use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Plan};
use moult_tests::program::{run, run_ok};
use moult_tests::wait::LONG;
use serde_json::Value;

use crate::change::{carry_through, modules};

const ALL: [usize; 4] = [0, 1, 2, 3];

fn text(path: &Path) -> &str {
    path.to_str().expect("folders of tests are text")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The records of a node, oldest first.
fn records(cluster: &Cluster, index: usize) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cluster.node(index).dir.join("record")).expect("a folder of records");
    let mut records: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    records.sort();
    records
}

#[test]
fn an_engine_is_let_in_after_its_shadow_run_and_records_of_both_run_again() {
    let mut cluster = Setup::new(4).genesis(&["--approval", "require-shadow"]).prepare();
    for index in ALL {
        cluster.configure(index, |config| {
            let whole = index == 0;
            let record = format!("dir = \"record\"\nfile_bytes_max = 300000\nwhole_outcomes = {whole}\n");
            config.insert("record".into(), toml::Value::Table(record.parse().expect("TOML")));
            let shadow = "enabled = true\n";
            config.insert("shadow".into(), toml::Value::Table(shadow.parse().expect("TOML")));
        });
    }
    cluster.start_all(&ALL);
    let load = Load::start(&cluster, &Plan::at(&ALL));
    load.until_more(50);

    // Nobody votes by hand: the policy waits until the candidate was fed enough, and approves.
    let active = carry_through(&cluster, 0, &modules(&cluster, &[("engine", "pbft-reverse")]), &ALL);
    load.until_more(50);
    let approved =
        ALL.iter().filter(|index| approved_after_its_shadow_run(&cluster, **index, active.id)).count();
    assert!(approved >= 3, "{approved} nodes, a quorum is three");
    for index in ALL {
        assert_eq!(cluster.client(index).number("records_begun_total"), Ok(2), "one for each engine");
        assert_eq!(cluster.client(index).number("records_cut_short_total"), Ok(0));
    }
    load.finish(&cluster, 0);

    // A node serves all that it takes to check the chain from the genesis.
    let genesis = cluster.folder().join("genesis.json");
    let api = format!("http://{}", cluster.node(1).api);
    let audit = json(&run_ok(&["verify-chain", "--genesis", text(&genesis), "--api", &api, "--json"]));
    assert_eq!(audit["holds"], true);
    let proposal = &audit["audit"]["proposals"][0];
    assert_eq!((&proposal["state"], &proposal["id"]), (&Value::from("active"), &Value::from(active.id)));
    let votes = proposal["votes"].as_array().expect("votes");
    assert!(votes.len() >= 3 && votes.iter().all(|vote| vote["approve"] == true), "{votes:?}");

    for index in ALL {
        assert!(cluster.stop(index, LONG).success(), "node {index}");
    }
    let data = cluster.node(2).dir.join("data");
    let stored =
        json(&run_ok(&["verify-chain", "--genesis", text(&genesis), "--data-dir", text(&data), "--json"]));
    let blocks = |audit: &Value| audit["audit"]["epochs"][0]["blocks"].as_u64();
    assert!(blocks(&stored) >= Some(10) && blocks(&stored) == blocks(&audit), "{stored}");
    refuses_another_genesis(&cluster, &data);

    for index in ALL {
        let records = records(&cluster, index);
        assert_eq!(records.len(), 2, "{records:?}");
        for record in &records {
            let replayed = json(&run_ok(&["replay", text(record), "--json"]));
            let replay = &replayed["replay"];
            assert_eq!(replay["difference"], Value::Null, "{replayed}");
            assert!(replay["commits"].as_u64() > Some(10), "{replayed}");
            assert!(replay["ending"].as_str().is_some_and(|end| end.starts_with("complete")), "{replayed}");
        }
    }
    // The real traffic of the first epoch, for the same engine and for the other one.
    let record = &records(&cluster, 0)[0];
    let same = json(&run_ok(&["replay", text(record), "--engine", "pbft", "--json"]));
    let commits = &same["shadow"]["commits"];
    assert_eq!(commits["equal"], commits["live"], "{same}");
    // It leads in another order, so that it hears little that it can answer to.
    let other = json(&run_ok(&["replay", text(record), "--engine", "pbft-reverse", "--json"]));
    assert_eq!(other["shadow"]["end"], Value::Null, "{other}");
    assert_eq!(other["shadow"]["commits"]["other"], 0, "{other}");
}

/// Whether the node's own run of the candidate was fed as much as the policy asks for. One node
/// may not have come so far when the votes of the others were a quorum.
fn approved_after_its_shadow_run(cluster: &Cluster, index: usize, proposal: u64) -> bool {
    let mut client = cluster.client(index);
    let seen: Value = client.get(&format!("/v1/proposals/{proposal}")).expect("it answers");
    let shadow = &seen["shadow"];
    let fed = (shadow["events"].as_u64(), shadow["commits"]["live"].as_u64());
    if !(fed.0 >= Some(100) && fed.1 >= Some(10)) {
        return false;
    }
    assert_eq!((&shadow["state"], &shadow["reason"]), (&"complete".into(), &Value::Null), "{shadow}");
    assert!(shadow["candidate"]["fuel"].as_u64() > Some(0), "{shadow}");
    assert_eq!(client.number("shadow_runs_ended_total{result=\"complete\"}"), Ok(1));
    true
}

/// A store or a chain is refused by name where the genesis is another.
fn refuses_another_genesis(cluster: &Cluster, data: &Path) {
    let genesis = cluster.folder().join("genesis.json");
    let mut changed = json(&std::fs::read_to_string(&genesis).expect("a genesis"));
    changed["name"] = "another".into();
    let path = cluster.folder().join("another.json");
    std::fs::write(&path, changed.to_string()).expect("written");
    let output = run(&["verify-chain", "--genesis", text(&path), "--data-dir", text(data)]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("chain"), "{told}");
}
