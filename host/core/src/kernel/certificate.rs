//! Certificates: what a quorum's votes prove (K5). Pure functions of bytes and a committee.

use moult_crypto::Keyring;
use moult_sdk::{AuthorityIndex, Stake};
use moult_types::block::{link, vote_statement};
use moult_types::{Certificate, Committee, EpochIdentity, Round, Scope};
use thiserror::Error;

/// Why a certificate proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CertificateError {
    #[error("it is of another epoch")]
    OtherEpoch,
    #[error("it is of the other round")]
    OtherRound,
    #[error("its authors do not rise strictly")]
    Authors,
    #[error("a vote lies below the certified index or above its bodies")]
    Index,
    #[error("a signature of authority {} does not verify", .0.0)]
    Signature(AuthorityIndex),
    #[error("its votes hold stake {have}, a quorum is {need}")]
    Quorum { have: Stake, need: Stake },
    #[error("it carries {0} bodies, more than the window allows")]
    Bodies(usize),
}

/// K5: checks a certificate of a round: votes of a quorum, each on a chain through the certified
/// block. It proves nothing above its index.
///
/// # Errors
/// Why it proves nothing.
pub fn check_certificate(
    certificate: &Certificate,
    round: Round,
    identity: EpochIdentity,
    committee: &Committee,
    keyring: &Keyring,
    window_blocks: u64,
) -> Result<(), CertificateError> {
    if certificate.identity != identity {
        return Err(CertificateError::OtherEpoch);
    }
    if certificate.round != round {
        return Err(CertificateError::OtherRound);
    }
    if certificate.bodies.len() as u64 > window_blocks {
        return Err(CertificateError::Bodies(certificate.bodies.len()));
    }
    let mut hashes = vec![certificate.hash];
    for body in &certificate.bodies {
        hashes.push(link(hashes[hashes.len() - 1], *body));
    }
    let mut have: Stake = 0;
    let mut last: Option<AuthorityIndex> = None;
    for vote in &certificate.votes {
        if last.is_some_and(|last| last >= vote.author) {
            return Err(CertificateError::Authors);
        }
        last = Some(vote.author);
        let above = vote.index.0.checked_sub(certificate.index.0).ok_or(CertificateError::Index)?;
        let hash =
            usize::try_from(above).ok().and_then(|above| hashes.get(above)).ok_or(CertificateError::Index)?;
        keyring
            .verify(
                Scope::Epoch(identity),
                &vote_statement(round, vote.author, vote.index, *hash),
                &vote.signature,
            )
            .map_err(|_| CertificateError::Signature(vote.author))?;
        have += committee.stake(vote.author);
    }
    let need = committee.quorum();
    if have < need { Err(CertificateError::Quorum { have, need }) } else { Ok(()) }
}
