//! Verification once for all receivers of a message: its outcome is a function of the
//! message and of the epoch that the receiver is in.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_core::verify::{Unverified, VerifiedMessage, VerifyContext};
use moult_types::{EpochIdentity, Message};

/// Most outcomes that are kept.
const KEPT_MAX: usize = 4096;

type Outcome = Result<VerifiedMessage, Unverified>;

/// Outcomes by message and epoch. A message is known by where it lies in memory, and lies
/// there as long as it is kept; no decision and no order depends on the address.
#[derive(Default)]
pub(crate) struct Verified(BTreeMap<(usize, EpochIdentity), (Arc<Message>, Outcome)>);

impl Verified {
    pub(crate) fn check(&mut self, context: &VerifyContext, message: &Arc<Message>) -> Outcome {
        let key = (Arc::as_ptr(message).addr(), context.identity);
        if let Some((_, outcome)) = self.0.get(&key) {
            return outcome.clone();
        }
        let outcome = context.check(message.as_ref().clone());
        if self.0.len() >= KEPT_MAX {
            self.0.clear();
        }
        self.0.insert(key, (message.clone(), outcome.clone()));
        outcome
    }
}
