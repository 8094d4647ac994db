//! One engine, fed by hand.

use moult_raft::codec::{Append, Ballot, Payload, Reply, encode};
use moult_raft::{Entry, Position, Raft, Term};
use moult_sdk::engine::{Action, DurableRecord, Engine, Event, Message, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Digest};

use crate::net::{EPOCH, committee, payload_of};

pub(crate) fn settings(me: u32, size: usize, config: &str) -> Settings {
    Settings {
        committee: committee(&vec![1; size], me),
        config: config.as_bytes().to_vec(),
        seed: Digest([9; 32]),
        schedule: (0..size as u32).map(AuthorityIndex).collect(),
        max_message_bytes: 65_536,
        max_batches_in_commit: 16,
    }
}

pub(crate) struct Bench {
    pub(crate) engine: Raft,
    pub(crate) now: u64,
    pub(crate) disk: Vec<DurableRecord>,
}

impl Bench {
    /// Not the first of the schedule, so that it does not stand at once.
    pub(crate) fn new(me: u32, size: usize, config: &str) -> Self {
        let (engine, outcome) = Raft::init(settings(me, size, config), None).unwrap();
        Self { engine, now: 0, disk: outcome.durable }
    }

    /// A node that starts with these records.
    pub(crate) fn restart(me: u32, size: usize, config: &str, recovered: Recovered) -> Self {
        let disk = recovered.records.clone();
        let (engine, outcome) = Raft::init(settings(me, size, config), Some(recovered)).unwrap();
        Self { engine, now: 0, disk: disk.into_iter().chain(outcome.durable).collect() }
    }

    pub(crate) fn step(&mut self, events: Vec<Event>) -> Outcome {
        let outcome = self.engine.step(self.now, events);
        self.disk.extend(outcome.durable.iter().cloned());
        outcome
    }

    pub(crate) fn hear(&mut self, sender: u32, payload: &Payload) -> Outcome {
        self.step(vec![message(sender, payload)])
    }

    /// Time passes and the election timer fires.
    pub(crate) fn time_out(&mut self) -> Outcome {
        self.now += 10_000;
        self.step(vec![Event::Timer(1)])
    }

    /// Makes it leader of the next term with the votes of `voters`.
    pub(crate) fn elect(&mut self, voters: &[u32]) -> Outcome {
        let polls = sent(&self.time_out());
        let Some(Payload::Poll(ballot)) = polls.first() else { panic!("no poll: {polls:?}") };
        let reply = Reply { term: ballot.term, granted: true };
        voters.iter().for_each(|v| drop(self.hear(*v, &Payload::PollReply(reply))));
        let mut last = Outcome::default();
        for voter in voters {
            last.release.extend(self.hear(*voter, &Payload::VoteReply(reply)).release);
        }
        last
    }

    /// Gives it a log by the word of leaders: the term of each entry from index 1 on.
    pub(crate) fn write_log(&mut self, terms: &[u64]) {
        let mut prev = Position::default();
        for (index, term) in (1..).zip(terms) {
            let entry = entry(index, *term);
            let held = entry.batches.iter().map(|b| batch(*b)).collect();
            self.step(vec![Event::Batches(held)]);
            self.hear(leader_of(*term), &append(*term, prev, vec![entry], 0));
            prev = Position::new(Term(*term), CommitIndex(index));
        }
    }
}

/// A peer that leads a term: any but nodes 0 and 1, which are benches.
pub(crate) fn leader_of(_term: u64) -> u32 {
    2
}

pub(crate) fn message(sender: u32, payload: &Payload) -> Event {
    let payload = encode(EPOCH, payload);
    Event::Message(Message { sender: AuthorityIndex(sender), payload, statements: Vec::new() })
}

pub(crate) fn batch(digest: Digest) -> Batch {
    Batch { digest, author: AuthorityIndex(0), bytes: 10 }
}

/// The entry at an index of a term: one batch that names both.
pub(crate) fn entry(index: u64, term: u64) -> Entry {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&index.to_be_bytes());
    digest[8..16].copy_from_slice(&term.to_be_bytes());
    Entry { term: Term(term), batches: vec![Digest(digest)].into() }
}

pub(crate) fn at(term: u64, index: u64) -> Position {
    Position::new(Term(term), CommitIndex(index))
}

pub(crate) fn append(term: u64, prev: Position, entries: Vec<Entry>, commit: u64) -> Payload {
    let commit = CommitIndex(commit);
    Payload::Append(Append { term: Term(term), prev, commit, reply: true, is_base: false, entries })
}

pub(crate) fn ballot(term: u64, last: Position) -> Ballot {
    Ballot { term: Term(term), last }
}

/// The messages of an outcome.
pub(crate) fn sent(outcome: &Outcome) -> Vec<Payload> {
    let envelopes = outcome.release.iter().filter_map(|action| match action {
        Action::Send(envelope) => Some(payload_of(&envelope.payload)),
        _ => None,
    });
    envelopes.collect()
}

/// The indices committed in an outcome.
pub(crate) fn committed(outcome: &Outcome) -> Vec<u64> {
    let commits = outcome.release.iter().filter_map(|action| match action {
        Action::Commit(commit) => Some(commit.index.0),
        _ => None,
    });
    commits.collect()
}

/// The last value of a gauge that an outcome sets.
pub(crate) fn gauge(outcome: &Outcome, gauge: u32) -> Option<u64> {
    outcome.release.iter().rev().find_map(|action| match action {
        Action::Measure { gauge: g, value } if *g == gauge => Some(*value),
        _ => None,
    })
}
