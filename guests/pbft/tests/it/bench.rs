//! One replica on the bench: the test plays the host and all others.

use std::sync::Arc;

use moult_conformance::committee;
use moult_pbft::Pbft;
use moult_pbft::codec::{
    Batches, CHECKPOINT, Claim, Header, NEW_VIEW, NewView, PRE_PREPARE, PREPARE, Payload, Proposal,
    VIEW_CHANGE, ViewChange, decode, encode, new_view_digest, proposal_digest, slot,
};
use moult_sdk::engine::{Action, Choice, Engine, Event, Message, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Batch, Digest, FaultModel, Slot, Statement};

/// The epoch of all tests.
pub(crate) const EPOCH: u64 = 3;

pub(crate) struct Bench {
    pub(crate) engine: Pbft,
    pub(crate) now: u64,
    pub(crate) disk: Recovered,
}

impl Bench {
    /// Replica `me` of four.
    pub(crate) fn new(me: u32) -> Self {
        let (engine, _) = Pbft::init(settings(me, ""), None).expect("good settings");
        Self { engine, now: 0, disk: Recovered::default() }
    }

    pub(crate) fn step(&mut self, events: Vec<Event>) -> Outcome {
        self.now += 1;
        let outcome = self.engine.step(self.now, events);
        self.disk.records.extend(outcome.durable.iter().cloned());
        outcome
    }

    /// Lets the view time out.
    pub(crate) fn time_out(&mut self) -> Outcome {
        self.now += 100_000;
        self.step(vec![Event::Timer(1)])
    }

    pub(crate) fn hold(&mut self, batches: &[Digest]) -> Outcome {
        let batch = |digest: &Digest| Batch { digest: *digest, author: AuthorityIndex(0), bytes: 1 };
        self.step(vec![Event::Batches(batches.iter().map(batch).collect())])
    }

    /// A message with statements of whomever.
    pub(crate) fn hear(&mut self, sender: u32, payload: &Payload, statements: Vec<Statement>) -> Outcome {
        let payload = encode(EPOCH, payload);
        self.step(vec![Event::Message(Message { sender: AuthorityIndex(sender), payload, statements })])
    }

    pub(crate) fn propose(&mut self, view: u64, seq: u64, batches: &[Digest]) -> Outcome {
        let leader = (view % 4) as u32;
        let statement = said(leader, slot(PRE_PREPARE, view, seq), proposal_digest(batches));
        let proposal = Payload::Proposal(Proposal { view, seq, batches: Arc::from(batches) });
        self.hear(leader, &proposal, vec![statement])
    }

    pub(crate) fn vote(&mut self, author: u32, slot: Slot, digest: Digest) -> Outcome {
        self.step(vec![Event::Vote(said(author, slot, digest))])
    }
}

pub(crate) fn settings(me: u32, config: &str) -> Settings {
    let committee = committee(&[1; 4], FaultModel::Byzantine, me);
    Settings {
        schedule: committee.authorities().collect(),
        committee,
        config: config.as_bytes().to_vec(),
        seed: Digest::ZERO,
        max_message_bytes: 4 << 20,
        max_batches_in_commit: 16,
    }
}

pub(crate) fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

pub(crate) fn said(author: u32, slot: Slot, digest: Digest) -> Statement {
    Statement { author: AuthorityIndex(author), slot, digest }
}

/// A proposal of one batch, its claim, and the statements of a certificate by `prepares`.
pub(crate) fn certified(
    seq: u64,
    view: u64,
    batch: u8,
    prepares: &[u32],
) -> (Claim, Batches, Vec<Statement>) {
    let body: Batches = Arc::from([digest(batch)]);
    let about = proposal_digest(&body);
    let mut statements = vec![said((view % 4) as u32, slot(PRE_PREPARE, view, seq), about)];
    statements.extend(prepares.iter().map(|author| said(*author, slot(PREPARE, view, seq), about)));
    (Claim { seq, view, digest: about }, body, statements)
}

/// A view-change of `author` from checkpoint 0.
pub(crate) fn change(
    author: u32,
    view: u64,
    certified: Vec<(Claim, Batches, Vec<Statement>)>,
) -> (ViewChange, Vec<Statement>) {
    let mut statements: Vec<Statement> = certified.iter().flat_map(|(_, _, s)| s.iter().copied()).collect();
    let (claims, bodies) = certified.into_iter().map(|(claim, body, _)| (claim, body)).unzip();
    let header = Header { view, stable: 0, stable_digest: Digest::ZERO, claims };
    statements.push(said(author, slot(VIEW_CHANGE, view, 0), header.digest()));
    (ViewChange { header, bodies }, statements)
}

/// A new-view over `changes` as its leader would sign it, right or wrong.
pub(crate) fn new_view(
    view: u64,
    changes: &[(u32, ViewChange, Vec<Statement>)],
    bodies: Vec<Batches>,
    first: u64,
) -> (Payload, Vec<Statement>) {
    let leader = (view % 4) as u32;
    let headers = changes.iter().map(|(author, c, _)| (AuthorityIndex(*author), c.header.clone())).collect();
    let mut statements: Vec<Statement> = changes.iter().flat_map(|(_, _, s)| s.iter().copied()).collect();
    for (seq, body) in (first..).zip(&bodies) {
        statements.push(said(leader, slot(PRE_PREPARE, view, seq), proposal_digest(body)));
    }
    let payload = Payload::NewView(NewView { view, changes: headers, bodies });
    statements.push(said(leader, slot(NEW_VIEW, view, 0), new_view_digest(&encode(EPOCH, &payload))));
    (payload, statements)
}

/// The checkpoint at `seq` as `authors` sign it.
pub(crate) fn checkpoint(seq: u64, about: Digest, authors: &[u32]) -> Vec<Statement> {
    authors.iter().map(|author| said(*author, slot(CHECKPOINT, seq, 0), about)).collect()
}

/// What was voted for alone.
pub(crate) fn votes(outcome: &Outcome) -> Vec<Choice> {
    let vote = |action: &Action| match action {
        Action::Vote { choice, .. } => Some(*choice),
        _ => None,
    };
    outcome.release.iter().filter_map(vote).collect()
}

/// What was sent, with the choices to sign.
pub(crate) fn sent(outcome: &Outcome) -> Vec<(Payload, Vec<Choice>)> {
    let sent = |action: &Action| match action {
        Action::Send(e) => Some((decode(EPOCH, &e.payload)?, e.sign.clone())),
        _ => None,
    };
    outcome.release.iter().filter_map(sent).collect()
}

/// The new-view among what was sent.
pub(crate) fn opened(outcome: &Outcome) -> Option<(NewView, Vec<Choice>)> {
    sent(outcome).into_iter().find_map(|(payload, sign)| match payload {
        Payload::NewView(new_view) => Some((new_view, sign)),
        _ => None,
    })
}

pub(crate) fn gauge(outcome: &Outcome, number: u32) -> Option<u64> {
    outcome.release.iter().rev().find_map(|action| match action {
        Action::Measure { gauge, value } if *gauge == number => Some(*value),
        _ => None,
    })
}
