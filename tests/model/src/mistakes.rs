//! Mistakes that are put into the model to see that its properties find them.

/// What is wrong, if anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// The rules as they are.
    Nothing,
    /// An abort may claim less than its author committed to (K8); so it is, too, if the certificate of a commit vote
    /// was not durable when the vote left (K4).
    AbortBelowCommit,
    /// Certificates are kept in the store only, and one node loses its store behind an intact guard (K17).
    CertificateLostWithStore,
    /// A commit is signed although the phase was aborted (K8).
    CommitAfterAbort,
    /// A bundle's claims are taken without their certificates (K9).
    UnprovenClaims,
    /// A bundle of a fallback that never resumed is enough by itself (K10).
    NoRecursion,
    /// The guard remembers digests by slot and nothing else (K17).
    GuardBySlot,
    /// Blocks are prepared past the barrier (K14).
    PreparePastBarrier,
    /// A fallback that closes its epoch goes on after its resume block (K12).
    ClosingGoesOn,
    /// The next epoch's identity names the fallback that closed the epoch before (K12).
    SuccessorOfFallback,
}
