//! What an answer must keep to, whoever gave it: Wasm or native code.
//!
//! Sizes and counts are checked here; what refers to the committee, to slots in use or to
//! batches is the core's to check.

use moult_sdk::application::Receipt;
use moult_sdk::approval::Verdict;
use moult_sdk::engine::{Action, Info, Outcome, Settings};

/// Most durable records in one outcome.
const RECORDS_MAX: usize = 4_096;
/// Most actions in one outcome: sixteen an event of a full step.
const ACTIONS_MAX: usize = 16_384;
/// Longest body of a record, and longest output of a receipt.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Most statements in one record or message: a few certificates of a large committee.
const STATEMENTS_MAX: usize = 4_096;
/// Longest name or version, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Most interfaces or gauges.
const NAMES_MAX: usize = 64;
/// First kind of slot that is the host's.
const HOST_KINDS: u16 = 0x8000;
/// Longest reason of a rejection.
const REASON_BYTES_MAX: usize = 512;
/// Most batches to fetch at once.
const FETCH_MAX: usize = 65_536;

/// The part of an engine's settings that bounds its answers.
#[derive(Clone, Copy)]
pub(crate) struct EngineBounds {
    message_bytes: usize,
    batches_in_commit: usize,
}

impl Default for EngineBounds {
    fn default() -> Self {
        Self { message_bytes: BODY_BYTES_MAX, batches_in_commit: FETCH_MAX }
    }
}

impl EngineBounds {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            message_bytes: settings.max_message_bytes as usize,
            batches_in_commit: settings.max_batches_in_commit as usize,
        }
    }
}

pub(crate) fn check_engine(outcome: &Outcome, bounds: &EngineBounds) -> Result<(), String> {
    at_most("durable records", outcome.durable.len(), RECORDS_MAX)?;
    at_most("actions", outcome.release.len(), ACTIONS_MAX)?;
    for record in &outcome.durable {
        at_most("bytes in a record", record.body.len(), BODY_BYTES_MAX)?;
        at_most("statements in a record", record.statements.len(), STATEMENTS_MAX)?;
    }
    outcome.release.iter().try_for_each(|action| check_action(action, bounds))
}

fn check_action(action: &Action, bounds: &EngineBounds) -> Result<(), String> {
    match action {
        Action::Vote { choice, .. } => check_kind(choice.slot.kind),
        Action::ReleaseSlots(mark) => check_kind(mark.kind),
        Action::Send(envelope) => {
            at_most("bytes in a message", envelope.payload.len(), bounds.message_bytes)?;
            at_most("statements in a message", envelope.sign.len() + envelope.attach.len(), STATEMENTS_MAX)?;
            envelope.sign.iter().try_for_each(|choice| check_kind(choice.slot.kind))
        }
        Action::SetTimer { after_ms: 0, id } => Err(format!("timer {id} after 0 ms")),
        Action::Commit(commit) => {
            at_most("batches in a commit", commit.batches.len(), bounds.batches_in_commit)
        }
        Action::Fetch { batches, .. } => at_most("batches to fetch", batches.len(), FETCH_MAX),
        Action::Accuse(proof) => at_most("bytes in an accusation", proof.len(), bounds.message_bytes),
        Action::SetTimer { .. } | Action::CancelTimer(_) | Action::Truncate(_) | Action::Measure { .. } => {
            Ok(())
        }
    }
}

fn check_kind(kind: u16) -> Result<(), String> {
    if kind < HOST_KINDS {
        return Ok(());
    }
    Err(format!("a slot of kind {kind:#x}; kinds from {HOST_KINDS:#x} are the host's"))
}

pub(crate) fn check_engine_info(info: &Info) -> Result<(), String> {
    check_info(&info.name, &info.version, &info.gauges)
}

pub(crate) fn check_info(name: &str, version: &str, names: &[String]) -> Result<(), String> {
    at_most("interfaces or gauges", names.len(), NAMES_MAX)?;
    for text in [name, version].into_iter().chain(names.iter().map(String::as_str)) {
        at_most("bytes in a name or version", text.len(), NAME_BYTES_MAX)?;
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(format!("the name or version {text:?}"));
        }
    }
    Ok(())
}

pub(crate) fn check_verdict(verdict: &Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Reject(reason) => at_most("bytes in a reason", reason.len(), REASON_BYTES_MAX),
        Verdict::Approve | Verdict::Wait => Ok(()),
    }
}

pub(crate) fn check_receipts(receipts: &[Receipt], transactions: usize) -> Result<(), String> {
    if receipts.len() != transactions {
        return Err(format!("{} receipts for {transactions} transactions", receipts.len()));
    }
    receipts
        .iter()
        .try_for_each(|receipt| at_most("bytes in a receipt", receipt.output.len(), BODY_BYTES_MAX))
}

fn at_most(what: &str, has: usize, limit: usize) -> Result<(), String> {
    if has > limit { Err(format!("{has} {what}; the limit is {limit}")) } else { Ok(()) }
}
