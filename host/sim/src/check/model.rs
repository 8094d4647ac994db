//! Exactly once, and right: a model of the key-value store runs every transaction at its
//! first place in the chain, and every node's receipts and state are compared with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_core::execution::{APPLICATION_PREFIX, Outcome, Receipt};
use moult_kv::{Command, encode_value, keys};
use moult_types::{GlobalIndex, HeldBatch, Transaction, TransactionId};

use crate::clients::Clients;
use crate::report::Violation;

#[derive(Default)]
pub(crate) struct Model {
    length: GlobalIndex,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
    receipts: BTreeMap<TransactionId, Receipt>,
    /// By block: what every node has to answer.
    blocks: BTreeMap<GlobalIndex, Vec<(TransactionId, Receipt)>>,
    payloads: BTreeMap<TransactionId, Vec<u8>>,
}

impl Model {
    pub(crate) fn executed(
        &mut self,
        node: usize,
        global: GlobalIndex,
        batches: &[Arc<HeldBatch>],
        receipts: &[(TransactionId, Receipt)],
    ) -> Result<(), Violation> {
        if global == self.length.next() {
            self.length = global;
            let expected = self.run(global, batches);
            self.blocks.insert(global, expected);
        }
        let expected = self.blocks.get(&global).map(Vec::as_slice);
        if expected != Some(receipts) {
            let what = format!("node {node}, block {global}: {receipts:?}, expected {expected:?}");
            return Err(Violation::new("exactly once", what));
        }
        Ok(())
    }

    fn run(&mut self, global: GlobalIndex, batches: &[Arc<HeldBatch>]) -> Vec<(TransactionId, Receipt)> {
        let mut answers = Vec::new();
        for transaction in batches.iter().flat_map(|batch| &batch.batch().transactions) {
            let Transaction::Client(transaction) = transaction else { continue };
            let id = transaction.id();
            let known = self.receipts.get(&id).cloned();
            let receipt = known.unwrap_or_else(|| {
                let (code, output) = self.apply(&transaction.payload);
                self.payloads.insert(id.clone(), transaction.payload.clone());
                Receipt { global, outcome: Outcome::Executed { code, output } }
            });
            self.receipts.insert(id.clone(), receipt.clone());
            answers.push((id, receipt));
        }
        answers
    }

    fn apply(&mut self, payload: &[u8]) -> (u32, Vec<u8>) {
        match Command::decode(payload) {
            Ok(Command::Put { key, value }) => {
                self.state.insert(key, value);
            }
            Ok(Command::Delete { key }) => {
                self.state.remove(&key);
            }
            Ok(Command::CompareAndSwap { key, expect, value }) => {
                let present = self.state.get(&key).cloned();
                if present != expect {
                    return (1, encode_value(present.as_deref()));
                }
                match value {
                    Some(value) => self.state.insert(key, value),
                    None => self.state.remove(&key),
                };
            }
            Err(_) => return (2, Vec::new()),
        }
        (0, Vec::new())
    }

    /// What was acknowledged is there as it was acknowledged; nothing else ever ran.
    pub(crate) fn finish(&self, clients: &Clients) -> Result<(), Violation> {
        for (id, global) in &clients.acks {
            if self.receipts.get(id).map(|receipt| receipt.global) != Some(*global) {
                return Err(Violation::new(
                    "durability",
                    format!("{id} was acknowledged at {global} and is lost"),
                ));
            }
        }
        for (id, payload) in &self.payloads {
            if clients.submitted.get(id) != Some(payload) {
                return Err(Violation::new("integrity", format!("{id} was executed and never submitted so")));
            }
        }
        Ok(())
    }

    /// A node's keys and values, if it has executed the whole chain.
    pub(crate) fn compare(
        &self,
        node: usize,
        applied: GlobalIndex,
        state: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), Violation> {
        if applied != self.length {
            return Ok(());
        }
        let prefix = [APPLICATION_PREFIX, keys::USER];
        let held = state
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_vec(), value.clone())));
        let held: BTreeMap<_, _> = held.collect();
        if held != self.state {
            return Err(Violation::new("state", format!("node {node} holds other values than the model")));
        }
        Ok(())
    }
}
