//! Four engines and what carries their messages: enough of a cluster to make real traffic.

use std::collections::BTreeMap;

use moult_core::ports::EngineInstance;
use moult_module::NativeEngine;
use moult_pbft::Pbft;
use moult_sdk::engine::{Action, Event, Message, Outcome, Recipients, Settings};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Committee, Digest, FaultModel, Statement};

pub(crate) const NODES: u32 = 4;

pub(crate) fn pbft() -> Box<dyn EngineInstance> {
    Box::new(NativeEngine::<Pbft>::new())
}

pub(crate) fn settings(me: u32) -> Settings {
    let committee = Committee {
        epoch: 3,
        fault_model: FaultModel::Byzantine,
        stakes: vec![1; NODES as usize],
        quorum: 3,
        validity: 2,
        me: Some(AuthorityIndex(me)),
    };
    Settings {
        committee,
        config: Vec::new(),
        seed: Digest([5; 32]),
        schedule: (0..NODES).map(AuthorityIndex).collect(),
        max_message_bytes: 1 << 20,
        max_batches_in_commit: 8,
    }
}

/// The cluster; the engine under test is node 1, a follower.
pub(crate) struct Net {
    nodes: Vec<Box<dyn EngineInstance>>,
    inbox: Vec<Vec<Event>>,
    timers: Vec<BTreeMap<u64, u64>>,
    committed: Vec<u64>,
    batches: BTreeMap<u64, Vec<Digest>>,
    now_ms: u64,
}

impl Net {
    pub(crate) fn new(watched: Box<dyn EngineInstance>) -> Self {
        let nodes = vec![pbft(), watched, pbft(), pbft()];
        let count = nodes.len();
        let mut net = Self {
            nodes,
            inbox: vec![Vec::new(); count],
            timers: vec![BTreeMap::new(); count],
            committed: vec![0; count],
            batches: BTreeMap::new(),
            now_ms: 0,
        };
        for me in 0..count {
            let outcome =
                net.nodes[me].init(&settings(me as u32), None).expect("no fault").expect("it starts");
            net.take(me, outcome);
        }
        net
    }

    /// Orders so many batches, one after another; returns what was committed.
    pub(crate) fn order(&mut self, batches: u64) -> u64 {
        for number in 0..batches {
            let mut digest = [7; 32];
            digest[..8].copy_from_slice(&(self.committed[0] * 1_000 + number).to_be_bytes());
            let batch = Batch { digest: Digest(digest), author: AuthorityIndex(0), bytes: 100 };
            self.inbox.iter_mut().for_each(|inbox| inbox.push(Event::Batches(vec![batch])));
            let before = self.committed.clone();
            // Far more rounds than an ordering takes.
            for _ in 0..200 {
                self.round();
                if self.committed.iter().zip(&before).all(|(now, before)| now > before) {
                    break;
                }
            }
        }
        self.committed[1]
    }

    fn round(&mut self) {
        self.now_ms += 5;
        for me in 0..self.nodes.len() {
            let due =
                self.timers[me].extract_if(.., |_, at| *at <= self.now_ms).map(|(id, _)| Event::Timer(id));
            let due: Vec<_> = due.collect();
            self.inbox[me].extend(due);
            let events = std::mem::take(&mut self.inbox[me]);
            if !events.is_empty() {
                let outcome = self.nodes[me].step(self.now_ms, events).expect("no fault");
                self.take(me, outcome);
            }
        }
    }

    fn take(&mut self, me: usize, outcome: Outcome) {
        let author = AuthorityIndex(me as u32);
        for action in outcome.release {
            match action {
                Action::Vote { to, choice } => {
                    let statement = Statement { author, slot: choice.slot, digest: choice.digest };
                    self.send(me, &to, &Event::Vote(statement));
                }
                Action::Send(envelope) => {
                    let signed = envelope.sign.iter();
                    let mut statements: Vec<_> =
                        signed.map(|c| Statement { author, slot: c.slot, digest: c.digest }).collect();
                    statements.extend(envelope.attach);
                    let message = Message { sender: author, payload: envelope.payload, statements };
                    self.send(me, &envelope.to, &Event::Message(message));
                }
                Action::SetTimer { id, after_ms } => drop(self.timers[me].insert(id, self.now_ms + after_ms)),
                Action::CancelTimer(id) => drop(self.timers[me].remove(&id)),
                Action::Commit(commit) => {
                    self.committed[me] = commit.index.0;
                    self.batches.insert(commit.index.0, commit.batches);
                    self.finalize(commit.index.0);
                }
                _ => {}
            }
        }
    }

    /// A block that all have is final.
    fn finalize(&mut self, index: u64) {
        if self.committed.iter().all(|committed| *committed >= index) {
            let batches = self.batches.get(&index).cloned().unwrap_or_default();
            let event = Event::Final { index: CommitIndex(index), batches };
            self.inbox.iter_mut().for_each(|inbox| inbox.push(event.clone()));
        }
    }

    fn send(&mut self, me: usize, to: &Recipients, event: &Event) {
        for (other, inbox) in self.inbox.iter_mut().enumerate().filter(|(other, _)| *other != me) {
            let index = AuthorityIndex(other as u32);
            let is_meant = match to {
                Recipients::All => true,
                Recipients::One(one) => *one == index,
                Recipients::Some(some) => some.contains(&index),
            };
            if is_meant {
                inbox.push(event.clone());
            }
        }
    }
}
