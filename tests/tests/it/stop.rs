//! A graceful stop.

use std::time::Duration;

use moult_tests::blocks::{assert_one_chain, assert_same_state};
use moult_tests::cluster::Cluster;
use moult_tests::load::{Load, Plan};

const ALL: [usize; 4] = [0, 1, 2, 3];
/// The node's own limit for draining, and time to close.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn nodes_are_stopped_one_by_one_and_then_all_at_once_under_load() {
    let mut cluster = Cluster::of_four();
    let load = Load::start(&cluster, &Plan::at(&ALL));
    load.until_more(50);
    for index in ALL {
        let status = cluster.stop(index, LIMIT);
        assert!(status.success(), "node {index} ended with {status}");
        load.until_more(20);
        cluster.start(index);
        cluster.until_progress(index);
    }

    let stopping: Vec<_> = ALL.iter().map(|&i| cluster.process(i)).collect();
    stopping.iter().for_each(|process| process.ask_to_stop());
    for process in stopping {
        let status = process.wait(LIMIT);
        assert!(status.success(), "a node ended with {status}");
    }
    cluster.start_all(&ALL);
    load.until_more(20);
    load.finish(&cluster, 2);
    assert_one_chain(&cluster, &ALL);
    assert_same_state(&cluster, &ALL);
}
