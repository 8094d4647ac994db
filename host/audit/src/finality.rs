//! What proves a block final. The one place here that knows.

use moult_core::kernel::{PhaseError, Phases};
use moult_crypto::Keyring;
use moult_types::phase::FinalityProof;
use moult_types::{AuthorityIndex, BlockRecord, Committee, EpochIdentity, GlobalIndex};

/// What proofs of an epoch are held against.
pub(crate) struct Judges<'a> {
    /// Of the epoch's first phase.
    pub(crate) first: EpochIdentity,
    pub(crate) base: GlobalIndex,
    pub(crate) committee: &'a Committee,
    pub(crate) keyring: &'a Keyring,
    pub(crate) window_blocks: u64,
}

impl Judges<'_> {
    pub(crate) fn phases(&self) -> Phases<'_> {
        Phases {
            first: self.first,
            base: self.base,
            committee: self.committee,
            keyring: self.keyring,
            window_blocks: self.window_blocks,
        }
    }

    /// Checks that a block, and so all before it, is final; answers with those whose votes say so.
    pub(crate) fn check_final(
        &self,
        block: &BlockRecord,
        proof: &FinalityProof,
    ) -> Result<Vec<AuthorityIndex>, PhaseError> {
        self.phases().check_final(block, proof)?;
        Ok(voters(proof))
    }
}

/// Whose votes are in a proof.
pub(crate) fn voters(proof: &FinalityProof) -> Vec<AuthorityIndex> {
    proof.certificate().votes.iter().map(|vote| vote.author).collect()
}
