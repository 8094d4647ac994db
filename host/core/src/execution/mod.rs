//! Deterministic execution of final blocks: the same block on the same state gives the same
//! writes, receipts and state root on every node.
//!
//! Here live client sessions (a retried transaction runs once), the calls of the
//! application, and the state root. Reading and writing the store is the caller's; governance
//! is the ledger's and is not executed here.

mod root;
mod sessions;

use std::collections::BTreeMap;
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::application::{self, Receipt as ApplicationReceipt};
use moult_types::state::{Overlay, StateReader};
use moult_types::{
    BlockRecord, ClientTransaction, EpochLimits, GlobalIndex, HeldBatch, Transaction, TransactionId,
};
use thiserror::Error;

pub use root::StateAccumulator;
use sessions::{Admission, Sessions};

use crate::ports::{ApplicationInstance, Fault};

/// Prefix of the application's keys in the replicated map.
pub const APPLICATION_PREFIX: u8 = 1;
/// Prefix of the sessions' keys in the replicated map.
pub const SESSION_PREFIX: u8 = 2;

/// What became of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum Outcome {
    /// The application ran it; code 0 means applied.
    Executed {
        /// The application's code.
        code: u32,
        /// The application's answer.
        output: Vec<u8>,
    },
    /// The application trapped on it; it wrote nothing.
    Trapped,
    /// Its sequence number lies further back than the client's window; it was not run.
    Stale,
}

/// A receipt: kept with the client's session, the same for every retry.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Receipt {
    /// The block in which it was executed first.
    pub global: GlobalIndex,
    /// What became of it.
    pub outcome: Outcome,
}

/// What one block changes.
pub struct Executed {
    /// By full key; `None` is a removal.
    pub writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// In the order of the block.
    pub receipts: Vec<(TransactionId, Receipt)>,
    /// The accumulator after the block.
    pub accumulator: StateAccumulator,
}

/// Execution must stop on this node: the same call may go well elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("block {global} cannot be executed here: {fault}")]
pub struct LocalStop {
    /// The block.
    pub global: GlobalIndex,
    /// What happened.
    pub fault: Fault,
}

/// Executes one final block on the state that `base` shows.
///
/// # Errors
/// A limit of this node was hit: nothing may be written and nothing later executed.
pub fn execute_block(
    application: &dyn ApplicationInstance,
    config: &[u8],
    limits: &EpochLimits,
    base: &Arc<dyn StateReader>,
    accumulator: &StateAccumulator,
    record: &BlockRecord,
    batches: &[Arc<HeldBatch>],
) -> Result<Executed, LocalStop> {
    let global = record.global;
    let mut sessions = Sessions::new(Overlay::new(base.clone(), SESSION_PREFIX), global, limits);
    let (mut fresh, mut answers) = (Vec::new(), Vec::new());
    for transaction in batches.iter().flat_map(|batch| &batch.batch().transactions) {
        if let Transaction::Client(transaction) = transaction {
            let admission = sessions.admit(&transaction.client, transaction.seq, fresh.len());
            if admission == Admission::Fresh(fresh.len()) {
                fresh.push(transaction);
            }
            answers.push((transaction, admission));
        }
    }
    let block =
        application::Block { global_index: global.0, epoch: record.epoch.0, time_ms: record.block.time_ms };
    let (overlay, outcomes) =
        run(application, config, block, base, &fresh).map_err(|fault| LocalStop { global, fault })?;
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| Receipt { global, outcome }).collect();
    for (transaction, receipt) in fresh.iter().zip(&outcomes) {
        sessions.record(&transaction.client, transaction.seq, receipt);
    }
    sessions.forget_idle();
    let receipts = answers
        .into_iter()
        .filter_map(|(transaction, admission)| {
            let receipt = match admission {
                Admission::Fresh(position) | Admission::SameBlock(position) => {
                    outcomes.get(position)?.clone()
                }
                Admission::Repeated(receipt) => receipt,
                Admission::Stale => Receipt { global, outcome: Outcome::Stale },
            };
            Some((transaction.id(), receipt))
        })
        .collect();
    let mut writes = overlay.into_writes();
    writes.append(&mut sessions.into_overlay().into_writes());
    let mut accumulator = accumulator.clone();
    for (key, value) in &writes {
        let former = base.get(key);
        if former != *value {
            accumulator.replace(key, former.as_deref(), value.as_deref());
        }
    }
    Ok(Executed { writes, receipts, accumulator })
}

/// Hands the state from one application to the next (or to the first one).
///
/// # Errors
/// The outer error: a limit of this node was hit, or the module faulted. The inner one is the
/// module's refusal.
pub fn upgrade(
    application: &dyn ApplicationInstance,
    config: &[u8],
    base: &Arc<dyn StateReader>,
    accumulator: &StateAccumulator,
    from: Option<&application::Info>,
) -> Result<Result<Executed, String>, Fault> {
    let overlay = Overlay::new(base.clone(), APPLICATION_PREFIX);
    let (overlay, result) = application.upgrade(overlay, config, from);
    if let Err(refusal) = result? {
        return Ok(Err(refusal));
    }
    let writes = overlay.into_writes();
    let mut accumulator = accumulator.clone();
    for (key, value) in &writes {
        accumulator.replace(key, base.get(key).as_deref(), value.as_deref());
    }
    Ok(Ok(Executed { writes, receipts: Vec::new(), accumulator }))
}

/// The receipt of a transaction, as far as its client's window reaches back.
pub fn receipt(base: &Arc<dyn StateReader>, id: &TransactionId) -> Option<Receipt> {
    sessions::stored_receipt(&Overlay::new(base.clone(), SESSION_PREFIX), &id.client, id.seq)
}

/// The whole block in one call; where that traps, one transaction a call, so that only the
/// one that traps is rolled back. Both ways are taken alike on every node.
fn run(
    application: &dyn ApplicationInstance,
    config: &[u8],
    block: application::Block,
    base: &Arc<dyn StateReader>,
    transactions: &[&ClientTransaction],
) -> Result<(Overlay, Vec<Outcome>), Fault> {
    let overlay = Overlay::new(base.clone(), APPLICATION_PREFIX);
    if transactions.is_empty() {
        return Ok((overlay, Vec::new()));
    }
    let payloads: Vec<Vec<u8>> = transactions.iter().map(|transaction| transaction.payload.clone()).collect();
    let (after, result) = application.execute(overlay.clone(), config, block, &payloads);
    match result.and_then(|receipts| check_count(receipts, payloads.len())) {
        Ok(receipts) => return Ok((after, receipts.into_iter().map(executed).collect())),
        Err(fault) if fault.is_deterministic() => {}
        Err(fault) => return Err(fault),
    }
    let (mut overlay, mut outcomes) = (overlay, Vec::with_capacity(payloads.len()));
    for payload in payloads {
        let before = overlay.clone();
        let (after, result) = application.execute(overlay, config, block, std::slice::from_ref(&payload));
        match result.and_then(|receipts| check_count(receipts, 1)) {
            Ok(mut receipts) => {
                overlay = after;
                outcomes.extend(receipts.pop().map(executed));
            }
            Err(fault) if fault.is_deterministic() => {
                overlay = before;
                outcomes.push(Outcome::Trapped);
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok((overlay, outcomes))
}

fn check_count(receipts: Vec<ApplicationReceipt>, expected: usize) -> Result<Vec<ApplicationReceipt>, Fault> {
    if receipts.len() == expected {
        Ok(receipts)
    } else {
        Err(Fault::Output(format!("{} receipts for {expected} transactions", receipts.len())))
    }
}

fn executed(receipt: ApplicationReceipt) -> Outcome {
    Outcome::Executed { code: receipt.code, output: receipt.output }
}
