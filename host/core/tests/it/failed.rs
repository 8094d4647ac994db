//! Engines that were given up are remembered, and not let in again by accident (K12).

use moult_core::governance::{FAILED_ENGINES_MAX, FailedEngine, Present, ProposalError, ProposalState};
use moult_types::{
    EpochChangeProposal, EpochNumber, GlobalIndex, Manifest, ModuleHash, ModulePin, SystemTransaction, World,
};

use crate::support::*;

fn pin(name: u8, config: &[u8]) -> ModulePin {
    ModulePin { hash: ModuleHash([name; 32]), config: config.to_vec() }
}

/// Engine 70 with fallbacks 71 and 72.
fn chain() -> Chain {
    let mut chain = Chain::new(&[1, 1, 1, 1]);
    chain.manifest.modules.insert(World::Engine, pin(70, b"a"));
    chain.manifest.fallbacks = vec![pin(71, b"b"), pin(72, b"")];
    chain.idle(3);
    chain
}

fn engine(pin: ModulePin) -> impl FnOnce(&mut EpochChangeProposal) {
    move |proposal| {
        proposal.modules.insert(World::Engine, pin);
    }
}

fn refused(chain: &Chain, change: impl FnOnce(&mut EpochChangeProposal)) -> Option<FailedEngine> {
    match chain.ledger.check_proposal(chain.present(), &chain.proposal(0, change)) {
        Ok(()) => None,
        Err(ProposalError::EngineFailed(failed)) => Some(*failed),
        Err(other) => panic!("refused for another reason: {other}"),
    }
}

#[test]
fn an_engine_that_was_given_up_is_refused_unless_it_is_meant() {
    let mut chain = chain();
    assert_eq!(refused(&chain, |_| {}), None);
    chain.ledger.resume(&chain.manifest.clone(), 1);
    let failed = refused(&chain, |_| {}).expect("unchanged");
    assert_eq!(
        (failed.module, failed.epoch, failed.phase, failed.resumed_from),
        (ModuleHash([70; 32]), EpochNumber(0), 0, GlobalIndex(3))
    );
    let text = ProposalError::EngineFailed(Box::new(failed)).to_string();
    for part in ["sha256:4646", "epoch 0, phase 0, after block 3", "readmit_failed"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    // As a fallback it is the same engine; with another configuration it is another one.
    let as_fallback = |pin: ModulePin| {
        move |proposal: &mut EpochChangeProposal| {
            proposal.modules.insert(World::Engine, self::pin(80, b""));
            proposal.fallbacks = vec![self::pin(81, b""), pin];
        }
    };
    assert!(refused(&chain, as_fallback(pin(70, b"a"))).is_some());
    assert_eq!(refused(&chain, as_fallback(pin(70, b"c"))), None);
    assert_eq!(refused(&chain, engine(pin(70, b""))), None);
    assert_eq!(refused(&chain, engine(pin(72, b""))), None, "it has not failed");
    assert_eq!(refused(&chain, |proposal| proposal.readmit_failed = true), None);
    // What is refused at the door has no effect in a block either.
    let again = chain.proposal(0, |_| {});
    chain.block(vec![SystemTransaction::Propose(Box::new(again))]);
    assert!(chain.ledger.open.is_empty());
    assert_eq!(chain.propose(0, |proposal| proposal.readmit_failed = true).state, ProposalState::Proposed);
}

/// Brings a proposal to its barrier; the manifest of the epoch that follows.
fn activate(chain: &mut Chain, change: impl FnOnce(&mut EpochChangeProposal)) -> Manifest {
    let proposal = chain.propose(0, change);
    chain.block((0..3).map(|voter| approve(&proposal, voter)).collect());
    let window = chain.ledger.index.next().0 / 10;
    chain.block((0..3).map(|place| ready(&proposal, place, place, window)).collect());
    while !chain.ledger.is_at_barrier() {
        chain.idle(1);
    }
    let next = chain.ledger.next_manifest(&chain.manifest).expect("at the barrier");
    let closed = chain.ledger.close();
    assert_eq!(closed.iter().map(|record| record.state).collect::<Vec<_>>(), [ProposalState::Active]);
    next
}

fn failed_modules(ledger: &moult_core::governance::Ledger) -> Vec<u8> {
    ledger.failed.iter().map(|failed| failed.module.0[0]).collect()
}

#[test]
fn later_epochs_remember_until_a_quorum_lets_it_in_again() {
    let mut chain = chain();
    chain.ledger.resume(&chain.manifest.clone(), 2);
    assert_eq!(failed_modules(&chain.ledger), [70, 71]);
    let next = activate(&mut chain, engine(pin(80, b"")));
    let ledger = chain.ledger.at_next(&next);
    assert_eq!((failed_modules(&ledger), ledger.global), (vec![70, 71], chain.ledger.global));
    let mut proposal = chain.proposal(1, engine(pin(71, b"b"))).proposal;
    proposal.new_epoch = EpochNumber(2);
    let committee = next.committee().expect("valid");
    let present = Present { chain: CHAIN, manifest: &next, committee: &committee };
    let refused = ledger.check_unsigned(present, &proposal);
    assert!(matches!(refused, Err(ProposalError::EngineFailed(_))), "{refused:?}");
    proposal.readmit_failed = true;
    assert_eq!(ledger.check_unsigned(present, &proposal), Ok(()));

    // The one that it lets in is free; the other one is still known.
    let mut chain = self::chain();
    chain.ledger.resume(&chain.manifest.clone(), 2);
    let next = activate(&mut chain, |proposal| {
        engine(pin(71, b"b"))(proposal);
        proposal.readmit_failed = true;
    });
    assert_eq!(failed_modules(&chain.ledger.at_next(&next)), [70]);
}

/// Whoever follows the chain later need not hear of a phase that led nowhere.
#[test]
fn phases_that_are_passed_over_failed_too() {
    let mut one_by_one = chain();
    one_by_one.propose(2, |proposal| {
        proposal.modules.insert(World::Engine, pin(80, b""));
        proposal.fallbacks = vec![pin(71, b"other")];
    });
    let mut at_once = one_by_one.ledger.clone();
    let manifest = one_by_one.manifest.clone();
    let mut cancelled = one_by_one.ledger.resume(&manifest, 1);
    cancelled.extend(one_by_one.ledger.resume(&manifest, 2));
    assert_eq!(cancelled.len(), 1, "its fallback is a module that failed");
    assert_eq!(at_once.resume(&manifest, 2), cancelled);
    assert_eq!(at_once, one_by_one.ledger);
    // The last fallback runs again and again: it stands there once, with its last failure.
    at_once.resume(&manifest, 5);
    let phases: Vec<_> = at_once.failed.iter().map(|failed| (failed.module.0[0], failed.phase)).collect();
    assert_eq!(phases, [(70, 0), (71, 1), (72, 4)]);
}

#[test]
fn the_latest_ones_are_remembered() {
    let mut chain = chain();
    let mut manifest = chain.manifest.clone();
    for epoch in 0..40_u8 {
        manifest.number = EpochNumber(epoch.into());
        manifest.modules.insert(World::Engine, pin(100 + epoch, b""));
        chain.ledger.phase = 0;
        chain.ledger.resume(&manifest, 1);
    }
    let expected: Vec<u8> = (108..140).collect();
    assert_eq!(expected.len(), FAILED_ENGINES_MAX);
    assert_eq!(failed_modules(&chain.ledger), expected);
}
