use moult_core::io::GuardUpdate;
use moult_types::phase::Bundle;
use moult_types::{Certificate, Round, Slot};
use proptest::prelude::*;

use super::*;

fn digest_of() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn claim(identity: EpochIdentity, index: u64, hash: Digest) -> Claim {
    let (votes, bodies) = (Vec::new(), vec![hash]);
    let index = CommitIndex(index);
    Claim {
        certificate: Certificate { round: Round::Prepare, identity, index, hash, votes, bodies },
        block: None,
    }
}

fn update() -> impl Strategy<Value = GuardUpdate> {
    let slot = || (any::<u16>(), any::<u64>(), 0..3_u64).prop_map(|(kind, a, b)| Slot { kind, a, b });
    let identity = || any::<[u8; 32]>().prop_map(EpochIdentity);
    let scope = prop_oneof![
        identity().prop_map(Scope::Epoch),
        any::<u64>().prop_map(|n| Scope::Number(EpochNumber(n)))
    ];
    prop_oneof![
        4 => (scope, slot(), digest_of())
            .prop_map(|(scope, slot, digest)| GuardUpdate::Signed { scope, slot, digest }),
        2 => (any::<u64>(), digest_of())
            .prop_map(|(i, hash)| GuardUpdate::Prepared { index: CommitIndex(i), hash }),
        1 => (any::<u64>(), digest_of())
            .prop_map(|(i, hash)| GuardUpdate::Aborted { index: CommitIndex(i), hash }),
        1 => (any::<u32>(), identity()).prop_map(|(phase, identity)| GuardUpdate::Phase {
            phase,
            identity,
            proof: Box::new(PhaseProof::Aborted(Bundle { aborted: Vec::new() })),
        }),
        2 => slot().prop_map(GuardUpdate::Released),
        1 => (any::<u64>(), identity()).prop_map(|(number, identity)| GuardUpdate::Epoch { number, identity }),
        1 => any::<u64>().prop_map(|count| GuardUpdate::Started { count }),
        1 => (any::<u64>(), digest_of())
            .prop_map(|(g, hash)| GuardUpdate::FinalMark { global: GlobalIndex(g), hash }),
        1 => (0..3_usize, ".{0,9}").prop_map(|(n, reason)| GuardUpdate::Stopped(Stop {
            cause: [StopCause::State, StopCause::Chain, StopCause::Key][n],
            reason,
        })),
    ]
}

fn export() -> impl Strategy<Value = GuardExport> {
    let updates = proptest::collection::vec(update(), 0..30);
    let committed = proptest::option::of((any::<u64>(), digest_of()));
    (updates, committed, any::<u64>(), any::<[u8; 32]>()).prop_map(|(updates, committed, sequence, chain)| {
        let key = PublicKey([7; 32]);
        let mut state = GuardState::new(ChainId(chain), key, EpochIdentity([3; 32]));
        updates.iter().for_each(|update| state.apply(update));
        state.certified = committed.map(|(index, hash)| claim(state.identity, index, hash));
        GuardExport { state, sequence }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(export in export()) {
        let text = export.to_json();
        let read = GuardExport::parse(text.as_bytes());
        prop_assert_eq!(read.as_ref().map(GuardExport::to_json), Ok(text));
        prop_assert_eq!(read, Ok(export));
    }

    /// Damage that is no JSON any more, no field, no hex, or another value: none is taken.
    #[test]
    fn a_changed_character_is_refused_or_means_the_same(export in export(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut text = export.to_json().into_bytes();
        let at = at.index(text.len());
        text[at] = to;
        if let Ok(read) = GuardExport::parse(&text) {
            prop_assert_eq!(read, export);
        }
    }

    #[test]
    fn a_text_that_ends_early_or_goes_on_is_refused(export in export(), at in any::<prop::sample::Index>()) {
        let text = export.to_json();
        let at = at.index(text.trim_end().len());
        prop_assert!(GuardExport::parse(&text.as_bytes()[..at]).is_err());
        for more in ["{}", "x", "null"] {
            prop_assert!(GuardExport::parse([text.as_str(), more].concat().as_bytes()).is_err());
        }
    }
}

fn example() -> (GuardExport, serde_json::Value) {
    let identity = EpochIdentity([3; 32]);
    let mut state = GuardState::new(ChainId([1; 32]), PublicKey([2; 32]), identity);
    let slot = Slot { kind: 1, a: 4, b: 5 };
    state.apply(&GuardUpdate::Signed { scope: Scope::Epoch(identity), slot, digest: Digest([9; 32]) });
    state.apply(&GuardUpdate::Committed(Box::new(claim(identity, 6, Digest([6; 32])))));
    let export = GuardExport { state, sequence: 12 };
    let value = serde_json::from_str(&export.to_json()).expect("JSON");
    (export, value)
}

/// Without the checksum these would be taken, or are told before it is looked at.
#[test]
fn every_deviation_is_named() {
    let (_, good) = example();
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = good.clone();
        change(&mut value);
        GuardExport::parse(value.to_string().as_bytes()).expect_err("refused").to_string()
    };
    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 16] = [
        (|v| v["more"] = 1.into(), "unknown field `more`"),
        (|v| v["epoch"]["more"] = 1.into(), "unknown field `more`"),
        (|v| drop(v["epoch"].as_object_mut().map(|e| e.remove("aborted"))), "missing field `aborted`"),
        (|v| drop(v.as_object_mut().map(|f| f.remove("signed"))), "missing field `signed`"),
        (|v| v["metadata"]["version"] = 2.into(), "version 2; this program reads"),
        (|v| v["metadata"]["format"] = "x".into(), "it is `x`"),
        (|v| v["metadata"]["key"] = "zz".into(), "public key"),
        (|v| v["epoch"]["prepared"]["hash"] = "00".into(), "`epoch.prepared.hash` is no hash"),
        (|v| v["epoch"]["committed"]["proof"] = "0".into(), "`epoch.committed.proof` is not hex"),
        (|v| v["epoch"]["committed"]["proof"] = "00".into(), "`epoch.committed.proof` cannot be decoded"),
        (|v| v["epoch"]["committed"]["index"] = 7.into(), "is about another block"),
        (|v| v["epoch"]["identity"] = "04".repeat(32).into(), "about another epoch"),
        (|v| v["epoch"]["prepared"]["index"] = 1.into(), "damaged or edited"),
        (|v| v["metadata"]["sequence"] = 1.into(), "damaged or edited"),
        (|v| v["epoch"]["committed"] = serde_json::Value::Null, "damaged or edited"),
        (|v| v["signed"] = serde_json::json!([]), "damaged or edited"),
    ];
    for (change, words) in changes {
        let text = refused(&change);
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
    let mut twice = good.clone();
    let one = twice["signed"][0].clone();
    twice["signed"].as_array_mut().expect("a list").push(one);
    let text = GuardExport::parse(twice.to_string().as_bytes()).expect_err("refused").to_string();
    assert!(text.contains("twice"), "{text}");
}

/// The form is a promise to other versions: `MOULT_BLESS=1` writes a new one down.
#[test]
fn the_written_form_is_pinned() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guard_json.golden");
    let (export, _) = example();
    let text = export.to_json();
    if std::env::var_os("MOULT_BLESS").is_some() {
        std::fs::write(path, &text).expect("written");
    }
    let golden = std::fs::read_to_string(path).expect("the golden file");
    assert_eq!(text, golden);
    assert_eq!(GuardExport::parse(golden.as_bytes()), Ok(export));
}
