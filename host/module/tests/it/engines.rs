//! The engines as components against the same code natively: a committee of four in
//! lockstep, every outcome compared.

use std::collections::VecDeque;

use moult_core::ports::EngineInstance;
use moult_module::NativeEngine;
use moult_pbft::Pbft;
use moult_pbft_reverse::PbftReverse;
use moult_sdk::engine::{Action, Engine, Event, Message, Outcome, Recipients, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Batch, Committee, Digest, FaultModel, Statement};
use moult_types::World;

use crate::common::{host, module, prepare};

const NODES: u32 = 4;

#[test]
fn pbft() {
    same::<Pbft>("pbft");
}

#[test]
fn pbft_reverse() {
    same::<PbftReverse>("pbft-reverse");
}

/// One node: the component and the native engine, given the same.
struct Pair {
    wasm: Box<dyn EngineInstance>,
    native: Box<dyn EngineInstance>,
    commits: usize,
    records: Vec<moult_sdk::engine::DurableRecord>,
}

impl Pair {
    fn step(&mut self, now: u64, events: Vec<Event>) -> Outcome {
        let ours = self.wasm.step(now, events.clone()).expect("no fault");
        let theirs = self.native.step(now, events).expect("no fault");
        assert_eq!(ours, theirs);
        self.records.extend(ours.durable.iter().cloned());
        ours
    }
}

fn same<E: Engine + Send + 'static>(name: &str) {
    let host = host();
    let prepared = prepare(&host, &module(name), World::Engine).expect("an engine");
    let mut queue = VecDeque::new();
    let mut nodes: Vec<_> = (0..NODES)
        .map(|me| {
            let mut wasm = prepared.engine().expect("an engine");
            let mut native: Box<dyn EngineInstance> = Box::new(NativeEngine::<E>::new());
            assert_eq!(wasm.describe(), native.describe());
            let ours = wasm.init(&settings(me), None).expect("no fault");
            assert_eq!(ours, native.init(&settings(me), None).expect("no fault"));
            deliver(me, ours.expect("no refusal"), &mut queue);
            Pair { wasm, native, commits: 0, records: Vec::new() }
        })
        .collect();
    for round in 0..20u8 {
        let now = 1 + u64::from(round) * 20;
        for me in 0..NODES {
            let batch = Batch { digest: Digest([round + 1; 32]), author: AuthorityIndex(0), bytes: 100 };
            queue.push_back((me, Event::Batches(vec![batch])));
        }
        while let Some((to, event)) = queue.pop_front() {
            let node = &mut nodes[to as usize];
            let outcome = node.step(now, vec![event]);
            node.commits += outcome.release.iter().filter(|a| matches!(a, Action::Commit(_))).count();
            deliver(to, outcome, &mut queue);
        }
    }
    for (me, node) in nodes.iter_mut().enumerate() {
        assert!(node.commits >= 20, "{} commits", node.commits);
        // A restart with what was made durable.
        let recovered = Recovered { records: node.records.clone(), ..Recovered::default() };
        let mut wasm = prepared.engine().expect("an engine");
        let mut native = NativeEngine::<E>::new();
        let settings = settings(me as u32);
        let ours = wasm.init(&settings, Some(&recovered)).expect("no fault");
        assert_eq!(ours, native.init(&settings, Some(&recovered)).expect("no fault"));
    }
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

fn settings(me: u32) -> Settings {
    Settings {
        committee: Committee {
            epoch: 1,
            fault_model: FaultModel::Byzantine,
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
