//! A small chain to store.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared by several test programs")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use moult_core::governance::Ledger;
use moult_core::guard::GuardState;
use moult_core::io::{EngineRecord, EpochStart, Persist};
use moult_sdk::engine::DurableRecord;
use moult_store::{Store, StoreError, StoreOptions};
use moult_types::block::link;
use moult_types::phase::FinalityProof;
use moult_types::{
    AuthorityIndex, Batch, Block, BlockRecord, Certificate, CommitIndex, Digest, EpochLimits, EpochNumber,
    FaultModel, Finality, Follows, Genesis, GlobalIndex, HeldBatch, Manifest, ProposalId, PublicKey, Round,
    Signature, SignedBatch,
};

pub const NODE: PublicKey = PublicKey([7; 32]);

pub fn genesis() -> Genesis {
    let manifest = Manifest {
        number: EpochNumber(0),
        members: Vec::new(),
        fault_model: FaultModel::Byzantine,
        modules: BTreeMap::new(),
        fallbacks: Vec::new(),
        finality: Finality::Certified,
        limits: EpochLimits::default(),
        follows: None,
    };
    Genesis { name: "test".into(), time_ms: 1000, origin: None, manifest }
}

pub fn guard() -> GuardState {
    GuardState::new(genesis().chain(), NODE, genesis().manifest.identity())
}

pub fn ledger(global: u64) -> Ledger {
    let start = Ledger::at_start(&genesis().manifest, GlobalIndex(global), 1000 + global, ProposalId(1));
    Ledger { commit: CommitIndex(global), index: CommitIndex(global), hash: Digest::ZERO, ..start }
}

pub fn create(dir: &Path) -> Store {
    let store = Store::create(dir, &genesis(), NODE, StoreOptions::default()).expect("created");
    let start = Box::new(Chain::new().start);
    commit(&store, &[Persist::Epoch { start, expired: Vec::new(), ledger: Arc::new(ledger(0)) }]);
    store
}

pub fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(dir, genesis().chain(), NODE, StoreOptions::default())
}

pub fn batch(seq: u64) -> Arc<HeldBatch> {
    let batch = Batch {
        number: EpochNumber(0),
        author: AuthorityIndex(0),
        start: 1,
        seq,
        time_ms: 1000 + seq,
        transactions: Vec::new(),
    };
    Arc::new(HeldBatch::new(SignedBatch { batch, signature: Signature([0; 64]) }))
}

pub fn engine_record(id: u64) -> EngineRecord {
    EngineRecord {
        record: DurableRecord { id, body: vec![id as u8; 20], statements: Vec::new() },
        signed: Vec::new(),
    }
}

/// Makes blocks, one after the other, over epochs.
pub struct Chain {
    pub start: EpochStart,
    pub blocks: Vec<BlockRecord>,
}

impl Chain {
    pub fn new() -> Self {
        let genesis = genesis();
        let start = EpochStart {
            manifest: genesis.manifest,
            base: GlobalIndex(0),
            state_root: None,
            time_ms: 1000,
            switched_at_ms: 1000,
        };
        Self { start, blocks: Vec::new() }
    }

    /// The next block, with one batch.
    pub fn block(&mut self) -> (Arc<BlockRecord>, Arc<HeldBatch>) {
        let global = GlobalIndex(self.blocks.last().map_or(0, |b| b.global.0).max(self.start.base.0) + 1);
        let batch = batch(global.0);
        let identity = self.start.manifest.identity();
        let index = CommitIndex(global.0 - self.start.base.0);
        let block = Block {
            index,
            time_ms: 1000 + global.0,
            batches: vec![batch.digest],
            state_root: None,
            resumed: None,
        };
        let parent = match self.blocks.last() {
            Some(last) if last.identity == identity => last.hash,
            _ => identity.digest(),
        };
        let hash = link(parent, block.body());
        let record = BlockRecord { epoch: self.start.manifest.number, identity, global, parent, hash, block };
        self.blocks.push(record.clone());
        (Arc::new(record), batch)
    }

    /// Everything up to the last block is final.
    pub fn finality(&self, newly: usize) -> Persist {
        let last = self.blocks.last().expect("a block");
        let certificate = Certificate {
            round: Round::Commit,
            identity: last.identity,
            index: last.block.index,
            hash: last.hash,
            votes: Vec::new(),
            bodies: Vec::new(),
        };
        let batches = self.blocks.iter().rev().take(newly).flat_map(|b| b.block.batches.clone()).collect();
        Persist::Final {
            global: last.global,
            proof: Box::new(FinalityProof::Committed(certificate)),
            ledger: Arc::new(ledger(last.global.0)),
            batches,
        }
    }

    /// The next epoch, after the block at `base`.
    pub fn next_epoch(&mut self, base: u64) -> Persist {
        let barrier = &self.blocks[base as usize - 1];
        let follows = Follows { identity: barrier.identity, index: barrier.block.index, hash: barrier.hash };
        let mut manifest = self.start.manifest.clone();
        manifest.number = EpochNumber(manifest.number.0 + 1);
        manifest.follows = Some(follows);
        self.start = EpochStart {
            manifest,
            base: GlobalIndex(base),
            state_root: Some(Digest([5; 32])),
            time_ms: 1000 + base,
            switched_at_ms: 5,
        };
        self.blocks.truncate(base as usize);
        Persist::Epoch {
            start: Box::new(self.start.clone()),
            expired: Vec::new(),
            ledger: Arc::new(ledger(base)),
        }
    }
}

/// What a step with a new block writes.
pub fn ordered(chain: &mut Chain) -> Vec<Persist> {
    let (block, batch) = chain.block();
    vec![Persist::Batch(batch), Persist::Block(block)]
}

pub fn commit(store: &Store, writes: &[Persist]) {
    let mut writer = store.writer().expect("a writer");
    writes.iter().for_each(|write| writer.apply(write).expect("applied"));
    writer.commit(true).expect("committed");
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("created");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
