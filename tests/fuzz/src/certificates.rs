//! Certificates and stretches of final blocks as peers send them: only a quorum counts.

use std::collections::BTreeSet;

use moult_core::kernel::check_certificate;
use moult_crypto::verify_statement;
use moult_types::block::{link, vote_statement};
use moult_types::message::Blocks;
use moult_types::{
    AuthorityIndex, Certificate, CertificateVote, CommitIndex, Digest, EpochIdentity, Round, Scope,
    Signature, decode, encode,
};

use crate::input::Input;
use crate::sample::{self, AUTHORITIES};

/// First byte: a certificate as bytes, or one that is made by what follows.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let certificate = match input.byte() % 3 {
        0 => match decode::<Certificate>(input.rest()) {
            Ok(certificate) => certificate,
            Err(_) => return,
        },
        1 => match decode::<Blocks>(input.rest()) {
            Ok(blocks) => blocks.proof.certificate().clone(),
            Err(_) => return,
        },
        _ => made(&mut input),
    };
    let window = sample::manifest().limits.window_blocks;
    let (committee, keyring) = (sample::committee(), sample::keyring());
    let round = certificate.round;
    let checked = check_certificate(&certificate, round, sample::identity(), committee, keyring, window);
    // By arithmetic of its own: what the certificate would have to hold.
    let good = voters(&certificate);
    let rises = certificate.votes.windows(2).all(|pair| pair[0].author < pair[1].author);
    let proves = certificate.identity == sample::identity()
        && certificate.bodies.len() as u64 <= window
        && rises
        && good.len() == certificate.votes.len()
        && good.len() * 3 > 2 * usize::from(AUTHORITIES);
    assert_eq!(checked.is_ok(), proves, "{checked:?} of votes by {good:?}");
    assert_eq!(decode::<Certificate>(&encode(&certificate)).as_ref(), Ok(&certificate));
}

/// Whose votes hold: on the chain through the certified block, with a signature that verifies.
fn voters(certificate: &Certificate) -> BTreeSet<AuthorityIndex> {
    let chain = |above: u64| {
        let bodies = certificate.bodies.get(..usize::try_from(above).ok()?)?;
        Some(bodies.iter().fold(certificate.hash, |hash, body| link(hash, *body)))
    };
    let holds = |vote: &&CertificateVote| {
        let Some(hash) = vote.index.0.checked_sub(certificate.index.0).and_then(chain) else { return false };
        let Some(member) = sample::committee().member(vote.author) else { return false };
        let statement = vote_statement(certificate.round, vote.author, vote.index, hash);
        let scope = Scope::Epoch(sample::identity());
        verify_statement(&member.key, sample::CHAIN, scope, &statement, &vote.signature).is_ok()
    };
    certificate.votes.iter().filter(holds).map(|vote| vote.author).collect()
}

fn made(input: &mut Input<'_>) -> Certificate {
    let round = Round::ALL[input.below(2)];
    let (index, hash) = (1 + u64::from(input.byte() % 4), input.digest());
    let bodies: Vec<Digest> = (0..input.below(7)).map(|_| input.digest()).collect();
    let mut votes = Vec::new();
    for _ in 0..input.below(6) {
        let author = input.byte() % (AUTHORITIES + 2);
        let above = u64::from(input.byte()) % (bodies.len() as u64 + 2);
        let reach = bodies.len().min(above as usize);
        let mut hash = bodies[..reach].iter().fold(hash, |hash, body| link(hash, *body));
        let mut signer = author;
        let mut damage = 0;
        match input.byte() {
            0..=3 => hash = input.digest(),
            4..=7 => signer = input.byte() % AUTHORITIES,
            8..=11 => damage = input.byte(),
            _ => {}
        }
        let at = index + above;
        // The signature of another authority is over a statement in that one's name.
        let mut signature = sample::vote_for(round, signer, at, hash).signature;
        signature.0[usize::from(damage) % 64] ^= damage;
        let author = AuthorityIndex(author.into());
        votes.push(CertificateVote { author, index: CommitIndex(at), signature });
    }
    let identity = if input.byte() == 1 { EpochIdentity([1; 32]) } else { sample::identity() };
    if input.byte() == 1 {
        votes.push(CertificateVote {
            author: AuthorityIndex(u32::MAX),
            index: CommitIndex(u64::MAX),
            signature: Signature([0; 64]),
        });
    }
    Certificate { round, identity, index: CommitIndex(index), hash, votes, bodies }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let good = |bodies: &[Digest]| encode(&sample::certificate(Round::Commit, 1, Digest([1; 32]), bodies));
    let two = [Digest([2; 32]), Digest([3; 32])];
    let mut seeds = vec![
        [vec![0], good(&[])].concat(),
        [vec![0], good(&two)].concat(),
        [vec![1], encode(&sample::blocks(1))].concat(),
        [vec![1], encode(&sample::blocks(2))].concat(),
    ];
    let vote = |author: u8, above: u8| [author, above, 255];
    for count in 1..=4 {
        let votes: Vec<u8> = (0..count).flat_map(|author| vote(author, author % 3)).collect();
        seeds.push([&[2, 0, 0, 1, 2, 4, 5, count], &*votes].concat());
    }
    for wrong in [0, 4, 8] {
        seeds.push(vec![2, 1, 0, 1, 0, 3, 0, 0, 255, 1, 0, wrong, 3, 2, 0, 255]);
    }
    seeds
}
