//! The application that ships: its codec, and what commands do to the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_kv::{Command, Kv, Query, Reply, decode_count, decode_value, encode_value, keys};
use moult_sdk::application::{Application, Block, ReadState};
use moult_types::state::Overlay;

use crate::input::Input;
use crate::memory::peak_bytes;

const BYTES_FREE: usize = 1 << 10;
const BYTES_PER_BYTE: usize = 4;

/// First byte: whether the rest is one command, query or value, or a script of commands.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() { script(&mut input) } else { decoders(input.rest()) }
}

fn decoders(bytes: &[u8]) {
    let ((), held) = peak_bytes(|| {
        if let Ok(command) = Command::decode(bytes) {
            assert_eq!(command.encode(), bytes, "two encodings of one command");
        }
        if let Ok(query) = Query::decode(bytes) {
            assert_eq!(query.encode(), bytes, "two encodings of one query");
        }
        if let Ok(value) = decode_value(bytes) {
            assert_eq!(encode_value(value.as_deref()), bytes, "two encodings of one value");
        }
        if let Ok(count) = decode_count(bytes) {
            assert_eq!(count.to_be_bytes(), bytes);
        }
    });
    assert!(held <= BYTES_FREE + BYTES_PER_BYTE * bytes.len(), "{held} bytes held for {}", bytes.len());
}

/// Commands of up to 64 bytes, good and bad, against a map.
fn script(input: &mut Input<'_>) {
    let empty: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut state = Overlay::new(Arc::new(empty), 1);
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut transactions = Vec::new();
    while !input.is_empty() && transactions.len() < 64 {
        transactions.push(match input.byte() % 5 {
            0 => Command::Put { key: key(input), value: value(input) }.encode(),
            1 => Command::Delete { key: key(input) }.encode(),
            2 | 3 => {
                let (key, expect, value) = (key(input), option(input), option(input));
                Command::CompareAndSwap { key, expect, value }.encode()
            }
            _ => {
                let len = input.byte() % 64;
                input.take(len.into()).to_vec()
            }
        });
    }
    let block = Block { global_index: 1, epoch: 0, time_ms: 1 };
    let receipts = Kv::execute(&mut state, &[], &block, &transactions);
    assert_eq!(receipts.len(), transactions.len());
    for (transaction, receipt) in transactions.iter().zip(receipts) {
        let reply = Reply::from_receipt(&receipt).expect("a receipt of kv");
        assert_eq!(reply, expected(&mut model, transaction));
    }
    for (key, value) in &model {
        let answer = Kv::query(&state, &[], &Query::Get { key: key.clone() }.encode());
        assert_eq!(decode_value(&answer.expect("a value")), Ok(Some(value.clone())));
    }
    // Nothing but the keys of users was written.
    let written = state.scan(&[], None, 1024);
    let known: Vec<_> = model.into_iter().map(|(key, value)| (keys::user(&key), value)).collect();
    assert_eq!(written, known);
}

fn expected(model: &mut BTreeMap<Vec<u8>, Vec<u8>>, transaction: &[u8]) -> Reply {
    match Command::decode(transaction) {
        Ok(Command::Put { key, value }) => {
            model.insert(key, value);
        }
        Ok(Command::Delete { key }) => {
            model.remove(&key);
        }
        Ok(Command::CompareAndSwap { key, expect, value }) => {
            let present = model.get(&key).cloned();
            if present != expect {
                return Reply::Mismatch { present };
            }
            match value {
                Some(value) => model.insert(key, value),
                None => model.remove(&key),
            };
        }
        Err(moult_kv::DecodeError::Malformed) => return Reply::Malformed,
        Err(moult_kv::DecodeError::TooLarge) => return Reply::TooLarge,
    }
    Reply::Applied
}

fn key(input: &mut Input<'_>) -> Vec<u8> {
    vec![b'a' + input.byte() % 4; usize::from(input.byte() % 3)]
}

fn value(input: &mut Input<'_>) -> Vec<u8> {
    vec![input.byte() % 4; usize::from(input.byte() % 4)]
}

fn option(input: &mut Input<'_>) -> Option<Vec<u8>> {
    input.flag().then(|| value(input))
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (key, value) = (b"key".to_vec(), b"value".to_vec());
    let swap = |expect: Option<Vec<u8>>, value| Command::CompareAndSwap { key: key.clone(), expect, value };
    let commands = [
        Command::Put { key: key.clone(), value: value.clone() }.encode(),
        Command::Delete { key: key.clone() }.encode(),
        swap(None, Some(value.clone())).encode(),
        swap(Some(value.clone()), None).encode(),
        Query::Get { key: key.clone() }.encode(),
        Query::Count.encode(),
        encode_value(Some(&value)),
        encode_value(None),
        7_u64.to_be_bytes().to_vec(),
    ];
    let mut seeds: Vec<Vec<u8>> = commands.iter().map(|bytes| [&[0], &**bytes].concat()).collect();
    seeds.push(vec![1, 0, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 1, 3, 3, 2, 1, 1, 0, 0, 1, 1, 1]);
    seeds.push([&[1, 4, commands[0].len() as u8], &*commands[0], &[2, 0, 1, 0, 1, 1, 1]].concat());
    seeds
}
