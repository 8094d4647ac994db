//! PBFT among liars: its decoder, and a replica that is told whatever an input says.

use std::sync::Arc;

use moult_pbft::Pbft;
use moult_pbft::codec::{
    Batches, CHECKPOINT, COMMIT, Claim, Header, NEW_VIEW, NewView, PRE_PREPARE, PREPARE, Payload, Proposal,
    Status, VIEW_CHANGE, ViewChange, checkpoint_digest, decode, encode, new_view_digest, proposal_digest,
    slot,
};
use moult_sdk::engine::{Event, Message};
use moult_sdk::{AuthorityIndex, Digest, FaultModel, Slot, Statement};

use crate::engine::{EPOCH, Host, OPS_MAX, settings};
use crate::input::Input;
use crate::memory::peak_bytes;

const SIZE: u32 = 4;
const CONFIG: &str = "checkpoint_interval=4\nwindow=8\npipeline=2\nview_timeout_ms=200\nretransmit_ms=60\n";
/// What the decoder may hold at once: this, and so many bytes a byte of input.
const BYTES_FREE: usize = 4 << 10;
const BYTES_PER_BYTE: usize = 16;

/// First byte: which replica this is, and whether three others lie or one. Then events.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let head = input.byte();
    let me = u32::from(head & 3);
    let only_liar = (head & 4 != 0).then_some((me + 1) % SIZE);
    let mut run = Run { host: Host::new(settings(SIZE, FaultModel::Byzantine, me, CONFIG)), only_liar };
    for _ in 0..OPS_MAX {
        if input.is_empty() {
            break;
        }
        run.op(&mut input);
        assert!(only_liar.is_none() || run.host.top() == 0, "one liar of four made a commit");
    }
    run.host.restart();
}

struct Run {
    host: Host<Pbft>,
    /// The authority whose statements alone come, beside this replica's own.
    only_liar: Option<u32>,
}

impl Run {
    fn op(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0 => {
                let statement = self.statement(input);
                self.vote(statement);
            }
            1 => self.proposal(input, Payload::Proposal),
            2 => self.proposal(input, Payload::Decided),
            3 => self.decide(input),
            4 => self.view_change(input),
            5 => self.new_view(input),
            6 => {
                let mut next = || input.number();
                let [view, installed, stable, executed, high] = [next(), next(), next(), next(), next()];
                self.hear(
                    input,
                    &Payload::Status(Status { view, installed, stable, executed, high }),
                    vec![],
                );
            }
            7 => {
                let wanted = Payload::Wanted(batches(input));
                self.hear(input, &wanted, Vec::new());
            }
            8 => {
                let statements = (0..input.below(12)).map(|_| self.statement(input)).collect();
                self.hear(input, &Payload::Votes, statements);
            }
            9 => self.raw(input),
            10 => self.host.fire(u64::from(input.u16())),
            11 => {
                let held = batches(input);
                self.host.hold(&held);
            }
            12 => self.finalize(input),
            13 => self.checkpoint(input),
            14 => self.rest(input),
            _ => self.host.restart(),
        }
    }

    fn vote(&mut self, statement: Statement) {
        if self.only_liar.is_none_or(|liar| statement.author.0 == liar) {
            self.host.give(Event::Vote(statement));
        }
    }

    fn hear(&mut self, input: &mut Input<'_>, payload: &Payload, statements: Vec<Statement>) {
        let bytes = encode(EPOCH, payload);
        assert_eq!(decode(EPOCH, &bytes).as_ref(), Some(payload));
        let sender = AuthorityIndex(self.only_liar.unwrap_or_else(|| input.below(5) as u32));
        let known = |s: &Statement| self.only_liar.is_none_or(|liar| s.author.0 == liar);
        let statements = statements.into_iter().filter(known).collect();
        self.host.give(Event::Message(Message { sender, payload: bytes, statements }));
    }

    /// Bytes that nobody encoded: if they decode, they are the one encoding of a message.
    fn raw(&mut self, input: &mut Input<'_>) {
        let (tag, len) = (input.byte(), input.byte());
        let bytes = [&[tag], EPOCH.to_be_bytes().as_slice(), input.take(len.into())].concat();
        let (decoded, held) = peak_bytes(|| decode(EPOCH, &bytes));
        assert!(held <= BYTES_FREE + BYTES_PER_BYTE * bytes.len(), "{held} bytes held for {}", bytes.len());
        if let Some(payload) = decoded {
            assert_eq!(encode(EPOCH, &payload), bytes, "two encodings of one message");
            assert_eq!(decode(EPOCH, &[&*bytes, &[0]].concat()), None);
            assert_eq!(decode(EPOCH, &bytes[..bytes.len() - 1]), None);
        }
        let sender = AuthorityIndex(self.only_liar.unwrap_or(u32::from(tag) % SIZE));
        self.host.give(Event::Message(Message { sender, payload: bytes, statements: Vec::new() }));
    }

    fn proposal(&mut self, input: &mut Input<'_>, kind: fn(Proposal) -> Payload) {
        let (view, seq, batches) = (input.number(), self.seq(input), batches(input));
        let about = proposal_digest(&batches);
        if input.flag() {
            self.host.hold(&batches);
        }
        let mut statements = vec![said(leader(view), slot(PRE_PREPARE, view, seq), about)];
        for author in 0..SIZE {
            if input.flag() {
                statements.push(said(author, slot(COMMIT, view, seq), about));
            }
        }
        self.hear(input, &kind(Proposal { view, seq, batches }), statements);
    }

    /// A whole agreement on the next index, as far as liars have a part in it.
    fn decide(&mut self, input: &mut Input<'_>) {
        let (view, seq, batches) = (u64::from(input.byte() % 8), self.host.top() + 1, batches(input));
        self.host.hold(&batches);
        let about = proposal_digest(&batches);
        let statements = vec![said(leader(view), slot(PRE_PREPARE, view, seq), about)];
        self.hear(input, &Payload::Proposal(Proposal { view, seq, batches }), statements);
        for kind in [PREPARE, COMMIT] {
            for author in 0..SIZE {
                self.vote(said(author, slot(kind, view, seq), about));
            }
        }
    }

    fn view_change(&mut self, input: &mut Input<'_>) {
        let (author, view) = (input.below(4) as u32, input.number());
        let (header, bodies, mut statements) = self.header(input, view);
        statements.push(said(author, slot(VIEW_CHANGE, view, 0), header.digest()));
        self.hear(input, &Payload::ViewChange(ViewChange { header, bodies }), statements);
    }

    fn new_view(&mut self, input: &mut Input<'_>) {
        let view = input.number();
        let (mut changes, mut statements) = (Vec::new(), Vec::new());
        let mut all_bodies: Vec<Batches> = Vec::new();
        let mut first = 1;
        for author in 0..SIZE {
            if input.flag() {
                let (header, bodies, said_with) = self.header(input, view);
                statements.push(said(author, slot(VIEW_CHANGE, view, 0), header.digest()));
                statements.extend(said_with);
                first = first.max(header.stable.saturating_add(1));
                if bodies.len() > all_bodies.len() {
                    all_bodies = bodies;
                }
                changes.push((AuthorityIndex(author), header));
            }
        }
        for (seq, body) in (first..).zip(&all_bodies) {
            statements.push(said(leader(view), slot(PRE_PREPARE, view, seq), proposal_digest(body)));
        }
        let payload = Payload::NewView(NewView { view, changes, bodies: all_bodies });
        let digest = new_view_digest(&encode(EPOCH, &payload));
        statements.push(said(leader(view), slot(NEW_VIEW, view, 0), digest));
        self.hear(input, &payload, statements);
    }

    /// Up to three claims above a checkpoint, with what proves them or not.
    fn header(&mut self, input: &mut Input<'_>, view: u64) -> (Header, Vec<Batches>, Vec<Statement>) {
        let stable = u64::from(input.byte() % 3) * 4;
        let stable_digest = if stable == 0 { Digest::ZERO } else { input.digest() };
        let mut statements = Vec::new();
        let (mut claims, mut bodies, mut seq) = (Vec::new(), Vec::new(), stable);
        for _ in 0..input.below(4) {
            seq += 1 + u64::from(input.byte() % 2);
            let (prepared, body) = (input.number().min(view), batches(input));
            let about = proposal_digest(&body);
            statements.push(said(leader(prepared), slot(PRE_PREPARE, prepared, seq), about));
            for author in 0..SIZE {
                if input.flag() {
                    statements.push(said(author, slot(PREPARE, prepared, seq), about));
                }
            }
            claims.push(Claim { seq, view: prepared, digest: about });
            bodies.push(body);
        }
        for author in 0..SIZE {
            if stable > 0 && input.flag() {
                statements.push(said(author, slot(CHECKPOINT, stable, 0), stable_digest));
            }
        }
        (Header { view, stable, stable_digest, claims }, bodies, statements)
    }

    fn finalize(&mut self, input: &mut Input<'_>) {
        if self.only_liar.is_none() {
            let ahead = u64::from(input.byte() % 8);
            self.host.finalize(self.host.top() + ahead);
        }
    }

    fn checkpoint(&mut self, input: &mut Input<'_>) {
        let seq = u64::from(input.byte() % 6) * 4;
        let about = if input.flag() { checkpoint_digest(seq, std::iter::empty()) } else { input.digest() };
        for author in 0..SIZE {
            self.vote(said(author, slot(CHECKPOINT, seq, 0), about));
        }
    }

    fn rest(&mut self, input: &mut Input<'_>) {
        let authority = AuthorityIndex(input.below(5) as u32);
        let event = match input.byte() % 4 {
            0 => Event::Shun(authority),
            1 => Event::Refused(self.slot(input)),
            2 => Event::Peer { peer: authority, up: input.flag(), rtt_us: input.u16().into() },
            _ => Event::Draining,
        };
        self.host.give(event);
    }

    /// Near the last commit, or anything.
    fn seq(&mut self, input: &mut Input<'_>) -> u64 {
        if input.flag() { input.number() } else { self.host.top() + u64::from(input.byte() % 10) }
    }

    fn slot(&mut self, input: &mut Input<'_>) -> Slot {
        Slot { kind: u16::from(input.byte() % 8), a: input.number(), b: self.seq(input) }
    }

    fn statement(&mut self, input: &mut Input<'_>) -> Statement {
        let (author, slot) = (input.below(4) as u32, self.slot(input));
        let digest = if input.flag() { proposal_digest(&batches(input)) } else { input.digest() };
        said(author, slot, digest)
    }
}

fn leader(view: u64) -> u32 {
    (view % u64::from(SIZE)) as u32
}

fn said(author: u32, slot: Slot, digest: Digest) -> Statement {
    Statement { author: AuthorityIndex(author), slot, digest }
}

fn batches(input: &mut Input<'_>) -> Batches {
    (0..input.below(4)).map(|_| input.digest()).collect::<Vec<_>>().into()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for head in 0..8 {
        // Blocks one after the other, final and not, with a checkpoint and a restart.
        let block = |n: u8| [3, 0, 2, n, n + 1, 1];
        let blocks: Vec<u8> = (0..6).flat_map(block).collect();
        seeds.push([&[head], &*blocks].concat());
        seeds.push([&[head], &*blocks, &[12, 0], &*blocks, &[15], &*blocks].concat());
        // A view that times out, view changes of all, a new view.
        let changes: Vec<u8> = (0..4).flat_map(|author| [4, author, 1, 0, 0, author]).collect();
        seeds.push([&[head, 10, 255, 3], &*changes, &[5, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1]].concat());
    }
    // Each payload as it goes over the wire.
    let body: Batches = Arc::from([Digest([1; 32])]);
    let claim = Claim { seq: 1, view: 0, digest: proposal_digest(&body) };
    let header = Header { view: 1, stable: 0, stable_digest: Digest::ZERO, claims: vec![claim] };
    let proposal = Proposal { view: 0, seq: 1, batches: body.clone() };
    let payloads = [
        Payload::Proposal(proposal.clone()),
        Payload::ViewChange(ViewChange { header: header.clone(), bodies: vec![body.clone()] }),
        Payload::NewView(NewView {
            view: 1,
            changes: vec![(AuthorityIndex(1), header)],
            bodies: vec![body.clone()],
        }),
        Payload::Status(Status { view: 0, installed: 0, stable: 0, executed: 1, high: 2 }),
        Payload::Votes,
        Payload::Wanted(body),
        Payload::Decided(proposal),
    ];
    for payload in payloads {
        let bytes = encode(EPOCH, &payload);
        let len = u8::try_from(bytes.len() - 9).expect("short");
        seeds.push([&[0, 9, bytes[0], len], &bytes[9..]].concat());
    }
    seeds
}
