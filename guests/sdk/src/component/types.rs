//! Conversions of the types that worlds share (`wit/types`).

use super::engine::bindings::moult::types::types as wit;
use crate::{AuthorityIndex, Batch, Committee, Digest, FaultModel, Slot, Statement};

impl From<wit::Digest> for Digest {
    fn from(digest: wit::Digest) -> Self {
        Self::from_words([digest.w0, digest.w1, digest.w2, digest.w3])
    }
}

impl From<Digest> for wit::Digest {
    fn from(digest: Digest) -> Self {
        let [w0, w1, w2, w3] = digest.to_words();
        Self { w0, w1, w2, w3 }
    }
}

impl From<wit::FaultModel> for FaultModel {
    fn from(model: wit::FaultModel) -> Self {
        match model {
            wit::FaultModel::Crash => Self::Crash,
            wit::FaultModel::Byzantine => Self::Byzantine,
        }
    }
}

impl From<FaultModel> for wit::FaultModel {
    fn from(model: FaultModel) -> Self {
        match model {
            FaultModel::Crash => Self::Crash,
            FaultModel::Byzantine => Self::Byzantine,
        }
    }
}

impl From<wit::Slot> for Slot {
    fn from(slot: wit::Slot) -> Self {
        Self { kind: slot.kind, a: slot.a, b: slot.b }
    }
}

impl From<Slot> for wit::Slot {
    fn from(slot: Slot) -> Self {
        Self { kind: slot.kind, a: slot.a, b: slot.b }
    }
}

impl From<wit::Statement> for Statement {
    fn from(statement: wit::Statement) -> Self {
        Self {
            author: AuthorityIndex(statement.author),
            slot: statement.slot.into(),
            digest: statement.digest.into(),
        }
    }
}

impl From<Statement> for wit::Statement {
    fn from(statement: Statement) -> Self {
        Self { author: statement.author.0, slot: statement.slot.into(), digest: statement.digest.into() }
    }
}

impl From<wit::Batch> for Batch {
    fn from(batch: wit::Batch) -> Self {
        Self { digest: batch.digest.into(), author: AuthorityIndex(batch.author), bytes: batch.bytes }
    }
}

impl From<wit::Committee> for Committee {
    fn from(committee: wit::Committee) -> Self {
        Self {
            epoch: committee.epoch,
            fault_model: committee.fault_model.into(),
            stakes: committee.stakes,
            quorum: committee.quorum,
            validity: committee.validity,
            me: committee.me.map(AuthorityIndex),
        }
    }
}

/// Converts a list element by element.
pub(super) fn list<A, B: From<A>>(items: Vec<A>) -> Vec<B> {
    items.into_iter().map(B::from).collect()
}
