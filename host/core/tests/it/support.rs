//! A committee with its keys, and blocks made by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_core::governance::{Ledger, Present, ProposalRecord};
use moult_crypto::{KeyPair, Keyring, Signer, possession};
use moult_types::governance::{Decision, ReadyNotice, Vote, Withdrawal};
use moult_types::*;

pub(crate) const CHAIN: ChainId = ChainId([9; 32]);

pub(crate) fn keys(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n + 1; 32])
}

pub(crate) fn member(n: u8, stake: u64) -> Member {
    let keys = keys(n);
    let id = AuthorityId::of(&keys.public_key());
    Member {
        id,
        key: keys.public_key(),
        possession: possession(&keys, id),
        stake,
        address: format!("n{n}:1"),
    }
}

pub(crate) fn limits() -> EpochLimits {
    EpochLimits {
        window_blocks: 4,
        barrier_distance_blocks: 5,
        readiness_window_blocks: 10,
        ..EpochLimits::default()
    }
}

pub(crate) fn manifest(stakes: &[u64]) -> Manifest {
    let pin = |n: u8| ModulePin { hash: ModuleHash([n; 32]), config: Vec::new() };
    Manifest {
        number: EpochNumber(0),
        members: stakes.iter().enumerate().map(|(n, stake)| member(n as u8, *stake)).collect(),
        fault_model: FaultModel::Byzantine,
        modules: World::ALL.into_iter().zip(1..).map(|(world, n)| (world, pin(n))).collect(),
        fallbacks: Vec::new(),
        finality: Finality::Certified,
        limits: limits(),
        follows: None,
    }
}

pub(crate) fn keyring(manifest: &Manifest) -> Keyring {
    Keyring::new(CHAIN, &manifest.committee().expect("valid")).expect("valid")
}

/// A ledger that is given block after block.
pub(crate) struct Chain {
    pub(crate) manifest: Manifest,
    pub(crate) committee: Committee,
    pub(crate) ledger: Ledger,
    pub(crate) changed: Vec<ProposalRecord>,
    seq: u64,
}

impl Chain {
    pub(crate) fn new(stakes: &[u64]) -> Self {
        let manifest = manifest(stakes);
        let committee = manifest.committee().expect("valid");
        let ledger = Ledger::at_start(&manifest, GlobalIndex(0), 1000, ProposalId(1));
        Self { manifest, committee, ledger, changed: Vec::new(), seq: 0 }
    }

    pub(crate) fn present(&self) -> Present<'_> {
        Present { chain: CHAIN, manifest: &self.manifest, committee: &self.committee }
    }

    /// Applies a block with these system transactions, at a block time.
    pub(crate) fn block_at(&mut self, time_ms: u64, systems: Vec<SystemTransaction>) {
        self.seq += 1;
        let transactions = systems.into_iter().map(Transaction::System).collect();
        let held = batch(&self.manifest, 0, self.seq, time_ms, transactions);
        let block = Block {
            index: self.ledger.index.next(),
            time_ms,
            batches: vec![held.digest],
            state_root: None,
            resumed: None,
        };
        let record = record(&self.manifest, self.ledger.hash, block);
        let present = Present { chain: CHAIN, manifest: &self.manifest, committee: &self.committee };
        self.changed = self.ledger.apply(present, &record, &[held.as_ref()]);
    }

    pub(crate) fn block(&mut self, systems: Vec<SystemTransaction>) {
        self.block_at(self.ledger.time_ms + 1, systems);
    }

    pub(crate) fn idle(&mut self, blocks: u64) {
        (0..blocks).for_each(|_| self.block(Vec::new()));
    }

    /// A proposal of an authority, changed as wanted, signed.
    pub(crate) fn proposal(
        &self,
        author: u8,
        change: impl FnOnce(&mut EpochChangeProposal),
    ) -> SignedProposal {
        let mut proposal = EpochChangeProposal {
            new_epoch: EpochNumber(1),
            new_committee: self.manifest.members.clone(),
            new_epoch_timestamp_ms: 2000 + self.ledger.index.0,
            proposal_commit_index: self.ledger.index,
            modules: self.manifest.modules.clone(),
            fallbacks: Vec::new(),
            fault_model: FaultModel::Byzantine,
            limits: limits(),
            activation: Activation::AsSoonAsReady,
            deadline: CommitIndex(self.ledger.index.0 + 100),
            proposer: member(author, 1).id,
            readmit_failed: false,
            reports: Vec::new(),
        };
        change(&mut proposal);
        let author_index = AuthorityIndex(author.into());
        let statement = proposal.statement(author_index);
        let signature = keys(author).sign_statement(CHAIN, Scope::Number(EpochNumber(0)), &statement);
        SignedProposal { proposal, author: author_index, signature }
    }

    /// Puts a proposal forward and answers with its record.
    pub(crate) fn propose(
        &mut self,
        author: u8,
        change: impl FnOnce(&mut EpochChangeProposal),
    ) -> ProposalRecord {
        let signed = self.proposal(author, change);
        let hash = signed.proposal.hash();
        self.block(vec![SystemTransaction::Propose(Box::new(signed))]);
        self.ledger.open.values().find(|record| record.hash == hash).expect("it is open").clone()
    }

    pub(crate) fn state_of(&self, id: ProposalId) -> Option<moult_core::governance::ProposalState> {
        let open = self.ledger.open.get(&id);
        open.or_else(|| self.changed.iter().find(|record| record.id == id)).map(|record| record.state)
    }
}

pub(crate) fn vote(record: &ProposalRecord, voter: u8, decision: Decision) -> SystemTransaction {
    let (author, no_signature) = (AuthorityIndex(voter.into()), Signature([0; 64]));
    let mut vote = Vote { proposal: record.id, hash: record.hash, decision, author, signature: no_signature };
    vote.signature = keys(voter).sign_statement(CHAIN, Scope::Number(EpochNumber(0)), &vote.statement());
    SystemTransaction::Vote(vote)
}

pub(crate) fn approve(record: &ProposalRecord, voter: u8) -> SystemTransaction {
    vote(record, voter, Decision::Approve)
}

pub(crate) fn ready(record: &ProposalRecord, place: u8, key: u8, window: u64) -> SystemTransaction {
    let (author, no_signature) = (AuthorityIndex(place.into()), Signature([0; 64]));
    let mut notice =
        ReadyNotice { proposal: record.id, hash: record.hash, window, author, signature: no_signature };
    notice.signature = keys(key).sign_statement(CHAIN, Scope::Number(EpochNumber(1)), &notice.statement());
    SystemTransaction::Ready(notice)
}

pub(crate) fn withdraw(record: &ProposalRecord, author: u8) -> SystemTransaction {
    let (index, no_signature) = (AuthorityIndex(author.into()), Signature([0; 64]));
    let mut withdrawal =
        Withdrawal { proposal: record.id, hash: record.hash, author: index, signature: no_signature };
    withdrawal.signature =
        keys(author).sign_statement(CHAIN, Scope::Number(EpochNumber(0)), &withdrawal.statement());
    SystemTransaction::Withdraw(withdrawal)
}

pub(crate) fn batch(
    manifest: &Manifest,
    author: u8,
    seq: u64,
    time_ms: u64,
    transactions: Vec<Transaction>,
) -> Arc<HeldBatch> {
    let author_index = AuthorityIndex(author.into());
    let batch = Batch { number: manifest.number, author: author_index, start: 1, seq, time_ms, transactions };
    let statement = batch.statement(batch.digest());
    let signature = keys(author).sign_statement(CHAIN, Scope::Number(manifest.number), &statement);
    Arc::new(HeldBatch::new(SignedBatch { batch, signature }))
}

pub(crate) fn record(manifest: &Manifest, parent: Digest, block: Block) -> BlockRecord {
    BlockRecord {
        epoch: manifest.number,
        identity: manifest.identity(),
        global: GlobalIndex(block.index.0),
        parent,
        hash: block::link(parent, block.body()),
        block,
    }
}

pub(crate) type State = BTreeMap<Vec<u8>, Vec<u8>>;
