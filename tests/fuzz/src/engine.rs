//! The host's side of one engine: gives events, and holds every answer against the contract.

use std::collections::{BTreeMap, BTreeSet};

use moult_sdk::engine::{
    Action, Choice, Commit, DurableRecord, Engine, Event, InitError, Message, Outcome, Recovered, Settings,
};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Committee, Digest, FaultModel, Slot, Statement};

/// The epoch of all runs.
pub(crate) const EPOCH: u64 = 3;
/// An input is a script; a longer one than this shows nothing new.
pub(crate) const OPS_MAX: usize = 256;

/// What the host allows an answer (`moult-module`).
const RECORDS_MAX: usize = 4_096;
const ACTIONS_MAX: usize = 16_384;
const RECORD_BYTES_MAX: usize = 1 << 20;
const STATEMENTS_MAX: usize = 4_096;
const TIMERS_MAX: usize = 1_024;
const HOST_KINDS: u16 = 0x8000;

pub(crate) fn settings(size: u32, fault_model: FaultModel, me: u32, config: &str) -> Settings {
    let (total, stakes) = (u64::from(size), vec![1; size as usize]);
    let (quorum, validity) = match fault_model {
        FaultModel::Byzantine => (total * 2 / 3 + 1, total - total * 2 / 3),
        FaultModel::Crash => (total / 2 + 1, 1),
    };
    let me = Some(AuthorityIndex(me));
    Settings {
        committee: Committee { epoch: EPOCH, fault_model, stakes, quorum, validity, me },
        config: config.as_bytes().to_vec(),
        seed: Digest([7; 32]),
        schedule: (0..size).map(AuthorityIndex).collect(),
        max_message_bytes: 1 << 16,
        max_batches_in_commit: 8,
    }
}

/// One engine with its disk.
pub(crate) struct Host<E> {
    engine: E,
    settings: Settings,
    gauges: u32,
    now_ms: u64,
    records: Vec<DurableRecord>,
    last_record: u64,
    timers: BTreeSet<u64>,
    signed: BTreeMap<Slot, Digest>,
    released: BTreeMap<u16, (u64, u64)>,
    told: BTreeSet<Digest>,
    /// By index, as far as this host ordered them.
    commits: BTreeMap<u64, Vec<Digest>>,
    /// Of this life, or where it went on from.
    committed: u64,
    last_final: u64,
    /// After a start: up to where commits may come again.
    again_to: u64,
    /// What is committed now was in this engine's own records: the same as before.
    starts: bool,
}

impl<E: Engine> Host<E> {
    pub(crate) fn new(settings: Settings) -> Self {
        let (engine, outcome) = E::init(settings.clone(), None).expect("good settings");
        let mut host = Self {
            engine,
            settings,
            gauges: E::describe().gauges.len() as u32,
            now_ms: 0,
            records: Vec::new(),
            last_record: 0,
            timers: BTreeSet::new(),
            signed: BTreeMap::new(),
            released: BTreeMap::new(),
            told: BTreeSet::new(),
            commits: BTreeMap::new(),
            committed: 0,
            last_final: 0,
            again_to: 0,
            starts: false,
        };
        host.take(outcome);
        host
    }

    /// Highest index committed or final.
    pub(crate) fn top(&self) -> u64 {
        self.committed
    }

    /// Whether a statement can come with a signature that holds: this node's own only if it
    /// was signed here.
    pub(crate) fn can_be_signed(&self, statement: &Statement) -> bool {
        Some(statement.author) != self.settings.committee.me
            || self.signed.get(&statement.slot) == Some(&statement.digest)
    }

    /// The transport knows who speaks: a member, and never this node itself.
    fn peer(&self, sender: AuthorityIndex) -> AuthorityIndex {
        let size = self.settings.committee.stakes.len() as u32;
        let peer = AuthorityIndex(sender.0 % size);
        if Some(peer) == self.settings.committee.me { AuthorityIndex((peer.0 + 1) % size) } else { peer }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    pub(crate) fn give(&mut self, event: Event) {
        let event = match event {
            Event::Vote(statement) if !self.can_be_signed(&statement) => return,
            Event::Message(Message { sender, payload, statements }) => {
                let statements = statements.into_iter().filter(|s| self.can_be_signed(s)).collect();
                let sender = self.peer(sender);
                Event::Message(Message { sender, payload, statements })
            }
            Event::Batches(batches) => {
                self.told.extend(batches.iter().map(|batch| batch.digest));
                Event::Batches(batches)
            }
            Event::Final { index, batches } => {
                if index.0 <= self.last_final {
                    return;
                }
                self.last_final = index.0;
                self.committed = self.committed.max(index.0);
                Event::Final { index, batches }
            }
            Event::Timer(id) => {
                self.timers.remove(&id);
                Event::Timer(id)
            }
            other => other,
        };
        let outcome = self.engine.step(self.now_ms, vec![event]);
        self.take(outcome);
    }

    /// Lets every timer that is set run out, in order, after `ms`.
    pub(crate) fn fire(&mut self, ms: u64) {
        self.pass(ms);
        for id in self.timers.clone() {
            self.give(Event::Timer(id));
        }
    }

    /// Tells of a batch for each digest.
    pub(crate) fn hold(&mut self, digests: &[Digest]) {
        let batch = |digest: &Digest| Batch { digest: *digest, author: AuthorityIndex(1), bytes: 10 };
        self.give(Event::Batches(digests.iter().map(batch).collect()));
    }

    /// Marks commits as final, as far as this host ordered them.
    pub(crate) fn finalize(&mut self, index: u64) {
        let of = |(_, batches): (&u64, &Vec<Digest>)| batches.clone();
        let batches = self.commits.range(self.last_final + 1..=index.max(self.last_final + 1)).flat_map(of);
        let batches = batches.collect();
        self.give(Event::Final { index: CommitIndex(index), batches });
    }

    /// A crash, and a start from everything that was durable. What this engine wrote it can read.
    pub(crate) fn restart(&mut self) {
        let batch = |digest: &Digest| Batch { digest: *digest, author: AuthorityIndex(1), bytes: 10 };
        let recovered = Recovered {
            records: self.records.clone(),
            committed: CommitIndex(self.committed),
            last_final: CommitIndex(self.last_final),
            batches: self.told.iter().map(batch).collect(),
        };
        match E::init(self.settings.clone(), Some(recovered)) {
            Ok((engine, outcome)) => {
                self.engine = engine;
                self.timers.clear();
                self.now_ms = 0;
                self.again_to = self.again_to.max(self.committed);
                self.committed = self.last_final;
                self.starts = true;
                self.take(outcome);
                self.starts = false;
            }
            Err(InitError::BadConfig(e) | InitError::Unsuitable(e) | InitError::CorruptRecords(e)) => {
                panic!("its own records are refused: {e}: {:?}", self.records)
            }
        }
    }

    fn take(&mut self, outcome: Outcome) {
        assert!(outcome.durable.len() <= RECORDS_MAX, "{} records", outcome.durable.len());
        assert!(outcome.release.len() <= ACTIONS_MAX, "{} actions", outcome.release.len());
        for record in outcome.durable {
            assert!(record.id > self.last_record, "record {} after {}", record.id, self.last_record);
            assert!(record.body.len() <= RECORD_BYTES_MAX && record.statements.len() <= STATEMENTS_MAX);
            self.last_record = record.id;
            self.records.push(record);
        }
        outcome.release.into_iter().for_each(|action| self.act(action));
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Vote { choice, .. } => self.sign(choice),
            Action::Send(envelope) => {
                assert!(envelope.payload.len() <= self.settings.max_message_bytes as usize);
                assert!(envelope.sign.len() + envelope.attach.len() <= STATEMENTS_MAX);
                envelope.sign.into_iter().for_each(|choice| self.sign(choice));
            }
            Action::SetTimer { id, after_ms } => {
                assert!(after_ms > 0, "timer {id} after 0 ms");
                self.timers.insert(id);
                assert!(self.timers.len() <= TIMERS_MAX);
            }
            Action::CancelTimer(id) => {
                self.timers.remove(&id);
            }
            Action::Commit(commit) => self.commit(commit),
            Action::Fetch { batches, .. } => assert!(batches.len() <= 65_536),
            Action::Truncate(id) => self.records.retain(|record| record.id > id),
            Action::ReleaseSlots(slot) => {
                assert!(slot.kind < HOST_KINDS);
                let mark = self.released.entry(slot.kind).or_default();
                *mark = (*mark).max((slot.a, slot.b));
            }
            Action::Accuse(proof) => assert!(proof.len() <= self.settings.max_message_bytes as usize),
            Action::Measure { gauge, .. } => assert!(gauge < self.gauges, "gauge {gauge}"),
        }
    }

    /// One digest a slot, over restarts too, and none that was released.
    fn sign(&mut self, Choice { slot, digest }: Choice) {
        assert!(slot.kind < HOST_KINDS);
        let released = self.released.get(&slot.kind).is_some_and(|mark| (slot.a, slot.b) <= *mark);
        assert!(!released, "{slot:?} was released");
        let signed = *self.signed.entry(slot).or_insert(digest);
        assert_eq!(signed, digest, "two digests for {slot:?}");
    }

    /// Dense, above what is final, of batches that are held.
    fn commit(&mut self, Commit { index, batches, .. }: Commit) {
        let next = self.committed + 1..=self.committed.max(self.again_to) + 1;
        assert!(next.contains(&index.0), "commit {} where {next:?} is due", index.0);
        assert!(batches.len() <= self.settings.max_batches_in_commit as usize);
        assert!(batches.iter().all(|batch| self.told.contains(batch)), "a batch that is not held");
        (self.committed, self.again_to) = (index.0, 0);
        let before = self.commits.insert(index.0, batches.clone());
        assert!(!self.starts || before.is_none_or(|before| before == batches), "another block {}", index.0);
    }
}
