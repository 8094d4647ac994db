//! The normal case, vote by vote.

use std::sync::Arc;

use moult_pbft::codec::{COMMIT, PREPARE, Payload, Proposal, Status, proposal_digest, slot};
use moult_sdk::engine::{Action, Event, Outcome};

use crate::bench::{Bench, digest, said, sent, votes};

fn commits(outcome: &Outcome) -> Vec<u64> {
    let commit = |action: &Action| match action {
        Action::Commit(commit) => Some(commit.index.0),
        _ => None,
    };
    outcome.release.iter().filter_map(commit).collect()
}

#[test]
fn a_proposal_is_prepared_committed_and_executed_by_quorums() {
    let mut bench = Bench::new(3);
    let about = proposal_digest(&[digest(1)]);
    bench.hold(&[digest(1)]);
    let outcome = bench.propose(0, 1, &[digest(1)]);
    assert_eq!(votes(&outcome)[0].slot, slot(PREPARE, 0, 1));
    assert_eq!(outcome.durable.len(), 1, "what is voted for is durable first");
    let outcome = bench.vote(1, slot(PREPARE, 0, 1), about);
    assert_eq!(votes(&outcome)[0].slot, slot(COMMIT, 0, 1));
    assert_eq!(outcome.durable.len(), 1, "the certificate is durable first");
    assert!(commits(&bench.vote(1, slot(COMMIT, 0, 1), about)).is_empty());
    assert!(commits(&bench.vote(1, slot(COMMIT, 0, 1), about)).is_empty(), "a vote counts once");
    assert_eq!(commits(&bench.vote(2, slot(COMMIT, 0, 1), about)), [1]);
}

#[test]
fn commits_come_in_order_whatever_the_order_of_votes() {
    let mut bench = Bench::new(3);
    bench.hold(&[digest(1), digest(2)]);
    let mut all = Vec::new();
    for (seq, batch) in [(2, digest(2)), (1, digest(1))] {
        let about = proposal_digest(&[batch]);
        for author in [1, 2] {
            bench.vote(author, slot(COMMIT, 0, seq), about);
            bench.vote(author, slot(PREPARE, 0, seq), about);
        }
        all.push(commits(&bench.propose(0, seq, &[batch])));
    }
    assert_eq!(all, [vec![], vec![1, 2]]);
}

#[test]
fn nothing_is_prepared_before_it_is_held() {
    let mut bench = Bench::new(3);
    let outcome = bench.propose(0, 1, &[digest(1), digest(2)]);
    assert!(votes(&outcome).is_empty());
    let fetches = |o: &Outcome| {
        o.release.iter().any(|a| matches!(a, Action::Fetch { batches, .. } if batches.len() == 2))
    };
    assert!(fetches(&outcome));
    bench.now += 1_000;
    assert!(fetches(&bench.step(vec![Event::Timer(2)])), "and asked for again");
    assert!(votes(&bench.hold(&[digest(1)])).is_empty());
    assert_eq!(votes(&bench.hold(&[digest(2)])).len(), 1);
}

#[test]
fn proposals_that_no_honest_leader_makes_are_not_followed() {
    let mut bench = Bench::new(3);
    bench.hold(&[digest(1), digest(2), digest(3)]);
    assert!(votes(&bench.propose(0, 1, &[])).is_empty(), "nothing");
    assert!(votes(&bench.propose(0, 1, &[digest(1), digest(1)])).is_empty(), "one batch twice");
    assert!(votes(&bench.propose(0, 257, &[digest(1)])).is_empty(), "beyond the window");
    assert!(votes(&bench.propose(0, 0, &[digest(1)])).is_empty(), "below the window");
    assert!(votes(&bench.propose(1, 1, &[digest(1)])).is_empty(), "in another view");
    let many: Vec<_> = (0..17).map(digest).collect();
    assert!(votes(&bench.propose(0, 1, &many)).is_empty(), "too much");
    assert_eq!(votes(&bench.propose(0, 1, &[digest(1)])).len(), 1);
    assert!(votes(&bench.propose(0, 1, &[digest(2)])).is_empty(), "a second one in its place");
    assert!(votes(&bench.propose(0, 2, &[digest(1)])).is_empty(), "the same again");
}

#[test]
fn a_refused_vote_counts_for_nothing() {
    let mut bench = Bench::new(3);
    let about = proposal_digest(&[digest(1)]);
    bench.hold(&[digest(1)]);
    bench.propose(0, 1, &[digest(1)]);
    bench.step(vec![Event::Refused(slot(PREPARE, 0, 1))]);
    assert!(votes(&bench.vote(1, slot(PREPARE, 0, 1), about)).is_empty());
    let outcome = bench.vote(2, slot(PREPARE, 0, 1), about);
    assert_eq!(votes(&outcome)[0].slot, slot(COMMIT, 0, 1));
    bench.step(vec![Event::Refused(slot(COMMIT, 0, 1))]);
    assert!(commits(&bench.vote(1, slot(COMMIT, 0, 1), about)).is_empty());
    assert!(commits(&bench.vote(2, slot(COMMIT, 0, 1), about)).is_empty());
    assert_eq!(commits(&bench.vote(0, slot(COMMIT, 0, 1), about)), [1]);
}

/// Replica 1 of four has committed sequence number 1 with 0 and 2; replica 3 gave the view up.
#[test]
fn who_changes_view_alone_is_told_what_is_decided() {
    let mut ahead = Bench::new(1);
    let about = proposal_digest(&[digest(1)]);
    ahead.hold(&[digest(1)]);
    ahead.propose(0, 1, &[digest(1)]);
    for (kind, author) in [(PREPARE, 2), (COMMIT, 0), (COMMIT, 2)] {
        ahead.vote(author, slot(kind, 0, 1), about);
    }
    // Wherever the other one was before: in the same view, or in none that is known here.
    for installed in [0, 7] {
        ahead.now += 1_000;
        let status = Status { view: 8, installed, stable: 0, executed: 0, high: 0 };
        let told = sent(&ahead.hear(3, &Payload::Status(status), Vec::new()));
        let decided = Payload::Decided(Proposal { view: 0, seq: 1, batches: Arc::from([digest(1)]) });
        assert!(told.iter().any(|(payload, _)| *payload == decided), "{installed}: {told:?}");
    }
}

#[test]
fn commits_of_a_quorum_decide_whatever_view_a_replica_is_in() {
    let mut behind = Bench::new(3);
    behind.time_out();
    let (batches, about) = (Arc::from([digest(1)]), proposal_digest(&[digest(1)]));
    let decided = Payload::Decided(Proposal { view: 0, seq: 1, batches });
    let commit = |author| said(author, slot(COMMIT, 0, 1), about);
    let elsewhere = said(2, slot(COMMIT, 1, 1), about);
    for few in [vec![], vec![commit(0), commit(1), commit(1)], vec![commit(0), commit(1), elsewhere]] {
        assert_eq!(behind.hear(1, &decided, few).release, [], "not of a quorum");
    }
    let outcome = behind.hear(1, &decided, vec![commit(0), commit(1), commit(2)]);
    assert!(commits(&outcome).is_empty(), "its batch is not held");
    assert!(
        outcome.release.iter().any(|a| matches!(a, Action::Fetch { batches, .. } if *batches == [digest(1)]))
    );
    let outcome = behind.hold(&[digest(1)]);
    assert_eq!((commits(&outcome), votes(&outcome).len()), (vec![1], 0));
}

#[test]
fn finality_carries_a_replica_over_what_it_missed() {
    let mut bench = Bench::new(3);
    bench.hold(&[digest(1)]);
    assert!(
        commits(
            &bench.step(vec![Event::Final { index: moult_sdk::CommitIndex(1_000), batches: Vec::new() }])
        )
        .is_empty()
    );
    let about = proposal_digest(&[digest(1)]);
    bench.propose(0, 1_001, &[digest(1)]);
    for (kind, author) in [(PREPARE, 1), (COMMIT, 1), (COMMIT, 2)] {
        bench.vote(author, slot(kind, 0, 1_001), about);
    }
    assert_eq!(bench.engine_commits(), 1_001);
}

impl Bench {
    /// Last commit, by a restart that repeats nothing.
    fn engine_commits(&mut self) -> u64 {
        let outcome =
            self.step(vec![Event::Peer { peer: moult_sdk::AuthorityIndex(0), up: true, rtt_us: 0 }]);
        let status = sent(&outcome).into_iter().find_map(|(payload, _)| match payload {
            Payload::Status(status) => Some(status.executed),
            _ => None,
        });
        status.unwrap_or(0)
    }
}
