//! The world `moult:application/replicated-application`.

use crate::application::{Application, Block, Info, ReadState, Receipt, State};
use bindings::exports::moult::application::application as wit;
use bindings::moult::application::state;

/// What `wit-bindgen` makes of the contract.
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated code")]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/application"],
        world: "moult:application/replicated-application",
        pub_export_macro: true,
        export_macro_name: "export_replicated_application",
    });
}

/// The map that the host keeps, as this module sees it.
pub struct HostState;

impl ReadState for HostState {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        state::get(key)
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        state::scan(start, end, limit).into_iter().map(|entry| (entry.key, entry.value)).collect()
    }
}

impl State for HostState {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        state::put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        state::delete(key);
    }
}

/// `describe` of the contract.
pub fn describe<A: Application>() -> wit::Info {
    let Info { name, version, interfaces } = A::describe();
    wit::Info { name, version, interfaces }
}

/// `execute` of the contract.
pub fn execute<A: Application>(
    config: &[u8],
    block: wit::Block,
    transactions: &[Vec<u8>],
) -> Vec<wit::Receipt> {
    let wit::Block { global_index, epoch, time_ms } = block;
    let receipts = A::execute(&mut HostState, config, &Block { global_index, epoch, time_ms }, transactions);
    receipts.into_iter().map(|Receipt { code, output }| wit::Receipt { code, output }).collect()
}

/// `query` of the contract.
///
/// # Errors
/// What the application says.
pub fn query<A: Application>(config: &[u8], request: &[u8]) -> Result<Vec<u8>, String> {
    A::query(&HostState, config, request)
}

/// `upgrade` of the contract.
///
/// # Errors
/// What the application says.
pub fn upgrade<A: Application>(config: &[u8], from: Option<wit::Info>) -> Result<(), String> {
    let from = from.map(|wit::Info { name, version, interfaces }| Info { name, version, interfaces });
    A::upgrade(&mut HostState, config, from.as_ref())
}
