//! What commands do to the state.

use moult_sdk::application::{Application, Block, Info, ReadState, Receipt, State};

use crate::codec::{Command, DecodeError, Query, Reply, encode_value};
use crate::keys;

/// The application; see the crate.
pub struct Kv;

impl Application for Kv {
    fn describe() -> Info {
        Info { name: "kv".into(), version: env!("CARGO_PKG_VERSION").into(), interfaces: vec!["kv/1".into()] }
    }

    fn execute(state: &mut dyn State, _: &[u8], _: &Block, transactions: &[Vec<u8>]) -> Vec<Receipt> {
        transactions.iter().map(|bytes| apply(state, Command::decode(bytes)).into()).collect()
    }

    fn query(state: &dyn ReadState, _: &[u8], request: &[u8]) -> Result<Vec<u8>, String> {
        match Query::decode(request) {
            Ok(query @ Query::Get { .. }) => answer(state, &query),
            Ok(Query::Count) => Err("kv/1 has no count".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Goes back from layout 2, too: what that adds is removed.
    fn upgrade(state: &mut dyn State, _: &[u8], from: Option<&Info>) -> Result<(), String> {
        check_takeover(state, from)?;
        state.delete(keys::COUNT);
        state.put(keys::SCHEMA, &[1]);
        Ok(())
    }
}

/// Whether a kv can go on from this state: an empty one, or one with a known layout,
/// whichever application had it last.
///
/// # Errors
/// What is wrong with it.
pub fn check_takeover(state: &dyn ReadState, from: Option<&Info>) -> Result<(), String> {
    match state.get(keys::SCHEMA).as_deref() {
        Some([1 | 2]) => Ok(()),
        None if state.scan(&[], None, 1).is_empty() => Ok(()),
        found => {
            let from =
                from.map_or_else(|| "nothing".into(), |from| format!("{} {}", from.name, from.version));
            Err(format!("kv cannot take over a state with schema {found:?} from {from}"))
        }
    }
}

/// Carries out one command.
pub fn apply(state: &mut dyn State, command: Result<Command, DecodeError>) -> Reply {
    match command {
        Ok(Command::Put { key, value }) => {
            state.put(&keys::user(&key), &value);
            Reply::Applied
        }
        Ok(Command::Delete { key }) => {
            state.delete(&keys::user(&key));
            Reply::Applied
        }
        Ok(Command::CompareAndSwap { key, expect, value }) => {
            let key = keys::user(&key);
            let present = state.get(&key);
            if present != expect {
                return Reply::Mismatch { present };
            }
            match value {
                Some(value) => state.put(&key, &value),
                None => state.delete(&key),
            }
            Reply::Applied
        }
        Err(DecodeError::Malformed) => Reply::Malformed,
        Err(DecodeError::TooLarge) => Reply::TooLarge,
    }
}

/// Answers one read.
///
/// # Errors
/// A count in a state that keeps none.
pub fn answer(state: &dyn ReadState, query: &Query) -> Result<Vec<u8>, String> {
    match query {
        Query::Get { key } => Ok(encode_value(state.get(&keys::user(key)).as_deref())),
        Query::Count => state.get(keys::COUNT).ok_or_else(|| "the state keeps no count".into()),
    }
}
