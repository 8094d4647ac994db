//! Reads for peers, clients and operators.

use std::collections::BTreeSet;

use moult_core::governance::ProposalRecord;
use moult_core::io::EpochStart;
use moult_types::message::Blocks;
use moult_types::phase::{FinalityProof, Phase};
use moult_types::{
    BlockRecord, Certificate, Digest, EpochNumber, GlobalIndex, HeldBatch, ProposalId, SignedBatch, decode,
};

use crate::error::StoreError;
use crate::store::Store;
use crate::tables::{Table, number_key};

impl Store {
    /// A block, final or not.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn block(&self, global: GlobalIndex) -> Result<Option<BlockRecord>, StoreError> {
        self.tables.get(Table::Blocks, &number_key(global.0))
    }

    /// Final blocks of any epoch from an index on, rising, until their encodings exceed
    /// `bytes_max`; at least one, if there is one.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn final_blocks(&self, from: GlobalIndex, bytes_max: usize) -> Result<Vec<BlockRecord>, StoreError> {
        let last = self.last_final()?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for entry in self.tables.numbered::<BlockRecord>(Table::Blocks, from.0) {
            let (_, record) = entry?;
            bytes += record_bytes(&record);
            if record.global > last || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(record);
        }
        Ok(found)
    }

    /// The proof for exactly this final block: the one stored at or above it in its phase, with
    /// the bodies that lead down to it.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn proof_for(&self, block: &BlockRecord) -> Result<Option<FinalityProof>, StoreError> {
        let Some(entry) = self.tables.numbered::<FinalityProof>(Table::Certificates, block.global.0).next()
        else {
            return Ok(None);
        };
        let (at, above) = entry?;
        let at = GlobalIndex(at);
        if self.block(at)?.is_none_or(|last| last.identity != block.identity) {
            return Ok(None);
        }
        let mut bodies = Vec::new();
        for global in block.global.0 + 1..=at.0 {
            let between = self.block(GlobalIndex(global))?;
            let missing = || self.tables.corrupt(Table::Blocks, &number_key(global), "it is missing");
            bodies.push(between.ok_or_else(missing)?.block.body());
        }
        Ok(Some(match above {
            FinalityProof::Committed(above) => {
                bodies.extend(above.bodies);
                let (index, hash) = (block.block.index, block.hash);
                FinalityProof::Committed(Certificate { index, hash, bodies, ..above })
            }
            FinalityProof::Resumed { bodies: further, resumption } => {
                bodies.extend(further);
                FinalityProof::Resumed { bodies, resumption }
            }
        }))
    }

    /// A stretch of final blocks of one phase for a peer that knows the block before `from` as
    /// of this epoch and phase: with their batches and a proof, until `bytes_max` is exceeded; at
    /// least one block, unless a fallback resumed right there. `None` where nothing is final at
    /// `from`. It ends where a proof is near enough: a certificate with more bodies than the
    /// epoch's window is none. Where no block within `bytes_max` has one, it is longer.
    ///
    /// # Errors
    /// The disk, a damaged record, a batch that is missing.
    pub fn stretch(
        &self,
        from: GlobalIndex,
        (epoch, phase): (EpochNumber, Phase),
        bytes_max: usize,
    ) -> Result<Option<Blocks>, StoreError> {
        if let Some(proof) = self.resumption_at(from, (epoch, phase))? {
            return Ok(Some(Blocks { blocks: Vec::new(), batches: Vec::new(), proof }));
        }
        let last = self.last_final()?;
        let (mut blocks, mut batches): (Vec<BlockRecord>, Vec<SignedBatch>) = (Vec::new(), Vec::new());
        let (mut seen, mut bytes) = (BTreeSet::new(), 0);
        // As many of the blocks and batches as have a proof; the last certificate looked at.
        let (mut provable, mut above, mut window) = ((0, 0), None, 0);
        for entry in self.tables.numbered::<BlockRecord>(Table::Blocks, from.0) {
            let (_, record) = entry?;
            let other_epoch = blocks.first().is_some_and(|first| first.identity != record.identity);
            if record.global > last || other_epoch {
                break;
            }
            let (mut new, mut size) = (Vec::new(), record_bytes(&record));
            for digest in &record.block.batches {
                if seen.insert(*digest) {
                    let encoded = self.batch(*digest)?;
                    let bad = |reason: String| self.tables.corrupt(Table::Batches, &digest.0, reason);
                    let encoded = encoded.ok_or_else(|| bad("it is missing".into()))?;
                    size += encoded.len();
                    new.push(decode::<SignedBatch>(&encoded).map_err(|e| bad(e.to_string()))?);
                }
            }
            bytes += size;
            if bytes > bytes_max && provable.0 > 0 {
                break;
            }
            if blocks.is_empty() {
                window = self.epoch(record.epoch)?.map_or(0, |start| start.manifest.limits.window_blocks);
            }
            let is_provable = self.is_provable(&record, window, &mut above)?;
            blocks.push(record);
            batches.append(&mut new);
            if is_provable {
                provable = (blocks.len(), batches.len());
            }
        }
        blocks.truncate(provable.0);
        batches.truncate(provable.1);
        let Some(top) = blocks.last() else { return Ok(None) };
        let Some(proof) = self.proof_for(top)? else { return Ok(None) };
        Ok(Some(Blocks { blocks, batches, proof }))
    }

    /// Like [`Store::stretch`], but it ends at a block whose certificate was stored, which then
    /// is that of the last block as its committee's votes made it: what an audit is given. It
    /// exceeds `bytes_max` by a window of blocks at most.
    ///
    /// # Errors
    /// The disk, a damaged record, a batch that is missing.
    pub fn certified_stretch(
        &self,
        from: GlobalIndex,
        known: (EpochNumber, Phase),
        bytes_max: usize,
    ) -> Result<Option<Blocks>, StoreError> {
        if let Some(proof) = self.resumption_at(from, known)? {
            return Ok(Some(Blocks { blocks: Vec::new(), batches: Vec::new(), proof }));
        }
        let Some(first) = self.block(from)? else { return Ok(None) };
        let (mut blocks, mut certified, mut bytes) = (Vec::new(), None, 0);
        for entry in self.tables.numbered::<BlockRecord>(Table::Blocks, from.0) {
            let (_, record) = entry?;
            if record.identity != first.identity || (bytes > bytes_max && certified.is_some()) {
                break;
            }
            bytes += record_bytes(&record);
            for digest in &record.block.batches {
                bytes += self.tables.size(Table::Batches, &digest.0)?.unwrap_or(0);
            }
            let proof =
                self.tables.get::<FinalityProof>(Table::Certificates, &number_key(record.global.0))?;
            blocks.push(record);
            if let Some(proof) = proof {
                certified = Some((blocks.len(), proof));
            }
        }
        let Some((count, proof)) = certified else { return Ok(None) };
        blocks.truncate(count);
        let mut batches = Vec::new();
        let mut seen = BTreeSet::new();
        for digest in blocks.iter().flat_map(|record| &record.block.batches) {
            if seen.insert(*digest) {
                let held = self.held_batch(*digest)?;
                let missing = || self.tables.corrupt(Table::Batches, &digest.0, "it is missing");
                batches.push(held.ok_or_else(missing)?.signed);
            }
        }
        Ok(Some(Blocks { blocks, batches, proof }))
    }

    /// That a fallback of an epoch, above the phase that is known, goes on with the block `from`.
    fn resumption_at(
        &self,
        from: GlobalIndex,
        (epoch, phase): (EpochNumber, Phase),
    ) -> Result<Option<FinalityProof>, StoreError> {
        let resumptions = self.phases(epoch)?.into_iter().filter(|record| record.phase > phase);
        let mut resumptions = resumptions.filter_map(|record| Some((record.resumed()?, record.resumption?)));
        let found = resumptions.find(|(resumed, _)| resumed.point.global.next() == from);
        Ok(found.map(|(_, resumption)| FinalityProof::Resumed {
            bodies: Vec::new(),
            resumption: Box::new(resumption),
        }))
    }

    /// Whether the proof stored at or above a final block is near enough to prove it; `above`
    /// keeps that proof's position and bodies (`None`: any block below) from call to call.
    fn is_provable(
        &self,
        block: &BlockRecord,
        window: u64,
        above: &mut Option<(GlobalIndex, Option<usize>)>,
    ) -> Result<bool, StoreError> {
        if above.is_none_or(|(at, _)| at < block.global) {
            let found = self.tables.numbered::<FinalityProof>(Table::Certificates, block.global.0).next();
            let Some((at, proof)) = found.transpose()? else { return Ok(false) };
            let bodies = match proof {
                FinalityProof::Committed(certificate) => Some(certificate.bodies.len()),
                FinalityProof::Resumed { .. } => None,
            };
            *above = Some((GlobalIndex(at), bodies));
        }
        let Some((at, Some(bodies))) = *above else { return Ok(true) };
        Ok(at.0 - block.global.0 + bodies as u64 <= window)
    }

    /// A batch as it is encoded on the wire. Not checked against its digest here: whoever
    /// takes it up does that.
    ///
    /// # Errors
    /// The disk.
    pub fn batch(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables.get_raw(Table::Batches, &digest.0)?.map(|bytes| bytes.to_vec()))
    }

    /// A batch, checked against its digest.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn held_batch(&self, digest: Digest) -> Result<Option<HeldBatch>, StoreError> {
        let Some(bytes) = self.tables.get_raw(Table::Batches, &digest.0)? else { return Ok(None) };
        let bad = |reason: String| self.tables.corrupt(Table::Batches, &digest.0, reason);
        let held = HeldBatch::new(decode(&bytes).map_err(|e| bad(e.to_string()))?);
        if held.digest != digest {
            return Err(bad("its digest does not match".into()));
        }
        Ok(Some(held))
    }

    /// An epoch as it began.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn epoch(&self, number: EpochNumber) -> Result<Option<EpochStart>, StoreError> {
        self.tables.get(Table::Epochs, &number_key(number.0))
    }

    /// All epochs from a number on, at most `limit`.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn epochs(&self, from: EpochNumber, limit: usize) -> Result<Vec<EpochStart>, StoreError> {
        let epochs = self.tables.numbered::<EpochStart>(Table::Epochs, from.0).take(limit);
        epochs.map(|entry| entry.map(|(_, start)| start)).collect()
    }

    /// Proposals that came to their end, from a number on, at most `limit`.
    ///
    /// # Errors
    /// The disk, a damaged record.
    pub fn history(&self, from: ProposalId, limit: usize) -> Result<Vec<ProposalRecord>, StoreError> {
        let records = self.tables.numbered::<ProposalRecord>(Table::History, from.0).take(limit);
        records.map(|entry| entry.map(|(_, record)| record)).collect()
    }
}

/// About what a block adds to a message.
fn record_bytes(record: &BlockRecord) -> usize {
    160 + 32 * record.block.batches.len()
}
