//! Bytes from anybody: strict decoding, no panic; and records as a crash may leave them.

use moult_raft::codec::{Append, Ballot, NUMBER_MAX, Payload, Reply, decode, encode};
use moult_raft::{Batches, Entry, Position, Raft, Term};
use moult_sdk::engine::{Action, Engine, Event, InitError, Message, Recovered};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, FaultModel, Slot, Statement};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::bench::{Bench, append, at, batch, entry, sent, settings};
use crate::net::{EPOCH, Net};
use crate::rng::Rng;
use crate::runs::storm;

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..20_u64, 0..=NUMBER_MAX, Just(NUMBER_MAX)]
}

fn position() -> impl Strategy<Value = Position> {
    (number(), number()).prop_map(|(term, index)| Position::new(Term(term), CommitIndex(index)))
}

fn batches() -> impl Strategy<Value = Batches> {
    vec(any::<u8>().prop_map(|n| Digest([n; 32])), 0..5).prop_map(Batches::from)
}

fn appends() -> impl Strategy<Value = Append> {
    let entries = vec((0..3_u64, batches()), 0..5);
    (0..20_u64, number(), entries, number(), any::<[bool; 2]>()).prop_map(
        |(low, index, steps, commit, [reply, is_base])| {
            let mut term = low.max(1);
            let mut entries = Vec::new();
            for (step, batches) in steps {
                term += step;
                entries.push(Entry { term: Term(term), batches });
            }
            let prev = Position::new(Term(low), CommitIndex(index));
            Append { term: Term(term), prev, commit: CommitIndex(commit), reply, is_base, entries }
        },
    )
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (0..20_u64, 1..20_u64, number()).prop_map(|(term, above, index)| Ballot {
        term: Term(term + above),
        last: Position::new(Term(term), CommitIndex(index)),
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let reply = || (number(), any::<bool>()).prop_map(|(term, granted)| Reply { term: Term(term), granted });
    prop_oneof![
        3 => appends().prop_map(Payload::Append),
        1 => (number(), number())
            .prop_map(|(term, index)| Payload::Accept { term: Term(term), index: CommitIndex(index) }),
        1 => (number(), number(), position())
            .prop_map(|(term, prev, hint)| Payload::Reject { term: Term(term), prev: CommitIndex(prev), hint }),
        1 => ballot().prop_map(Payload::Poll),
        1 => reply().prop_map(Payload::PollReply),
        1 => (ballot(), any::<bool>()).prop_map(|(ballot, transfer)| Payload::Vote { ballot, transfer }),
        1 => reply().prop_map(Payload::VoteReply),
        1 => number().prop_map(|term| Payload::TimeoutNow(Term(term))),
        1 => batches().prop_map(Payload::Wanted),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(payload in payload()) {
        let bytes = encode(EPOCH, &payload);
        prop_assert_eq!(decode(EPOCH, &bytes), Some(payload));
        prop_assert_eq!(decode(EPOCH + 1, &bytes), None);
    }

    #[test]
    fn a_longer_or_shorter_message_is_refused(
        payload in payload(), cut in any::<prop::sample::Index>(), more in any::<u8>()
    ) {
        let mut bytes = encode(EPOCH, &payload);
        prop_assert_eq!(decode(EPOCH, &bytes[..cut.index(bytes.len())]), None);
        bytes.push(more);
        prop_assert_eq!(decode(EPOCH, &bytes), None);
    }

    #[test]
    fn whatever_decodes_has_one_encoding(
        payload in payload(), at in any::<prop::sample::Index>(), flip in 1..=255_u8
    ) {
        let mut bytes = encode(EPOCH, &payload);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Some(other) = decode(EPOCH, &bytes) {
            prop_assert_eq!(encode(EPOCH, &other), bytes);
        }
    }

    #[test]
    fn noise_does_not_decode_into_much(bytes in vec(any::<u8>(), 0..200)) {
        if let Some(payload) = decode(EPOCH, &bytes) {
            prop_assert_eq!(encode(EPOCH, &payload), bytes);
        }
    }

    #[test]
    fn what_does_not_decode_changes_nothing(payload in payload(), seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let mut node = Bench::new(1, 3, "");
        node.write_log(&[1, 1, 2]);
        let mut bytes = encode(EPOCH, &payload);
        let at = rng.range(0, bytes.len() as u64 - 1) as usize;
        bytes[at] ^= 0xff;
        if decode(EPOCH, &bytes).is_none() {
            let message = Message { sender: AuthorityIndex(2), payload: bytes, statements: Vec::new() };
            let outcome = node.step(vec![Event::Message(message)]);
            prop_assert_eq!((outcome.durable.len(), outcome.release.len()), (0, 0));
        }
    }

    #[test]
    fn no_event_makes_a_node_panic(seed in any::<u64>(), payloads in vec(payload(), 1..12)) {
        let mut rng = Rng(seed);
        let mut bench = Bench::new(rng.range(0, 2) as u32, rng.pick(&[3, 4]), "window=8\nretained=2");
        for payload in payloads {
            for _ in 0..10 {
                bench.now += rng.pick(&[0, 0, 10, 300]);
                let events: Vec<Event> = (0..rng.range(1, 3)).map(|_| event(&mut rng, &payload)).collect();
                bench.step(events);
            }
        }
        let recovered = Recovered { records: bench.disk.clone(), ..Recovered::default() };
        let started = Raft::init(settings(1, 3, ""), Some(recovered));
        prop_assert!(started.is_ok(), "{:?}", started.err());
    }
}

/// Found by fuzzing: a node stood above the last term, and its record of it could not be read.
#[test]
fn nobody_stands_above_the_last_term() {
    let mut node = Bench::new(1, 3, "");
    let last = Term(NUMBER_MAX);
    node.hear(2, &append(NUMBER_MAX, Position::default(), Vec::new(), 0));
    let mut outcomes = vec![node.hear(2, &Payload::TimeoutNow(last)), node.time_out(), node.time_out()];
    outcomes.push(node.hear(0, &Payload::PollReply(Reply { term: last, granted: true })));
    assert!(outcomes.iter().all(|outcome| sent(outcome).is_empty()), "{outcomes:?}");
    let recovered = Recovered { records: node.disk.clone(), ..Recovered::default() };
    assert!(Raft::init(settings(1, 3, ""), Some(recovered)).is_ok());
}

/// Found by fuzzing: a leader that contradicts itself had a log written that was refused at start.
#[test]
fn terms_do_not_fall_along_the_log_whatever_a_leader_says() {
    let mut node = Bench::new(1, 3, "");
    node.write_log(&[2]);
    let lower = entry(2, 1);
    node.step(vec![Event::Batches(lower.batches.iter().map(|b| batch(*b)).collect())]);
    let outcome = node.hear(2, &append(2, at(1, 1), vec![lower], 0));
    assert!(outcome.durable.is_empty(), "{outcome:?}");
    let recovered = Recovered { records: node.disk.clone(), ..Recovered::default() };
    assert!(Raft::init(settings(1, 3, ""), Some(recovered)).is_ok());
}

/// Any event, with numbers at the edges.
fn event(rng: &mut Rng, payload: &Payload) -> Event {
    let author = AuthorityIndex(rng.pick(&[0, 1, 2, 3, 4, u32::MAX]));
    let number = |rng: &mut Rng| rng.pick(&[0, 1, 2, 3, 1 << 40, u64::MAX - 1, u64::MAX]);
    let slot = Slot { kind: rng.range(0, 8) as u16, a: number(rng), b: number(rng) };
    match rng.range(0, 11) {
        0..=4 => {
            let mut payload = encode(EPOCH, payload);
            if rng.percent(20) {
                let at = rng.range(0, payload.len() as u64 - 1) as usize;
                payload[at] ^= rng.range(1, 255) as u8;
            }
            Event::Message(Message { sender: author, payload, statements: Vec::new() })
        }
        5..=6 => Event::Timer(rng.pick(&[1, 1, 2, 3, 4, u64::MAX])),
        7 => Event::Final { index: CommitIndex(rng.range(0, 30)), batches: Vec::new() },
        8 => Event::Refused(slot),
        9 => Event::Vote(Statement { author, slot, digest: Digest([1; 32]) }),
        10 => Event::Batches((0..5).map(|n| batch(Digest([n; 32]))).collect()),
        _ => match rng.range(0, 2) {
            0 => Event::Draining,
            1 => Event::Shun(author),
            _ => Event::Peer { peer: author, up: rng.percent(50), rtt_us: rng.next() as u32 },
        },
    }
}

#[test]
fn any_prefix_of_the_records_is_an_earlier_state_and_damaged_ones_are_refused() {
    for seed in 0..60 {
        let mut net = Net::new(storm(seed), Vec::new()).unwrap();
        while net.now < 3_000 && net.turn().unwrap() {}
        let records = net.nodes[0].disk.clone();
        let mut former = (0, 0);
        for len in 0..=records.len() {
            let recovered = Recovered { records: records[..len].to_vec(), ..Recovered::default() };
            let (_, outcome) = Raft::init(net.settings(0), Some(recovered))
                .unwrap_or_else(|e| panic!("seed {seed}, {len} records: {e:?}"));
            // Terms and votes only ever go forward, whatever is cut off.
            let term = crate::bench::gauge(&outcome, 0).unwrap();
            assert!(term >= former.0, "seed {seed}: term {term} after {former:?}");
            former = (term, len);
        }
        let mut rng = Rng(seed);
        for _ in 0..50.min(records.len() * 10) {
            let mut damaged = Recovered { records: records.clone(), ..Recovered::default() };
            let victim = rng.range(0, records.len() as u64 - 1) as usize;
            let body = &mut damaged.records[victim].body;
            let at = rng.range(0, body.len() as u64 - 1) as usize;
            body[at] ^= rng.range(1, 255) as u8;
            // Some damage cannot be seen (a digest of a batch); none of it may panic.
            if let Err(error) = Raft::init(net.settings(0), Some(damaged)) {
                assert!(matches!(error, InitError::CorruptRecords(_)));
            }
        }
        if let Some(last) = records.last() {
            let mut twice = Recovered { records: records.clone(), ..Recovered::default() };
            twice.records.push(last.clone());
            assert!(matches!(Raft::init(net.settings(0), Some(twice)), Err(InitError::CorruptRecords(_))));
        }
    }
}

#[test]
fn records_are_dropped_and_what_is_left_is_enough() {
    let mut node = Bench::new(0, 1, "retained=10\npace_ms=0");
    let mut kept = Vec::new();
    for n in 0..1_000_u64 {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_be_bytes());
        let outcome = node.step(vec![
            Event::Batches(vec![batch(Digest(digest))]),
            Event::Final { index: CommitIndex(n), batches: Vec::new() },
        ]);
        kept.extend(outcome.durable.iter().cloned());
        for action in &outcome.release {
            if let Action::Truncate(id) = action {
                kept.retain(|record| record.id > *id);
            }
        }
        assert!(kept.len() < 80, "{}", kept.len());
    }
    let recovered = Recovered { records: kept, last_final: CommitIndex(990), ..Recovered::default() };
    let (_, outcome) = Raft::init(settings(0, 1, ""), Some(recovered)).unwrap();
    // 1,001 and the first of the new term.
    assert_eq!(crate::bench::committed(&outcome), (991..=1_002).collect::<Vec<_>>());
}

#[test]
fn unsuitable_settings_are_refused_with_a_reason() {
    let reason = |settings| match Raft::init(settings, None) {
        Err(InitError::Unsuitable(reason) | InitError::BadConfig(reason)) => reason,
        other => panic!("{:?}", other.map(|(_, outcome)| outcome)),
    };
    let mut byzantine = settings(0, 4, "");
    byzantine.committee.fault_model = FaultModel::Byzantine;
    assert!(reason(byzantine).contains("byzantine"));
    let mut half = settings(0, 4, "");
    half.committee.quorum = 2;
    assert!(reason(half).contains("a quorum of 2 out of a stake of 4"));
    let mut outside = settings(0, 4, "");
    outside.schedule.push(AuthorityIndex(4));
    assert!(reason(outside).contains("schedule"));
    let mut small = settings(0, 4, "");
    small.max_message_bytes = 90;
    assert!(reason(small).contains("90 bytes"));
    let mut none = settings(0, 4, "");
    none.max_batches_in_commit = 0;
    assert!(reason(none).contains("no batch"));
    assert!(reason(settings(0, 4, "nonsense")).contains("key=value"));
    assert_eq!(Raft::describe().fault_models, [FaultModel::Crash]);
    let (_, outcome) = Raft::init(settings(0, 4, ""), None).unwrap();
    assert_eq!(crate::bench::gauge(&outcome, 7), Some(1));
}
