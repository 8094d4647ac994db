use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use moult_core::governance::{ProposalRecord, ProposalState};
use moult_crypto::{KeyPair, Signer as _, possession};
use moult_store::{Loaded, Store, StoreOptions};
use moult_types::block::{CertificateVote, link, vote_statement};
use moult_types::phase::{Claim, FinalityProof};
use moult_types::{
    Activation, AuthorityId, AuthorityIndex, Block, BlockRecord, CommitIndex, EpochChangeProposal,
    EpochLimits, EpochNumber, FaultModel, Genesis, Manifest, Member, ProposalId, Scope,
};

use super::*;

fn keys(place: u8) -> KeyPair {
    KeyPair::from_seed(&[place + 1; 32])
}

/// A chain of four with five blocks, of which three are final.
struct Chain {
    _folder: tempfile::TempDir,
    store: Store,
    genesis: Genesis,
    blocks: Vec<Arc<BlockRecord>>,
}

impl Chain {
    fn new() -> Self {
        let member = |place| {
            let keys = keys(place);
            let id = AuthorityId::of(&keys.public_key());
            let possession = possession(&keys, id);
            Member { id, key: keys.public_key(), possession, stake: 1, address: "a:1".into() }
        };
        let manifest = Manifest {
            number: EpochNumber(0),
            members: (0..4).map(member).collect(),
            fault_model: FaultModel::Byzantine,
            modules: BTreeMap::new(),
            fallbacks: Vec::new(),
            finality: Finality::Certified,
            limits: EpochLimits::default(),
            follows: None,
        };
        let identity = manifest.identity();
        let mut parent = identity.digest();
        let block = |index| {
            let (state_root, resumed) = (None, None);
            let block =
                Block { index: CommitIndex(index), time_ms: index, batches: Vec::new(), state_root, resumed };
            let hash = link(parent, block.body());
            let (epoch, global) = (EpochNumber(0), GlobalIndex(index));
            let record = BlockRecord { epoch, identity, global, parent, hash, block };
            parent = hash;
            Arc::new(record)
        };
        let blocks = (1..=5).map(block).collect();
        let genesis = Genesis { name: "c".into(), time_ms: 0, origin: None, manifest };
        let folder = tempfile::tempdir().expect("a folder");
        let node = keys(0).public_key();
        let store = Store::create(folder.path(), &genesis, node, StoreOptions::default()).expect("created");
        Self { _folder: folder, store, genesis, blocks }
    }

    /// The ledger after block 3, with a change scheduled to as many of the members.
    fn scheduled(&self, barrier: CommitIndex, members: usize) -> Ledger {
        let manifest = &self.genesis.manifest;
        let proposal = EpochChangeProposal {
            new_epoch: EpochNumber(1),
            new_committee: manifest.members[..members].to_vec(),
            new_epoch_timestamp_ms: 0,
            proposal_commit_index: CommitIndex(0),
            modules: BTreeMap::new(),
            fallbacks: Vec::new(),
            fault_model: manifest.fault_model,
            limits: manifest.limits.clone(),
            activation: Activation::AsSoonAsReady,
            deadline: CommitIndex(1_000),
            proposer: manifest.members[0].id,
            readmit_failed: false,
            reports: Vec::new(),
        };
        let record = ProposalRecord {
            id: ProposalId(1),
            hash: Digest::ZERO,
            proposal,
            author: AuthorityIndex(0),
            state: ProposalState::Scheduled { barrier },
            proposed: (CommitIndex(1), 1),
            changed: (CommitIndex(3), 3),
            votes: BTreeMap::new(),
            ready: BTreeMap::new(),
        };
        let start = Ledger::at_start(manifest, GlobalIndex(3), 3, ProposalId(2));
        Ledger { index: CommitIndex(3), open: BTreeMap::from([(record.id, record)]), ..start }
    }

    fn certificate(&self, round: Round, block: &BlockRecord, places: &[u8]) -> Certificate {
        let vote = |place: &u8| {
            let author = AuthorityIndex((*place).into());
            let statement = vote_statement(round, author, block.block.index, block.hash);
            let scope = Scope::Epoch(block.identity);
            let signature = keys(*place).sign_statement(self.genesis.chain(), scope, &statement);
            CertificateVote { author, index: block.block.index, signature }
        };
        let (identity, index, hash) = (block.identity, block.block.index, block.hash);
        let votes = places.iter().map(vote).collect();
        Certificate { round, identity, index, hash, votes, bodies: Vec::new() }
    }

    /// A node with blocks up to `held`, of which three are final, whose last commit was signed
    /// with a certificate of these places for block `certified`.
    fn survivor(&self, place: u8, held: usize, certified: Option<(usize, &[u8])>) -> Survivor {
        let last = &self.blocks[2];
        let proof = FinalityProof::Committed(self.certificate(Round::Commit, last, &[0, 1, 2]));
        let key = keys(place).public_key();
        let mut guard = GuardState::new(self.genesis.chain(), key, self.genesis.manifest.identity());
        guard.certified = certified.map(|(block, places)| Claim {
            certificate: self.certificate(Round::Prepare, &self.blocks[block - 1], places),
            block: None,
        });
        let epoch = EpochStart {
            manifest: self.genesis.manifest.clone(),
            base: GlobalIndex(0),
            state_root: None,
            time_ms: 0,
            switched_at_ms: 0,
        };
        let loaded = Loaded {
            genesis: self.genesis.clone(),
            fresh: false,
            epoch,
            former: None,
            ledger: None,
            last_final: Some((last.as_ref().clone(), proof)),
            phases: Vec::new(),
            tail: self.blocks[3..held].to_vec(),
            side: Vec::new(),
            pending: Vec::new(),
            records: Vec::new(),
            applied: GlobalIndex(3),
        };
        Survivor::of_parts(PathBuf::from(format!("node{place}")), key, self.store.clone(), loaded, Ok(guard))
    }
}

fn decided(survivors: &[Survivor]) -> (u64, Vec<String>) {
    let point = decide(survivors).expect("decided");
    assert_eq!(point.last_final, GlobalIndex(3));
    (point.global.0, point.doubts)
}

#[test]
fn what_a_quorum_prepared_is_kept_wherever_its_block_is() {
    let chain = Chain::new();
    // One committed to block 5 and lacks it, the other holds it and was not heard of again.
    let survivors =
        [chain.survivor(0, 3, Some((5, &[0, 1, 2]))), chain.survivor(1, 5, Some((4, &[1, 2, 3])))];
    assert_eq!(decided(&survivors), (5, Vec::new()));
    assert_eq!(decide(&survivors).expect("decided").hash, chain.blocks[4].hash);
    // None committed above the last final block: none above it was acknowledged.
    let survivors = [chain.survivor(0, 5, Some((3, &[0, 1, 2]))), chain.survivor(1, 5, None)];
    assert_eq!(decided(&survivors), (3, Vec::new()));
}

#[test]
fn a_certificate_of_fewer_is_none() {
    let chain = Chain::new();
    let survivors = [chain.survivor(0, 5, Some((5, &[0, 1]))), chain.survivor(1, 5, Some((4, &[0, 1, 2])))];
    assert_eq!(decided(&survivors), (4, Vec::new()));
}

#[test]
fn where_acknowledged_writes_may_be_missing_it_says_so() {
    let chain = Chain::new();
    let doubt = |survivors: &[Survivor]| {
        let (global, doubts) = decided(survivors);
        let [doubt] = <[String; 1]>::try_from(doubts).expect("one doubt");
        (global, doubt)
    };
    // A quorum of the other three may have acknowledged more.
    let (global, said) = doubt(&[chain.survivor(0, 5, Some((5, &[0, 1, 2])))]);
    assert!(global == 5 && said.contains("stake 1 of 4"), "{said}");
    // The same where the second guard is not known.
    let mut blind = chain.survivor(1, 5, None);
    blind.guard = Err("lost".into());
    let (global, said) = doubt(&[chain.survivor(0, 5, None), blind]);
    assert!(global == 3 && said.contains("stake 1 of 4"), "{said}");
    // Nobody holds what a quorum prepared.
    let (global, said) =
        doubt(&[chain.survivor(0, 3, Some((5, &[0, 1, 2]))), chain.survivor(1, 4, Some((4, &[0, 1, 2])))]);
    assert!(global == 4 && said.contains("block 5"), "{said}");
    // An engine is being given up.
    let mut aborting = chain.survivor(1, 5, None);
    aborting.guard = aborting.guard.map(|guard| GuardState { phase: 1, ..guard });
    let (global, said) = doubt(&[chain.survivor(0, 5, Some((5, &[0, 1, 2]))), aborting]);
    assert!(global == 3 && said.contains("given up"), "{said}");
    assert!(matches!(decide(&[]), Err(RecoveryError::Nobody)));
}

#[test]
fn at_a_barrier_another_committee_may_have_gone_on() {
    let chain = Chain::new();
    let at_barrier = |barrier: u64, members: usize| {
        let mut first = chain.survivor(0, 5, Some((5, &[0, 1, 2])));
        first.loaded.ledger = Some(chain.scheduled(CommitIndex(barrier), members));
        decided(&[first, chain.survivor(1, 5, Some((4, &[0, 1, 2])))])
    };
    let (global, doubts) = at_barrier(5, 3);
    assert!(global == 5 && doubts.len() == 1 && doubts[0].contains("another committee"), "{doubts:?}");
    assert_eq!(at_barrier(6, 3), (5, Vec::new()), "the barrier is not reached");
    assert_eq!(at_barrier(5, 4), (5, Vec::new()), "the same committee: its guards are here");
}
