//! A whole replica with PBFT inside, and peers that say whatever an input makes them say:
//! raw bytes, and messages that are signed as they should be.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use moult_core::guard::GuardState;
use moult_core::io::{Effect, EngineRecord, EpochStart, GuardUpdate, Input as Happening, Now, Persist, Step};
use moult_core::kernel::check_certificate;
use moult_core::ports::{EngineInstance, Fault};
use moult_core::replica::Settings;
use moult_core::verify::{Unverified, VerifyContext};
use moult_core::{Recovery, Replica};
use moult_crypto::Signer;
use moult_pbft::Pbft;
use moult_pbft::codec::{
    COMMIT, PRE_PREPARE, PREPARE, Payload, Proposal, Status as EngineStatus, encode as encode_payload,
    proposal_digest, slot,
};
use moult_sdk::approval::{ModuleCheck, Verdict};
use moult_sdk::engine::{Engine, Event, Info, InitError, Outcome, Recovered, Settings as EngineSettings};
use moult_types::block::link;
use moult_types::governance::Decision;
use moult_types::*;

use crate::input::Input;
use crate::sample::{self, keys};

const OPS_MAX: usize = 64;
/// What one step may ask of the shell at most, whatever peers say.
const EFFECTS_MAX: usize = 4_096;
/// Rounds of answers that the shell gives to what a step asks for.
const ANSWERS_MAX: usize = 32;

/// First byte: whether all other authorities lie or one. Then what happens.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let only_liar = input.flag().then_some(1);
    let mut node = Node::new(only_liar);
    for _ in 0..OPS_MAX {
        if input.is_empty() {
            break;
        }
        node.op(&mut input);
        assert!(only_liar.is_none() || node.last_final == 0, "one liar of four made a block final");
    }
}

/// PBFT behind the port of the core; a panic is a finding.
struct Native(Option<Pbft>, Arc<Mutex<Vec<AuthorityIndex>>>);

impl EngineInstance for Native {
    fn describe(&mut self) -> Result<Info, Fault> {
        Ok(Pbft::describe())
    }

    fn init(
        &mut self,
        settings: &EngineSettings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        *self.1.lock().expect("one thread") = settings.schedule.clone();
        Ok(Pbft::init(settings.clone(), recovered.cloned()).map(|(engine, outcome)| {
            self.0 = Some(engine);
            outcome
        }))
    }

    fn step(&mut self, now: u64, events: Vec<Event>) -> Result<Outcome, Fault> {
        Ok(self.0.as_mut().expect("init comes first").step(now, events))
    }

    fn judge(
        &mut self,
        committee: &moult_sdk::Committee,
        proof: &[u8],
    ) -> Result<Option<AuthorityIndex>, Fault> {
        Ok(Pbft::judge(committee, proof))
    }
}

/// Authority 0 of four, with its shell.
struct Node {
    replica: Replica,
    context: Arc<VerifyContext>,
    schedule: Arc<Mutex<Vec<AuthorityIndex>>>,
    /// The authority whose key alone signs what peers say.
    only_liar: Option<u8>,
    now_ms: u64,
    seq: u64,
    records: Vec<EngineRecord>,
    signed: BTreeMap<(Scope, Slot), Digest>,
    prepared: u64,
    /// Hashes of the blocks held here, by index of the epoch.
    chain: BTreeMap<u64, Digest>,
    last_final: u64,
    executed: (u64, Digest),
    proposal: Option<(ProposalId, Digest)>,
    answers: VecDeque<Happening>,
}

impl Node {
    fn new(only_liar: Option<u8>) -> Self {
        let manifest = sample::manifest();
        let epoch = EpochStart {
            manifest: manifest.clone(),
            base: GlobalIndex(0),
            state_root: None,
            time_ms: 0,
            switched_at_ms: 0,
        };
        let recovery = Recovery {
            chain: sample::CHAIN,
            epoch,
            fresh: true,
            former: None,
            ledger: None,
            phases: Vec::new(),
            tail: Vec::new(),
            side: Vec::new(),
            batches: Vec::new(),
            guard: GuardState::new(sample::CHAIN, keys(0).public_key(), sample::identity()),
            prepared_on_chain: None,
            signing_stopped: None,
        };
        let settings = Settings::new(manifest.members[0].id);
        let signer = Arc::new(keys(0).clone());
        let (replica, step) = Replica::new(recovery, settings, signer, Now::default()).expect("good keys");
        let verify = |effect: &Effect| match effect {
            Effect::Verify(context) => Some(context.clone()),
            _ => None,
        };
        let mut node = Self {
            replica,
            context: step.release.iter().find_map(verify).expect("what messages are verified against"),
            schedule: Arc::default(),
            only_liar,
            now_ms: 0,
            seq: 0,
            records: Vec::new(),
            signed: BTreeMap::new(),
            prepared: 0,
            chain: BTreeMap::from([(0, sample::identity().digest())]),
            last_final: 0,
            executed: (0, sample::identity().digest()),
            proposal: None,
            answers: VecDeque::new(),
        };
        node.take(step);
        node.answer();
        node
    }

    fn op(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0 => self.raw(input),
            1 => self.engine_message(input),
            2 => {
                let batch = self.batch(input);
                self.hear(input, Message::Batches(vec![batch]));
            }
            3 => self.agree(input),
            4 => self.prepares(input),
            5 => {
                self.now_ms += u64::from(input.u16());
                self.give(Happening::Wake);
            }
            6 => {
                self.seq += 1;
                let client = sample::client(self.seq, input.take(3));
                self.give(Happening::Submit(vec![client]));
            }
            7 => {
                let (global, root) = (GlobalIndex(self.executed.0), input.digest());
                self.give(Happening::Executed { global, state_root: root });
            }
            8 => {
                let (key, up) = (keys(input.byte() % 5).public_key(), input.flag());
                self.give(Happening::Peer { key, up, rtt_us: input.u16().into() });
            }
            9 => self.governance(input),
            10 => self.status(input),
            11 => self.blocks(input),
            12 => self.questions(input),
            13 => self.give(Happening::Read { id: input.number() }),
            14 => self.modules(input),
            _ => {
                let early = sample::messages()[input.below(19)].clone();
                self.give(Happening::Early { from: keys(1).public_key(), message: early });
            }
        }
    }

    /// Who speaks and signs: any other authority, or the one liar.
    fn liar(&self, input: &mut Input<'_>) -> u8 {
        self.only_liar.unwrap_or_else(|| 1 + input.byte() % 3)
    }

    fn liars(&self) -> impl Iterator<Item = u8> + use<> {
        let only = self.only_liar;
        (1..sample::AUTHORITIES).filter(move |n| only.is_none_or(|liar| liar == *n))
    }

    /// A message from a peer, verified as the shell does it.
    fn hear(&mut self, input: &mut Input<'_>, message: Message) {
        let from = keys(self.liar(input)).public_key();
        self.hear_from(from, message);
    }

    fn hear_from(&mut self, from: PublicKey, message: Message) {
        match self.context.check(message) {
            Ok(message) => self.give(Happening::Message { from, message }),
            Err(Unverified::Early(message)) => self.give(Happening::Early { from, message: *message }),
            Err(Unverified::Stale | Unverified::Bad(_)) => {}
        }
    }

    /// Bytes can hold signatures that all the others made, as the seeds do.
    fn raw(&mut self, input: &mut Input<'_>) {
        let len = input.u16();
        if let Ok(message) = decode::<Message>(input.take(len.into()))
            && self.only_liar.is_none()
        {
            self.hear(input, message);
        }
    }

    fn identity(&self) -> EpochIdentity {
        self.replica.identity()
    }

    fn engine_message(&mut self, input: &mut Input<'_>) {
        let (view, seq) = (u64::from(input.byte() % 4), u64::from(input.byte() % 8));
        let batches: Vec<Digest> = (0..input.below(3)).map(|_| input.digest()).collect();
        let proposal = Proposal { view, seq, batches: batches.into() };
        let payload = match input.byte() % 6 {
            0 => Some(Payload::Proposal(proposal.clone())),
            1 => Some(Payload::Decided(proposal.clone())),
            2 => Some(Payload::Wanted(proposal.batches.clone())),
            3 => Some(Payload::Votes),
            4 => {
                let (stable, executed, high) = (input.number(), input.number(), input.number());
                Some(Payload::Status(EngineStatus { view, installed: view, stable, executed, high }))
            }
            _ => None,
        };
        let mut payload = payload.map(|payload| encode_payload(0, &payload));
        if input.byte() % 8 == 7 {
            payload = Some(input.take(32).to_vec());
        }
        let about = proposal_digest(&proposal.batches);
        let mut statements = Vec::new();
        for _ in 0..input.below(4) {
            let (author, kind) = (self.liar(input), u16::from(input.byte() % 8));
            statements.push(self.said(author, slot(kind, view, seq), about));
        }
        let message = Message::Engine { identity: self.identity(), payload, statements };
        self.hear(input, message);
    }

    fn said(&self, author: u8, slot: Slot, digest: Digest) -> Signed {
        sample::signed(Statement { author: AuthorityIndex(author.into()), slot, digest })
    }

    /// A batch of a peer; its number among the author's may come twice.
    fn batch(&mut self, input: &mut Input<'_>) -> SignedBatch {
        let author = self.liar(input);
        let transaction = match input.byte() % 3 {
            0 => vec![],
            1 => vec![Transaction::Client(sample::client(input.number(), input.take(2)))],
            _ => vec![Transaction::System(self.system(input))],
        };
        sample::batch(author, input.byte().into(), self.now_ms + u64::from(input.byte()), transaction)
    }

    /// The next block with a batch of a liar, as far as liars can bring it about.
    fn agree(&mut self, input: &mut Input<'_>) {
        let batch = self.batch(input);
        let digest = batch.batch.digest();
        self.hear(input, Message::Batches(vec![batch]));
        let (view, seq) = (u64::from(input.byte() % 4), self.chain.len() as u64);
        let batches: Vec<Digest> = vec![digest];
        let about = proposal_digest(&batches);
        let schedule = self.schedule.lock().expect("one thread").clone();
        let leader = schedule.get(view as usize % schedule.len().max(1)).map_or(0, |leader| leader.0 as u8);
        let identity = self.identity();
        if self.liars().any(|liar| liar == leader) {
            let proposal = Payload::Proposal(Proposal { view, seq, batches: batches.into() });
            let statements = vec![self.said(leader, slot(PRE_PREPARE, view, seq), about)];
            let payload = Some(encode_payload(0, &proposal));
            self.hear_from(keys(leader).public_key(), Message::Engine { identity, payload, statements });
        }
        for kind in [PREPARE, COMMIT] {
            for author in self.liars() {
                let statements = vec![self.said(author, slot(kind, view, seq), about)];
                self.hear_from(
                    keys(author).public_key(),
                    Message::Engine { identity, payload: None, statements },
                );
            }
        }
    }

    /// Votes for a block that this node holds, or for another one.
    fn prepares(&mut self, input: &mut Input<'_>) {
        let index = self.last_final + u64::from(input.byte() % 4);
        let known = self.chain.get(&index).copied();
        let hash = if input.byte() < 0xe0 { known } else { None };
        let hash = hash.unwrap_or_else(|| input.digest());
        for author in self.liars() {
            let votes = Round::ALL.map(|round| sample::vote_for(round, author, index, hash)).into();
            let message = Message::Votes { identity: self.identity(), votes, certificate: None };
            self.hear_from(keys(author).public_key(), message);
        }
    }

    fn system(&mut self, input: &mut Input<'_>) -> SystemTransaction {
        let author = self.liar(input);
        let (id, hash) = self.proposal.unwrap_or((ProposalId(1), Digest([1; 32])));
        match input.byte() % 6 {
            0 | 1 => {
                let proposal =
                    sample::proposal(author, 1000 + u64::from(input.byte()), 1 + u64::from(input.byte()));
                self.proposal = Some((ProposalId(1 + u64::from(input.byte() % 3)), proposal.proposal.hash()));
                SystemTransaction::Propose(Box::new(proposal))
            }
            2 => sample::vote(author, id.0, hash, Decision::Approve),
            3 => sample::vote(author, id.0, hash, Decision::Reject("no".into())),
            4 => sample::ready(author, id.0, hash, u64::from(input.byte() % 3)),
            _ => sample::withdraw(author, id.0, hash),
        }
    }

    fn governance(&mut self, input: &mut Input<'_>) {
        let system = self.system(input);
        self.hear(input, Message::System(system));
    }

    fn status(&mut self, input: &mut Input<'_>) {
        let number = EpochNumber(input.number());
        let (last_final, hash) = (GlobalIndex(input.number()), input.digest());
        let (executed, state_root) = (GlobalIndex(input.number()), input.digest());
        let phase = input.byte().into();
        let status = message::Status { epoch: number, phase, last_final, hash, executed, state_root };
        self.hear(input, Message::Status(status));
    }

    /// Certified blocks from the beginning of the epoch, whole or with something exchanged.
    fn blocks(&mut self, input: &mut Input<'_>) {
        let mut blocks = sample::blocks(1 + u64::from(input.byte() % 3));
        let phase::FinalityProof::Committed(certificate) = &mut blocks.proof else { return };
        if let Some(liar) = self.only_liar {
            certificate.votes.retain(|vote| vote.author.0 == u32::from(liar));
        }
        match input.byte() % 8 {
            0 => certificate.votes.truncate(2),
            1 => certificate.hash = input.digest(),
            2 => drop(blocks.batches.pop()),
            3 => drop(blocks.blocks.remove(0)),
            4 => blocks.blocks[0].global = GlobalIndex(input.number()),
            5 => blocks.blocks[0].block.state_root = Some(input.digest()),
            _ => {}
        }
        self.hear(input, Message::Blocks(Box::new(blocks)));
    }

    fn questions(&mut self, input: &mut Input<'_>) {
        let message = match input.byte() % 2 {
            0 => Message::ReadQuery { nonce: input.number() },
            _ => Message::ReadReply {
                // A round of the first start.
                nonce: (1 << 32) + u64::from(input.byte()),
                epoch: EpochNumber(u64::from(input.byte() % 2)),
                phase: (input.byte() % 2).into(),
                index: CommitIndex(input.number()),
            },
        };
        self.hear(input, message);
    }

    fn modules(&mut self, input: &mut Input<'_>) {
        let hash = ModuleHash(input.digest().0);
        let message = match input.byte() % 2 {
            0 => Message::FetchModule { hash, offset: input.number() },
            _ => {
                let (total_bytes, offset) = (input.number(), input.number());
                Message::ModulePart { hash, total_bytes, offset, bytes: input.take(8).to_vec() }
            }
        };
        self.hear(input, message);
    }

    fn give(&mut self, happening: Happening) {
        self.answers.push_back(happening);
        self.answer();
    }

    /// Feeds what has happened, and then what the shell answers to it.
    fn answer(&mut self) {
        for _ in 0..ANSWERS_MAX {
            let Some(happening) = self.answers.pop_front() else { return };
            self.now_ms += 1;
            let now = Now { mono_ms: self.now_ms, wall_ms: 1000 + self.now_ms };
            let step = self.replica.step(now, vec![happening]);
            self.take(step);
        }
        self.answers.clear();
    }

    fn take(&mut self, step: Step) {
        assert!(step.durable.len() <= EFFECTS_MAX && step.release.len() <= EFFECTS_MAX);
        step.durable.into_iter().for_each(|persist| self.persist(persist));
        step.release.into_iter().for_each(|effect| self.act(effect));
    }

    fn persist(&mut self, persist: Persist) {
        match persist {
            Persist::Guard(GuardUpdate::Signed { scope, slot, digest }) => {
                let first = *self.signed.entry((scope, slot)).or_insert(digest);
                assert_eq!(first, digest, "two digests for {slot:?}");
            }
            Persist::Guard(GuardUpdate::Prepared { index, hash }) => {
                assert!(index.0 > self.prepared, "prepare {} after {}", index.0, self.prepared);
                assert_eq!(self.chain.get(&index.0), Some(&hash), "a prepare of what is not held");
                self.prepared = index.0;
            }
            Persist::Guard(GuardUpdate::Epoch { identity, .. }) => {
                self.prepared = 0;
                self.chain = BTreeMap::from([(0, identity.digest())]);
                self.last_final = 0;
                self.records.clear();
            }
            Persist::Block(record) => {
                let index = record.block.index.0;
                assert_eq!(self.chain.get(&(index.wrapping_sub(1))), Some(&record.parent), "no such parent");
                assert_eq!(record.hash, link(record.parent, record.block.body()));
                self.chain.split_off(&index);
                self.chain.insert(index, record.hash);
            }
            Persist::DropBlocksAbove(global) => {
                let base = self.replica.epoch_start().base.0;
                self.chain.split_off(&(global.0 - base + 1));
            }
            Persist::Record(record) => self.records.push(record),
            Persist::TruncateRecords(id) => self.records.retain(|record| record.record.id > id),
            Persist::Final { proof, .. } => self.is_final(proof.certificate()),
            Persist::SideBlock(_) | Persist::PhaseOpened(_) | Persist::PhaseResumed { .. } => {
                panic!("a phase without fallbacks was aborted");
            }
            Persist::Guard(_) | Persist::Batch(_) | Persist::Epoch { .. } | Persist::History(_) => {}
        }
    }

    fn is_final(&mut self, certificate: &Certificate) {
        let index = certificate.index.0;
        assert!(index > self.last_final, "final block {index} after {}", self.last_final);
        assert_eq!(self.chain.get(&index), Some(&certificate.hash), "final and not held");
        let window = sample::manifest().limits.window_blocks;
        // The committee of every epoch here is the first one.
        let keyring = sample::keyring();
        let checked = check_certificate(
            certificate,
            Round::Commit,
            certificate.identity,
            sample::committee(),
            keyring,
            window,
        );
        assert_eq!(checked, Ok(()));
        self.last_final = index;
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Halt(reason) => panic!("peers made the node stop: {reason}"),
            Effect::Execute { record, batches } => {
                assert_eq!(record.global.0, self.executed.0 + 1, "executed out of order");
                assert_eq!(record.block.batches.len(), batches.len());
                self.executed = (record.global.0, record.hash);
            }
            Effect::StartEngine { identity, .. } => {
                let engine = Box::new(Native(None, self.schedule.clone()));
                let records = self.records.clone();
                self.answers.push_back(Happening::Engine { identity, engine, records });
            }
            Effect::CheckModules { proposal, hash } => {
                let check = |(world, pin): (&World, &ModulePin)| ModuleCheck {
                    world: world.name().into(),
                    hash: Digest(pin.hash.0),
                    name: "module".into(),
                    version: "1".into(),
                    problem: None,
                };
                let checks = proposal.modules.iter().map(check).collect();
                self.answers.push_back(Happening::ModulesChecked { proposal: hash, checks });
            }
            Effect::Evaluate { proposal, .. } => {
                let proposal = ProposalId(proposal.id);
                self.answers.push_back(Happening::Verdict { proposal, verdict: Ok(Verdict::Approve) });
            }
            Effect::Verify(context) => self.context = context,
            Effect::Reverify(messages) => {
                for (from, message) in messages {
                    if let Ok(message) = self.context.check(message) {
                        self.answers.push_back(Happening::Message { from, message });
                    }
                }
            }
            Effect::Send { .. }
            | Effect::Fetch { .. }
            | Effect::ReadAt { .. }
            | Effect::ForgetModules { .. }
            | Effect::Peers(_)
            | Effect::EpochStarted(_)
            | Effect::Event(_)
            | Effect::Refused { .. } => {}
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let block = |n: u8| [3, 0, n % 3, n, 1, n, 0, 0, 0, n % 4, 4, 1, 0];
    for head in 0..2 {
        let blocks: Vec<u8> = (0..4).flat_map(block).collect();
        seeds.push([&[head], &*blocks].concat());
        seeds.push([&[head, 8, 1, 1, 9, 0], &*blocks, &[7, 1, 6, 1, 2, 3, 5, 255, 4]].concat());
        seeds.push([&[head, 9, 1, 0, 5, 100, 0], &*blocks, &[9, 1, 2, 9, 2, 2, 9, 1, 4, 0]].concat());
        for n in 0..4 {
            seeds.push(vec![head, 11, n, 7, 0, 11, n, n, 1, 2, 10, 0, n, 1, n, 1, 0]);
            seeds.push(vec![
                head, 1, n, 1, 1, n, n, 0, 2, 0, 1, 0, 2, 0, 12, n, 1, 0, 2, 2, 14, 1, n, 3, 0, 7,
            ]);
        }
    }
    for message in sample::messages() {
        let bytes = encode(&message);
        let len = u16::try_from(bytes.len()).expect("short").to_le_bytes();
        seeds.push([&[0, 0, len[0], len[1]], &*bytes, &[1]].concat());
    }
    seeds
}
