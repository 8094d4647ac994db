//! Follows a chain, stretch by stretch.

use std::collections::BTreeMap;

use moult_core::governance::{Ledger, Present, ProposalRecord, block_time, check_manifest, note_times};
use moult_core::io::EpochStart;
use moult_core::kernel::Phases;
use moult_crypto::Keyring;
use moult_types::block::link;
use moult_types::message::Blocks;
use moult_types::phase::{FinalityProof, Phase, Resumed, Resumption};
use moult_types::{
    AuthorityIndex, BlockRecord, Certificate, ChainId, CommitIndex, Committee, Digest, EpochIdentity,
    EpochNumber, Genesis, GlobalIndex, HeldBatch, Manifest, ProposalId, Scope, SignedBatch, Transaction,
};

use crate::error::AuditError;
use crate::report::{Audit, BlockPlace, EpochReport, FallbackReport, ProposalReport};

/// An epoch as it follows from the blocks before it.
struct Epoch {
    manifest: Manifest,
    /// The phase whose chain goes on, with its identity.
    phase: Phase,
    identity: EpochIdentity,
    /// The block that the next one follows: in a fallback that resumed, first its resume block.
    top: (CommitIndex, Digest),
    /// In a fallback, where its chain goes on.
    resumed: Option<Resumed>,
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
        Ok(Self {
            manifest,
            phase: 0,
            identity,
            top: (CommitIndex(0), identity.digest()),
            resumed: None,
            committee,
            keyring,
            base,
            time_ms,
            state_root: None,
        })
    }

    /// What proofs of the epoch are held against.
    fn phases(&self) -> Phases<'_> {
        Phases::new(&self.manifest, self.base, &self.committee, &self.keyring)
    }
}

/// Whose votes are in a certificate.
fn voters(certificate: &Certificate) -> Vec<AuthorityIndex> {
    certificate.votes.iter().map(|vote| vote.author).collect()
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
        let epoch = Epoch::new(chain, genesis.manifest.clone(), genesis.base(), genesis.time_ms)
            .map_err(AuditError::Genesis)?;
        let ledger = Ledger::at_start(&epoch.manifest, epoch.base, epoch.time_ms, ProposalId(1));
        let mut audit = Audit::new(chain.to_string(), genesis);
        audit.epochs.push(EpochReport::new(&epoch.manifest, epoch.base, epoch.time_ms, &epoch.committee));
        Ok(Self { chain, epoch, former: None, ledger, audit })
    }

    /// The block that comes next.
    pub fn next(&self) -> GlobalIndex {
        self.ledger.global.next()
    }

    /// The epoch and the phase whose chain the next block should go on; a fallback may resume
    /// first.
    pub fn phase(&self) -> (EpochNumber, Phase) {
        (self.epoch.manifest.number, self.epoch.phase)
    }

    /// Checks a stretch of one phase's blocks with their batches and the proof that the last one
    /// is final; or, without blocks, that a fallback resumed from the block before. After an error
    /// nothing more may be fed.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn feed(&mut self, stretch: &Blocks) -> Result<(), AuditError> {
        let Some(top) = stretch.blocks.last() else {
            return match &stretch.proof {
                FinalityProof::Resumed { resumption, .. } => self.resume(resumption),
                FinalityProof::Committed(_) => Err(AuditError::Empty(self.next())),
            };
        };
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
        self.epoch.phases().check_final(top, &stretch.proof).map_err(|reason| AuditError::Certificate {
            global: top.global,
            index: top.block.index,
            reason: reason.to_string(),
        })?;
        Ok(voters(stretch.proof.certificate()))
    }

    /// A fallback of the epoch goes on from the last block that was fed.
    fn resume(&mut self, resumption: &Resumption) -> Result<(), AuditError> {
        let global = self.ledger.global;
        let wrong = |reason: String| AuditError::Resumption { global, phase: resumption.phase, reason };
        if self.ledger.is_at_barrier() || resumption.phase <= self.epoch.phase {
            return Err(wrong("no phase can follow there".into()));
        }
        let point = self.epoch.phases().check_resumption(resumption).map_err(|e| wrong(e.to_string()))?;
        let (index, hash) = self.epoch.top;
        if (point.global, point.identity, point.index, point.hash)
            != (global, self.epoch.identity, index, hash)
        {
            return Err(wrong("it goes on from another block".into()));
        }
        let block = &resumption.block;
        (self.epoch.phase, self.epoch.identity) = (resumption.phase, block.identity);
        (self.epoch.top, self.epoch.resumed) = ((block.block.index, block.hash), block.block.resumed);
        let cancelled = self.ledger.resume(&self.epoch.manifest, resumption.phase);
        self.close_proposals(cancelled);
        self.audit.certificates += 1;
        if let Some(report) = self.audit.epochs.last_mut() {
            report.note_certificate(&voters(&resumption.certificate));
            let engine = self.epoch.manifest.engine(resumption.phase);
            report.fallbacks.push(FallbackReport {
                phase: resumption.phase,
                identity: block.identity.to_string(),
                resumed_after: global.0,
                engine: engine.map(|pin| pin.hash.to_string()),
            });
        }
        Ok(())
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
            ("its index", record.block.index == self.epoch.top.0.next()),
            ("the hash of its parent", record.parent == self.epoch.top.1),
            ("its hash", record.hash == link(self.epoch.top.1, record.block.body())),
            ("where its phase resumed", record.block.resumed == self.epoch.resumed),
        ];
        if let Some((what, _)) = fits.into_iter().find(|(_, fits)| !fits) {
            return Err(AuditError::Link { global, what });
        }
        let is_first = global.0 == self.epoch.base.0 + 1;
        let is_first_of_later = is_first && self.epoch.manifest.follows.is_some();
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
        self.epoch.top = (record.block.index, record.hash);
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
            report.blocks = top.global.0 - self.epoch.base.0;
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
        self.ledger = self.ledger.at_next(&next.manifest);
        self.audit.epochs.push(EpochReport::new(&next.manifest, base, time_ms, &next.committee));
        let former = std::mem::replace(&mut self.epoch, next);
        self.former = Some((former.manifest.number, former.keyring));
        Ok(())
    }
}
