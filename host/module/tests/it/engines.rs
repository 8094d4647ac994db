//! The engines as components against the same code natively: a committee of four in
//! lockstep, every outcome compared.

use std::collections::{BTreeMap, VecDeque};

use moult_core::ports::EngineInstance;
use moult_module::NativeEngine;
use moult_pbft::Pbft;
use moult_pbft_reverse::PbftReverse;
use moult_raft::Raft;
use moult_sdk::engine::{Action, Engine, Event, Message, Outcome, Recipients, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Batch, Committee, Digest, FaultModel, Statement};
use moult_types::World;

use crate::common::{host, module, prepare};

const NODES: u32 = 4;
const BATCHES: u8 = 20;

#[test]
fn pbft() {
    same::<Pbft>("pbft", FaultModel::Byzantine);
}

#[test]
fn pbft_reverse() {
    same::<PbftReverse>("pbft-reverse", FaultModel::Byzantine);
}

#[test]
fn raft() {
    same::<Raft>("raft", FaultModel::Crash);
}

/// One node: the component and the native engine, given the same.
struct Pair {
    wasm: Box<dyn EngineInstance>,
    native: Box<dyn EngineInstance>,
    /// When each timer is due.
    timers: BTreeMap<u64, u64>,
    /// Batches in the order in which they were committed.
    committed: Vec<Digest>,
    records: Vec<moult_sdk::engine::DurableRecord>,
}

impl Pair {
    fn step(&mut self, now: u64, events: Vec<Event>) -> Outcome {
        let ours = self.wasm.step(now, events.clone()).expect("no fault");
        let theirs = self.native.step(now, events).expect("no fault");
        assert_eq!(ours, theirs);
        self.note(now, &ours);
        ours
    }

    /// Does what concerns this node alone.
    fn note(&mut self, now: u64, outcome: &Outcome) {
        self.records.extend(outcome.durable.iter().cloned());
        for action in &outcome.release {
            match action {
                Action::SetTimer { id, after_ms } => drop(self.timers.insert(*id, now + after_ms)),
                Action::CancelTimer(id) => drop(self.timers.remove(id)),
                Action::Commit(commit) => self.committed.extend(&commit.batches),
                _ => {}
            }
        }
    }

    fn due(&mut self, now: u64) -> Vec<Event> {
        self.timers.extract_if(.., |_, at| *at <= now).map(|(id, _)| Event::Timer(id)).collect()
    }
}

fn same<E: Engine + Send + 'static>(name: &str, model: FaultModel) {
    let host = host();
    let prepared = prepare(&host, &module(name), World::Engine).expect("an engine");
    let mut queue = VecDeque::new();
    let mut nodes: Vec<_> = (0..NODES)
        .map(|me| {
            let mut wasm = prepared.engine().expect("an engine");
            let mut native: Box<dyn EngineInstance> = Box::new(NativeEngine::<E>::new());
            assert_eq!(wasm.describe(), native.describe());
            let ours = wasm.init(&settings(me, model), None).expect("no fault");
            assert_eq!(ours, native.init(&settings(me, model), None).expect("no fault"));
            let ours = ours.expect("no refusal");
            let mut pair =
                Pair { wasm, native, timers: BTreeMap::new(), committed: Vec::new(), records: Vec::new() };
            pair.note(0, &ours);
            deliver(me, ours, &mut queue);
            pair
        })
        .collect();
    // Three seconds: time for a first leader, and for a batch every 100 ms.
    for round in 0..300_u64 {
        let now = 1 + round * 10;
        for me in 0..NODES {
            let node = &mut nodes[me as usize];
            queue.extend(node.due(now).into_iter().map(|event| (me, event)));
            if round % 10 == 0 && round / 10 < u64::from(BATCHES) {
                let batch = Batch { digest: batch_digest(round / 10), author: AuthorityIndex(0), bytes: 100 };
                queue.push_back((me, Event::Batches(vec![batch])));
            }
        }
        while let Some((to, event)) = queue.pop_front() {
            let outcome = nodes[to as usize].step(now, vec![event]);
            deliver(to, outcome, &mut queue);
        }
    }
    let all: Vec<_> = (0..u64::from(BATCHES)).map(batch_digest).collect();
    for (me, node) in nodes.iter_mut().enumerate() {
        let mut sorted = node.committed.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, all, "node {me}: every batch, once");
        // A restart with what was made durable.
        let recovered = Recovered { records: node.records.clone(), ..Recovered::default() };
        let mut wasm = prepared.engine().expect("an engine");
        let mut native = NativeEngine::<E>::new();
        let settings = settings(me as u32, model);
        let ours = wasm.init(&settings, Some(&recovered)).expect("no fault");
        assert_eq!(ours, native.init(&settings, Some(&recovered)).expect("no fault"));
    }
    assert!(nodes.iter().all(|node| node.committed == nodes[0].committed), "one order");
}

fn batch_digest(number: u64) -> Digest {
    Digest([number as u8 + 1; 32])
}

/// What an engine sends, as its peers get it; nothing is lost and nobody lies.
fn deliver(from: u32, outcome: Outcome, queue: &mut VecDeque<(u32, Event)>) {
    let sender = AuthorityIndex(from);
    let sign = |choice: moult_sdk::engine::Choice| Statement {
        author: sender,
        slot: choice.slot,
        digest: choice.digest,
    };
    for action in outcome.release {
        let (to, event) = match action {
            Action::Vote { to, choice } => (to, Event::Vote(sign(choice))),
            Action::Send(envelope) => {
                let own = envelope.sign.into_iter().map(sign);
                let statements = own.chain(envelope.attach).collect();
                (envelope.to, Event::Message(Message { sender, payload: envelope.payload, statements }))
            }
            _ => continue,
        };
        let receivers: Vec<u32> = match to {
            Recipients::All => (0..NODES).collect(),
            Recipients::One(one) => vec![one.0],
            Recipients::Some(some) => some.into_iter().map(|one| one.0).collect(),
        };
        for receiver in receivers.into_iter().filter(|receiver| *receiver != from) {
            queue.push_back((receiver, event.clone()));
        }
    }
}

fn settings(me: u32, fault_model: FaultModel) -> Settings {
    Settings {
        committee: Committee {
            epoch: 1,
            fault_model,
            stakes: vec![1; NODES as usize],
            quorum: 3,
            validity: 2,
            me: Some(AuthorityIndex(me)),
        },
        config: Vec::new(),
        seed: Digest([5; 32]),
        schedule: (0..NODES).map(AuthorityIndex).collect(),
        max_message_bytes: 1 << 20,
        max_batches_in_commit: 100,
    }
}
