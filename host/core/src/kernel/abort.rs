//! Aborts and bundles: when a phase is over, and where its fallback goes on (K8 to K10).
//!
//! Pure functions of bytes and the epoch: nothing here depends on what this node holds or has
//! seen, so every node judges a bundle alike, wherever it comes upon it.

use moult_crypto::Keyring;
use moult_sdk::{AuthorityIndex, Stake};
use moult_types::block::link;
use moult_types::phase::{
    Abort, AbortedPhase, Bundle, Claim, FinalityProof, PHASES_MAX, Phase, Point, Resumption,
    fallback_identity,
};
use moult_types::{
    BlockRecord, Certificate, CommitIndex, Committee, EpochIdentity, GlobalIndex, Manifest, Round, Scope,
};
use thiserror::Error;

use super::certificate::{CertificateError, check_certificate};

/// Why an abort, a bundle or a resumption proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PhaseError {
    #[error("it is of another phase or epoch")]
    OtherPhase,
    #[error("the abort of authority {} does not verify", .0.0)]
    Abort(AuthorityIndex),
    #[error("its authors do not rise strictly")]
    Authors,
    #[error("its aborts hold stake {have}, a quorum is {need}")]
    Quorum { have: Stake, need: Stake },
    #[error("a claim has no proof, or a proof of something else")]
    Claim,
    #[error("a claim's certificate does not hold: {0}")]
    Certificate(#[from] CertificateError),
    #[error("it does not show where the chain goes on")]
    NoPoint,
    #[error("it holds more than it needs")]
    Surplus,
    #[error("there are at most {PHASES_MAX} phases")]
    TooMany,
}

/// What the phases of an epoch share.
#[derive(Clone, Copy, Debug)]
pub struct Phases<'a> {
    /// Identity of phase 0: the manifest's.
    pub first: EpochIdentity,
    /// The block before the epoch, over all epochs.
    pub base: GlobalIndex,
    /// The same in all of them.
    pub committee: &'a Committee,
    /// The committee's keys.
    pub keyring: &'a Keyring,
    /// K.
    pub window_blocks: u64,
    /// A bug planted for the simulator.
    #[cfg(feature = "planted")]
    pub planted: Option<crate::replica::Planted>,
}

impl<'a> Phases<'a> {
    /// Of an epoch that begins after block `base`, with its committee and the committee's keys.
    pub fn new(
        manifest: &Manifest,
        base: GlobalIndex,
        committee: &'a Committee,
        keyring: &'a Keyring,
    ) -> Self {
        Self {
            first: manifest.identity(),
            base,
            committee,
            keyring,
            window_blocks: manifest.limits.window_blocks,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }
}

impl Phases<'_> {
    /// The identity of a phase.
    ///
    /// # Errors
    /// There are not so many.
    pub fn identity(&self, phase: Phase) -> Result<EpochIdentity, PhaseError> {
        if phase >= PHASES_MAX {
            return Err(PhaseError::TooMany);
        }
        Ok((0..phase).fold(self.first, fallback_identity))
    }

    /// The phase of an identity, where it is one of this epoch.
    pub fn phase_of(&self, identity: EpochIdentity) -> Option<Phase> {
        let mut at = self.first;
        for phase in 0..PHASES_MAX {
            if at == identity {
                return Some(phase);
            }
            at = fallback_identity(at, phase);
        }
        None
    }

    fn certificate(
        &self,
        certificate: &Certificate,
        round: Round,
        identity: EpochIdentity,
    ) -> Result<(), PhaseError> {
        Ok(check_certificate(certificate, round, identity, self.committee, self.keyring, self.window_blocks)?)
    }

    /// K9: an abort counts only with a certificate for exactly what it claims; none is needed to
    /// claim nothing.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn check_abort(&self, phase: Phase, abort: &Abort, claim: Option<&Claim>) -> Result<(), PhaseError> {
        let identity = self.identity(phase)?;
        self.check_signature(identity, abort)?;
        let claimed = self.claimed(phase, claim)?;
        if claimed == abort.claim { Ok(()) } else { Err(PhaseError::Claim) }
    }

    fn check_signature(&self, identity: EpochIdentity, abort: &Abort) -> Result<(), PhaseError> {
        self.keyring
            .verify(Scope::Epoch(identity), &abort.statement(), &abort.signature)
            .map_err(|_| PhaseError::Abort(abort.author))
    }

    /// The block that a claim proves to be certified.
    fn claimed(
        &self,
        phase: Phase,
        claim: Option<&Claim>,
    ) -> Result<(CommitIndex, moult_sdk::Digest), PhaseError> {
        let identity = self.identity(phase)?;
        let Some(Claim { certificate, block }) = claim else {
            return Ok((CommitIndex(0), identity.digest()));
        };
        self.certificate(certificate, Round::Prepare, identity)?;
        match (phase, block) {
            (0, None) => {}
            (1.., Some(record)) if is_the_block(record, certificate) => {}
            _ => return Err(PhaseError::Claim),
        }
        Ok((certificate.index, certificate.hash))
    }

    /// K9, K10: the point at which the phase that a bundle opens goes on.
    ///
    /// The highest claim among the aborts of a quorum decides. Where it shows that the phase's
    /// chain had not resumed itself, the bundle of the phase before decides, and so on down.
    ///
    /// # Errors
    /// Why the bundle opens nothing.
    pub fn check_bundle(&self, opened: Phase, bundle: &Bundle) -> Result<Point, PhaseError> {
        self.identity(opened)?;
        let mut phases = (0..opened).rev();
        let mut entries = bundle.aborted.iter();
        loop {
            let (Some(phase), Some(aborted)) = (phases.next(), entries.next()) else {
                return Err(PhaseError::NoPoint);
            };
            if let Some(point) = self.point_of(phase, aborted)? {
                return if entries.next().is_none() { Ok(point) } else { Err(PhaseError::Surplus) };
            }
        }
    }

    /// Whether a claim leaves the decision to the bundle of the phase before.
    pub fn leaves_open(&self, phase: Phase, claim: Option<&Claim>) -> bool {
        #[cfg(feature = "planted")]
        if self.planted == Some(crate::replica::Planted::NoRecursion) {
            return false;
        }
        phase > 0 && claim.and_then(|claim| claim.block.as_ref()).is_none_or(|b| b.block.resumed.is_none())
    }

    fn point_of(&self, phase: Phase, aborted: &AbortedPhase) -> Result<Option<Point>, PhaseError> {
        let identity = self.identity(phase)?;
        if aborted.identity != identity {
            return Err(PhaseError::OtherPhase);
        }
        self.check_quorum(aborted)?;
        let (index, hash) = self.claimed(phase, aborted.claim.as_ref())?;
        let claims = aborted.aborts.iter().map(|abort| abort.claim);
        let highest = claims.clone().map(|(index, _)| index).max();
        if highest != Some(index) || !claims.clone().any(|claim| claim == (index, hash)) {
            return Err(PhaseError::Claim);
        }
        if self.leaves_open(phase, aborted.claim.as_ref()) {
            return Ok(None);
        }
        let resumed = aborted.claim.as_ref().and_then(|claim| claim.block.as_ref()?.block.resumed);
        let beginning = Point {
            identity: self.first,
            index: CommitIndex(0),
            hash: self.first.digest(),
            global: self.base,
        };
        let point = match resumed {
            Some(resumed) if resumed.at == index => resumed.point,
            Some(resumed) => {
                let global = resumed.global_of(index).ok_or(PhaseError::Claim)?;
                Point { identity, index, hash, global }
            }
            None if phase > 0 => beginning,
            None => {
                let global = self.base.0.checked_add(index.0).map(GlobalIndex).ok_or(PhaseError::Claim)?;
                Point { identity, index, hash, global }
            }
        };
        Ok(Some(point))
    }

    fn check_quorum(&self, aborted: &AbortedPhase) -> Result<(), PhaseError> {
        let (mut have, mut last): (Stake, Option<AuthorityIndex>) = (0, None);
        for abort in &aborted.aborts {
            if last.is_some_and(|last| last >= abort.author) {
                return Err(PhaseError::Authors);
            }
            last = Some(abort.author);
            self.check_signature(aborted.identity, abort)?;
            have += self.committee.stake(abort.author);
        }
        let need = self.committee.quorum();
        if have < need { Err(PhaseError::Quorum { have, need }) } else { Ok(()) }
    }

    /// Whether the resume block of a phase is final, and what it resumes (K11). The block says
    /// it itself: a quorum that committed to it judged its bundle.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn check_resumption(&self, resumption: &Resumption) -> Result<Point, PhaseError> {
        let Resumption { phase, block, certificate } = resumption;
        let identity = self.identity(*phase)?;
        if *phase == 0 || !is_the_block(block, certificate) || block.identity != identity {
            return Err(PhaseError::OtherPhase);
        }
        self.certificate(certificate, Round::Commit, identity)?;
        let resumed = block.block.resumed.filter(|resumed| resumed.at == block.block.index);
        Ok(resumed.ok_or(PhaseError::NoPoint)?.point)
    }

    /// Whether a block of the epoch is final.
    ///
    /// # Errors
    /// Why the proof does not show that.
    pub fn check_final(&self, block: &BlockRecord, proof: &FinalityProof) -> Result<(), PhaseError> {
        match proof {
            FinalityProof::Committed(certificate) => {
                if (certificate.index, certificate.hash) != (block.block.index, block.hash) {
                    return Err(PhaseError::OtherPhase);
                }
                self.certificate(certificate, Round::Commit, block.identity)
            }
            FinalityProof::Resumed { bodies, resumption } => {
                let point = self.check_resumption(resumption)?;
                let reaches = point.index.0.checked_sub(block.block.index.0) == Some(bodies.len() as u64);
                let hash = bodies.iter().fold(block.hash, |hash, body| link(hash, *body));
                if !reaches || point.identity != block.identity || point.hash != hash {
                    return Err(PhaseError::NoPoint);
                }
                Ok(())
            }
        }
    }
}

fn is_the_block(record: &BlockRecord, certificate: &Certificate) -> bool {
    let BlockRecord { parent, hash, block, .. } = record;
    (block.index, *hash) == (certificate.index, certificate.hash) && *hash == link(*parent, block.body())
}
