//! More nodes are gone for good than the chain tolerates: the procedure of docs/OPERATING.md, command
//! by command.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use moult_tests::api::Caller;
use moult_tests::blocks::{assert_one_audited_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::program::{run, run_ok};
use moult_tests::wait::{LONG, until, until_true};
use serde_json::Value;

use crate::change::{carry_through, modules};

/// The nodes of the new chain: those that are left, and two that were spare.
const NEW: [usize; 4] = [0, 1, 4, 5];
/// A write that has no answer after so long is one whose outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(3);

/// A write that was acknowledged.
struct Acknowledged {
    client: String,
    seq: u64,
    index: u64,
    id: String,
}

impl Acknowledged {
    fn key(&self) -> String {
        format!("{}-{}", self.client, self.seq)
    }
}

#[test]
fn two_of_four_are_gone_for_good_and_what_is_left_carries_the_chain_on() {
    let mut cluster = Setup::new(4).spares(2).start();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = [0, 1, 2, 3].map(|node| write(&cluster, node, &acknowledged)).into();
    until_true("some writes", LONG, || acknowledged.load(Ordering::Relaxed) >= 400);
    // In the midst of it, with all that was not synced.
    cluster.kill_all(&[2, 3]);
    for lost in [2, 3] {
        std::fs::remove_dir_all(cluster.node(lost).dir.join("data")).expect("removed");
    }
    let written: Vec<Acknowledged> =
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer ended")).collect();
    assert!(written.len() >= 400, "{}", written.len());

    let plan = |more: &[&str]| recover(&cluster, more);
    let data = |node: usize| text(&cluster.node(node).dir.join("data")).to_owned();
    let lost = [2, 3].map(|node| cluster.node(node).identity["id"].as_str().expect("an id").to_owned());
    let new = [4, 5].map(|node| text(&cluster.node(node).dir.join("identity.json")).to_owned());
    let (first, second) = (data(0), data(1));
    let survivors = ["--survivor", &first, "--survivor", &second];
    let gone = ["--lost", &lost[0], "--lost", &lost[1], "--identity", &new[0], "--identity", &new[1]];
    let running = plan(&[&survivors[..], &gone].concat());
    assert!(running.1.contains("is locked by pid"), "{}", running.1);
    cluster.kill_all(&[0, 1]);

    let plan = |more: &[&str]| recover(&cluster, more);
    let (code, told) = plan(&[&survivors[..], &gone[4..]].concat());
    assert!(code == Some(3) && told.contains("those that were not declared lost may be a quorum"), "{told}");
    // One alone does not meet every quorum.
    let absent = ["--identity", text(&cluster.node(1).dir.join("identity.json"))].map(ToOwned::to_owned);
    let absent = absent.each_ref().map(String::as_str);
    let (code, told) = plan(&[&survivors[..2], &gone[..], &absent].concat());
    assert!(code == Some(3) && told.contains("acknowledged writes may be missing"), "{told}");
    let (code, told) = plan(&[&survivors[..], &gone].concat());
    assert!(code == Some(0) && told.contains("Nothing was written"), "{told}");
    let out = cluster.folder().join("recovery");
    let (code, told) = plan(&[&survivors[..], &gone, &["--out", text(&out), "--json"]].concat());
    assert_eq!(code, Some(0), "{told}");
    let plan: Value =
        serde_json::Deserializer::from_str(&told).into_iter().next().expect("an answer").expect("JSON");
    let report = &plan["plan"];
    assert_eq!(
        (&report["doubts"], &report["computed_by"]),
        (&Value::Array(Vec::new()), &2.into()),
        "{report}"
    );
    let carried_to = report["carried_to"].as_u64().expect("a number");
    let chain = report["chain"].as_str().expect("an id");
    println!("carried on to block {carried_to}, final {}", report["last_final"]);

    let (genesis, state) = (out.join("genesis.json"), out.join("state.backup"));
    let dirs: Vec<PathBuf> = (0..cluster.len()).map(|node| cluster.node(node).dir.clone()).collect();
    let apply = |node: usize, more: &[&str]| {
        let dir = text(&dirs[node]);
        let files = ["recover", "apply", "--genesis", text(&genesis), "--state", text(&state), "--dir", dir];
        run(&[&files[..], more].concat())
    };
    assert_eq!(apply(0, &[]).status.code(), Some(3), "it only says what it would do");
    let other = apply(0, &["--chain", report["former_chain"].as_str().expect("an id"), "--yes"]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("do not install it"), "{other:?}");
    for node in NEW {
        let done = apply(node, &["--chain", chain, "--yes"]);
        assert!(done.status.success(), "{done:?}");
    }
    cluster.start_all(&NEW);
    until("the new chain takes writes", LONG, || {
        cluster.client(0).put("anew", b"1", None).map_err(|e| e.to_string())
    });

    all_is_there(&cluster, &written, carried_to);

    // An ordinary chain: it changes its engine, nodes start again, and a newcomer is told that
    // there has to be a state.
    let active = carry_through(&cluster, 0, &modules(&cluster, &[("engine", "pbft-reverse")]), &NEW);
    assert_eq!(active.new_epoch, 2, "the one after that which carries on");
    cluster.kill(5);
    cluster.start(5);
    std::fs::copy(&genesis, cluster.node(2).dir.join("genesis.json")).expect("copied");
    let stateless = run(&["node", "--config", text(&cluster.node(2).config())]);
    assert!(String::from_utf8_lossy(&stateless.stderr).contains("moult recover apply"), "{stateless:?}");
    assert_eq!(apply(0, &[]).status.code(), Some(1), "a node runs there");

    let (former, aside) = (cluster.folder().join("former.json"), format!("{first}/store.before-recovery-1"));
    std::fs::rename(cluster.folder().join("genesis.json"), &former).expect("renamed");
    std::fs::copy(&genesis, cluster.folder().join("genesis.json")).expect("copied");
    let api = format!("http://{}", cluster.node(4).api);
    let both = ["--former-genesis", text(&former), "--former-store", &aside];
    let verify = ["verify-chain", "--genesis", text(&genesis), "--api", &api, "--json"];
    let audit: Value = serde_json::from_str(&run_ok(&[&verify[..], &both].concat())).expect("JSON");
    let origin = &audit["audit"]["origin"];
    assert_eq!(
        (&origin["hash"], &origin["state_root"]),
        (&report["hash"], &report["state_root"]),
        "{origin}"
    );
    let swapped =
        run(&[&verify[..], &["--former-genesis", text(&genesis), "--former-store", &aside]].concat());
    assert_eq!(swapped.status.code(), Some(3), "{swapped:?}");
    assert_one_audited_chain(&cluster, &NEW);
    assert_same_state(&cluster, &NEW);
}

/// All that was acknowledged is there, and sent again it is answered as it was, and not done.
fn all_is_there(cluster: &Cluster, written: &[Acknowledged], carried_to: u64) {
    let mut client = cluster.client(4);
    for write in written {
        assert!(write.index <= carried_to, "{} was acknowledged", write.key());
        assert_eq!(client.read(&write.key()).expect("it answers"), Some(b"once".to_vec()), "{}", write.key());
    }
    for node in 0..4 {
        let name = format!("writer-{node}");
        let last = written.iter().rfind(|write| write.client == name).expect("it wrote");
        // Names belong to the node that takes them in; of those that are gone, receipts can be asked for.
        let index = if node < 2 {
            let caller = Some(Caller { name: &name, seq: last.seq });
            // The same number stands for the same request, whatever comes with it.
            cluster.client(node).put(&last.key(), b"twice", caller).expect("a receipt").index
        } else {
            let receipt: Value = cluster.client(5).get(&format!("/v1/tx/{}", last.id)).expect("a receipt");
            receipt["index"].as_u64().expect("a number")
        };
        assert_eq!(index, last.index, "{name}");
        assert_eq!(client.read(&last.key()).expect("it answers"), Some(b"once".to_vec()));
    }
}

/// Writes one key after the other until one is not acknowledged.
fn write(cluster: &Cluster, node: usize, count: &Arc<AtomicU64>) -> JoinHandle<Vec<Acknowledged>> {
    let (mut client, count) = (cluster.client(node).patience(PATIENCE), count.clone());
    std::thread::spawn(move || {
        let (name, mut written) = (format!("writer-{node}"), Vec::new());
        for seq in 1.. {
            let mut write = Acknowledged { client: name.clone(), seq, index: 0, id: String::new() };
            match client.put(&write.key(), b"once", Some(Caller { name: &name, seq })) {
                Ok(done) => (write.index, write.id) = (done.index, done.id),
                Err(_) => break,
            }
            count.fetch_add(1, Ordering::Relaxed);
            written.push(write);
        }
        written
    })
}

/// `moult recover plan`: its exit code, and all that it said.
fn recover(cluster: &Cluster, more: &[&str]) -> (Option<i32>, String) {
    let genesis = cluster.folder().join("genesis.json");
    let done = run(&[&["recover", "plan", "--genesis", text(&genesis)], more].concat());
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("folders of tests are text")
}
