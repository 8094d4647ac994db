//! Bugs on purpose: the same runs that a right engine passes must catch a wrong one.

use crate::net::{Options, run};
use crate::rng::Rng;
use crate::runs::storm;

/// A storm over a committee that falls apart often, so that a small mistake shows.
fn fragile(seed: u64, config: &str) -> Options {
    let mut rng = Rng(seed ^ 0xf4a9);
    Options {
        stakes: vec![1; rng.pick(&[3, 3, 4, 5])],
        config: format!("{}{config}", storm(seed).config),
        loss: 20,
        crashes: rng.pick(&[30, 100]),
        partitions: 8,
        late: 40,
        blackouts: 3,
        delay: (1, 30),
        faults_until: 8_000,
        ..storm(seed)
    }
}

/// What breaks in runs with a bug; nothing must without it.
fn caught(bug: &str, seeds: u64) -> Vec<String> {
    let line = if bug.is_empty() { String::new() } else { format!("planted={bug}\n") };
    (0..seeds).filter_map(|seed| run(fragile(seed, &line)).err()).collect()
}

fn is_caught(bug: &str, properties: &[&str]) {
    let errors = caught(bug, 60);
    let named = errors.iter().filter(|e| properties.iter().any(|p| e.starts_with(p))).count();
    eprintln!("{bug}: {} of 60 runs, {named} as expected", errors.len());
    assert!(named > 0, "{errors:?}");
}

#[test]
fn no_bug_is_caught_where_there_is_none() {
    assert_eq!(caught("", 60), [""; 0]);
}

#[test]
fn two_votes_in_a_term() {
    is_caught("vote-twice", &["election", "agreement", "log matching"]);
}

#[test]
fn a_quorum_that_is_one_short() {
    is_caught("quorum-minus-one", &["agreement", "repeat", "payload"]);
}

#[test]
fn a_vote_that_is_forgotten() {
    assert!(!crate::paper::votes_twice_over_a_restart(""));
    assert!(crate::paper::votes_twice_over_a_restart("planted=forget-vote"));
}

#[test]
fn a_vote_without_a_look_at_the_log() {
    is_caught("skip-log-check", &["agreement", "repeat"]);
}

#[test]
fn an_acknowledgement_without_the_batches() {
    is_caught("ack-unheld", &["payload"]);
}

#[test]
fn an_acknowledgement_of_what_is_not_durable() {
    is_caught("ack-volatile", &["agreement", "repeat"]);
}

#[test]
fn an_append_that_cuts_off_what_lies_behind_it() {
    is_caught("cut-always", &["agreement", "repeat", "liveness"]);
}

#[test]
fn records_that_are_dropped_too_early() {
    is_caught("compact-loses-entries", &["agreement", "repeat", "start"]);
}

#[test]
fn a_final_index_that_is_committed_again() {
    is_caught("commit-final-again", &["final"]);
}

#[test]
fn batches_that_are_proposed_twice() {
    let repeats = |line: &str| {
        let options = |seed| Options { config: format!("retained=256\n{line}"), ..fragile(seed, "") };
        (0..30).filter_map(|seed| run(options(seed)).ok()).map(|report| report.repeats).sum::<u64>()
    };
    assert_eq!(repeats(""), 0);
    assert!(repeats("planted=propose-twice\n") > 0);
}

#[test]
fn an_earlier_term_that_is_counted() {
    assert_eq!(crate::paper::figure_8("planted=count-old-terms"), (vec![1, 2], vec![3]));
}

#[test]
fn a_lease_that_is_ignored() {
    assert!(!crate::cluster::is_deposed(""));
    assert!(crate::cluster::is_deposed("planted=ignore-lease"));
}
