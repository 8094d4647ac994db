//! The contract of the application; `wit/application/application.wit` is its manual.

/// An application as plain Rust; `export_application!` makes a component of it.
pub trait Application {
    /// What the application is; always the same answer.
    fn describe() -> Info;

    /// Executes transactions in order, one receipt each.
    fn execute(state: &mut dyn State, config: &[u8], block: &Block, transactions: &[Vec<u8>])
    -> Vec<Receipt>;

    /// Answers a read.
    ///
    /// # Errors
    /// A text for the client.
    fn query(state: &dyn ReadState, config: &[u8], request: &[u8]) -> Result<Vec<u8>, String>;

    /// Takes the state over from the former application (`None` at genesis).
    ///
    /// # Errors
    /// A text for the operator; the node is then not ready for this module.
    fn upgrade(state: &mut dyn State, config: &[u8], from: Option<&Info>) -> Result<(), String>;
}

/// Reads of the ordered map.
pub trait ReadState {
    /// The value under a key.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// Up to `limit` (at most 1,024) pairs with `start <= key < end`, rising.
    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: u32) -> Vec<(Vec<u8>, Vec<u8>)>;
}

/// Reads and writes of the ordered map.
pub trait State: ReadState {
    /// Sets a value. Keys are 1 to 4,096 bytes, values at most 1 MiB.
    fn put(&mut self, key: &[u8], value: &[u8]);

    /// Removes a key; nothing happens where there is none.
    fn delete(&mut self, key: &[u8]);
}

/// The block that is executed; all of it is agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Number of the block since the chain began, from 1.
    pub global_index: u64,
    /// Number of the epoch.
    pub epoch: u64,
    /// Block time, milliseconds since 1970.
    pub time_ms: u64,
}

/// What became of one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// 0 means applied; others are the application's own refusals.
    pub code: u32,
    /// At most 1 MiB.
    pub output: Vec<u8>,
}

/// What an application is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// Short name.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// Public interfaces such as "kv/1".
    pub interfaces: Vec<String>,
}
