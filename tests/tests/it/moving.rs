//! A node moves to another machine, is brought back from a backup, gets another key.

use std::path::{Path, PathBuf};

use moult_keys::write_secret;
use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Plan};
use moult_tests::program::{run, run_ok};
use moult_tests::wait::{LONG, until, until_true};
use serde_json::Value;

use crate::change::{carry_through, modules};

const ALL: [usize; 4] = [0, 1, 2, 3];

fn text(path: &Path) -> &str {
    path.to_str().expect("folders of tests are text")
}

fn config(cluster: &Cluster, index: usize) -> String {
    text(&cluster.node(index).config()).to_owned()
}

/// Writes at the given nodes until one takes it: the others are enough for a quorum only together.
fn needs(cluster: &mut Cluster, away: usize, node: usize) {
    cluster.kill(away);
    cluster.client(node).put("needed", b"1", None).expect("its signature makes the quorum");
    cluster.start(away);
}

#[test]
fn a_node_moves_to_another_machine_and_signs_on() {
    let mut cluster = Setup::new(4).spares(1).start();
    cluster.client(3).put("before", b"1", None).expect("written");
    let file = cluster.folder().join("guard.json");
    let export =
        |cluster: &Cluster| run(&["guard", "export", "--config", &config(cluster, 3), "--out", text(&file)]);
    let refused = export(&cluster);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("locked") && !file.exists(), "{said}");
    assert!(cluster.stop(3, LONG).success());
    let done = export(&cluster);
    assert!(done.status.success(), "{done:?}");

    // Where it was, it signs nothing any more.
    cluster.launch(3);
    cluster.wait_for_answer(3);
    let status = cluster.client(3).status().expect("it answers");
    assert!(status.signing_stopped.is_some_and(|reason| reason.contains("was exported")));
    cluster.kill(3);

    // Another machine: its own folder, the same key, no data.
    let (old, new) = (cluster.node(3).dir.join("node.key"), cluster.node(4).dir.join("node.key"));
    let refused = run(&["guard", "import", text(&file), "--config", &config(&cluster, 4)]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("bring the key file along"), "{said}");
    std::fs::copy(&old, &new).expect("copied");
    run_ok(&["guard", "import", text(&file), "--config", &config(&cluster, 4)]);
    cluster.launch(4);
    cluster.wait_for_answer(4);
    cluster.until_status(4, "signs nothing before it has caught up", |s| s.signing_stopped.is_some());
    cluster.until_progress(4);
    assert!(cluster.stop(4, LONG).success());
    cluster.start(4);
    let status = cluster.client(4).status().expect("it answers");
    assert_eq!((status.signing_stopped, status.authority_index), (None, Some(3)));
    needs(&mut cluster, 0, 4);
    assert_one_chain(&cluster, &[0, 1, 2, 4]);
    assert_same_state(&cluster, &[0, 1, 2, 4]);
}

#[test]
fn a_node_comes_back_from_a_backup_and_one_without_its_guard_needs_a_new_key() {
    let mut cluster = Cluster::of_four();
    let load = Load::start(&cluster, &Plan::at(&[0, 1, 2]));
    load.until_more(50);
    // One is made before the transition, by itself, and one upon demand.
    carry_through(&cluster, 0, &modules(&cluster, &[("engine", "pbft-reverse")]), &ALL);
    until("a backup before the transition", LONG, || {
        let made = cluster.client(3).number("backups_total")?;
        if made > 0 { Ok(()) } else { Err("none yet".into()) }
    });
    let folder = cluster.node(3).dir.join("data/backups");
    let kept = list(&folder);
    assert!(kept.iter().any(|file| text(file).ends_with("-epoch-0.backup")), "{kept:?}");
    load.until_more(20);
    let told = run_ok(&["backup", "--json", "--dir", text(&cluster.node(3).dir)]);
    let backup: Value = serde_json::from_str(&told).expect("JSON");
    let backup = PathBuf::from(backup["file"].as_str().expect("a file"));
    load.until_more(20);

    let node = cluster.node(3).dir.clone();
    let restore = |more: &[&str]| run(&[&["restore", text(&backup), "--dir", text(&node)], more].concat());
    assert!(!restore(&["--yes"]).status.success(), "a node runs there");
    cluster.kill(3);
    let asked = restore(&[]);
    assert_eq!(asked.status.code(), Some(3), "{asked:?}");
    assert!(!node.join("data/store.before-restore-1").exists());
    let done = restore(&["--yes"]);
    assert!(done.status.success(), "{done:?}");
    assert!(node.join("data/store.before-restore-1").exists());
    cluster.launch(3);
    cluster.wait_for_answer(3);
    cluster.until_progress(3);
    // Where the guard's log reaches back to the backup, there is nothing to wait for.
    if cluster.client(3).status().expect("it answers").signing_stopped.is_some() {
        assert!(cluster.stop(3, LONG).success());
        cluster.start(3);
    }
    assert_eq!(cluster.client(3).status().expect("it answers").signing_stopped, None);
    cluster.client(3).put("restored", b"1", None).expect("it signs");

    // The disk with the guard is lost, and only the backup is left.
    cluster.kill(3);
    std::fs::remove_dir_all(node.join("data/guard")).expect("removed");
    assert!(restore(&["--yes"]).status.success());
    cluster.launch(3);
    cluster.wait_for_answer(3);
    cluster.until_progress(3);
    let status = cluster.client(3).status().expect("it answers");
    assert!(status.signing_stopped.is_some_and(|reason| reason.contains("missing")));
    rotate(&cluster, 3, 0);
    cluster.until_status(3, "signs with its new key", |s| {
        s.epoch == 2 && s.signing_stopped.is_none() && s.authority_index == Some(3)
    });
    load.finish(&cluster, 0);
    needs(&mut cluster, 1, 3);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}

#[test]
fn an_authority_changes_its_key_under_load_and_counts_with_the_new_one() {
    let mut cluster = Cluster::of_four();
    let load = Load::start(&cluster, &Plan::at(&[1, 2, 3]));
    load.until_more(50);
    let plain = shown(&cluster, 0);
    assert_eq!(plain["key_file"], "plain");
    put_under_a_passphrase(&cluster, 0);
    let before = shown(&cluster, 0);
    assert_eq!((&before["key"], &before["key_file"]), (&plain["key"], &Value::from("encrypted")));
    rotate(&cluster, 0, 0);
    cluster.until_epoch(&ALL, 1);
    cluster.until_status(0, "signs with its new key", |s| s.authority_index == Some(0));
    let after = shown(&cluster, 0);
    assert_eq!((&after["authority"], &after["next_key"]), (&before["authority"], &Value::Null));
    assert_ne!(after["key"], before["key"]);
    // Made under the same passphrase, and unlocked by the node that restarted itself.
    assert_eq!(after["key_file"], "encrypted");
    load.until_more(50);
    load.finish(&cluster, 1);
    needs(&mut cluster, 2, 0);
    // As after any other start.
    assert!(cluster.stop(0, LONG).success());
    cluster.start(0);
    assert_eq!(cluster.client(0).status().expect("it answers").authority_index, Some(0));
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
    cluster.assert_no_panic();
}

/// Encrypts the key of a node that runs; without its passphrase the node would not start again.
fn put_under_a_passphrase(cluster: &Cluster, node: usize) {
    let (config, file) = (config(cluster, node), cluster.node(node).dir.join("passphrase"));
    let refused = run(&["keys", "encrypt", "--config", &config]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--unlock-file"), "{said}");
    write_secret(&file, "correct horse battery staple\n").expect("written");
    run_ok(&["keys", "encrypt", "--config", &config, "--unlock-file", text(&file)]);
    let refused = run(&["check-config", "--config", &config]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(78) && said.contains("needs a passphrase"), "{said}");
    cluster.configure(node, |table| {
        let unlock = toml::Table::from_iter([("file".to_owned(), "passphrase".into())]);
        table.insert("unlock".into(), unlock.into());
    });
    run_ok(&["check-config", "--config", &config]);
}

/// Gives a node's authority a new key, proposed at another node or its own.
fn rotate(cluster: &Cluster, node: usize, at: usize) {
    let (api, token) = (format!("http://{}", cluster.node(at).api), cluster.node(at).token_file());
    let config = config(cluster, node);
    run_ok(&["keys", "rotate", "--config", &config, "--api", &api, "--token-file", text(&token)]);
    let other = (0..cluster.len()).find(|&other| other != node && cluster.running().contains(&other));
    let other = other.expect("another node");
    let mut client = cluster.client(other);
    until_true("the new key's epoch begins", LONG, || {
        let present = shown(cluster, node);
        let key = present["next_key"].as_str().or(present["key"].as_str()).unwrap_or_default();
        let epochs: Vec<Value> = client.get("/v1/epochs").unwrap_or_default();
        let newest = epochs.iter().max_by_key(|epoch| epoch["number"].as_u64());
        let members = newest.and_then(|epoch| epoch["committee"].as_array());
        members.is_some_and(|members| members.iter().any(|member| member["key"] == key))
    });
}

fn shown(cluster: &Cluster, node: usize) -> Value {
    let told = run_ok(&["keys", "show", "--json", "--config", &config(cluster, node)]);
    serde_json::from_str(&told).expect("JSON")
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder of backups");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}
