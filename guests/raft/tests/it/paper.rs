//! The situations of the paper, and those that it warns of, one by one.

use moult_raft::codec::{Payload, Reply};
use moult_raft::{Position, Term};
use moult_sdk::CommitIndex;
use moult_sdk::engine::{Action, Event, Outcome, Recovered};

use crate::bench::{Bench, append, at, ballot, batch, committed, entry, gauge, sent};
use crate::net::Net;
use crate::runs::calm;

fn accept(term: u64, index: u64) -> Payload {
    Payload::Accept { term: Term(term), index: CommitIndex(index) }
}

fn vote(term: u64, last: Position) -> Payload {
    Payload::Vote { ballot: ballot(term, last), transfer: false }
}

fn granted(term: u64, granted: bool) -> Reply {
    Reply { term: Term(term), granted }
}

/// Whether a leader of term 4 with entries of terms 1 and 2 commits index 2 when a quorum has
/// it, and what it commits once a quorum has an entry of its own term.
pub(crate) fn figure_8(config: &str) -> (Vec<u64>, Vec<u64>) {
    let mut s1 = Bench::new(1, 5, config);
    s1.write_log(&[1, 2]);
    s1.now = 1_000;
    s1.hear(4, &vote(3, at(1, 1)));
    s1.elect(&[2, 3]);
    s1.hear(2, &accept(4, 2));
    let old = committed(&s1.hear(3, &accept(4, 2)));
    s1.hear(2, &accept(4, 3));
    let own = committed(&s1.hear(3, &accept(4, 3)));
    (old, own)
}

#[test]
fn figure_8_an_entry_of_an_earlier_term_is_not_committed_by_counting() {
    assert_eq!(figure_8(""), (vec![], vec![1, 2, 3]));
}

#[test]
fn figure_7_every_log_becomes_that_of_the_leader() {
    let logs: [&[u64]; 7] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for seed in 0..20 {
        let disks = logs.map(|terms| {
            let mut bench = Bench::new(1, 7, "");
            bench.write_log(terms);
            bench.disk
        });
        let mut net = Net::new(crate::net::Options { batches: 0, ..calm(seed, 7) }, disks.to_vec()).unwrap();
        // Batches of these entries are held by everybody.
        for terms in logs {
            for (index, term) in (1..).zip(terms) {
                let digest = entry(index, *term).batches[0];
                net.batches.insert(digest, batch(digest));
                for node in &mut net.nodes {
                    node.held.extend(entry(index, *term).batches.iter().copied());
                }
            }
        }
        net.run_to(3_000).unwrap();
        let tops: Vec<u64> = net.nodes.iter().map(|n| n.gauges[&4]).collect();
        assert!(tops.iter().all(|top| *top == net.last_final) && net.last_final >= 10, "{tops:?}");
        // What a quorum had must be there: 1 to 5, and to 7 of those that got so far.
        for (index, term) in (1..).zip([1, 1, 1, 4, 4, 5, 5]) {
            assert_eq!(net.agreed[&index], entry(index, term).batches.to_vec(), "seed {seed}");
        }
    }
}

#[test]
fn a_vote_is_given_once_a_term_and_only_to_who_has_as_much() {
    let mut node = Bench::new(1, 5, "");
    node.write_log(&[1, 1, 2]);
    node.now = 1_000;
    for (sender, ask, answer) in [
        // Longer, but of an earlier term; as new, but shorter; then as up-to-date.
        (3, vote(3, at(1, 9)), granted(3, false)),
        (3, vote(3, at(2, 2)), granted(3, false)),
        (3, vote(3, at(2, 3)), granted(3, true)),
        (3, vote(3, at(2, 3)), granted(3, true)),
        (4, vote(3, at(2, 9)), granted(3, false)),
        (4, vote(2, at(1, 9)), granted(3, false)),
    ] {
        assert_eq!(sent(&node.hear(sender, &ask)), [Payload::VoteReply(answer)]);
    }
    assert!(!votes_twice_over_a_restart(""));
}

/// Whether a node that voted votes for another after a restart; it must for the same one.
pub(crate) fn votes_twice_over_a_restart(config: &str) -> bool {
    let mut node = Bench::new(1, 5, config);
    node.hear(3, &vote(3, at(2, 3)));
    let recovered = Recovered { records: node.disk.clone(), ..Recovered::default() };
    let mut node = Bench::restart(1, 5, config, recovered);
    let other = sent(&node.hear(4, &vote(3, at(2, 9))));
    let same = sent(&node.hear(3, &vote(3, at(2, 3))));
    let twice = other == [Payload::VoteReply(granted(3, true))];
    assert!(twice || same == [Payload::VoteReply(granted(3, true))]);
    twice
}

#[test]
fn a_vote_leaves_only_with_its_record() {
    let mut node = Bench::new(1, 3, "");
    let outcome = node.hear(2, &vote(3, at(2, 9)));
    assert_eq!((sent(&outcome).len(), outcome.durable.len()), (1, 1));
    let outcome = node.hear(2, &append(3, Position::default(), vec![entry(1, 3)], 0));
    let (asks, acknowledges) = (
        outcome.release.iter().any(|a| matches!(a, Action::Fetch { .. })),
        sent(&outcome).contains(&accept(3, 1)),
    );
    assert_eq!((asks, acknowledges, outcome.durable.len()), (true, false, 0));
    let outcome = node.step(vec![Event::Batches(vec![batch(entry(1, 3).batches[0])])]);
    assert_eq!((sent(&outcome), outcome.durable.len()), (vec![accept(3, 1)], 1));
}

#[test]
fn who_hears_a_leader_refuses_pre_votes_and_votes_until_the_lease_is_over() {
    let mut node = Bench::new(1, 3, "");
    node.write_log(&[1]);
    let poll = Payload::Poll(ballot(2, at(1, 1)));
    for (now, ok) in [(0, false), (199, false), (200, true)] {
        node.now = now;
        let answer = if ok { granted(2, true) } else { granted(1, false) };
        assert_eq!(sent(&node.hear(0, &poll)), [Payload::PollReply(answer)]);
        if !ok {
            assert_eq!(sent(&node.hear(0, &vote(2, at(1, 1)))), []);
        }
    }
    // Nothing of that was a vote.
    let ask = vote(2, at(1, 1));
    assert_eq!(sent(&node.hear(2, &ask)), [Payload::VoteReply(granted(2, true))]);
    // A leader that hands over is followed at once.
    node.hear(2, &append(2, at(1, 1), vec![], 0));
    let ask = Payload::Vote { ballot: ballot(3, at(1, 1)), transfer: true };
    assert_eq!(sent(&node.hear(0, &ask)), [Payload::VoteReply(granted(3, true))]);
}

#[test]
fn a_stale_leader_is_told_so_and_changes_nothing() {
    let mut node = Bench::new(1, 3, "");
    node.write_log(&[1, 3]);
    let outcome = node.hear(0, &append(2, at(1, 1), vec![entry(2, 2)], 2));
    let [Payload::Reject { term: Term(3), .. }] = sent(&outcome)[..] else { panic!("{outcome:?}") };
    assert!(outcome.durable.is_empty() && committed(&outcome).is_empty());
    // A leader that hears of a higher term steps down.
    let mut leader = Bench::new(1, 3, "");
    leader.write_log(&[1]);
    leader.elect(&[0, 2]);
    let reject = Payload::Reject { term: Term(7), prev: CommitIndex(1), hint: at(1, 1) };
    let outcome = leader.hear(0, &reject);
    assert_eq!((gauge(&outcome, 0), gauge(&outcome, 1)), (Some(7), Some(0)));
}

#[test]
fn a_short_append_that_comes_late_cuts_nothing_off() {
    let mut node = Bench::new(1, 3, "");
    node.write_log(&[1, 1, 1]);
    let outcome = node.hear(2, &append(1, Position::default(), vec![entry(1, 1)], 3));
    assert_eq!((sent(&outcome), committed(&outcome)), (vec![accept(1, 3)], vec![1, 2, 3]));
    assert_eq!(gauge(&outcome, 4), None);
}

#[test]
fn the_commit_index_of_a_new_leader_covers_only_what_was_compared() {
    let mut node = Bench::new(1, 3, "");
    node.write_log(&[1, 2, 2]);
    // Index 3 of term 4 is committed; here it is another one, still.
    node.now = 500;
    let outcome = node.hear(0, &append(4, at(1, 1), vec![], 3));
    assert_eq!((sent(&outcome), committed(&outcome)), (vec![accept(4, 1)], vec![1]));
    let held = vec![batch(entry(2, 4).batches[0]), batch(entry(3, 4).batches[0])];
    node.step(vec![Event::Batches(held)]);
    let outcome = node.hear(0, &append(4, at(1, 1), vec![entry(2, 4), entry(3, 4)], 3));
    assert_eq!((sent(&outcome), committed(&outcome)), (vec![accept(4, 3)], vec![2, 3]));
}

#[test]
fn a_leader_without_a_quorum_steps_down_and_a_follower_does_not_rise_alone() {
    let mut leader = Bench::new(1, 3, "");
    leader.elect(&[0, 2]);
    let start = leader.now;
    leader.now = start + 199;
    leader.hear(0, &accept(1, 1));
    leader.now = start + 398;
    assert_eq!(gauge(&leader.step(vec![Event::Timer(2)]), 1), None);
    leader.now = start + 400;
    assert_eq!(gauge(&leader.step(vec![Event::Timer(2)]), 1), Some(0));
    for _ in 0..9 {
        assert_eq!(gauge(&leader.time_out(), 0), None);
    }
}

#[test]
fn a_log_that_ends_below_what_is_final_follows_and_votes_but_does_not_stand() {
    let mut node = Bench::new(1, 3, "");
    node.write_log(&[1, 1]);
    node.step(vec![Event::Final { index: CommitIndex(9), batches: Vec::new() }]);
    assert_eq!(sent(&node.time_out()), []);
    // Its vote counts by its own log.
    assert_eq!(sent(&node.hear(0, &vote(2, at(1, 1)))), [Payload::VoteReply(granted(2, false))]);
    assert_eq!(sent(&node.hear(0, &vote(2, at(1, 2)))), [Payload::VoteReply(granted(2, true))]);
    // The leader has nothing below 8: the host has.
    let Payload::Append(mut first) = append(2, at(2, 8), vec![entry(9, 2), entry(10, 2)], 10) else {
        unreachable!()
    };
    first.is_base = true;
    node.step(vec![Event::Batches(vec![batch(entry(10, 2).batches[0])])]);
    let outcome = node.hear(0, &Payload::Append(first));
    assert_eq!((sent(&outcome), committed(&outcome)), (vec![accept(2, 10)], vec![10]));
    // All that is there after a restart, too.
    let recovered = Recovered {
        records: node.disk.clone(),
        committed: CommitIndex(10),
        last_final: CommitIndex(9),
        batches: vec![batch(entry(10, 2).batches[0])],
    };
    let mut node = Bench::restart(1, 3, "", recovered);
    assert_eq!(sent(&node.time_out()), [Payload::Poll(ballot(3, at(2, 10)))]);
}

#[test]
fn a_base_above_what_is_final_here_has_to_wait() {
    let mut node = Bench::new(1, 3, "");
    node.write_log(&[1, 1]);
    let Payload::Append(mut first) = append(1, at(1, 8), vec![], 8) else { unreachable!() };
    first.is_base = true;
    let reject = Payload::Reject { term: Term(1), prev: CommitIndex(8), hint: at(1, 2) };
    assert_eq!(sent(&node.hear(2, &Payload::Append(first.clone()))), [reject]);
    node.step(vec![Event::Final { index: CommitIndex(8), batches: Vec::new() }]);
    assert_eq!(sent(&node.hear(2, &Payload::Append(first))), [accept(1, 8)]);
}

#[test]
fn one_authority_commits_by_itself_and_goes_on_from_what_is_final() {
    let mut node = Bench::new(0, 1, "pace_ms=0");
    let told = |n: u64| Event::Batches(vec![batch(entry(n, 1).batches[0])]);
    assert_eq!(committed(&node.step(vec![told(1)])), [2]);
    node.step(vec![Event::Final { index: CommitIndex(7), batches: entry(1, 1).batches.to_vec() }]);
    assert_eq!(committed(&node.step(vec![told(2), told(2)])), [8]);
    let recovered =
        Recovered { records: node.disk.clone(), last_final: CommitIndex(8), ..Recovered::default() };
    let mut node = Bench::restart(0, 1, "pace_ms=0", recovered);
    assert_eq!(committed(&node.step(vec![told(3)])), [10]);
}

#[test]
fn batches_gather_for_the_next_entry_but_not_for_long() {
    let mut node = Bench::new(0, 3, "pace_ms=10");
    node.elect(&[1]);
    let told = |n: u64| Event::Batches(vec![batch(entry(n, 1).batches[0])]);
    // The last index and the batches of what is sent to one follower.
    let proposed = |outcome: &Outcome| -> Option<(u64, usize)> {
        sent(outcome).into_iter().find_map(|payload| match payload {
            Payload::Append(append) => {
                let entry = append.entries.last()?;
                Some((append.prev.index.0 + append.entries.len() as u64, entry.batches.len()))
            }
            _ => None,
        })
    };
    let waits = |outcome: &Outcome, after_ms| {
        assert_eq!(proposed(outcome), None);
        assert!(outcome.release.contains(&Action::SetTimer { id: 4, after_ms }), "{outcome:?}");
    };
    node.hear(1, &accept(1, 1));
    // All is committed: at once, if it is as large as the last.
    assert_eq!(proposed(&node.step(vec![told(1)])), Some((2, 1)));
    // One is not: not before the pace allows it, or that one is committed.
    node.now += 4;
    waits(&node.step(vec![told(2)]), 6);
    node.now += 1;
    assert_eq!(proposed(&node.step(vec![told(3)])), None);
    node.now += 5;
    assert_eq!(proposed(&node.step(vec![Event::Timer(4)])), Some((3, 2)));
    // The last had two batches: the first waits for a second,
    node.hear(1, &accept(1, 3));
    waits(&node.step(vec![told(4)]), 2);
    assert_eq!(proposed(&node.step(vec![told(5)])), Some((4, 2)));
    // or for a moment; the timer still runs.
    node.hear(1, &accept(1, 4));
    assert_eq!(proposed(&node.step(vec![told(6)])), None);
    node.now += 2;
    assert_eq!(proposed(&node.step(vec![Event::Timer(4)])), Some((5, 1)));
    // Enough for a full entry: at once, whatever is on its way.
    assert_eq!(proposed(&node.step((7..23).map(told).collect())), Some((6, 16)));
}
