//! G4: answers that are not what they should be. Each is a fault with what is wrong; what
//! the host would have to allocate for it is bounded before it allocates.

use std::sync::atomic::Ordering::Relaxed;

use moult_core::ports::Fault;
use moult_hostile::{guest, guest_with};
use moult_sdk::engine::Event;
use moult_types::World;

use crate::common::*;

#[test]
fn answers_that_lie_about_where_and_how_much() {
    let host = host();
    assert_eq!(fault_of(&host, &guest("no-receipts")), Fault::Output("0 receipts for 1 transactions".into()));
    for (name, words) in [
        ("answer-outside", "out of bounds"),
        ("answer-unaligned", "aligned"),
        ("list-of-4-gib", "out of bounds"),
        ("list-outside", "out of bounds"),
        ("receipt-too-long", "1048577 bytes in a receipt; the limit is 1048576"),
        // A small memory cannot fill the host.
        ("gigabyte-of-aliases", "fuel"),
    ] {
        let fault = fault_of(&host, &guest(name));
        assert!(matches!(&fault, Fault::Output(text) if text.contains(words)), "{name}: {fault}");
    }
    assert_eq!(host.stats().world(World::Application).bad_outputs.load(Relaxed), 7);
}

#[test]
fn names_that_are_no_names() {
    let host = host();
    for (name, words) in [
        ("name-not-utf8", "utf-8"),
        ("name-with-control", "the name or version"),
        ("name-too-long", "60000 bytes in a name or version; the limit is 128"),
    ] {
        let error = refusal_of(&host, &guest(name), World::Application).to_string();
        assert!(error.contains(words), "{name}: {error}");
        assert!(error.len() < 400 && !error.contains('\u{1b}'), "{name}: {error}");
    }
    let error = refusal_of(&host, &guest("enum-out-of-range"), World::Engine).to_string();
    assert!(error.contains("discriminant"), "{error}");
}

#[test]
fn tags_and_texts_out_of_range() {
    let host = host();
    for (name, words) in [("query-tag", "discriminant"), ("query-text", "utf-8")] {
        let fault = application(&host, &guest(name)).query(empty_state(), &[], &[]).expect_err("it is bad");
        assert!(matches!(&fault, Fault::Output(text) if text.contains(words)), "{name}: {fault}");
    }
    let mut engine = started(&host, "action-tag");
    let fault = engine.step(1, vec![Event::Draining]).expect_err("there is no such action");
    assert!(matches!(&fault, Fault::Output(text) if text.contains("discriminant")), "{fault}");
    lives(&host);
}

#[test]
fn keys_and_values_have_bounds() {
    let host = host();
    for (key, value, words) in [
        ("0", "1", "state: a key of 0 bytes"),
        ("4097", "1", "state: a key of 4097 bytes"),
        ("1", "1048577", "state: a value of 1048577 bytes"),
    ] {
        let fault = fault_of(&host, &guest_with("key-size", &[("$KEY", key), ("$VALUE", value)]));
        assert!(matches!(&fault, Fault::Trap(text) if text.starts_with(words)), "{fault}");
    }
}
