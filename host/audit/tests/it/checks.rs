//! What passes, and what is refused by name.

use moult_audit::{AuditError, Auditor};
use moult_types::block::link;
use moult_types::message::Blocks;
use moult_types::phase::FinalityProof;
use moult_types::{Certificate, Digest, EpochNumber, GlobalIndex, decode, encode};

use crate::chain::{Chain, genesis, two_epochs};

fn audit(stretches: &[Blocks]) -> Result<moult_audit::Audit, AuditError> {
    let mut auditor = Auditor::new(&genesis("test")).expect("a genesis");
    stretches.iter().try_for_each(|stretch| auditor.feed(stretch))?;
    Ok(auditor.audit())
}

#[test]
fn a_good_chain_over_two_epochs_passes_and_says_who_did_what() {
    let chain = two_epochs();
    let audit = audit(&chain.stretches).expect("a good chain");
    let blocks: usize = chain.stretches.iter().map(|stretch| stretch.blocks.len()).sum();
    let last = audit.last.as_ref().expect("blocks");
    assert_eq!((last.global_exec_index, last.epoch), (blocks as u64, 1));
    assert_eq!(audit.certificates, chain.stretches.len() as u64);
    assert_eq!((audit.batches, audit.transactions), (4 * blocks as u64, blocks as u64));
    assert_eq!(audit.governance, 1 + 4 + 3);

    let [first, second] = audit.epochs.as_slice() else { panic!("{:?}", audit.epochs) };
    assert_eq!((first.number, second.number), (0, 1));
    assert_eq!((second.base, second.identity.clone()), (first.blocks, chain.manifest.identity().to_string()));
    assert_eq!(first.state_root, None);
    assert_eq!(second.state_root, Some(Digest([6; 32]).to_string()));
    let votes: Vec<_> = first.committee.iter().map(|member| member.votes_in_certificates).collect();
    assert_eq!(votes, [first.certificates, first.certificates, 1, first.certificates]);

    let [proposal] = audit.proposals.as_slice() else { panic!("{:?}", audit.proposals) };
    assert_eq!((proposal.id, proposal.state, proposal.new_epoch), (1, "active", 1));
    let votes: Vec<_> = proposal.votes.iter().map(|vote| (vote.approve, vote.reason.as_deref())).collect();
    // The vote that came after the quorum did not count.
    assert_eq!(votes, [(true, None), (true, None), (false, Some("not me")), (true, None)]);
    assert_eq!(proposal.ready.len(), 3);
}

#[test]
fn every_flipped_bit_is_refused() {
    let chain = two_epochs();
    let mut refused = 0;
    for at in 0..chain.stretches.len() {
        let good = encode(&chain.stretches[at]);
        // A prime step: over the stretches every field is met.
        for byte in (at % 7..good.len()).step_by(7) {
            let mut bytes = good.clone();
            bytes[byte] ^= 1 << (byte % 8);
            let Ok(changed) = decode::<Blocks>(&bytes) else { continue };
            let mut stretches = chain.stretches[..at].to_vec();
            stretches.push(changed);
            let result = audit(&stretches);
            assert!(result.is_err(), "stretch {at}, byte {byte} of {}", good.len());
            refused += 1;
        }
    }
    assert!(refused > 500, "{refused}");
}

fn certificate_of(stretch: &mut Blocks) -> &mut Certificate {
    match &mut stretch.proof {
        FinalityProof::Committed(certificate) => certificate,
        FinalityProof::Resumed { .. } => panic!("no fallback resumed"),
    }
}

#[test]
fn a_missing_block_is_named() {
    let chain = two_epochs();
    for at in 0..chain.stretches.len() - 1 {
        let mut stretches = chain.stretches.clone();
        let gone = stretches.remove(at);
        let expected = gone.blocks[0].global;
        let error = audit(&stretches).expect_err("a gap");
        assert!(matches!(error, AuditError::Missing { expected: it, .. } if it == expected), "{at}: {error}");
    }
    // Within a stretch.
    let mut stretches = chain.stretches.clone();
    stretches[1].blocks.remove(0);
    let error = audit(&stretches).expect_err("a gap");
    assert_eq!(error, AuditError::Missing { expected: GlobalIndex(2), found: GlobalIndex(3) });
}

#[test]
fn a_swapped_or_weak_certificate_is_named() {
    let chain = two_epochs();
    let certificate = |change: &dyn Fn(&mut Vec<Blocks>)| {
        let mut stretches = chain.stretches.clone();
        change(&mut stretches);
        let error = audit(&stretches).expect_err("no proof");
        assert!(matches!(error, AuditError::Certificate { .. }), "{error}");
        error.to_string()
    };
    let of_another = chain.stretches[0].proof.clone();
    assert!(certificate(&|all| all[1].proof = of_another.clone()).contains("another"));
    assert!(certificate(&|all| certificate_of(&mut all[2]).votes.truncate(2)).contains("quorum"));
    assert!(certificate(&|all| certificate_of(&mut all[2]).votes.swap(0, 1)).contains("authors"));
    let twice = |all: &mut Vec<Blocks>| {
        let votes = &mut certificate_of(&mut all[2]).votes;
        votes[1] = votes[0];
    };
    assert!(certificate(&twice).contains("authors"));
    // Of the former epoch, for a block of the next.
    let last = chain.stretches.len() - 1;
    let identity = chain.stretches[0].blocks[0].identity;
    assert!(certificate(&|all| certificate_of(&mut all[last]).identity = identity).contains("epoch"));
}

#[test]
fn a_foreign_genesis_and_foreign_blocks_are_named() {
    let chain = two_epochs();
    let mut other = genesis("test");
    other.manifest.limits.window_blocks = 5;
    let mut auditor = Auditor::new(&other).expect("a genesis");
    let error = auditor.feed(&chain.stretches[0]).expect_err("another chain");
    assert!(matches!(error, AuditError::OtherEpoch { .. }), "{error}");
    // Chains whose first epochs are alike differ by their signatures.
    let mut auditor = Auditor::new(&genesis("another name")).expect("a genesis");
    let error = auditor.feed(&chain.stretches[0]).expect_err("another chain");
    assert!(matches!(error, AuditError::Certificate { .. }), "{error}");

    let mut bad = genesis("test");
    bad.manifest.members[1].possession = bad.manifest.members[2].possession;
    assert!(matches!(Auditor::new(&bad), Err(AuditError::Genesis(_))));
}

/// Certified by everyone, so that nothing but the rule itself refuses it.
fn recertified(chain: &Chain, at: usize, change: impl FnOnce(&mut Blocks)) -> AuditError {
    let mut stretches = chain.stretches[..=at].to_vec();
    let stretch = &mut stretches[at];
    change(stretch);
    let top = stretch.blocks.last_mut().expect("a block");
    top.hash = link(top.parent, top.block.body());
    let certificate = chain.certificate(&stretch.blocks[stretch.blocks.len() - 1], &[0, 1, 2, 3]);
    stretch.proof = FinalityProof::Committed(certificate);
    audit(&stretches).expect_err("against the rules")
}

#[test]
fn what_a_quorum_signed_against_the_rules_is_named_too() {
    let chain = two_epochs();
    let error = recertified(&chain, 0, |stretch| stretch.blocks[0].block.time_ms += 1);
    assert!(matches!(error, AuditError::Time { .. }), "{error}");
    let error = recertified(&chain, 0, |stretch| stretch.blocks[0].block.state_root = Some(Digest::ZERO));
    assert!(matches!(error, AuditError::StateRoot { .. }), "{error}");
    let error = recertified(&chain, 0, |stretch| drop(stretch.batches.pop()));
    assert!(matches!(error, AuditError::MissingBatch { .. }), "{error}");
    let stray = chain.stretches[1].batches[0].clone();
    let error = recertified(&chain, 0, |stretch| stretch.batches.push(stray));
    assert!(matches!(error, AuditError::StrayBatch { .. }), "{error}");
    let error = recertified(&chain, 0, |stretch| stretch.batches[1].signature = stretch.batches[0].signature);
    assert!(matches!(error, AuditError::Batch { .. }), "{error}");
    let first_of_second = chain.stretches.len() - 2;
    let error = recertified(&chain, first_of_second, |stretch| stretch.blocks[0].block.state_root = None);
    assert!(matches!(error, AuditError::StateRoot { .. }), "{error}");
}

#[test]
fn the_next_epoch_follows_from_the_votes_alone() {
    // A block that goes on in the old epoch after its barrier.
    let chain = two_epochs();
    let barrier = chain.stretches.iter().rposition(|it| it.blocks[0].epoch == EpochNumber(0)).expect("one");
    let mut old = Chain::new(&genesis("test"));
    // The same chain, but for the votes: its epoch goes on.
    while old.stretches.len() <= barrier + 1 {
        old.block(Vec::new());
    }
    let mut stretches = chain.stretches[..=barrier].to_vec();
    let mut next = old.stretches[barrier + 1].clone();
    next.blocks[0].global = GlobalIndex(stretches[barrier].blocks[0].global.0 + 1);
    stretches.push(next);
    let error = audit(&stretches).expect_err("the epoch has ended");
    assert!(matches!(error, AuditError::OtherEpoch { epoch: EpochNumber(1), .. }), "{error}");
    // And in one stretch with the barrier.
    let mut stretches = chain.stretches[..barrier].to_vec();
    let mut both = chain.stretches[barrier].clone();
    let top = both.blocks[0].clone();
    let mut past = top.clone();
    past.global = top.global.next();
    past.block.index = top.block.index.next();
    past.parent = top.hash;
    past.hash = link(top.hash, past.block.body());
    both.proof = FinalityProof::Committed(chain.certificate(&past, &[0, 1, 2, 3]));
    both.blocks.push(past);
    stretches.push(both);
    let error = audit(&stretches).expect_err("the epoch has ended");
    assert!(matches!(error, AuditError::PastBarrier { .. }), "{error}");
}
