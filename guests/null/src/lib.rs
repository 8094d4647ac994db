//! The application that does nothing: every transaction is applied, nothing is kept.
//!
//! For measuring what ordering alone costs, and as the other side of a change of the
//! application. It takes over from any application and leaves the state as it is.

use moult_sdk::application::{Application, Block, Info, ReadState, Receipt, State};

#[cfg(all(target_arch = "wasm32", feature = "component"))]
moult_sdk::export_application!(Null);

/// See the crate.
pub struct Null;

impl Application for Null {
    fn describe() -> Info {
        Info {
            name: "null".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            interfaces: vec!["null/1".into()],
        }
    }

    fn execute(_: &mut dyn State, _: &[u8], _: &Block, transactions: &[Vec<u8>]) -> Vec<Receipt> {
        vec![Receipt { code: 0, output: Vec::new() }; transactions.len()]
    }

    fn query(_: &dyn ReadState, _: &[u8], _: &[u8]) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }

    fn upgrade(_: &mut dyn State, _: &[u8], _: Option<&Info>) -> Result<(), String> {
        Ok(())
    }
}
