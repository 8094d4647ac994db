//! All nodes lose power at once: only what was synced is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use moult_tests::api::Caller;
use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::{Cluster, Setup};
use moult_tests::load::{Load, Plan};
use moult_tests::power::{Loss, WatcherEnded, is_available, lose_power};
use moult_tests::rng::Rng;
use moult_tests::wait::{LONG, until, until_true};

const ALL: [usize; 4] = [0, 1, 2, 3];
/// Large, so that the logs of the guards (4 MiB and more) begin anew within seconds.
const VALUE_BYTES: usize = 64 << 10;

#[test]
fn power_is_lost_soon_after_the_start() {
    watched(Setup::new(4), soon_after_the_start);
}

fn soon_after_the_start(mut cluster: Cluster) -> Result<(), WatcherEnded> {
    let load = Load::start(&cluster, &Plan::at(&ALL));
    let mut seen = Seen::default();
    for round in 0..3 {
        load.until_more(40);
        let losses = seen.lose_power(&mut cluster)?;
        if round == 0 {
            let anew = losses.iter().map(times_anew).sum::<u64>();
            assert_eq!(anew, 0, "so little is written without a sync of the database");
        }
        cluster.start_all(&ALL);
        seen.check(&cluster);
    }
    finish(&cluster, load, &seen);
    Ok(())
}

#[test]
fn power_is_lost_after_the_guards_log_began_anew() {
    watched(Setup::new(4), after_the_guards_log_began_anew);
}

/// What was executed and acknowledged on the engine's word had no certificate yet, and its block
/// was not synced: the engines' records are.
#[test]
fn power_is_lost_in_a_graduated_epoch() {
    let raft = ["--engine", "raft", "--fault-model", "crash"];
    watched(Setup::new(4).genesis(&raft).graduates(), in_a_graduated_epoch);
}

fn in_a_graduated_epoch(mut cluster: Cluster) -> Result<(), WatcherEnded> {
    cluster.until_epoch(&ALL, 1);
    let load = Load::start(&cluster, &Plan::at(&ALL));
    let mut seen = Seen::default();
    for _ in 0..3 {
        load.until_more(40);
        seen.lose_power(&mut cluster)?;
        cluster.start_all(&ALL);
        seen.check(&cluster);
    }
    finish(&cluster, load, &seen);
    Ok(())
}

fn after_the_guards_log_began_anew(mut cluster: Cluster) -> Result<(), WatcherEnded> {
    let load = Load::start(&cluster, &Plan::at(&ALL));
    let mut seen = Seen::default();
    let mut written = BTreeMap::new();
    for round in 0..2 {
        // What a log held before the loss is in it again: the first write after the start may be
        // the one that fills it, before the guard is seen at work.
        let counted = |node| until("metrics", LONG, || cluster.client(node).number("log_begun_anew_total"));
        let before = ALL.map(counted);
        let writers: Vec<_> = ALL.iter().map(|&node| Writer::start(&cluster, node, round)).collect();
        for node in ALL {
            until_true("the guard's log begins anew", LONG, || counted(node) > before[node]);
        }
        let losses = seen.lose_power(&mut cluster)?;
        for (node, loss) in losses.iter().enumerate() {
            assert!(times_anew(loss) > 0, "the log of node {node} did not begin anew");
        }
        for writer in writers {
            written.extend(writer.stop());
        }
        cluster.start_all(&ALL);
        seen.check(&cluster);
        load.until_more(20);
        for (place, (key, seed)) in written.iter().enumerate() {
            let mut client = cluster.client(place % ALL.len());
            let found =
                until("a large value can be read", LONG, || client.read(key).map_err(|e| e.to_string()));
            assert!(found.is_some_and(|found| found == value(*seed)), "{key} was acknowledged and is lost");
        }
    }
    eprintln!("power: {} large values were acknowledged and are there", written.len());
    finish(&cluster, load, &seen);
    Ok(())
}

/// Runs a scenario with four nodes that are watched from their first start, anew where the
/// watcher failed; not at all where there is none.
fn watched(setup: Setup, scenario: impl Fn(Cluster) -> Result<(), WatcherEnded>) {
    if !is_available() {
        return;
    }
    for _ in 0..5 {
        let mut cluster = setup.clone().prepare();
        cluster.watch();
        cluster.start_all(&ALL);
        for node in ALL {
            cluster.until_progress(node);
        }
        match scenario(cluster) {
            Ok(()) => return,
            Err(ended) => eprintln!("power: once more, for nothing can be said: {ended}"),
        }
    }
    panic!("the watcher failed every time");
}

fn finish(cluster: &Cluster, load: Load, seen: &Seen) {
    for index in ALL {
        cluster.until_progress(index);
        cluster.until_status(index, "ordering again", |s| s.leader.is_some());
    }
    load.until_more(20);
    load.finish(cluster, 1);
    seen.check(cluster);
    assert_one_chain(cluster, &ALL);
    assert_same_state(cluster, &ALL);
}

/// How often the database was synced with the guard at work: that is when its log begins anew.
fn times_anew(loss: &Loss) -> u64 {
    let at_work = loss.syncs.iter().skip_while(|path| !path.ends_with("guard/guard"));
    at_work.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).count() as u64
}

/// What nodes said of the chain before they lost power.
#[derive(Default)]
struct Seen {
    /// Hashes of blocks by their global index.
    blocks: BTreeMap<u64, String>,
}

impl Seen {
    /// Notes the final blocks of all nodes, then all lose power.
    fn lose_power(&mut self, cluster: &mut Cluster) -> Result<Vec<Loss>, WatcherEnded> {
        for index in ALL {
            let mut client = cluster.client(index);
            let last = client.status().expect("it answers").global_final_index;
            for global in (1..=last).rev() {
                // It is told before it is written: nobody may depend on it that early.
                let block = until("a final block can be read", LONG, || {
                    client.block(global).map_err(|e| e.to_string())
                });
                let known = self.blocks.entry(global).or_insert_with(|| block.hash.clone());
                assert_eq!(*known, block.hash, "block {global} at node {index}");
                // The hash covers all before it; two are enough where another node told the rest.
                if global + 2 < last && self.blocks.contains_key(&(global - 1)) {
                    break;
                }
            }
        }
        let losses = lose_power(cluster)?;
        let of_all = |count: fn(&Loss) -> u64| losses.iter().map(count).collect::<Vec<_>>();
        let database = of_all(|loss| loss.bytes_of(".jnl"));
        eprintln!(
            "power: of each node {:?} bytes are lost, {database:?} of the database, after {:?} syncs, \
             {:?} of the database at work",
            of_all(|loss| loss.bytes_of("")),
            of_all(|loss| loss.syncs.len() as u64),
            of_all(times_anew),
        );
        // One of them may just have synced.
        assert!(database.iter().any(|bytes| *bytes > 0), "nothing was lost: nothing is shown");
        assert!(losses.iter().all(|loss| !loss.syncs.is_empty()), "nothing was synced");
        Ok(losses)
    }

    /// Every block that was final is final again with the same hash, and all nodes sign.
    fn check(&self, cluster: &Cluster) {
        let last = self.blocks.keys().next_back().copied().unwrap_or(0);
        for index in ALL {
            let status = cluster.until_status(index, "as far as before", |s| s.global_exec_index >= last);
            assert_eq!(status.signing_stopped, None, "node {index}");
            let mut client = cluster.client(index);
            for (global, hash) in &self.blocks {
                let block =
                    client.block(*global).unwrap_or_else(|e| panic!("node {index}, block {global}: {e}"));
                assert_eq!(block.hash, *hash, "block {global} of node {index} after the loss");
            }
        }
    }
}

/// Writes large values at one node until the node is gone or it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(String, u64)>>,
}

impl Writer {
    fn start(cluster: &Cluster, node: usize, round: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut client = cluster.client(node);
        let thread = std::thread::spawn(move || {
            let (mut written, name) = (Vec::new(), format!("large-{round}-{node}"));
            for seq in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (key, seed) = (format!("{name}-{seq}"), seq << 8 | round << 4 | node as u64);
                match client.put(&key, &value(seed), Some(Caller { name: &name, seq })) {
                    Ok(_) => written.push((key, seed)),
                    // Refused: it was not written. Anything else: the node is gone.
                    Err(failure) if failure.status().is_some() => {}
                    Err(_) => break,
                }
            }
            written
        });
        Self { stop, thread }
    }

    /// What was acknowledged: keys, and seeds of values.
    fn stop(self) -> Vec<(String, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a writer met something impossible")
    }
}

/// Bytes that do not compress.
fn value(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..VALUE_BYTES / 8).flat_map(|_| rng.draw().to_le_bytes()).collect()
}
