//! The hash of everything that happens, and the log of it for people.

use moult_core::{Effect, Persist};
use moult_types::Message;

use crate::queue::Event;

/// FNV-1a over what happens; not a cryptographic hash.
pub(crate) struct Trace {
    hash: u64,
    is_shown: bool,
}

impl Trace {
    pub(crate) fn new(is_shown: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, is_shown }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.add(&number.to_le_bytes());
    }

    pub(crate) fn event(&mut self, now_us: u64, event: &Event) {
        let (kind, node) = match event {
            Event::Deliver { from, to, .. } => (1, (*from as u64) << 32 | *to as u64),
            Event::Process { node, .. } => (2, *node as u64),
            Event::Wake { node, .. } => (3, *node as u64),
            Event::StoreSynced { node, .. } => (4, *node as u64),
            Event::GuardSynced { node, .. } => (5, *node as u64),
            Event::Answer { node, .. } => (6, *node as u64),
            Event::Executed { node, .. } => (7, *node as u64),
            Event::Crash { node, .. } => (8, *node as u64),
            Event::Restart { node } => (9, *node as u64),
            Event::Repair { node } => (10, *node as u64),
            Event::Transaction => (11, 0),
            Event::Read => (12, 0),
            Event::Retry => (13, 0),
            Event::Fault => (14, 0),
            Event::Change => (15, 0),
            Event::Cut { .. } => (16, 0),
            Event::Mischief => (17, 0),
            _ => (18, 0),
        };
        self.number(now_us);
        self.number(kind);
        self.number(node);
    }

    pub(crate) fn step(&mut self, now_us: u64, node: usize, durable: &[Persist], release: &[Effect]) {
        self.number(now_us);
        self.number(node as u64);
        for persist in durable {
            match persist {
                Persist::Block(record) | Persist::SideBlock(record) => self.add(&record.hash.0),
                Persist::PhaseOpened(record) | Persist::PhaseResumed { record, .. } => {
                    self.add(&moult_types::encode(record));
                }
                Persist::Batch(batch) => self.add(&batch.digest.0),
                Persist::Record(record) => self.add(&record.record.body),
                Persist::Final { global, .. } => self.number(global.0),
                Persist::Guard(update) => self.add(&moult_types::encode(update)),
                Persist::DropBlocksAbove(global) => self.number(global.0),
                Persist::TruncateRecords(id) => self.number(*id),
                Persist::Epoch { start, .. } => self.add(&moult_types::encode(start)),
                Persist::History(record) => self.add(&record.hash.0),
            }
        }
        for effect in release {
            match effect {
                Effect::Send { message, .. } => match message.as_ref() {
                    Message::Engine { payload, statements, .. } => {
                        self.add(payload.as_deref().unwrap_or_default());
                        statements.iter().for_each(|signed| self.add(&signed.signature.0));
                    }
                    message => self.add(&moult_types::encode(message)),
                },
                Effect::ReadAt { global, .. } => self.number(global.0),
                Effect::Execute { record, .. } => self.add(&record.hash.0),
                Effect::Fetch { batches, .. } => batches.iter().for_each(|digest| self.add(&digest.0)),
                other => self.number(kind_of(other)),
            }
        }
    }

    pub(crate) fn log(&self, now_us: u64, node: Option<usize>, what: impl FnOnce() -> String) {
        if self.is_shown {
            let who = node.map_or("all    ".to_owned(), |node| format!("node {node:<2}"));
            eprintln!("{:>7}.{:03} ms  {who}  {}", now_us / 1000, now_us % 1000, what());
        }
    }
}

/// Effects whose content stands in the trace elsewhere, or leads to something that does.
fn kind_of(effect: &Effect) -> u64 {
    match effect {
        Effect::StartEngine { .. } => 20,
        Effect::CheckModules { .. } => 21,
        Effect::ForgetModules { .. } => 22,
        Effect::Evaluate { .. } => 23,
        Effect::Peers(_) => 24,
        Effect::Verify(_) => 25,
        Effect::Reverify(_) => 26,
        Effect::EpochStarted(_) => 27,
        Effect::Event(_) => 28,
        Effect::Refused { .. } => 29,
        Effect::Halt(_) => 30,
        _ => 31,
    }
}
