//! Wrong files and wrong command lines: one clear line, the right exit code, no panic.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use moult_tests::cluster::{Cluster, Setup};
use moult_tests::program::{run, run_ok};

const CONFIGURATION: i32 = 78;

/// A failed start says what is wrong, with the words given, and ends with the code given.
fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

fn start(cluster: &Cluster, index: usize) -> Output {
    run(&["node", "--config", cluster.node(index).config().to_str().expect("text")])
}

fn replace(path: &Path, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(path).expect("a file");
    assert!(text.contains(from), "`{from}` is not in {text}");
    std::fs::write(path, text.replace(from, to)).expect("written");
    text
}

#[test]
fn wrong_files_are_named() {
    let cluster = Setup::new(4).prepare();
    let node = cluster.node(0);
    let config = node.config();

    let good = replace(&config, "data_dir", "datadir");
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["moult.toml", "datadir"]);
    std::fs::write(&config, &good).expect("written");

    cluster.configure(0, |c| drop(c.insert("data_dir".into(), 7.into())));
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["moult.toml", "data_dir"]);
    std::fs::write(&config, "[[[").expect("written");
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["moult.toml"]);
    std::fs::remove_file(&config).expect("removed");
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["moult.toml"]);
    std::fs::write(&config, &good).expect("written");
    replace(&config, &node.api.to_string(), "0.0.0.0:7400");
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["api.listen", "tls_cert"]);
    std::fs::write(&config, &good).expect("written");

    let key = node.dir.join("node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("set");
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["node.key", "chmod 600"]);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("set");
    let secret = replace(&key, "secret", "public");
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["node.key"]);
    std::fs::write(&key, secret).expect("written");

    let genesis = node.dir.join("genesis.json");
    let good = replace(&genesis, "\"stake\": 1", "\"stake\": 0");
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["genesis", "stake"]);
    std::fs::write(&genesis, "{").expect("written");
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["genesis.json"]);
    std::fs::remove_file(&genesis).expect("removed");
    assert_refused(&start(&cluster, 0), CONFIGURATION, &["genesis.json"]);
    std::fs::write(&genesis, good).expect("written");

    // Ports in use, TCP and UDP.
    let taken = std::net::TcpListener::bind(node.api).expect("bound");
    assert_refused(&start(&cluster, 0), 1, &[&node.api.to_string()]);
    drop(taken);
    let taken = std::net::UdpSocket::bind(node.p2p).expect("bound");
    assert_refused(&start(&cluster, 0), 1, &[&node.p2p.to_string()]);
    drop(taken);

    let valid = run(&["check-config", "--config", config.to_str().expect("text")]);
    assert!(valid.status.success(), "{valid:?}");
}

#[test]
fn wrong_command_lines_are_refused() {
    for line in [
        &["nothing"][..],
        &["node"],
        &["init"],
        &["propose"],
        &["devnet", "--nodes", "0", "--dir", "d"],
        &["init", "--dir", "x", "--stake", "0"],
        &["init", "--dir", "x", "--p2p", "nowhere"],
        &["status", "--nothing"],
    ] {
        let output = run(line);
        assert_refused(&output, 2, &["--help"]);
    }
    assert_refused(&run(&["status", "--api", "http://127.0.0.1:9"]), 1, &["127.0.0.1:9"]);
    assert_refused(&run(&["module", "inspect", "/nothing.wasm"]), 1, &["/nothing.wasm"]);
    assert!(run_ok(&["--version"]).starts_with("moult "));
    let help = run_ok(&["--help"]);
    assert!(help.contains("Exit codes"), "{help}");
}

#[test]
fn a_second_process_and_another_genesis_are_refused() {
    let mut cluster = Cluster::of_four();
    // The same folder, with other ports so that only the lock is in the way.
    let copy = cluster.node(0).dir.join("second.toml");
    let text = std::fs::read_to_string(cluster.node(0).config()).expect("a file");
    let (api, p2p) = (cluster.node(0).api.to_string(), cluster.node(0).p2p.to_string());
    std::fs::write(&copy, text.replace(&api, "127.0.0.1:20998").replace(&p2p, "127.0.0.1:20999"))
        .expect("written");
    let second = run(&["node", "--config", copy.to_str().expect("text")]);
    assert_refused(&second, 1, &["data"]);

    // A node whose genesis differs is of another chain: its store refuses it, and a fresh one
    // finds no peer.
    cluster.kill(3);
    let genesis = cluster.node(3).dir.join("genesis.json");
    replace(&genesis, "\"name\": \"tests\"", "\"name\": \"others\"");
    let refused = start(&cluster, 3);
    assert!(!refused.status.success());
    assert_refused(&refused, refused.status.code().unwrap_or(-1), &["chain"]);
    std::fs::remove_dir_all(cluster.node(3).dir.join("data")).expect("removed");
    cluster.launch(3);
    cluster.wait_for_answer(3);
    let read = cluster.client(3).patience(Duration::from_secs(30)).read("first");
    assert!(read.is_err(), "a node of another chain served a read: {read:?}");
    assert_eq!(cluster.client(3).status().expect("it answers").global_exec_index, 0);
    cluster.until_progress(0);
    cluster.assert_no_panic();
}
