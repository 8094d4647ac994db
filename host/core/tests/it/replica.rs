//! One replica, step by step, with an engine that does what the test says. How replicas do
//! together is the simulator's business.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use moult_core::guard::GuardState;
use moult_core::io::{Effect, Input, Now, Persist, Refusal, Step, Target};
use moult_core::ports::{EngineInstance, Fault};
use moult_core::replica::Settings;
use moult_core::verify::VerifyContext;
use moult_core::{Recovery, Replica};
use moult_crypto::Signer;
use moult_sdk::engine::{self, Action, Event, InitError, Outcome, Recovered};
use moult_sdk::{Committee as EngineCommittee, NowMs};
use moult_types::block::vote_statement;
use moult_types::*;

use crate::support::*;

/// What the engine was told, and what it will answer next.
#[derive(Default)]
struct Script {
    told: Vec<Event>,
    recovered: Option<Recovered>,
    answers: VecDeque<Vec<Action>>,
    records: VecDeque<Vec<engine::DurableRecord>>,
}

#[derive(Clone, Default)]
pub(crate) struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    pub(crate) fn will(&self, actions: Vec<Action>) {
        self.0.lock().unwrap().answers.push_back(actions);
    }

    fn told_batches(&self, digest: Digest) -> usize {
        let script = self.0.lock().unwrap();
        let batches = script.told.iter().filter_map(|event| match event {
            Event::Batches(batches) => Some(batches),
            _ => None,
        });
        batches.flatten().filter(|batch| batch.digest == digest).count()
    }
}

impl EngineInstance for Scripted {
    fn describe(&mut self) -> Result<engine::Info, Fault> {
        Ok(engine::Info {
            name: "scripted".into(),
            version: "1".into(),
            fault_models: Vec::new(),
            min_authorities: 1,
            gauges: Vec::new(),
        })
    }

    fn init(
        &mut self,
        _: &engine::Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        self.0.lock().unwrap().recovered = recovered.cloned();
        Ok(Ok(Outcome::default()))
    }

    fn step(&mut self, _: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        let mut script = self.0.lock().unwrap();
        script.told.extend(events);
        let release = script.answers.pop_front().unwrap_or_default();
        let durable = script.records.pop_front().unwrap_or_default();
        Ok(Outcome { durable, release })
    }

    fn judge(&mut self, _: &EngineCommittee, _: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        Ok(None)
    }
}

/// Authority 0 of four, with its clock.
pub(crate) struct Node {
    pub(crate) replica: Replica,
    pub(crate) engine: Scripted,
    pub(crate) context: Arc<VerifyContext>,
    pub(crate) manifest: Manifest,
    /// In order.
    pub(crate) executed: Vec<Arc<BlockRecord>>,
    pub(crate) now_ms: u64,
}

pub(crate) fn recovery(manifest: &Manifest) -> Recovery {
    let start = moult_core::io::EpochStart {
        manifest: manifest.clone(),
        base: GlobalIndex(0),
        state_root: None,
        time_ms: 0,
        switched_at_ms: 0,
    };
    Recovery {
        chain: CHAIN,
        epoch: start,
        fresh: true,
        former: None,
        ledger: None,
        phases: Vec::new(),
        tail: Vec::new(),
        side: Vec::new(),
        batches: Vec::new(),
        guard: GuardState::new(CHAIN, keys(0).public_key(), manifest.identity()),
        prepared_on_chain: None,
        signing_stopped: None,
    }
}

impl Node {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let manifest = manifest(&[1, 1, 1, 1]);
        Self::recovered(recovery(&manifest), manifest, change)
    }

    pub(crate) fn recovered(
        recovery: Recovery,
        manifest: Manifest,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = Settings::new(manifest.members[0].id);
        change(&mut settings);
        let (replica, step) = Replica::new(recovery, settings, Arc::new(keys(0)), Now::default()).unwrap();
        let context = step.release.iter().find_map(|effect| match effect {
            Effect::Verify(context) => Some(context.clone()),
            _ => None,
        });
        let engine = Scripted::default();
        let context = context.unwrap();
        let mut node = Self { replica, engine, context, manifest, executed: Vec::new(), now_ms: 0 };
        node.note(&step);
        node.give(Input::Engine {
            identity: node.manifest.identity(),
            engine: Box::new(node.engine.clone()),
            records: Vec::new(),
        });
        node
    }

    pub(crate) fn give(&mut self, input: Input) -> Step {
        self.now_ms += 1;
        self.steps(vec![input])
    }

    pub(crate) fn steps(&mut self, inputs: Vec<Input>) -> Step {
        let step = self.replica.step(Now { mono_ms: self.now_ms, wall_ms: self.now_ms }, inputs);
        self.note(&step);
        step
    }

    fn note(&mut self, step: &Step) {
        for effect in &step.release {
            match effect {
                Effect::Execute { record, .. } => self.executed.push(record.clone()),
                Effect::Verify(context) => self.context = context.clone(),
                _ => {}
            }
        }
    }

    /// A message of another authority, verified as the shell does it.
    pub(crate) fn hear(&mut self, from: u8, message: Message) -> Step {
        let message = self.context.check(message).expect("it verifies");
        self.give(Input::Message { from: keys(from).public_key(), message })
    }

    pub(crate) fn submit(&mut self, seq: u64) -> Step {
        let client = ClientId { ingress: self.manifest.members[0].id, name: b"c".to_vec() };
        self.give(Input::Submit(vec![ClientTransaction { client, seq, payload: vec![1] }]))
    }

    /// The engine commits these batches as the next block, and two others vote for it.
    pub(crate) fn commit(&mut self, index: u64, batches: Vec<Digest>) {
        let commit = engine::Commit { index: CommitIndex(index), batches, round: 0, leader: None };
        self.engine.will(vec![Action::Commit(commit)]);
        let step = self.give(Input::Peer { key: keys(1).public_key(), up: true, rtt_us: 0 });
        let hash = step.durable.iter().find_map(|persist| match persist {
            Persist::Block(record) if record.block.index.0 == index => Some(record.hash),
            _ => None,
        });
        let hash = hash.expect("the block is assembled");
        for author in [1, 2] {
            self.hear(author, votes(&self.manifest, author, index, hash));
        }
        assert_eq!(self.executed.last().map(|record| record.block.index.0), Some(index));
    }
}

/// A key in a token that is pulled.
struct Frail {
    is_gone: std::sync::atomic::AtomicBool,
    asked: std::sync::atomic::AtomicU32,
}

impl Signer for Frail {
    fn public_key(&self) -> PublicKey {
        keys(0).public_key()
    }

    fn sign_statement(&self, chain: ChainId, scope: Scope, statement: &Statement) -> Signature {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match self.failure() {
            None => keys(0).sign_statement(chain, scope, statement),
            Some(_) => Signature([0; 64]),
        }
    }

    fn failure(&self) -> Option<moult_crypto::SignError> {
        let is_gone = self.is_gone.load(std::sync::atomic::Ordering::Relaxed);
        is_gone.then(|| moult_crypto::SignError("it was pulled".into()))
    }
}

#[test]
fn a_step_with_a_signature_that_is_none_comes_to_nothing() {
    let manifest = manifest(&[1, 1, 1, 1]);
    let signer = Arc::new(Frail { is_gone: false.into(), asked: 0.into() });
    let settings = Settings::new(manifest.members[0].id);
    let (replica, first) =
        Replica::new(recovery(&manifest), settings, signer.clone(), Now::default()).unwrap();
    let context = first.release.iter().find_map(|effect| match effect {
        Effect::Verify(context) => Some(context.clone()),
        _ => None,
    });
    let (engine, context) = (Scripted::default(), context.unwrap());
    let mut node = Node { replica, engine, context, manifest, executed: Vec::new(), now_ms: 0 };
    node.give(Input::Engine {
        identity: node.manifest.identity(),
        engine: Box::new(node.engine.clone()),
        records: Vec::new(),
    });
    assert_eq!(batches(&node.submit(1)).len(), 1);
    assert!(batches(&node.submit(2)).is_empty(), "it waits for the first");
    let asked = || signer.asked.load(std::sync::atomic::Ordering::Relaxed);
    let before = asked();
    signer.is_gone.store(true, std::sync::atomic::Ordering::Relaxed);
    node.now_ms = node.replica.next_wake_ms();
    let step = node.steps(vec![Input::Wake]);
    assert!(asked() > before, "something was to be signed");
    assert!(step.durable.is_empty(), "{step:?}");
    let [Effect::Halt(reason)] = step.release.as_slice() else { panic!("{step:?}") };
    assert!(reason.contains("it was pulled"), "{reason}");
    assert!(node.submit(3).release.is_empty());
}

/// What an authority sends that prepared a block and committed to it.
pub(crate) fn votes(manifest: &Manifest, author: u8, index: u64, hash: Digest) -> Message {
    let identity = manifest.identity();
    let vote = |round| {
        let statement = vote_statement(round, AuthorityIndex(author.into()), CommitIndex(index), hash);
        let signature = keys(author).sign_statement(CHAIN, Scope::Epoch(identity), &statement);
        Signed { statement, signature }
    };
    Message::Votes { identity, votes: Round::ALL.map(vote).into(), certificate: None }
}

pub(crate) fn batches(step: &Step) -> Vec<Arc<HeldBatch>> {
    let held = step.durable.iter().filter_map(|persist| match persist {
        Persist::Batch(batch) => Some(batch.clone()),
        _ => None,
    });
    held.collect()
}

/// The fault that a step ended the engine with.
fn fault(step: &Step) -> Option<&str> {
    step.release.iter().find_map(|effect| match effect {
        Effect::Event(moult_core::io::Event::EngineFault { fault, .. }) => Some(fault.as_str()),
        _ => None,
    })
}

#[test]
fn an_engine_keeps_records_that_rise_and_not_too_many() {
    let record = |id, bytes| engine::DurableRecord { id, body: vec![7; bytes], statements: Vec::new() };
    let nudge = || Input::Peer { key: keys(1).public_key(), up: true, rtt_us: 0 };
    let mut node = Node::new(|_| {});
    let give = |node: &mut Node, records, actions| {
        node.engine.0.lock().unwrap().records.push_back(records);
        node.engine.will(actions);
        node.give(nudge())
    };
    // What is truncated counts no more.
    for round in 0..40 {
        let (first, last) = (round * 16 + 1, round * 16 + 16);
        let records = (first..=last).map(|id| record(id, 1 << 20)).collect();
        let step = give(&mut node, records, vec![Action::Truncate(last)]);
        assert_eq!(fault(&step), None);
    }
    for round in 40..56 {
        let records = (round * 16 + 1..=round * 16 + 16).map(|id| record(id, 1 << 20)).collect();
        assert_eq!(fault(&give(&mut node, records, Vec::new())), None);
    }
    let step = give(&mut node, vec![record(9_000, 1)], Vec::new());
    assert!(fault(&step).is_some_and(|text| text.contains("bytes of records are kept")), "{step:?}");

    let mut node = Node::new(|_| {});
    assert_eq!(fault(&give(&mut node, vec![record(5, 1)], Vec::new())), None);
    let step = give(&mut node, vec![record(5, 1)], Vec::new());
    assert!(fault(&step).is_some_and(|text| text.contains("record 5 does not rise above 5")), "{step:?}");
}

#[test]
fn a_full_pipeline_does_not_ask_to_be_woken_for_its_queue() {
    let mut node = Node::new(|settings| settings.batches_in_flight_max = 1);
    assert_eq!(batches(&node.submit(1)).len(), 1);
    assert!(batches(&node.submit(2)).is_empty());
    node.now_ms += 50;
    let step = node.steps(vec![Input::Wake]);
    assert!(batches(&step).is_empty());
    assert!(node.replica.next_wake_ms() > node.now_ms, "it would be woken for ever");
}

#[test]
fn a_late_copy_of_a_final_batch_does_not_wait_to_be_ordered() {
    let mut node = Node::new(|_| {});
    let own = batches(&node.submit(1)).remove(0);
    let other = batch(&node.manifest, 1, 7, 5, Vec::new());
    node.hear(1, Message::Batches(vec![other.signed.clone()]));
    node.commit(1, vec![own.digest, other.digest]);
    for late in [&own, &other] {
        let step = node.hear(1, Message::Batches(vec![late.signed.clone()]));
        assert!(batches(&step).is_empty());
    }
    // Nor after a start, when the node was told what is final.
    let manifest = node.manifest.clone();
    let mut again = Node::recovered(recovery(&manifest), manifest, |_| {});
    again.replica.remember_final([other.digest]);
    for late in [own, other] {
        let step = again.hear(1, Message::Batches(vec![late.signed.clone()]));
        assert!(batches(&step).is_empty(), "batch of authority {:?}", late.batch().author);
    }
}

#[test]
fn an_engine_that_asks_for_a_held_batch_is_told_of_it_again() {
    let mut node = Node::new(|_| {});
    let held = batches(&node.submit(1)).remove(0);
    assert_eq!(node.engine.told_batches(held.digest), 1);
    let ask = || vec![Action::Fetch { batches: vec![held.digest], likely_holder: None }];
    node.engine.will(ask());
    // Asked again at once, it has to wait: no circle within one step.
    node.engine.will(ask());
    node.give(Input::Peer { key: keys(1).public_key(), up: true, rtt_us: 0 });
    assert_eq!(node.engine.told_batches(held.digest), 2);
}

/// Whom a step asks for a batch.
fn asked(step: &Step, digest: Digest) -> Vec<PublicKey> {
    let asked = step.release.iter().filter_map(|effect| match effect {
        Effect::Fetch { batches, from: Target::Keys(keys) } if batches.contains(&digest) => {
            Some(keys.clone())
        }
        _ => None,
    });
    asked.flatten().collect()
}

/// Mostly a proposal was only faster than the batch that it names.
#[test]
fn a_missing_batch_is_asked_for_once_it_had_time_to_come() {
    let nudge = || Input::Peer { key: keys(1).public_key(), up: true, rtt_us: 0 };
    let mut node = Node::new(|_| {});
    let (comes, lost) =
        (batch(&node.manifest, 1, 7, 5, Vec::new()), batch(&node.manifest, 1, 8, 5, Vec::new()));
    let likely_holder = Some(AuthorityIndex(2));
    node.engine.will(vec![Action::Fetch { batches: vec![comes.digest, lost.digest], likely_holder }]);
    let step = node.give(nudge());
    assert_eq!((asked(&step, comes.digest), asked(&step, lost.digest)), (Vec::new(), Vec::new()));
    node.hear(1, Message::Batches(vec![comes.signed.clone()]));
    let due_ms = node.replica.next_wake_ms();
    assert!(due_ms <= node.now_ms + 10, "nobody would be asked");
    node.now_ms = due_ms;
    let step = node.steps(vec![Input::Wake]);
    assert_eq!(asked(&step, comes.digest), []);
    assert_eq!(asked(&step, lost.digest), [keys(2).public_key()]);
    // Who was thought to have it does not answer.
    node.now_ms += 200;
    let step = node.steps(vec![Input::Wake]);
    assert_eq!(asked(&step, lost.digest), [1, 2, 3].map(|n| keys(n).public_key()));
}

#[test]
fn clients_that_were_answered_together_share_the_next_batch() {
    let mut node = Node::new(|_| {});
    let sizes = |step: &Step| -> Vec<usize> {
        batches(step).iter().map(|batch| batch.batch().transactions.len()).collect()
    };
    // Nothing is in flight: at once. The next wait for each other, but not for long.
    let first = batches(&node.submit(1)).remove(0);
    assert_eq!(node.replica.wanted().transactions, 1, "the first sets the time");
    assert_eq!(sizes(&node.submit(2)), []);
    let wanted = node.replica.wanted();
    assert_eq!(wanted.transactions, usize::MAX, "the batch waits for its time");
    assert_eq!(sizes(&node.submit(3)), []);
    assert!(node.replica.wanted().bytes < wanted.bytes, "or until it is full");
    node.now_ms = node.replica.next_wake_ms();
    let step = node.steps(vec![Input::Wake]);
    assert_eq!(sizes(&step), [2]);
    let second = batches(&step).remove(0);
    // One was answered: its next does not wait for anybody, whatever is in flight.
    node.commit(1, vec![first.digest]);
    assert_eq!(sizes(&node.submit(4)), [1]);
    // Two were answered: the first waits for the second,
    node.commit(2, vec![second.digest]);
    assert_eq!(sizes(&node.submit(5)), []);
    assert_eq!(node.replica.wanted().transactions, 1, "this one");
    let step = node.submit(6);
    assert_eq!(sizes(&step), [2]);
    // and if that does not come, for a moment.
    node.commit(3, vec![batches(&step).remove(0).digest]);
    let answered_ms = node.now_ms;
    assert_eq!(sizes(&node.submit(7)), []);
    node.now_ms = node.replica.next_wake_ms();
    assert!(node.now_ms <= answered_ms + 3);
    assert_eq!(sizes(&node.steps(vec![Input::Wake])), [1]);
}

#[test]
fn a_final_batch_that_is_ordered_again_is_taken_from_the_store() {
    let mut node = Node::new(|_| {});
    let held = batches(&node.submit(1)).remove(0);
    node.commit(1, vec![held.digest]);
    let commit = engine::Commit { index: CommitIndex(2), batches: vec![held.digest], round: 0, leader: None };
    node.engine.will(vec![Action::Commit(commit)]);
    let step = node.give(Input::Peer { key: keys(2).public_key(), up: true, rtt_us: 0 });
    let wanted = step
        .release
        .iter()
        .any(|effect| matches!(effect, Effect::Fetch { batches, .. } if *batches == [held.digest]));
    assert!(wanted);
    let step = node.give(Input::Stored(vec![held.clone()]));
    // The block is there; the batch does not become pending a second time.
    assert!(
        step.durable
            .iter()
            .any(|persist| matches!(persist, Persist::Block(record) if record.block.index.0 == 2))
    );
    assert!(batches(&step).is_empty());
    assert_eq!(node.engine.told_batches(held.digest), 2);
}

/// The name of the question to members that a step asks for reads.
pub(crate) fn asked_for_a_read(step: &Step) -> Option<u64> {
    step.release.iter().find_map(|effect| match effect {
        Effect::Send { message, .. } => match **message {
            Message::ReadQuery { nonce } => Some(nonce),
            _ => None,
        },
        _ => None,
    })
}

#[test]
fn a_node_whose_guard_is_lost_takes_no_part_in_reads() {
    let manifest = manifest(&[1, 1, 1, 1]);
    let lost = Recovery { signing_stopped: Some("the guard's file is gone".into()), ..recovery(&manifest) };
    let mut node = Node::recovered(lost, manifest.clone(), |_| {});
    let is_reply = |effect: &Effect| matches!(effect, Effect::Send { message, .. } if matches!(**message, Message::ReadReply { .. }));
    let step = node.hear(1, Message::ReadQuery { nonce: 1 });
    assert!(!step.release.iter().any(is_reply));
    // It needs three others, not two, to read itself.
    let nonce = asked_for_a_read(&node.give(Input::Read { id: 1 })).expect("it asks");
    let reply =
        |last: u64| Message::ReadReply { nonce, epoch: EpochNumber(0), phase: 0, index: CommitIndex(last) };
    let is_placed = |effect: &Effect| matches!(effect, Effect::ReadAt { .. });
    assert!(!node.hear(1, reply(0)).release.iter().any(is_placed));
    assert!(!node.hear(2, reply(0)).release.iter().any(is_placed));
    assert!(node.hear(3, reply(0)).release.iter().any(is_placed));
    let mut sound = Node::new(|_| {});
    assert!(sound.hear(1, Message::ReadQuery { nonce: 1 }).release.iter().any(is_reply));
}

#[test]
fn the_epoch_ends_when_the_barrier_is_executed_also_after_a_start_there() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    // This node and another one leave.
    let proposal = chain.propose(1, |p| {
        p.new_committee[0] = member(5, 1);
        p.new_committee[1] = member(6, 1);
    });
    chain.block((0..3).map(|voter| approve(&proposal, voter)).collect());
    let window = chain.ledger.index.next().0 / 10;
    chain.block([(0, 5), (1, 6), (2, 2)].map(|(place, key)| ready(&proposal, place, key, window)).into());
    chain.idle(5);
    assert!(chain.ledger.is_at_barrier());
    let manifest = chain.manifest.clone();
    let at_barrier = Recovery { fresh: false, ledger: Some(chain.ledger.clone()), ..recovery(&manifest) };
    let mut node = Node::recovered(at_barrier, manifest, |_| {});
    // What clients send now waits for the next epoch, which this node cannot serve.
    let step = node.submit(1);
    assert!(batches(&step).is_empty());
    let step = node.give(Input::Executed { global: chain.ledger.global, state_root: Digest([3; 32]) });
    let start = step.durable.iter().find_map(|persist| match persist {
        Persist::Epoch { start, .. } => Some(start.clone()),
        _ => None,
    });
    let start = start.expect("the switch");
    assert_eq!(
        (start.manifest.number.0, start.base, start.state_root),
        (1, chain.ledger.global, Some(Digest([3; 32])))
    );
    assert_eq!(node.replica.me(), None);
    let refused = |effect: &Effect| matches!(effect, Effect::Refused { reason: Refusal::Observer, .. });
    assert!(step.release.iter().any(refused));
    // The one that leaves with it can still be served: it stays among the peers.
    let without = |effect: &Effect| match effect {
        Effect::Peers(peers) => peers.iter().all(|(key, _)| *key != keys(1).public_key()),
        _ => false,
    };
    assert!(!step.release.iter().any(without));
    assert!(!step.release.iter().any(|effect| matches!(effect, Effect::StartEngine { .. })));
}

#[test]
fn a_message_that_came_during_the_switch_is_looked_at_again() {
    let mut node = Node::new(|_| {});
    let other = batch(&node.manifest, 1, 7, 5, Vec::new());
    let message = Message::Batches(vec![other.signed.clone()]);
    let step = node.give(Input::Early { from: keys(1).public_key(), message: message.clone() });
    let again = |effect: &Effect| matches!(effect, Effect::Reverify(list) if list[0].1 == message);
    assert!(step.release.iter().any(again));
    // One of an epoch to come is kept.
    let mut later = other.signed.clone();
    later.batch.number = EpochNumber(1);
    let step = node.give(Input::Early { from: keys(1).public_key(), message: Message::Batches(vec![later]) });
    assert!(!step.release.iter().any(|effect| matches!(effect, Effect::Reverify(_))));
}
