//! Bugs planted to see that the checkers catch them.

use moult_core::replica::{Planted as CorePlanted, Settings};

use crate::plan::Planted;

/// Sets a replica's share of a planted bug.
pub(crate) fn apply(planted: Option<Planted>, settings: &mut Settings) {
    settings.planted = match planted {
        Some(Planted::CertificateQuorumMinusOne) => Some(CorePlanted::QuorumMinusOne),
        Some(Planted::PastBarrier) => Some(CorePlanted::PastBarrier),
        Some(Planted::VoteCountedTwice) => Some(CorePlanted::VoteCountedTwice),
        Some(Planted::WithoutCertificates) => Some(CorePlanted::WithoutCertificates),
        Some(Planted::CommitWithoutCertificate) => Some(CorePlanted::CommitWithoutCertificate),
        Some(Planted::AbortBelowCommit) => Some(CorePlanted::AbortBelowCommit),
        Some(Planted::CommitAfterAbort) => Some(CorePlanted::CommitAfterAbort),
        Some(Planted::NoRecursion) => Some(CorePlanted::NoRecursion),
        Some(Planted::DropsPrepared) => Some(CorePlanted::DropsPrepared),
        Some(Planted::EngineQuorumMinusOne | Planted::UnsyncedGuard) | None => None,
    };
}

/// Sets an engine's share of a planted bug.
pub(crate) fn engine_config(planted: Option<Planted>) -> &'static str {
    if planted == Some(Planted::EngineQuorumMinusOne) { "planted=quorum-minus-one\n" } else { "" }
}

/// Whether the guard's file is left unsynced.
pub(crate) fn skips_guard(planted: Option<Planted>) -> bool {
    planted == Some(Planted::UnsyncedGuard)
}
