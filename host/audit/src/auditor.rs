//! Follows a chain, stretch by stretch.

use std::collections::BTreeMap;

use moult_core::governance::{Ledger, Present, ProposalRecord, block_time, check_manifest, note_times};
use moult_core::io::EpochStart;
use moult_crypto::Keyring;
use moult_types::block::link;
use moult_types::message::Blocks;
use moult_types::{
    AuthorityIndex, BlockRecord, ChainId, Committee, Digest, EpochIdentity, EpochNumber, Genesis,
    GlobalIndex, HeldBatch, Manifest, ProposalId, Scope, SignedBatch, Transaction,
};

use crate::error::AuditError;
use crate::finality::{Judges, check_final};
use crate::report::{Audit, BlockPlace, EpochReport, ProposalReport};

/// An epoch as it follows from the blocks before it.
struct Epoch {
    manifest: Manifest,
    identity: EpochIdentity,
    committee: Committee,
    keyring: Keyring,
    base: GlobalIndex,
    /// Block time at its beginning.
    time_ms: u64,
    /// State root at the barrier before it, once its first block said so.
    state_root: Option<Digest>,
}

impl Epoch {
    fn new(chain: ChainId, manifest: Manifest, base: GlobalIndex, time_ms: u64) -> Result<Self, String> {
        check_manifest(&manifest).map_err(|e| e.to_string())?;
        let committee = manifest.committee().map_err(|e| e.to_string())?;
        let keyring = Keyring::new(chain, &committee).map_err(|e| e.to_string())?;
        let identity = manifest.identity();
        Ok(Self { manifest, identity, committee, keyring, base, time_ms, state_root: None })
    }
}

/// Checks a chain from its genesis on.
pub struct Auditor {
    chain: ChainId,
    epoch: Epoch,
    former: Option<(EpochNumber, Keyring)>,
    ledger: Ledger,
    audit: Audit,
}

impl Auditor {
    /// At the genesis.
    ///
    /// # Errors
    /// The genesis cannot begin a chain.
    pub fn new(genesis: &Genesis) -> Result<Self, AuditError> {
        let chain = genesis.chain();
        let epoch = Epoch::new(chain, genesis.manifest.clone(), GlobalIndex(0), genesis.time_ms)
            .map_err(AuditError::Genesis)?;
        let ledger = Ledger::at_start(&epoch.manifest, epoch.base, epoch.time_ms, ProposalId(1));
        let mut audit = Audit::new(chain.to_string(), genesis.name.clone());
        audit.epochs.push(EpochReport::new(&epoch.manifest, epoch.base, epoch.time_ms, &epoch.committee));
        Ok(Self { chain, epoch, former: None, ledger, audit })
    }

    /// The block that comes next.
    pub fn next(&self) -> GlobalIndex {
        self.ledger.global.next()
    }

    /// Checks a stretch of one epoch's blocks with their batches and the proof that the last one
    /// is final. After an error nothing more may be fed.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn feed(&mut self, stretch: &Blocks) -> Result<(), AuditError> {
        let Some(top) = stretch.blocks.last() else { return Err(AuditError::Empty(self.next())) };
        for (at, record) in stretch.blocks.iter().enumerate() {
            self.check_place(record, at as u64)?;
        }
        let voters = self.check_proof(top, stretch)?;
        let mut batches = BTreeMap::new();
        for signed in &stretch.batches {
            let held = self.check_batch(signed)?;
            if let Some(twice) = batches.insert(held.digest, held) {
                return Err(AuditError::StrayBatch { global: top.global, batch: twice.digest });
            }
        }
        for record in &stretch.blocks {
            self.apply(record, &batches)?;
        }
        self.check_strays(stretch, &batches)?;
        self.note(top, &voters);
        self.end_epoch()
    }

    /// Checks what a store says of an epoch that has begun.
    ///
    /// # Errors
    /// It says otherwise.
    pub fn check_stored_epoch(&self, stored: &EpochStart) -> Result<(), AuditError> {
        let epoch = stored.manifest.number;
        let wrong = |what| Err(AuditError::StoredEpoch { epoch, what });
        let Some(report) = self.audit.epochs.iter().find(|report| report.number == epoch.0) else {
            return wrong("no such epoch has begun");
        };
        if report.identity != stored.manifest.identity().to_string() {
            return wrong("its identity");
        }
        if (report.base, report.time_ms) != (stored.base.0, stored.time_ms) {
            return wrong("where and when it began");
        }
        let root = stored.state_root.map(|root| root.to_string());
        if report.blocks > 0 && report.state_root != root {
            return wrong("the state root at its beginning");
        }
        Ok(())
    }

    /// What was found.
    pub fn audit(&self) -> Audit {
        let mut audit = self.audit.clone();
        let open = self.ledger.open.values();
        audit.proposals.extend(open.map(|record| ProposalReport::new(record, &self.epoch.committee)));
        audit.proposals.sort_by_key(|proposal| proposal.id);
        audit
    }

    /// Number, place and hashes; everything that needs no other block's content.
    fn check_place(&self, record: &BlockRecord, at: u64) -> Result<(), AuditError> {
        let expected = GlobalIndex(self.next().0 + at);
        let global = record.global;
        if global != expected {
            return Err(AuditError::Missing { expected, found: global });
        }
        if record.identity != self.epoch.identity || record.epoch != self.epoch.manifest.number {
            return Err(AuditError::OtherEpoch {
                global,
                epoch: self.epoch.manifest.number,
                expected: self.epoch.identity,
                found_epoch: record.epoch,
                found: record.identity,
            });
        }
        Ok(())
    }

    fn check_proof(&self, top: &BlockRecord, stretch: &Blocks) -> Result<Vec<AuthorityIndex>, AuditError> {
        let judges = Judges {
            identity: self.epoch.identity,
            committee: &self.epoch.committee,
            keyring: &self.epoch.keyring,
            window_blocks: self.epoch.manifest.limits.window_blocks,
        };
        check_final(&judges, top, &stretch.certificate).map_err(|reason| AuditError::Certificate {
            global: top.global,
            index: top.block.index,
            reason: reason.to_string(),
        })
    }

    fn check_batch(&self, signed: &SignedBatch) -> Result<HeldBatch, AuditError> {
        let held = HeldBatch::new(signed.clone());
        let (epoch, author) = (held.batch().number, held.batch().author);
        let wrong = |reason: String| AuditError::Batch { batch: held.digest, epoch, author, reason };
        let keyring = match &self.former {
            _ if epoch == self.epoch.manifest.number => &self.epoch.keyring,
            Some((number, keyring)) if *number == epoch => keyring,
            _ => return Err(wrong("its epoch is neither that of the block nor the one before".into())),
        };
        let statement = held.batch().statement(held.digest);
        keyring
            .verify(Scope::Number(epoch), &statement, &held.signed.signature)
            .map_err(|e| wrong(e.to_string()))?;
        Ok(held)
    }

    fn apply(
        &mut self,
        record: &BlockRecord,
        batches: &BTreeMap<Digest, HeldBatch>,
    ) -> Result<(), AuditError> {
        let global = record.global;
        if self.ledger.is_at_barrier() {
            return Err(AuditError::PastBarrier { global, epoch: record.epoch });
        }
        let fits = [
            ("its index", record.block.index == self.ledger.index.next()),
            ("the hash of its parent", record.parent == self.ledger.hash),
            ("its hash", record.hash == link(self.ledger.hash, record.block.body())),
            ("its place over all epochs", global.0 == self.epoch.base.0 + record.block.index.0),
        ];
        if let Some((what, _)) = fits.into_iter().find(|(_, fits)| !fits) {
            return Err(AuditError::Link { global, what });
        }
        let is_first_of_later = record.block.index.0 == 1 && self.epoch.manifest.follows.is_some();
        if record.block.state_root.is_some() != is_first_of_later {
            return Err(AuditError::StateRoot { global });
        }
        let held =
            |batch: &Digest| batches.get(batch).ok_or(AuditError::MissingBatch { global, batch: *batch });
        let held = record.block.batches.iter().map(held).collect::<Result<Vec<_>, _>>()?;
        let mut times_ms = self.ledger.author_times_ms.clone();
        note_times(&mut times_ms, self.epoch.manifest.number.0, held.iter().copied());
        let expected = block_time(&self.epoch.committee, &times_ms, self.ledger.time_ms);
        if record.block.time_ms != expected {
            return Err(AuditError::Time { global, found: record.block.time_ms, expected });
        }
        let Epoch { manifest, committee, .. } = &self.epoch;
        let changed = self.ledger.apply(Present { chain: self.chain, manifest, committee }, record, &held);
        self.audit.count(&held, |transaction| matches!(transaction, Transaction::System(_)));
        self.close_proposals(changed);
        if record.block.state_root.is_some() {
            self.epoch.state_root = record.block.state_root;
        }
        Ok(())
    }

    /// What is not named by a block is not covered by the certificate.
    fn check_strays(
        &self,
        stretch: &Blocks,
        batches: &BTreeMap<Digest, HeldBatch>,
    ) -> Result<(), AuditError> {
        let named: std::collections::BTreeSet<_> =
            stretch.blocks.iter().flat_map(|record| &record.block.batches).collect();
        match batches.keys().find(|digest| !named.contains(digest)) {
            Some(batch) => Err(AuditError::StrayBatch { global: self.ledger.global, batch: *batch }),
            None => Ok(()),
        }
    }

    fn note(&mut self, top: &BlockRecord, voters: &[AuthorityIndex]) {
        self.audit.last = Some(BlockPlace {
            global_exec_index: top.global.0,
            epoch: top.epoch.0,
            index: top.block.index.0,
            hash: top.hash.to_string(),
            time_ms: top.block.time_ms,
        });
        self.audit.certificates += 1;
        if let Some(report) = self.audit.epochs.last_mut() {
            report.blocks = top.block.index.0;
            report.state_root = self.epoch.state_root.map(|root| root.to_string());
            report.note_certificate(voters);
        }
    }

    /// Proposals that came to their end.
    fn close_proposals(&mut self, changed: Vec<ProposalRecord>) {
        let closed = changed.into_iter().filter(|record| !record.state.is_open());
        self.audit.proposals.extend(closed.map(|record| ProposalReport::new(&record, &self.epoch.committee)));
    }

    /// At the barrier the next epoch follows.
    fn end_epoch(&mut self) -> Result<(), AuditError> {
        let Some(manifest) = self.ledger.next_manifest(&self.epoch.manifest) else { return Ok(()) };
        let (base, time_ms) = (self.ledger.global, self.ledger.time_ms);
        let next = Epoch::new(self.chain, manifest, base, time_ms)
            .map_err(|reason| AuditError::NextEpoch { global: base, reason })?;
        let closed = self.ledger.close();
        self.close_proposals(closed);
        self.ledger = Ledger::at_start(&next.manifest, base, time_ms, self.ledger.next_proposal);
        self.audit.epochs.push(EpochReport::new(&next.manifest, base, time_ms, &next.committee));
        let former = std::mem::replace(&mut self.epoch, next);
        self.former = Some((former.manifest.number, former.keyring));
        Ok(())
    }
}
