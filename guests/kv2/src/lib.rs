//! The key-value store, version 0.2: the same commands (kv/1) and a count of keys (kv/2).
//!
//! Its `upgrade` from kv 0.1 is a true migration: it counts what is there, keeps the number
//! from then on and moves the schema to 2. The way back is kv 0.1's `upgrade`.

use moult_kv::{Command, Query, Reply, answer, apply, check_takeover, keys};
use moult_sdk::application::{Application, Block, Info, ReadState, Receipt, State};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_application!(Kv2);

/// See the crate.
pub struct Kv2;

impl Application for Kv2 {
    fn describe() -> Info {
        Info {
            name: "kv".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            interfaces: vec!["kv/1".into(), "kv/2".into()],
        }
    }

    fn execute(state: &mut dyn State, _: &[u8], _: &Block, transactions: &[Vec<u8>]) -> Vec<Receipt> {
        let before = read_count(state);
        let mut count = before;
        let receipts =
            transactions.iter().map(|bytes| execute_one(state, bytes, &mut count).into()).collect();
        if count != before {
            state.put(keys::COUNT, &count.to_be_bytes());
        }
        receipts
    }

    fn query(state: &dyn ReadState, _: &[u8], request: &[u8]) -> Result<Vec<u8>, String> {
        let query = Query::decode(request).map_err(|error| error.to_string())?;
        answer(state, &query)
    }

    fn upgrade(state: &mut dyn State, _: &[u8], from: Option<&Info>) -> Result<(), String> {
        check_takeover(state, from)?;
        let count = count_keys(state);
        state.put(keys::COUNT, &count.to_be_bytes());
        state.put(keys::SCHEMA, &[2]);
        Ok(())
    }
}

fn execute_one(state: &mut dyn State, bytes: &[u8], count: &mut u64) -> Reply {
    let command = Command::decode(bytes);
    let Ok(Command::Put { key, .. } | Command::Delete { key } | Command::CompareAndSwap { key, .. }) =
        &command
    else {
        return apply(state, command);
    };
    let key = keys::user(key);
    let was = u64::from(state.get(&key).is_some());
    let reply = apply(state, command);
    *count = *count + u64::from(state.get(&key).is_some()) - was;
    reply
}

fn read_count(state: &dyn ReadState) -> u64 {
    state.get(keys::COUNT).and_then(|bytes| moult_kv::decode_count(&bytes).ok()).unwrap_or(0)
}

fn count_keys(state: &dyn ReadState) -> u64 {
    let mut count = 0;
    let mut start = vec![keys::USER];
    loop {
        // A page of 16 stays far below the most that one scan may return.
        let page = state.scan(&start, Some(&[keys::USER + 1]), 16);
        count += page.len() as u64;
        let Some((last, _)) = page.into_iter().next_back() else { return count };
        start = last;
        start.push(0);
    }
}
