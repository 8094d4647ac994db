//! What an outcome must keep to, and the names of what is checked.
//!
//! Sizes and counts are those that the real host holds an answer to (`moult-module`); here
//! they are checked again, so that native code under test is held to them as well.

use std::fmt;

use moult_sdk::engine::{Action, Choice, Outcome};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A property of engines; each violation is of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// One content for each index, on all honest nodes; block boundaries included.
    Agreement,
    /// A commit that comes again has equal content.
    Repeat,
    /// Indices are dense.
    Dense,
    /// Nothing at or below what was called final is committed.
    BelowFinal,
    /// Only batches that the node was told of are committed.
    Untold,
    /// No batch is committed twice.
    Twice,
    /// Sizes, counts and indices are within the contract's limits.
    Limits,
    /// Ids of records rise, over restarts too.
    Records,
    /// A timer runs 1 ms or more, and there are not too many.
    Timers,
    /// A node asks for one digest a slot.
    DoubleSign,
    /// The same calls give the same outcomes.
    Determinism,
    /// `describe` gives always the same answer, and a sensible one.
    Describe,
    /// No call traps, panics or runs out of budget.
    Fault,
    /// `init` takes what it must take and refuses what it must refuse.
    Init,
    /// Only who broke the protocol is accused, with proof that holds.
    Accusation,
    /// Once faults stop, everything is committed.
    Liveness,
    /// A committee does not drown in its own messages.
    Flood,
    /// A scenario's own expectation.
    Expectation,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{self:?}");
        for (i, c) in text.chars().enumerate() {
            if c.is_uppercase() && i > 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", c.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// A property was broken.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{check}: {text}{}", .node.map(|n| format!(" (node {n} at {} ms)", .at_ms)).unwrap_or_default())]
pub struct Violation {
    /// Which property.
    pub check: Check,
    /// Where, if at one node.
    pub node: Option<u32>,
    /// Virtual time.
    pub at_ms: u64,
    /// What happened.
    pub text: String,
}

impl Violation {
    /// A violation that is nobody's in particular.
    pub fn new(check: Check, text: impl Into<String>) -> Self {
        Self { check, node: None, at_ms: 0, text: text.into() }
    }
}

/// Most durable records in one outcome.
const RECORDS_MAX: usize = 4_096;
/// Most actions in one outcome.
const ACTIONS_MAX: usize = 16_384;
/// Longest body of a record.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// Most statements in one record or message.
const STATEMENTS_MAX: usize = 4_096;
/// First kind of slot that is the host's.
const HOST_KINDS: u16 = 0x8000;
/// Most batches to fetch at once.
const FETCH_MAX: usize = 65_536;
/// Most timers that are set at once.
pub(crate) const TIMERS_MAX: usize = 1_024;

/// What an engine's settings bound: bytes of a payload, batches in a commit, gauges.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) message_bytes: usize,
    pub(crate) batches_in_commit: usize,
    pub(crate) gauges: usize,
}

/// Holds an outcome against everything that can be said of it by itself.
pub(crate) fn check_outcome(outcome: &Outcome, bounds: Bounds) -> Result<(), (Check, String)> {
    at_most("durable records", outcome.durable.len(), RECORDS_MAX)?;
    at_most("actions", outcome.release.len(), ACTIONS_MAX)?;
    for record in &outcome.durable {
        at_most("bytes in a record", record.body.len(), RECORD_BYTES_MAX)?;
        at_most("statements in a record", record.statements.len(), STATEMENTS_MAX)?;
    }
    outcome.release.iter().try_for_each(|action| check_action(action, bounds))
}

fn check_action(action: &Action, bounds: Bounds) -> Result<(), (Check, String)> {
    match action {
        Action::Vote { choice, .. } => check_choice(choice),
        Action::Send(envelope) => {
            at_most("bytes in a message", envelope.payload.len(), bounds.message_bytes)?;
            at_most("statements in a message", envelope.sign.len() + envelope.attach.len(), STATEMENTS_MAX)?;
            envelope.sign.iter().try_for_each(check_choice)
        }
        Action::SetTimer { after_ms: 0, id } => Err((Check::Timers, format!("timer {id} after 0 ms"))),
        Action::Commit(commit) => {
            at_most("batches in a commit", commit.batches.len(), bounds.batches_in_commit)
        }
        Action::Fetch { batches, .. } => at_most("batches to fetch", batches.len(), FETCH_MAX),
        Action::Accuse(proof) => at_most("bytes in an accusation", proof.len(), bounds.message_bytes),
        Action::Measure { gauge, .. } if *gauge as usize >= bounds.gauges => {
            Err((Check::Limits, format!("gauge {gauge} of {}", bounds.gauges)))
        }
        Action::SetTimer { .. }
        | Action::CancelTimer(_)
        | Action::Truncate(_)
        | Action::ReleaseSlots(_)
        | Action::Measure { .. } => Ok(()),
    }
}

fn check_choice(choice: &Choice) -> Result<(), (Check, String)> {
    if choice.slot.kind < HOST_KINDS {
        return Ok(());
    }
    Err((Check::Limits, format!("a slot of kind {:#x}, which is the host's", choice.slot.kind)))
}

fn at_most(what: &str, has: usize, limit: usize) -> Result<(), (Check, String)> {
    if has > limit { Err((Check::Limits, format!("{has} {what}; the limit is {limit}"))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::Check;

    #[test]
    fn names_of_checks_are_those_of_the_report() {
        for check in [Check::Agreement, Check::BelowFinal, Check::DoubleSign] {
            assert_eq!(format!("\"{check}\""), serde_json::to_string(&check).unwrap());
        }
    }
}
