//! Certificates, and the votes that make them.

use std::sync::Arc;

use moult_core::kernel::{CertificateError, Finality, HeldBlock, check_certificate};
use moult_crypto::Signer;
use moult_types::block::vote_statement;
use moult_types::*;

use crate::support::*;

const WINDOW: u64 = 4;

/// Blocks 1 to `n`, and a finality that holds them.
fn chain(manifest: &Manifest, n: u64) -> (Finality, Vec<Arc<BlockRecord>>) {
    let identity = manifest.identity();
    let mut finality = Finality::new(identity, WINDOW, CommitIndex(0), identity.digest());
    let (mut parent, mut records) = (identity.digest(), Vec::new());
    for i in 1..=n {
        let block = Block {
            index: CommitIndex(i),
            time_ms: i,
            batches: vec![Digest([i as u8; 32])],
            state_root: None,
            resumed: None,
        };
        let made = Arc::new(record(manifest, parent, block));
        parent = made.hash;
        finality.push(HeldBlock { record: made.clone(), batches: Vec::new(), ordered_at_ms: None });
        records.push(made);
    }
    (finality, records)
}

fn sign(manifest: &Manifest, author: u8, index: u64, hash: Digest) -> Signature {
    let statement = vote_statement(Round::Prepare, AuthorityIndex(author.into()), CommitIndex(index), hash);
    keys(author).sign_statement(CHAIN, Scope::Epoch(manifest.identity()), &statement)
}

fn vote(finality: &mut Finality, manifest: &Manifest, author: u8, index: u64, hash: Digest) {
    let signature = sign(manifest, author, index, hash);
    finality.add_vote(Round::Prepare, AuthorityIndex(author.into()), CommitIndex(index), hash, signature);
}

fn certifiable(finality: &Finality, committee: &Committee) -> Option<Certificate> {
    finality.certifiable(Round::Prepare, CommitIndex(0), committee)
}

fn check(certificate: &Certificate, manifest: &Manifest) -> Result<(), CertificateError> {
    let committee = manifest.committee().expect("valid");
    check_certificate(
        certificate,
        Round::Prepare,
        manifest.identity(),
        &committee,
        &keyring(manifest),
        WINDOW,
    )
}

#[test]
fn votes_count_for_everything_below_them() {
    let manifest = manifest(&[1, 1, 1, 1]);
    let committee = manifest.committee().expect("valid");
    let (mut finality, records) = chain(&manifest, 4);
    vote(&mut finality, &manifest, 0, 4, records[3].hash);
    vote(&mut finality, &manifest, 1, 2, records[1].hash);
    // A vote for another block counts nowhere; a repeated one counts once.
    vote(&mut finality, &manifest, 2, 3, Digest([7; 32]));
    vote(&mut finality, &manifest, 1, 2, records[1].hash);
    assert!(certifiable(&finality, &committee).is_none());
    vote(&mut finality, &manifest, 3, 3, records[2].hash);
    let certificate = certifiable(&finality, &committee).expect("three of four");
    assert_eq!((certificate.index, certificate.hash), (CommitIndex(2), records[1].hash));
    assert_eq!(check(&certificate, &manifest), Ok(()));
    let done = finality.finalize(certificate.index);
    assert_eq!(done.len(), 2);
    assert_eq!(finality.last_final(), CommitIndex(2));
    // What lies above is still open, and votes below are void.
    assert!(certifiable(&finality, &committee).is_none());
    vote(&mut finality, &manifest, 1, 3, records[2].hash);
    assert_eq!(certifiable(&finality, &committee).map(|c| c.index), Some(CommitIndex(3)));
}

#[test]
fn a_round_counts_its_own_votes_only_and_what_lies_above() {
    let manifest = manifest(&[1, 1, 1, 1]);
    let committee = manifest.committee().expect("valid");
    let (mut finality, records) = chain(&manifest, 3);
    for (author, index) in [(0, 1), (1, 3), (2, 2)] {
        vote(&mut finality, &manifest, author, index, records[index as usize - 1].hash);
    }
    assert_eq!(finality.certifiable(Round::Commit, CommitIndex(0), &committee), None);
    let certificate = certifiable(&finality, &committee).expect("three of four");
    assert_eq!((certificate.index.0, certificate.round), (1, Round::Prepare));
    assert_eq!(finality.certifiable(Round::Prepare, CommitIndex(1), &committee), None);
    // The very same votes said to be of the other round verify nowhere.
    let moved = Certificate { round: Round::Commit, ..certificate };
    let checked = check_certificate(
        &moved,
        Round::Commit,
        manifest.identity(),
        &committee,
        &keyring(&manifest),
        WINDOW,
    );
    assert_eq!(checked, Err(CertificateError::Signature(AuthorityIndex(0))));
}

#[test]
fn a_vote_before_its_block_counts_once_the_block_is_there() {
    let manifest = manifest(&[1, 1, 1, 1]);
    let committee = manifest.committee().expect("valid");
    let (_, records) = chain(&manifest, 1);
    let (mut finality, _) = chain(&manifest, 0);
    (0..3).for_each(|author| vote(&mut finality, &manifest, author, 1, records[0].hash));
    assert!(certifiable(&finality, &committee).is_none());
    finality.push(HeldBlock { record: records[0].clone(), batches: Vec::new(), ordered_at_ms: None });
    assert!(certifiable(&finality, &committee).is_some());
}

#[test]
fn a_vote_too_far_ahead_makes_no_certificate_that_peers_refuse() {
    let manifest = manifest(&[1, 1, 1, 1]);
    let committee = manifest.committee().expect("valid");
    let (mut finality, records) = chain(&manifest, 9);
    // Two peers are more than a window above the third.
    vote(&mut finality, &manifest, 0, 9, records[8].hash);
    vote(&mut finality, &manifest, 1, 9, records[8].hash);
    vote(&mut finality, &manifest, 2, 4, records[3].hash);
    assert!(certifiable(&finality, &committee).is_none());
    vote(&mut finality, &manifest, 2, 5, records[4].hash);
    let certificate = certifiable(&finality, &committee).expect("within a window");
    assert_eq!(certificate.index, CommitIndex(5));
    assert_eq!(check(&certificate, &manifest), Ok(()));
}

#[test]
fn forged_certificates_are_refused() {
    let manifest = manifest(&[3, 1, 1, 1, 1]);
    let committee = manifest.committee().expect("valid");
    let (mut finality, records) = chain(&manifest, 3);
    vote(&mut finality, &manifest, 0, 2, records[1].hash);
    vote(&mut finality, &manifest, 1, 3, records[2].hash);
    vote(&mut finality, &manifest, 2, 2, records[1].hash);
    let good = certifiable(&finality, &committee).expect("five of seven");
    assert_eq!((check(&good, &manifest), good.bodies.len()), (Ok(()), 1));
    let forge = |change: &dyn Fn(&mut Certificate)| {
        let mut forged = good.clone();
        change(&mut forged);
        check(&forged, &manifest).expect_err("forged")
    };
    assert_eq!(forge(&|c| c.identity.0[0] ^= 1), CertificateError::OtherEpoch);
    assert_eq!(forge(&|c| c.round = Round::Commit), CertificateError::OtherRound);
    assert_eq!(forge(&|c| c.votes.truncate(2)), CertificateError::Quorum { have: 4, need: 5 });
    assert_eq!(forge(&|c| c.votes.push(c.votes[2])), CertificateError::Authors);
    assert_eq!(forge(&|c| c.votes.swap(0, 1)), CertificateError::Authors);
    assert_eq!(
        forge(&|c| c.votes[2].author = AuthorityIndex(3)),
        CertificateError::Signature(AuthorityIndex(3))
    );
    assert_eq!(
        forge(&|c| c.votes[2].author = AuthorityIndex(9)),
        CertificateError::Signature(AuthorityIndex(9))
    );
    assert_eq!(forge(&|c| c.hash.0[0] ^= 1), CertificateError::Signature(AuthorityIndex(0)));
    assert_eq!(forge(&|c| c.index = CommitIndex(3)), CertificateError::Index);
    assert_eq!(forge(&|c| c.index = CommitIndex(1)), CertificateError::Signature(AuthorityIndex(0)));
    assert_eq!(forge(&|c| c.bodies.clear()), CertificateError::Index);
    assert_eq!(forge(&|c| c.bodies[0].0[0] ^= 1), CertificateError::Signature(AuthorityIndex(1)));
    assert_eq!(forge(&|c| c.bodies = vec![c.bodies[0]; 5]), CertificateError::Bodies(5));
    // A vote of the same keys in another epoch is worth nothing in this one.
    let mut other = manifest.clone();
    other.number = EpochNumber(1);
    let mut moved = good.clone();
    moved.identity = other.identity();
    assert_eq!(check(&moved, &other), Err(CertificateError::Signature(AuthorityIndex(0))));
}

#[test]
fn blocks_that_were_not_final_are_dropped_from_the_top() {
    let manifest = manifest(&[1, 1, 1, 1]);
    let (mut finality, records) = chain(&manifest, 4);
    assert!(!finality.drop_above(CommitIndex(4)));
    assert!(finality.drop_above(CommitIndex(2)));
    assert_eq!(finality.top(), (CommitIndex(2), records[1].hash));
    assert_eq!(finality.hash_at(CommitIndex(3)), None);
}
