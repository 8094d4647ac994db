//! What proves a block final. The one place here that knows.

use moult_core::finality::{CertificateError, check_certificate};
use moult_crypto::Keyring;
use moult_types::{AuthorityIndex, BlockRecord, Certificate, CommitIndex, Committee, Digest, EpochIdentity};
use thiserror::Error;

/// What proofs of an epoch are held against.
pub(crate) struct Judges<'a> {
    pub(crate) identity: EpochIdentity,
    pub(crate) committee: &'a Committee,
    pub(crate) keyring: &'a Keyring,
    pub(crate) window_blocks: u64,
}

/// Why a block is not proven final.
#[derive(Debug, Error)]
pub(crate) enum NotFinal {
    #[error("it is for another block (index {}, hash {hash})", index.0)]
    OtherBlock { index: CommitIndex, hash: Digest },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Checks that a block, and so all before it, is final; answers with those whose votes say so.
pub(crate) fn check_final(
    judges: &Judges<'_>,
    block: &BlockRecord,
    proof: &Certificate,
) -> Result<Vec<AuthorityIndex>, NotFinal> {
    if (proof.index, proof.hash) != (block.block.index, block.hash) {
        return Err(NotFinal::OtherBlock { index: proof.index, hash: proof.hash });
    }
    check_certificate(proof, judges.identity, judges.committee, judges.keyring, judges.window_blocks)?;
    Ok(proof.votes.iter().map(|vote| vote.author).collect())
}
