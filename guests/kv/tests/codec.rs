//! The decoders accept exactly what the encoders write.

use moult_kv::{
    Command, DecodeError, KEY_BYTES_MAX, Query, Reply, VALUE_BYTES_MAX, decode_value, encode_value,
};
use moult_sdk::application::Receipt;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..40)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..80)
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| Command::Put { key, value }),
        key().prop_map(|key| Command::Delete { key }),
        (key(), option::of(value()), option::of(value()))
            .prop_map(|(key, expect, value)| Command::CompareAndSwap { key, expect, value }),
    ]
}

proptest! {
    #[test]
    fn commands_round_trip_and_no_prefix_or_extension_decodes(command in command(), cut in any::<prop::sample::Index>()) {
        let mut bytes = command.encode();
        prop_assert_eq!(Command::decode(&bytes), Ok(command));
        prop_assert_eq!(Command::decode(&bytes[..cut.index(bytes.len())]), Err(DecodeError::Malformed));
        bytes.push(0);
        prop_assert_eq!(Command::decode(&bytes), Err(DecodeError::Malformed));
    }

    #[test]
    fn what_decodes_is_canonical(
        tag in 0u8..5,
        parts in vec((option::of(0u8..3), value()), 0..4),
        noise in option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = vec![tag];
        for (flag, part) in parts {
            bytes.extend(flag);
            bytes.extend((part.len() as u32).to_le_bytes());
            bytes.extend(part);
        }
        if let Some((at, byte)) = noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(command) = Command::decode(&bytes) {
            prop_assert_eq!(command.encode(), bytes.clone());
        }
        if let Ok(query) = Query::decode(&bytes) {
            prop_assert_eq!(query.encode(), bytes.clone());
        }
        if let Ok(value) = decode_value(&bytes) {
            prop_assert_eq!(encode_value(value.as_deref()), bytes);
        }
    }

    #[test]
    fn receipts_read_back(present in option::of(value())) {
        for reply in [Reply::Applied, Reply::Mismatch { present }, Reply::Malformed, Reply::TooLarge] {
            prop_assert_eq!(Reply::from_receipt(&Receipt::from(reply.clone())), Some(reply));
        }
    }
}

#[test]
fn limits_are_exact() {
    let put = |key, value| Command::Put { key: vec![1; key], value: vec![2; value] }.encode();
    assert!(Command::decode(&put(KEY_BYTES_MAX, VALUE_BYTES_MAX)).is_ok());
    assert_eq!(Command::decode(&put(KEY_BYTES_MAX + 1, 0)), Err(DecodeError::TooLarge));
    assert_eq!(Command::decode(&put(1, VALUE_BYTES_MAX + 1)), Err(DecodeError::TooLarge));
    assert_eq!(Command::decode(&put(0, 1)), Err(DecodeError::Malformed));
    assert_eq!(Command::decode(&[]), Err(DecodeError::Malformed));
}

/// The layout is public: clients in any language write it.
#[test]
fn layout_is_pinned() {
    let command = Command::CompareAndSwap { key: b"k".into(), expect: None, value: Some(b"v".into()) };
    assert_eq!(command.encode(), [3, 1, 0, 0, 0, b'k', 0, 1, 1, 0, 0, 0, b'v']);
    assert_eq!(Query::Get { key: b"k".into() }.encode(), [1, 1, 0, 0, 0, b'k']);
}
