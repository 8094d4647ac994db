//! Certificates prove what they say: signatures of distinct authorities with more than two
//! thirds (or half) of the stake, each on a chain through the block.

use std::collections::BTreeSet;

use moult_types::block::{link, vote_statement};
use moult_types::{
    AuthorityIndex, Certificate, ChainId, Digest, EpochIdentity, FaultModel, Manifest, Round, Scope,
    Signature, Signed, Statement,
};

use crate::report::Violation;
use crate::signing::Scheme;

pub(crate) struct Certificates {
    chain: ChainId,
    scheme: Scheme,
    /// Votes whose signatures were verified before.
    known: BTreeSet<(EpochIdentity, AuthorityIndex, Round, u64, Digest, Signature)>,
}

impl Certificates {
    pub(crate) fn new(chain: ChainId, scheme: Scheme) -> Self {
        Self { chain, scheme, known: BTreeSet::new() }
    }

    /// An honest node made a vote: its receivers verify the signature.
    pub(crate) fn made(&mut self, identity: EpochIdentity, vote: &Signed) {
        let Signed { statement, signature } = vote;
        if let Some(round) = Round::of(statement) {
            let Statement { author, slot, digest } = *statement;
            self.known.insert((identity, author, round, slot.a, digest, *signature));
        }
    }

    pub(crate) fn check(
        &mut self,
        node: usize,
        certificate: &Certificate,
        round: Round,
        manifest: Option<&Manifest>,
    ) -> Result<(), Violation> {
        let wrong =
            |what: &str| Violation::new("certificates", format!("node {node}: {what}: {certificate:?}"));
        let manifest = manifest.ok_or_else(|| wrong("its epoch has not begun"))?;
        if certificate.round != round {
            return Err(wrong("of the other round"));
        }
        let mut hashes = vec![certificate.hash];
        for body in &certificate.bodies {
            hashes.push(link(hashes[hashes.len() - 1], *body));
        }
        if certificate.bodies.len() as u64 > manifest.limits.window_blocks {
            return Err(wrong("peers refuse so many bodies"));
        }
        let mut authors = BTreeSet::new();
        for vote in &certificate.votes {
            let above = (vote.index.0 as usize).checked_sub(certificate.index.0 as usize);
            let hash = above
                .and_then(|above| hashes.get(above))
                .ok_or_else(|| wrong("a vote outside its bodies"))?;
            let member =
                manifest.members.get(vote.author.as_usize()).ok_or_else(|| wrong("a foreign vote"))?;
            let key = (certificate.identity, vote.author, round, vote.index.0, *hash, vote.signature);
            if !self.known.contains(&key) {
                let statement = vote_statement(round, vote.author, vote.index, *hash);
                let scope = Scope::Epoch(certificate.identity);
                if !self.scheme.holds(&member.key, self.chain, scope, &statement, &vote.signature) {
                    return Err(wrong("a bad signature"));
                }
                self.known.insert(key);
            }
            authors.insert(vote.author.as_usize());
        }
        if is_enough(manifest.members.iter().map(|m| m.stake), &authors, manifest.fault_model) {
            Ok(())
        } else {
            Err(wrong("too little stake"))
        }
    }
}

/// Whether these authorities hold more than two thirds (or half) of the stake.
pub(crate) fn is_enough(
    stakes: impl Iterator<Item = u64>,
    authors: &BTreeSet<usize>,
    model: FaultModel,
) -> bool {
    let (mut total, mut have) = (0_u128, 0_u128);
    for (place, stake) in stakes.enumerate() {
        total += u128::from(stake);
        if authors.contains(&place) {
            have += u128::from(stake);
        }
    }
    match model {
        FaultModel::Byzantine => 3 * have > 2 * total,
        FaultModel::Crash => 2 * have > total,
    }
}
