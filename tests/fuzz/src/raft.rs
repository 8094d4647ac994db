//! Raft: its decoder, and a node that is told whatever an input says. Peers that lie can
//! break what Raft promises about logs; the contract with the host holds all the same.

use moult_raft::codec::{Append, Ballot, NUMBER_MAX, Payload, Reply, decode, encode};
use moult_raft::{Batches, Entry, Position, Raft, Term};
use moult_sdk::engine::{Event, Message};
use moult_sdk::{AuthorityIndex, CommitIndex, FaultModel, Slot};

use crate::engine::{EPOCH, Host, OPS_MAX, settings};
use crate::input::Input;
use crate::memory::peak_bytes;

const CONFIG: &str = "window=8\nretained=2\n";
/// What the decoder may hold at once: this, and so many bytes a byte of input.
const BYTES_FREE: usize = 4 << 10;
const BYTES_PER_BYTE: usize = 16;

/// First byte: which node this is, and of how many. Then events.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let head = input.byte();
    let size = if head & 4 == 0 { 3 } else { 4 };
    let mut host: Host<Raft> =
        Host::new(settings(size, FaultModel::Crash, u32::from(head & 3) % size, CONFIG));
    for _ in 0..OPS_MAX {
        if input.is_empty() {
            break;
        }
        op(&mut host, &mut input);
    }
    host.restart();
}

fn op(host: &mut Host<Raft>, input: &mut Input<'_>) {
    let payload = match input.byte() % 16 {
        0 | 1 => append(host, input),
        2 => Payload::Accept { term: term(input), index: index(host, input) },
        3 => Payload::Reject { term: term(input), prev: index(host, input), hint: position(host, input) },
        4 => Payload::Poll(ballot(host, input)),
        5 => Payload::PollReply(reply(input)),
        6 => Payload::Vote { ballot: ballot(host, input), transfer: input.flag() },
        7 => Payload::VoteReply(reply(input)),
        8 => Payload::TimeoutNow(term(input)),
        9 => Payload::Wanted(batches(input)),
        10 => return raw(host, input),
        11 => return host.fire(input.u16().into()),
        12 => return host.hold(&batches(input)),
        13 => return host.finalize(host.top() + u64::from(input.byte() % 8)),
        14 => return rest(host, input),
        _ => return host.restart(),
    };
    let bytes = encode(EPOCH, &payload);
    assert_eq!(decode(EPOCH, &bytes), Some(payload));
    message(host, input.below(5) as u32, bytes);
}

fn message(host: &mut Host<Raft>, sender: u32, payload: Vec<u8>) {
    host.pass(1);
    host.give(Event::Message(Message { sender: AuthorityIndex(sender), payload, statements: Vec::new() }));
}

/// Bytes that nobody encoded: if they decode, they are the one encoding of a message.
fn raw(host: &mut Host<Raft>, input: &mut Input<'_>) {
    let (tag, len) = (input.byte(), input.byte());
    let bytes = [&[tag], EPOCH.to_be_bytes().as_slice(), input.take(len.into())].concat();
    let (decoded, held) = peak_bytes(|| decode(EPOCH, &bytes));
    assert!(held <= BYTES_FREE + BYTES_PER_BYTE * bytes.len(), "{held} bytes held for {}", bytes.len());
    if let Some(payload) = decoded {
        assert_eq!(encode(EPOCH, &payload), bytes, "two encodings of one message");
        assert_eq!(decode(EPOCH, &[&*bytes, &[0]].concat()), None);
        assert_eq!(decode(EPOCH, &bytes[..bytes.len() - 1]), None);
    }
    message(host, u32::from(tag) % 5, bytes);
}

fn rest(host: &mut Host<Raft>, input: &mut Input<'_>) {
    let authority = AuthorityIndex(input.below(5) as u32);
    let event = match input.byte() % 5 {
        0 => Event::Shun(authority),
        1 => Event::Refused(Slot { kind: input.u16(), a: input.number(), b: input.number() }),
        2 => Event::Peer { peer: authority, up: input.flag(), rtt_us: u32::from(input.u16()) << 8 },
        3 => Event::Timer(input.number()),
        _ => Event::Draining,
    };
    host.give(event);
}

/// What makes sense as a message: terms of entries rise up to the leader's.
fn append(host: &mut Host<Raft>, input: &mut Input<'_>) -> Payload {
    let prev = position(host, input);
    let mut last = prev.term;
    let mut entries = Vec::new();
    for _ in 0..input.below(4) {
        last = Term((last.0 + u64::from(input.byte() % 3)).clamp(1, NUMBER_MAX));
        let batches = batches(input);
        if input.flag() {
            host.hold(&batches);
        }
        entries.push(Entry { term: last, batches });
    }
    let above = u64::from(input.byte() % 3);
    Payload::Append(Append {
        term: Term((last.0 + above).clamp(1, NUMBER_MAX)),
        prev,
        commit: index(host, input),
        reply: input.flag(),
        is_base: input.flag(),
        entries,
    })
}

fn ballot(host: &Host<Raft>, input: &mut Input<'_>) -> Ballot {
    let last = position(host, input);
    let last = Position::new(Term(last.term.0.min(NUMBER_MAX - 4)), last.index);
    Ballot { term: Term(last.term.0 + 1 + u64::from(input.byte() % 3)), last }
}

fn reply(input: &mut Input<'_>) -> Reply {
    Reply { term: term(input), granted: input.flag() }
}

fn position(host: &Host<Raft>, input: &mut Input<'_>) -> Position {
    Position::new(term(input), index(host, input))
}

fn term(input: &mut Input<'_>) -> Term {
    let byte = input.byte();
    Term(if byte < 250 { u64::from(byte % 8) } else { input.number().min(NUMBER_MAX) })
}

/// Around the last commit, or anything.
fn index(host: &Host<Raft>, input: &mut Input<'_>) -> CommitIndex {
    let byte = input.byte();
    CommitIndex(
        match byte {
            0..250 => (host.top() + u64::from(byte % 8)).saturating_sub(3),
            _ => input.number(),
        }
        .min(NUMBER_MAX),
    )
}

fn batches(input: &mut Input<'_>) -> Batches {
    (0..input.below(4)).map(|_| input.digest()).collect::<Vec<_>>().into()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for head in 0..8 {
        // An election that is won: time out, pre-votes, votes; then batches and acknowledgements.
        let won: Vec<u8> =
            (0..4).flat_map(|from| [5, 1, 1, from]).chain((0..4).flat_map(|from| [7, 1, 1, from])).collect();
        let work: Vec<u8> = (0..4).flat_map(|n| [12, 2, n, n + 4, 2, 1, 4 + n, 1, 2, 1, 4 + n, 2]).collect();
        seeds.push([&[head, 11, 255, 3], &*won, &*work, &[13, 1, 11, 60, 0, 14, 0, 4]].concat());
        // A follower of leader 2 in term 1, whose log grows and is committed.
        let follow: Vec<u8> =
            (0..5).flat_map(|n| [0, u8::from(n > 0), 3, 1, 1, 1, n, 1, 0, 4, 1, 0, 2]).collect();
        seeds.push([&[head], &*follow, &[13, 0], &*follow, &[15], &*follow].concat());
        seeds.push(vec![head, 4, 1, 3, 1, 2, 6, 1, 3, 1, 1, 2, 8, 1, 2, 9, 2, 5, 6, 1, 3, 1, 3, 1, 3, 1]);
    }
    let batches: Batches = vec![moult_sdk::Digest([1; 32])].into();
    let (at, of) = (Position::new(Term(1), CommitIndex(1)), Term(2));
    let entries = vec![Entry { term: of, batches: batches.clone() }];
    let payloads = [
        Payload::Append(Append {
            term: of,
            prev: at,
            commit: CommitIndex(1),
            reply: true,
            is_base: false,
            entries,
        }),
        Payload::Accept { term: of, index: CommitIndex(2) },
        Payload::Reject { term: of, prev: CommitIndex(2), hint: at },
        Payload::Poll(Ballot { term: of, last: at }),
        Payload::PollReply(Reply { term: of, granted: true }),
        Payload::Vote { ballot: Ballot { term: of, last: at }, transfer: false },
        Payload::VoteReply(Reply { term: of, granted: false }),
        Payload::TimeoutNow(of),
        Payload::Wanted(batches),
    ];
    for payload in payloads {
        let bytes = encode(EPOCH, &payload);
        let len = u8::try_from(bytes.len() - 9).expect("short");
        seeds.push([&[0, 10, bytes[0], len], &bytes[9..]].concat());
    }
    seeds
}
