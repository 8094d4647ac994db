//! Decisions about epoch changes, as a function of the blocks.

use moult_core::governance::{ProposalError, ProposalState};
use moult_crypto::{KeyPair, sign_report};
use moult_types::governance::Decision;
use moult_types::{
    Activation, CertificationReport, CommitIndex, ModuleHash, SignedReport, SystemTransaction, TraceHash,
    World,
};

use crate::support::*;

fn refuse(text: &str) -> Decision {
    Decision::Reject(text.to_owned())
}

#[test]
fn a_quorum_of_distinct_voters_approves_and_nothing_else_adds() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let proposal = chain.propose(0, |_| {});
    let mut forged = approve(&proposal, 3);
    if let SystemTransaction::Vote(vote) = &mut forged {
        vote.author = moult_types::AuthorityIndex(1);
    }
    let mut foreign = approve(&proposal, 7);
    let mut other = proposal.clone();
    other.hash = moult_types::Digest([1; 32]);
    if let SystemTransaction::Vote(vote) = &mut foreign {
        vote.author = moult_types::AuthorityIndex(7);
    }
    // The same voter in one block and in two, a forged, a foreign and a misdirected vote.
    chain.block(vec![approve(&proposal, 0), approve(&proposal, 0), forged, foreign]);
    chain.block(vec![approve(&proposal, 0), approve(&other, 2), approve(&proposal, 1)]);
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Proposed));
    assert_eq!(chain.ledger.open[&proposal.id].votes.len(), 2);
    // A vote cannot be changed.
    chain.block(vec![vote(&proposal, 1, refuse("no"))]);
    assert_eq!(
        chain.ledger.open[&proposal.id].votes[&moult_types::AuthorityIndex(1)].decision,
        Decision::Approve
    );
    chain.block(vec![approve(&proposal, 2)]);
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Approved));
    // After the decision votes do not count any more.
    chain.block(vec![vote(&proposal, 3, refuse("late"))]);
    assert_eq!(chain.ledger.open[&proposal.id].votes.len(), 3);
}

#[test]
fn votes_weigh_by_stake() {
    let mut chain = Chain::new(&[5, 1, 1, 1]);
    let proposal = chain.propose(1, |_| {});
    chain.block(vec![approve(&proposal, 1), approve(&proposal, 2), approve(&proposal, 3)]);
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Proposed));
    chain.block(vec![approve(&proposal, 0)]);
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Approved));
}

#[test]
fn a_quorum_against_rejects_and_one_that_says_too_much_does_not_vote() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let proposal = chain.propose(0, |_| {});
    chain.block(vec![vote(&proposal, 3, refuse(&"x".repeat(513)))]);
    assert!(chain.ledger.open[&proposal.id].votes.is_empty());
    chain.block((0..3).map(|voter| vote(&proposal, voter, refuse("no"))).collect());
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Rejected));
    assert!(chain.ledger.open.is_empty());
}

#[test]
fn a_decided_proposal_cannot_be_put_forward_again() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let signed = chain.proposal(0, |_| {});
    let again = SystemTransaction::Propose(Box::new(signed.clone()));
    chain.block(vec![again.clone()]);
    let record = chain.ledger.open.values().next().expect("open").clone();
    chain.block(vec![withdraw(&record, 0)]);
    assert_eq!(chain.state_of(record.id), Some(ProposalState::Withdrawn));
    chain.block(vec![again]);
    assert!(chain.ledger.open.is_empty());
    let refused = chain.ledger.check_proposal(chain.present(), &signed);
    assert!(matches!(refused, Err(ProposalError::Repeated { .. })));
    // A new one of the same authority may be.
    chain.propose(0, |_| {});
}

#[test]
fn only_its_author_withdraws_and_only_before_the_barrier_is_set() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let proposal = chain.propose(0, |_| {});
    chain.block(vec![withdraw(&proposal, 1)]);
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Proposed));
    chain.block((0..3).map(|voter| approve(&proposal, voter)).collect());
    let window = chain.ledger.index.next().0 / 10;
    chain.block((0..3).map(|place| ready(&proposal, place, place, window)).collect());
    chain.block(vec![withdraw(&proposal, 0)]);
    assert!(matches!(chain.state_of(proposal.id), Some(ProposalState::Scheduled { .. })));
}

#[test]
fn the_first_quorum_wins_over_rivals() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let (one, two) = (chain.propose(0, |_| {}), chain.propose(1, |_| {}));
    chain.block(vec![approve(&one, 0), approve(&two, 0), approve(&one, 1), approve(&two, 1)]);
    // Both reach their quorum in this block: the order in it decides.
    chain.block(vec![approve(&two, 2), approve(&one, 2)]);
    assert_eq!(chain.state_of(two.id), Some(ProposalState::Approved));
    assert_eq!(chain.state_of(one.id), Some(ProposalState::Superseded));
    let refused = chain.ledger.check_unsigned(chain.present(), &chain.proposal(2, |_| {}).proposal);
    assert_eq!(refused, Err(ProposalError::RivalApproved(two.id)));
}

#[test]
fn a_proposal_expires_at_its_deadline_approved_or_not() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let proposal = chain.propose(0, |p| p.deadline = CommitIndex(4));
    chain.block((0..3).map(|voter| approve(&proposal, voter)).collect());
    chain.idle(1);
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Approved));
    chain.idle(1);
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Expired));
    assert!(chain.ledger.open.is_empty() && chain.ledger.schedule().is_none());
}

#[test]
fn readiness_counts_while_it_is_fresh_and_only_of_the_new_committee() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let joiner = member(4, 1);
    let proposal = chain.propose(0, |p| {
        p.new_committee.remove(0);
        p.new_committee.push(joiner);
    });
    // Not before it is approved.
    chain.block((0..4).map(|place| ready(&proposal, place, place + 1, 0)).collect());
    chain.block((0..3).map(|voter| approve(&proposal, voter)).collect());
    assert!(chain.ledger.open[&proposal.id].ready.is_empty());
    // The one that leaves is nobody in the new committee; places are those of the new one.
    chain.block(vec![ready(&proposal, 0, 0, 0), ready(&proposal, 3, 4, 0), ready(&proposal, 0, 1, 0)]);
    assert_eq!(chain.ledger.open[&proposal.id].ready.len(), 2);
    // Those two are too old by the time the third comes, and the third signed long ago.
    chain.idle(20);
    let window = chain.ledger.index.next().0 / 10;
    chain.block(vec![ready(&proposal, 1, 2, window), ready(&proposal, 2, 3, window - 2)]);
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Approved));
    chain.block(vec![ready(&proposal, 0, 1, window), ready(&proposal, 2, 3, window)]);
    let barrier = CommitIndex(chain.ledger.index.0 + 5);
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Scheduled { barrier }));
}

#[test]
fn the_barrier_lies_a_fixed_distance_ahead_and_ends_the_epoch() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let proposal = chain.propose(0, |p| p.new_committee[0].stake = 2);
    chain.block((0..3).map(|voter| approve(&proposal, voter)).collect());
    chain.block((0..3).map(|place| ready(&proposal, place, place, 0)).collect());
    let set_at = chain.ledger.index;
    // Neither more votes nor more readiness move it, and no rival comes in between.
    for _ in 0..4 {
        let rival = chain.proposal(3, |_| {});
        chain.block(vec![
            ready(&proposal, 3, 3, 0),
            approve(&proposal, 3),
            SystemTransaction::Propose(Box::new(rival)),
        ]);
        assert!(!chain.ledger.is_at_barrier() && chain.ledger.next_manifest(&chain.manifest).is_none());
    }
    chain.idle(1);
    assert_eq!(chain.ledger.index.0, set_at.0 + 5);
    assert!(chain.ledger.is_at_barrier());
    let next = chain.ledger.next_manifest(&chain.manifest).expect("at the barrier");
    assert_eq!((next.number.0, next.members[0].stake), (1, 2));
    let follows = next.follows.expect("bound");
    assert_eq!(
        (follows.identity, follows.index, follows.hash),
        (chain.manifest.identity(), chain.ledger.index, chain.ledger.hash)
    );
    let closed = chain.ledger.close();
    assert_eq!(closed.iter().map(|record| record.state).collect::<Vec<_>>(), [ProposalState::Active]);
}

#[test]
fn not_before_is_judged_by_block_time() {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    let proposal = chain.propose(0, |p| p.activation = Activation::NotBefore(9_000));
    chain.block((0..3).map(|voter| approve(&proposal, voter)).collect());
    chain.block((0..3).map(|place| ready(&proposal, place, place, 0)).collect());
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Approved));
    chain.block_at(8_999, Vec::new());
    assert_eq!(chain.state_of(proposal.id), Some(ProposalState::Approved));
    chain.block_at(9_000, Vec::new());
    assert!(matches!(chain.state_of(proposal.id), Some(ProposalState::Scheduled { .. })));
}

/// A clean report on a module by a certifier that is no authority.
fn report(module: ModuleHash, world: World, certifier: u8) -> SignedReport {
    let report = CertificationReport {
        module,
        world,
        name: "engine 1.0.0".into(),
        host_version: "0.1.0".into(),
        plan: "short".into(),
        setting: TraceHash([2; 32]),
        faults: vec![("crash".into(), 7)],
        invariants: vec!["agreement".into()],
        first_seed: 0,
        seeds: 300,
        failed_seeds: 0,
        failures: Vec::new(),
        suite_seeds: 300,
        cases: 400,
        failed_cases: 0,
        case_failures: Vec::new(),
        worst_stall_ms: 900,
        commits: 10,
        fuel_per_commit: 100,
        traces: vec![TraceHash([3; 32])],
    };
    sign_report(&KeyPair::from_seed(&[certifier; 32]), report)
}

#[test]
fn a_proposal_carries_few_reports_on_what_it_pins_in_order_and_signed() {
    let chain = Chain::new(&[1, 1, 1, 1]);
    let engine = chain.manifest.modules[&World::Engine].hash;
    let other = ModuleHash([0xee; 32]);
    let check = |reports: Vec<SignedReport>| {
        let proposal = chain.proposal(0, |proposal| {
            proposal.fallbacks = vec![moult_types::ModulePin { hash: other, config: Vec::new() }];
            proposal.limits.batch_bytes_max = 4 << 20;
            proposal.reports = reports;
        });
        chain.ledger.check_proposal(chain.present(), &proposal)
    };
    let of = |module, certifier| report(module, World::Engine, certifier);
    let sorted = |mut reports: Vec<SignedReport>| {
        reports.sort_by_key(|signed| (signed.report.module, signed.certifier));
        reports
    };
    assert_eq!(check(Vec::new()), Ok(()));
    assert_eq!(check(sorted(vec![of(engine, 7), of(engine, 8), of(other, 7)])), Ok(()));

    let pinned_elsewhere = report(engine, World::Application, 7);
    assert_eq!(check(vec![pinned_elsewhere]), Err(ProposalError::ReportUnpinned(engine)));
    let unpinned = ModuleHash([0xdd; 32]);
    assert_eq!(check(vec![of(unpinned, 7)]), Err(ProposalError::ReportUnpinned(unpinned)));
    assert_eq!(check(vec![of(engine, 7), of(engine, 7)]), Err(ProposalError::ReportOrder(engine)));
    let mut backwards = sorted(vec![of(engine, 7), of(engine, 8)]);
    backwards.reverse();
    assert_eq!(check(backwards), Err(ProposalError::ReportOrder(engine)));
    let mut better = of(engine, 7);
    better.report.seeds = 3_000;
    assert!(matches!(check(vec![better]), Err(ProposalError::ReportSignature(..))));
    let many = sorted((1..=17).map(|certifier| of(engine, certifier)).collect());
    assert_eq!(check(many), Err(ProposalError::TooManyReports(17)));
    let mut long = of(engine, 7).report;
    long.name = "x".repeat(9_000);
    let long = sign_report(&KeyPair::from_seed(&[7; 32]), long);
    assert!(matches!(check(vec![long]), Err(ProposalError::ReportTooLarge(..))));
}

#[test]
fn what_cannot_become_an_epoch_is_refused() {
    let chain = Chain::new(&[1, 1, 1, 1]);
    let check = |change: fn(&mut moult_types::EpochChangeProposal)| {
        chain.ledger.check_proposal(chain.present(), &chain.proposal(0, change))
    };
    assert_eq!(check(|_| {}), Ok(()));
    type Change = fn(&mut moult_types::EpochChangeProposal);
    type Wanted = fn(&ProposalError) -> bool;
    let cases: [(Change, Wanted); 9] = [
        (|p| p.new_epoch.0 = 2, |e| matches!(e, ProposalError::WrongEpoch { .. })),
        (|p| p.deadline = CommitIndex(0), |e| matches!(e, ProposalError::Deadline { .. })),
        (|p| p.deadline = CommitIndex(u64::MAX), |e| matches!(e, ProposalError::Deadline { .. })),
        (|p| p.new_committee.truncate(3), |e| matches!(e, ProposalError::Committee(_))),
        (|p| p.new_committee[1].stake = 0, |e| matches!(e, ProposalError::Committee(_))),
        (|p| p.new_committee[1].key = p.new_committee[0].key, |e| matches!(e, ProposalError::Committee(_))),
        (|p| p.new_committee[1].possession.0[0] ^= 1, |e| matches!(e, ProposalError::Possession(_))),
        (
            |p| {
                p.modules.remove(&World::Approval);
            },
            |e| matches!(e, ProposalError::MissingPin(_)),
        ),
        (|p| p.limits.barrier_distance_blocks = 3, |e| matches!(e, ProposalError::Limit { .. })),
    ];
    for (change, wanted) in cases {
        let refused = check(change).expect_err("it cannot become an epoch");
        assert!(wanted(&refused), "{refused}");
    }
    let mut forged = chain.proposal(0, |_| {});
    forged.proposal.deadline.0 += 1;
    assert_eq!(chain.ledger.check_proposal(chain.present(), &forged), Err(ProposalError::BadSignature));
    let foreign = chain.proposal(5, |_| {});
    assert_eq!(chain.ledger.check_proposal(chain.present(), &foreign), Err(ProposalError::NotAnAuthority));
}
