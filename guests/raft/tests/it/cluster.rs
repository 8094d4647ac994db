//! Whole committees in particular trouble, in virtual time.

use moult_sdk::AuthorityIndex;
use moult_sdk::engine::Event;

use crate::net::{Net, Options};
use crate::runs::calm;

/// A committee under load: a batch every few milliseconds until the end.
fn busy(seed: u64, size: u64, config: &str, end: u64) -> Net {
    let options = Options { batches: 0, faults_until: 0, end, config: config.to_owned(), ..calm(seed, size) };
    let mut net = Net::new(options, Vec::new()).unwrap();
    for i in 1..end / 5 {
        net.submit(i, i * 5);
    }
    net
}

fn feed_at(net: &mut Net, time: u64, node: u32, event: Event) {
    net.run_to(time).unwrap();
    net.feed(node, event);
}

#[test]
fn the_next_commit_after_the_leaders_death_comes_within_two_election_timeouts() {
    for (preset, timeout_ms) in [("subsecond", 250), ("second", 500), ("slow", 5_000)] {
        let (mut worst, mut sum) = (0, 0);
        let seeds = 40;
        for seed in 0..seeds {
            let size = [3, 5, 7][seed as usize % 3];
            let config = format!("preset={preset}");
            let mut net = busy(seed, size, &config, 4 * timeout_ms + 1_000);
            // The first leader, and the one after it: chosen by the timeouts.
            let death = timeout_ms + 200 + seed * 7 % timeout_ms;
            net.run_to(death).unwrap();
            let leader = net.leader().unwrap();
            net.crash(leader);
            net.run_to(death + 2 * timeout_ms).unwrap();
            let next = net.first_final_ms.range(2..).next().map(|(_, at)| *at - death);
            let next = next.unwrap_or_else(|| panic!("{preset}, seed {seed}: no commit {:?}", net.leaders));
            worst = worst.max(next);
            sum += next;
        }
        eprintln!("{preset}: worst {worst} ms, mean {} ms", sum / seeds);
        assert!(worst <= 2 * timeout_ms);
    }
}

#[test]
fn a_second_leader_that_dies_is_replaced_as_soon() {
    for seed in 0..20 {
        let mut net = busy(seed, 5, "", 3_000);
        let mut terms = 1;
        for death in [500, 1_200] {
            net.run_to(death).unwrap();
            let leader = net.leader().unwrap();
            net.crash(leader);
            net.run_to(death + 500).unwrap();
            let next = net.first_final_ms.range(terms + 1..).next().map(|(term, _)| *term);
            terms = next.unwrap_or_else(|| panic!("seed {seed}: {:?}", net.leaders));
        }
    }
}

#[test]
fn the_first_of_the_schedule_leads_an_epoch_at_once() {
    for size in [1, 3, 5] {
        let mut net = busy(1, size, "", 1_000);
        net.run_to(40).unwrap();
        assert_eq!((net.leader(), net.last_final > 0), (Some(0), true));
    }
    let mut net = busy(1, 3, "", 2_000);
    net.crash(0);
    net.run_to(500).unwrap();
    assert!(net.leader().is_some() && net.last_final > 0);
}

/// Whether a node that was cut off deposes the leader of a calm committee, in some seed.
pub(crate) fn is_deposed(config: &str) -> bool {
    (0..20).any(|seed| {
        let options = Options { batches: 10, faults_until: 0, config: config.to_owned(), ..calm(seed, 5) };
        let mut net = Net::new(options, Vec::new()).unwrap();
        net.run_to(500).unwrap();
        net.sides = Some(1 << 3);
        net.run_to(3_000).unwrap();
        net.sides = None;
        net.run_to(6_000).unwrap();
        net.leaders.len() > 1
    })
}

#[test]
fn a_partitioned_node_that_comes_back_does_not_depose_the_leader() {
    assert!(!is_deposed(""));
    for seed in 0..20 {
        let mut net = busy(seed, 5, "", 6_000);
        net.run_to(500).unwrap();
        net.sides = Some(1 << 3);
        net.run_to(3_000).unwrap();
        net.sides = None;
        net.run_to(6_000).unwrap();
        assert_eq!((net.leader(), net.leaders.len()), (Some(0), 1));
        assert!(net.nodes[3].last_final + 20 > net.last_final);
    }
}

#[test]
fn a_leader_that_is_cut_off_steps_down_and_joins_again() {
    for seed in 0..20 {
        let mut net = busy(seed, 3, "", 4_000);
        net.run_to(500).unwrap();
        net.sides = Some(1);
        net.run_to(760).unwrap();
        assert_eq!(net.nodes[0].gauges[&1], 0, "check-quorum");
        net.run_to(1_500).unwrap();
        assert!(net.leader().is_some_and(|leader| leader != 0));
        net.sides = None;
        net.run_to(4_000).unwrap();
        assert_eq!(net.leaders.len(), 2);
        assert!(net.nodes[0].last_final + 20 > net.last_final);
    }
}

#[test]
fn a_leader_that_drains_hands_over_without_a_pause() {
    for seed in 0..20 {
        let mut net = busy(seed, 5, "", 3_000);
        feed_at(&mut net, 1_000, 0, Event::Draining);
        net.run_to(1_060).unwrap();
        let leader = net.leader();
        assert!(leader.is_some_and(|leader| leader != 0), "seed {seed}: {:?}", net.leaders);
        assert!(net.first_final_ms[&2] < 1_080);
        // Gone for good: the others go on, and nobody waits for it.
        net.run_to(1_500).unwrap();
        net.crash(0);
        net.run_to(3_000).unwrap();
        assert_eq!((net.leader(), net.leaders.len()), (leader, 2));
    }
}

#[test]
fn a_leader_that_is_shunned_hands_over_and_is_the_last_to_stand() {
    let mut net = busy(3, 3, "", 4_000);
    net.run_to(1_000).unwrap();
    for node in 0..3 {
        net.feed(node, Event::Shun(AuthorityIndex(0)));
    }
    net.run_to(1_500).unwrap();
    let second = net.leader().unwrap();
    assert_ne!(second, 0);
    net.crash(second);
    net.run_to(2_200).unwrap();
    assert!(net.leader().is_some_and(|leader| leader != 0));
}

#[test]
fn a_drain_without_anybody_to_take_over_changes_nothing() {
    let mut net = busy(3, 3, "", 3_000);
    net.run_to(500).unwrap();
    feed_at(&mut net, 1_000, 0, Event::Draining);
    net.crash(1);
    net.crash(2);
    net.run_to(1_500).unwrap();
    net.start(1).unwrap();
    let before = net.last_final;
    net.run_to(3_000).unwrap();
    assert!(net.last_final > before);
}

#[test]
fn a_follower_behind_the_base_goes_on_from_what_its_host_brings() {
    for seed in 0..20 {
        let mut net = busy(seed, 3, "retained=0\nwindow=64", 8_000);
        net.run_to(300).unwrap();
        net.crash(2);
        net.run_to(2_000).unwrap();
        let before = net.last_final;
        net.start(2).unwrap();
        net.run_to(5_000).unwrap();
        assert!(net.report.jumps > 0 && net.nodes[2].last_final > before);
        // It counts again: without it there is no quorum now.
        net.crash(1);
        let before = net.last_final;
        net.run_to(6_000).unwrap();
        assert!(net.last_final > before + 10, "seed {seed}");
        // And it can lead.
        net.start(1).unwrap();
        net.run_to(7_000).unwrap();
        net.crash(0);
        net.run_to(8_000).unwrap();
        assert!(net.leader().is_some(), "seed {seed}");
    }
}

#[test]
fn two_nodes_are_warned_about_and_so_are_slow_links() {
    let mut net = busy(1, 2, "", 1_000);
    net.run_to(500).unwrap();
    assert_eq!([6, 7, 8, 9].map(|g| net.nodes[0].gauges[&g]), [2, 1, 0, 0]);
    for (rtt_us, tight) in [(49_999, 0), (50_000, 1), (0, 0)] {
        net.feed(0, Event::Peer { peer: AuthorityIndex(1), up: true, rtt_us });
        net.run_to(net.now + 10).unwrap();
        assert_eq!(net.nodes[0].gauges[&8], tight, "{rtt_us}");
    }
}

#[test]
fn what_only_one_follower_holds_gets_to_the_leader() {
    let mut net = busy(1, 3, "", 5_000);
    net.run_to(1_000).unwrap();
    let digest = crate::net::batch_digest(1 << 40);
    let batch = moult_sdk::Batch { digest, author: AuthorityIndex(1), bytes: 1 };
    net.batches.insert(digest, batch);
    net.nodes[1].held.insert(digest);
    net.feed(1, Event::Batches(vec![batch]));
    net.run_to(2_500).unwrap();
    assert!(net.agreed.values().flatten().any(|b| *b == digest));
}
