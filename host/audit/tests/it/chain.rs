//! Makes a chain of several epochs: real keys, signatures, certificates and governance.

use std::sync::Arc;

use moult_core::governance::{Ledger, Present, ProposalRecord, block_time, note_times};
use moult_crypto::{KeyPair, Signer, possession};
use moult_types::block::{link, vote_statement};
use moult_types::governance::{Decision, ReadyNotice, Vote};
use moult_types::message::Blocks;
use moult_types::phase::FinalityProof;
use moult_types::*;

pub(crate) fn keys(n: u8) -> KeyPair {
    KeyPair::from_seed(&[n + 1; 32])
}

fn member(n: u8) -> Member {
    let keys = keys(n);
    let id = AuthorityId::of(&keys.public_key());
    Member {
        id,
        key: keys.public_key(),
        possession: possession(&keys, id),
        stake: 1,
        address: format!("n{n}:1"),
    }
}

fn limits() -> EpochLimits {
    EpochLimits {
        window_blocks: 4,
        barrier_distance_blocks: 5,
        readiness_window_blocks: 10,
        ..EpochLimits::default()
    }
}

pub(crate) fn genesis(name: &str) -> Genesis {
    let pin = |n: u8| ModulePin { hash: ModuleHash([n; 32]), config: Vec::new() };
    let manifest = Manifest {
        number: EpochNumber(0),
        members: (0..4).map(member).collect(),
        fault_model: FaultModel::Byzantine,
        modules: World::ALL.into_iter().zip(1..).map(|(world, n)| (world, pin(n))).collect(),
        fallbacks: Vec::new(),
        finality: Finality::Certified,
        limits: limits(),
        follows: None,
    };
    Genesis { name: name.into(), time_ms: 1_000, origin: None, manifest }
}

/// What is final so far, and the makings of the next block.
pub(crate) struct Chain {
    pub(crate) chain: ChainId,
    pub(crate) manifest: Manifest,
    pub(crate) stretches: Vec<Blocks>,
    base: GlobalIndex,
    ledger: Ledger,
    seq: u64,
}

impl Chain {
    pub(crate) fn new(genesis: &Genesis) -> Self {
        let manifest = genesis.manifest.clone();
        let ledger = Ledger::at_start(&manifest, GlobalIndex(0), genesis.time_ms, ProposalId(1));
        Self { chain: genesis.chain(), manifest, stretches: Vec::new(), base: GlobalIndex(0), ledger, seq: 0 }
    }

    fn committee(&self) -> Committee {
        self.manifest.committee().expect("valid")
    }

    /// A block with one batch of each author; its own stretch.
    pub(crate) fn block(&mut self, systems: Vec<SystemTransaction>) {
        let (record, batches) = self.next_block(systems);
        let certificate = self.certificate(&record, &[0, 1, 3]);
        self.stretches.push(Blocks {
            blocks: vec![record],
            batches,
            proof: FinalityProof::Committed(certificate),
        });
    }

    /// Several blocks under one certificate, whose votes are at the second last and the last.
    pub(crate) fn long_stretch(&mut self, blocks: usize) {
        let (mut records, mut batches) = (Vec::new(), Vec::new());
        for _ in 0..blocks {
            let (record, more) = self.next_block(Vec::new());
            records.push(record);
            batches.extend(more);
        }
        let certificate = self.certificate(&records[blocks - 1], &[0, 1, 2, 3]);
        self.stretches.push(Blocks {
            blocks: records,
            batches,
            proof: FinalityProof::Committed(certificate),
        });
    }

    fn next_block(&mut self, systems: Vec<SystemTransaction>) -> (BlockRecord, Vec<SignedBatch>) {
        let mut transactions: Vec<_> = systems.into_iter().map(Transaction::System).collect();
        transactions.push(Transaction::Client(ClientTransaction {
            client: ClientId { ingress: member(0).id, name: b"c".to_vec() },
            seq: self.seq,
            payload: vec![1, 2, 3],
        }));
        let held: Vec<_> =
            (0..4).map(|author| self.batch(author, std::mem::take(&mut transactions))).collect();
        let number = self.manifest.number;
        let mut times_ms = self.ledger.author_times_ms.clone();
        note_times(&mut times_ms, number.0, held.iter().map(AsRef::as_ref));
        let index = self.ledger.index.next();
        let block = Block {
            index,
            time_ms: block_time(&self.committee(), &times_ms, self.ledger.time_ms),
            batches: held.iter().map(|batch| batch.digest).collect(),
            state_root: (index.0 == 1 && number.0 > 0).then_some(Digest([6; 32])),
            resumed: None,
        };
        let record = BlockRecord {
            epoch: number,
            identity: self.manifest.identity(),
            global: GlobalIndex(self.base.0 + index.0),
            parent: self.ledger.hash,
            hash: link(self.ledger.hash, block.body()),
            block,
        };
        let committee = self.committee();
        let present = Present { chain: self.chain, manifest: &self.manifest, committee: &committee };
        let batches: Vec<_> = held.iter().map(AsRef::as_ref).collect();
        self.ledger.apply(present, &record, &batches);
        if let Some(next) = self.ledger.next_manifest(&self.manifest) {
            self.ledger.close();
            self.base = record.global;
            self.ledger = self.ledger.at_next(&next);
            self.manifest = next;
        }
        (record, held.iter().map(|batch| batch.signed.clone()).collect())
    }

    fn batch(&mut self, author: u8, transactions: Vec<Transaction>) -> Arc<HeldBatch> {
        self.seq += 1;
        let time_ms = 2_000 + 10 * self.seq;
        let number = self.manifest.number;
        let author_index = AuthorityIndex(author.into());
        let batch = Batch { number, author: author_index, start: 1, seq: self.seq, time_ms, transactions };
        let statement = batch.statement(batch.digest());
        let signature = keys(author).sign_statement(self.chain, Scope::Number(number), &statement);
        Arc::new(HeldBatch::new(SignedBatch { batch, signature }))
    }

    pub(crate) fn certificate(&self, record: &BlockRecord, voters: &[u8]) -> Certificate {
        let vote = |voter: &u8| {
            let author = AuthorityIndex((*voter).into());
            let statement = vote_statement(Round::Commit, author, record.block.index, record.hash);
            let signature =
                keys(*voter).sign_statement(self.chain, Scope::Epoch(record.identity), &statement);
            CertificateVote { author, index: record.block.index, signature }
        };
        Certificate {
            round: Round::Commit,
            identity: record.identity,
            index: record.block.index,
            hash: record.hash,
            votes: voters.iter().map(vote).collect(),
            bodies: Vec::new(),
        }
    }

    /// Puts a change to another engine forward.
    pub(crate) fn propose(&mut self) -> ProposalRecord {
        let mut modules = self.manifest.modules.clone();
        modules.insert(World::Engine, ModulePin { hash: ModuleHash([77; 32]), config: vec![1] });
        let proposal = EpochChangeProposal {
            new_epoch: self.manifest.number.next(),
            new_committee: self.manifest.members.clone(),
            new_epoch_timestamp_ms: 2_000 + self.ledger.global.0,
            proposal_commit_index: self.ledger.index,
            modules,
            fallbacks: Vec::new(),
            fault_model: FaultModel::Byzantine,
            limits: limits(),
            activation: Activation::AsSoonAsReady,
            deadline: CommitIndex(self.ledger.index.0 + 100),
            proposer: member(0).id,
            readmit_failed: false,
            reports: Vec::new(),
        };
        let author = AuthorityIndex(0);
        let scope = Scope::Number(self.manifest.number);
        let signature = keys(0).sign_statement(self.chain, scope, &proposal.statement(author));
        let signed = SignedProposal { proposal, author, signature };
        let hash = signed.proposal.hash();
        self.block(vec![SystemTransaction::Propose(Box::new(signed))]);
        self.ledger.open.values().find(|record| record.hash == hash).expect("it is open").clone()
    }

    pub(crate) fn vote(&self, record: &ProposalRecord, voter: u8, decision: Decision) -> SystemTransaction {
        let (author, none) = (AuthorityIndex(voter.into()), Signature([0; 64]));
        let mut vote = Vote { proposal: record.id, hash: record.hash, decision, author, signature: none };
        let scope = Scope::Number(self.manifest.number);
        vote.signature = keys(voter).sign_statement(self.chain, scope, &vote.statement());
        SystemTransaction::Vote(vote)
    }

    pub(crate) fn ready(&self, record: &ProposalRecord, place: u8) -> SystemTransaction {
        let (author, none) = (AuthorityIndex(place.into()), Signature([0; 64]));
        let window = self.ledger.index.next().0 / self.manifest.limits.readiness_window_blocks;
        let mut notice =
            ReadyNotice { proposal: record.id, hash: record.hash, window, author, signature: none };
        let scope = Scope::Number(record.proposal.new_epoch);
        notice.signature = keys(place).sign_statement(self.chain, scope, &notice.statement());
        SystemTransaction::Ready(notice)
    }

    /// A change to another engine, from the proposal to the first blocks of the new epoch.
    pub(crate) fn change_epoch(&mut self) {
        let before = self.manifest.number;
        let proposal = self.propose();
        let against = Decision::Reject("not me".into());
        let votes = [
            self.vote(&proposal, 2, against),
            self.vote(&proposal, 0, Decision::Approve),
            self.vote(&proposal, 1, Decision::Approve),
            self.vote(&proposal, 3, Decision::Approve),
        ];
        self.block(votes.into());
        let notices = (0..3).map(|place| self.ready(&proposal, place)).collect();
        self.block(notices);
        while self.manifest.number == before {
            self.block(Vec::new());
        }
        self.block(Vec::new());
        self.long_stretch(3);
    }
}

/// Two blocks, a change of epoch, some blocks more.
pub(crate) fn two_epochs() -> Chain {
    let mut chain = Chain::new(&genesis("test"));
    chain.block(Vec::new());
    chain.long_stretch(2);
    chain.change_epoch();
    chain
}
