//! A change of the application's version migrates its state, and back.

use moult_kv::{Command, Query, decode_count, decode_value, encode_value, keys};
use moult_sdk::application::ReadState;

use crate::common::{BLOCK, application, empty_state, host, module};

#[test]
fn kv_to_kv2_and_back() {
    let host = host();
    let [kv, kv2, null] = ["kv", "kv2", "null"].map(|name| application(&host, &module(name)));
    let [first, second] = [&kv, &kv2].map(|app| app.describe().expect("no fault"));
    assert_eq!((first.name.as_str(), first.version.as_str()), ("kv", "0.1.0"));
    assert_eq!((second.name.as_str(), second.version.as_str()), ("kv", "0.2.0"));

    let (state, result) = kv.upgrade(empty_state(), &[], None);
    assert_eq!(result, Ok(Ok(())), "genesis");
    let put = |n: u8| Command::Put { key: vec![n], value: vec![n, n] }.encode();
    let (state, receipts) = kv.execute(state, &[], BLOCK, &(0..40).map(put).collect::<Vec<_>>());
    assert!(receipts.expect("no fault").iter().all(|receipt| receipt.code == 0));
    let count = Query::Count.encode();
    assert!(kv.query(state.clone(), &[], &count).expect("no fault").is_err(), "kv/1 has no count");

    let (state, result) = kv2.upgrade(state, &[], Some(&first));
    assert_eq!(result, Ok(Ok(())));
    assert_eq!(state.get(keys::SCHEMA), Some(vec![2]));
    let (state, receipts) = kv2.execute(
        state,
        &[],
        BLOCK,
        &[
            put(3),
            put(200),
            Command::Delete { key: vec![1] }.encode(),
            Command::Delete { key: vec![2] }.encode(),
            Command::Delete { key: vec![2] }.encode(),
        ],
    );
    assert!(receipts.is_ok());
    let answer = kv2.query(state.clone(), &[], &count).expect("no fault").expect("a count");
    assert_eq!(decode_count(&answer), Ok(39));

    let (state, result) = null.upgrade(state, &[], Some(&second));
    assert_eq!(result, Ok(Ok(())), "null takes anything over");
    let (state, result) = kv.upgrade(state, &[], null.describe().ok().as_ref());
    assert_eq!(result, Ok(Ok(())), "and leaves it for the next");
    assert_eq!(state.get(keys::SCHEMA), Some(vec![1]));
    assert_eq!(state.get(keys::COUNT), None);
    let answer = kv.query(state, &[], &Query::Get { key: vec![200] }.encode()).expect("no fault");
    let answer = answer.expect("an answer");
    assert_eq!(answer, encode_value(Some(&[200, 200])));
    assert_eq!(decode_value(&answer), Ok(Some(vec![200, 200])));
}

#[test]
fn kv_does_not_take_over_what_is_not_its_own() {
    let host = host();
    let kv = application(&host, &module("kv"));
    let mut state = empty_state();
    moult_sdk::application::State::put(&mut state, b"strange", b"things");
    let (_, result) = kv.upgrade(state, &[], None);
    let problem = result.expect("no fault").expect_err("a strange state");
    assert!(problem.starts_with("kv cannot take over a state"), "{problem}");
}
