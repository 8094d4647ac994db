//! Bytes and statements from anybody: strict decoding, no panic, bounded state; and
//! records as a crash may leave them.

use std::sync::Arc;

use moult_conformance::{Quality, Rng, Setup, World};
use moult_pbft::Pbft;
use moult_pbft::codec::{Claim, Header, NewView, Payload, Proposal, Status, ViewChange, decode, encode};
use moult_sdk::engine::{Engine, Event, InitError, Message, Recovered};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, FaultModel, Slot, Statement};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::bench::{Bench, EPOCH, change, settings};
use crate::runs::ENGINE;

fn digests(max: usize) -> impl Strategy<Value = Arc<[Digest]>> {
    vec(any::<u8>().prop_map(|n| Digest([n; 32])), 0..max).prop_map(Arc::from)
}

fn header() -> impl Strategy<Value = Header> {
    let claims = proptest::collection::btree_map(1..1_000_u64, (any::<u64>(), any::<u8>()), 0..5);
    (any::<u64>(), 0..2_u64, claims).prop_map(|(view, stable, claims)| Header {
        view,
        stable: stable * 100,
        stable_digest: Digest([stable as u8; 32]),
        claims: (claims.into_iter())
            .map(|(seq, (view, d))| Claim { seq: seq + stable * 100, view, digest: Digest([d; 32]) })
            .collect(),
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let proposal = (any::<u64>(), any::<u64>(), digests(9))
        .prop_map(|(view, seq, batches)| Payload::Proposal(Proposal { view, seq, batches }));
    let change = (header(), digests(4)).prop_map(|(header, body)| {
        let bodies = vec![body; header.claims.len()];
        Payload::ViewChange(ViewChange { header, bodies })
    });
    let changes = proptest::collection::btree_map(any::<u32>(), header(), 0..4);
    let new_view = (any::<u64>(), changes, vec(digests(4), 0..4)).prop_map(|(view, changes, bodies)| {
        let changes = changes.into_iter().map(|(author, header)| (AuthorityIndex(author), header)).collect();
        Payload::NewView(NewView { view, changes, bodies })
    });
    let status = any::<[u64; 5]>().prop_map(|[view, installed, stable, executed, high]| {
        Payload::Status(Status { view, installed, stable, executed, high })
    });
    let decided = (any::<u64>(), any::<u64>(), digests(9))
        .prop_map(|(view, seq, batches)| Payload::Decided(Proposal { view, seq, batches }));
    let wanted = digests(9).prop_map(Payload::Wanted);
    prop_oneof![proposal, change, new_view, status, Just(Payload::Votes), wanted, decided]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(payload in payload()) {
        let bytes = encode(EPOCH, &payload);
        prop_assert_eq!(decode(EPOCH, &bytes), Some(payload));
        prop_assert_eq!(decode(EPOCH + 1, &bytes), None);
    }

    #[test]
    fn a_longer_or_shorter_message_is_refused(payload in payload(), cut in any::<prop::sample::Index>(), more in any::<u8>()) {
        let mut bytes = encode(EPOCH, &payload);
        prop_assert_eq!(decode(EPOCH, &bytes[..cut.index(bytes.len())]), None);
        bytes.push(more);
        prop_assert_eq!(decode(EPOCH, &bytes), None);
    }

    #[test]
    fn whatever_decodes_has_one_encoding(payload in payload(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
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
    fn no_event_makes_a_replica_panic(seed in any::<u64>(), payloads in vec(payload(), 0..6)) {
        let mut rng = Rng::new(seed);
        let mut bench = Bench::new(rng.range(0, 3) as u32);
        for payload in payloads {
            for _ in 0..20 {
                let event = event(&mut rng, &payload);
                bench.step(vec![event]);
            }
        }
    }
}

/// Any event, with numbers at the edges.
fn event(rng: &mut Rng, payload: &Payload) -> Event {
    let author = AuthorityIndex(rng.pick(&[0, 1, 2, 3, 4, u32::MAX]));
    let number =
        |rng: &mut Rng| rng.pick(&[0, 1, 2, 3, 99, 100, 200, 256, 257, 1 << 40, u64::MAX - 1, u64::MAX]);
    let slot = Slot { kind: rng.range(0, 8) as u16, a: number(rng), b: number(rng) };
    let statement = |rng: &mut Rng| Statement {
        author: AuthorityIndex(rng.range(0, 4) as u32),
        slot: Slot { kind: rng.range(0, 8) as u16, a: number(rng), b: number(rng) },
        digest: Digest([rng.range(0, 1) as u8; 32]),
    };
    match rng.range(0, 9) {
        0..=4 => Event::Vote(statement(rng)),
        5 => {
            let statements = (0..rng.range(0, 5)).map(|_| statement(rng)).collect();
            let mut payload = encode(EPOCH, payload);
            if rng.percent(30) {
                let at = rng.range(0, payload.len() as u64 - 1) as usize;
                payload[at] ^= 0xff;
            }
            Event::Message(Message { sender: author, payload, statements })
        }
        6 => Event::Timer(number(rng)),
        7 => Event::Final { index: CommitIndex(rng.range(0, 2_000)), batches: Vec::new() },
        8 => Event::Refused(slot),
        _ => rng.pick(&[Some(()), None]).map_or(Event::Draining, |()| Event::Shun(author)),
    }
}

/// A committee after three seconds of lost messages and crashes.
fn stormy(seed: u64) -> World<'static> {
    let config = "checkpoint_interval=5\nwindow=20\npipeline=2\nview_timeout_ms=200\nretransmit_ms=60\n";
    let setup = Setup {
        seed,
        config: config.as_bytes().to_vec(),
        quality: Quality { delay_ms: (1, 30), loss: 10, ..Quality::GOOD },
        ..Setup::new(&[1; 4], FaultModel::Byzantine)
    };
    let mut world = World::new(ENGINE, setup).expect("it starts");
    world.crash_often(30);
    for _ in 0..60 {
        world.submit((seed % 4) as u32, false);
        world.run(50).expect("nothing breaks");
    }
    world
}

#[test]
fn any_prefix_of_the_records_starts_and_damaged_ones_are_refused() {
    for seed in 0..40 {
        let world = stormy(seed);
        let (settings, records) = (world.settings(0), world.recovered_by(0).records);
        for len in 0..=records.len() {
            let recovered = Recovered { records: records[..len].to_vec(), ..Recovered::default() };
            Pbft::init(settings.clone(), Some(recovered))
                .unwrap_or_else(|e| panic!("seed {seed}, {len} records: {e:?}"));
        }
        let mut rng = Rng::new(seed);
        for _ in 0..50.min(records.len() * 10) {
            let mut damaged = Recovered { records: records.clone(), ..Recovered::default() };
            let victim = rng.range(0, records.len() as u64 - 1) as usize;
            let body = &mut damaged.records[victim].body;
            let at = rng.range(0, body.len() as u64 - 1) as usize;
            body[at] ^= rng.range(1, 255) as u8;
            // Some damage cannot be seen (a digest of a batch); none of it may panic.
            if let Err(error) = Pbft::init(settings.clone(), Some(damaged)) {
                assert!(matches!(error, InitError::CorruptRecords(_)));
            }
        }
        if let Some(last) = records.last() {
            let mut twice = Recovered { records: records.clone(), ..Recovered::default() };
            twice.records.push(last.clone());
            assert!(matches!(Pbft::init(settings.clone(), Some(twice)), Err(InitError::CorruptRecords(_))));
        }
    }
}

/// Found by fuzzing: liars beyond what is tolerated took a replica to a view that its own records
/// may not name.
#[test]
fn a_view_that_no_chain_gets_to_is_not_entered() {
    let mut bench = Bench::new(0);
    for author in 1..4 {
        let (change, statements) = change(author, (1 << 62) + 5, Vec::new());
        bench.hear(author, &Payload::ViewChange(change), statements);
    }
    bench.time_out();
    let recovered = Recovered { records: bench.disk.records.clone(), ..Recovered::default() };
    assert!(Pbft::init(settings(0, ""), Some(recovered)).is_ok());
}

#[test]
fn unsuitable_settings_are_refused_with_a_reason() {
    let mut three = settings(0, "");
    three.committee.stakes = vec![1; 3];
    assert!(matches!(Pbft::init(three, None), Err(InitError::Unsuitable(_))));
    let mut outside = settings(0, "");
    outside.schedule.push(AuthorityIndex(4));
    assert!(matches!(Pbft::init(outside, None), Err(InitError::Unsuitable(_))));
    let mut small = settings(0, "");
    small.max_message_bytes = 1_000;
    assert!(matches!(Pbft::init(small, None), Err(InitError::BadConfig(_))));
    assert!(matches!(Pbft::init(settings(0, "nonsense"), None), Err(InitError::BadConfig(_))));
}
