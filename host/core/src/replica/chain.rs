//! From the engine's order to final blocks: assemble, let a quorum decide, hand to execution.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_sdk::engine::{Commit, Event as EngineEvent};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest};
use moult_types::block::link;
use moult_types::phase::FinalityProof;
use moult_types::{Block, BlockRecord, Finality, HeldBatch};

use super::{Epoch, Replica};
use crate::governance::{Present, block_time, note_times};
use crate::io::{Effect, Event, GuardUpdate, Persist, Target};
use crate::kernel::HeldBlock;

/// A missing batch is asked for after this time: mostly its author has sent it to all, and the
/// proposal that names it was faster.
const PUSHED_MS: u64 = 10;
/// Missing batches are asked for again after this time.
const REFETCH_MS: u64 = 200;
/// Most digests in one question.
const FETCH_MAX: usize = 256;
/// Batches that one `final` event names, roughly: a node that catches up makes several.
const FINAL_BATCHES_MAX: usize = 4096;

impl Replica {
    /// Assembles what can be, signs for it, and makes final what a quorum signed.
    pub(super) fn advance_chain(&mut self) {
        loop {
            let assembled = if self.fallback.is_resuming() { self.assemble_side() } else { self.assemble() };
            self.execute_ahead();
            self.sign_prepare();
            self.sign_commit();
            let made_final = self.certify();
            if !assembled && !made_final {
                return;
            }
        }
    }

    /// The barrier, where one is set by the final chain: an index of the main chain.
    pub(super) fn barrier(&self) -> Option<CommitIndex> {
        #[cfg(feature = "planted")]
        if self.has(super::Planted::PastBarrier) {
            return None;
        }
        self.ledger.barrier().map(|barrier| self.index_of(barrier))
    }

    /// Turns ordered commits into blocks as long as their payloads are held; nothing past
    /// the barrier. Batches that only blocks past it name stay pending, for the next epoch.
    fn assemble(&mut self) -> bool {
        let mut any = false;
        loop {
            let next = self.finality.top().0.next();
            if self.closing() || self.barrier().is_some_and(|barrier| next > barrier) {
                return any;
            }
            let Some((commit, batches)) = self.next_ordered(next) else { return any };
            let held = self.make_block(&commit, batches);
            self.out.durable.push(Persist::Block(held.record.clone()));
            self.push_block(held);
            any = true;
        }
    }

    /// The engine's next commit, once its payloads are held.
    pub(super) fn next_ordered(&mut self, next: CommitIndex) -> Option<(Commit, Vec<Arc<HeldBatch>>)> {
        let commit = self.ordering.ordered.get(&next)?;
        let Some(batches) = self.payloads(&commit.batches) else {
            let missing: Vec<_> =
                commit.batches.iter().filter(|digest| self.payload(digest).is_none()).copied().collect();
            self.miss(missing, None);
            return None;
        };
        Some((self.ordering.ordered.remove(&next)?, batches))
    }

    pub(super) fn payloads(&self, digests: &[Digest]) -> Option<Vec<Arc<HeldBatch>>> {
        digests.iter().map(|digest| self.payload(digest).cloned()).collect()
    }

    pub(super) fn payload(&self, digest: &Digest) -> Option<&Arc<HeldBatch>> {
        self.pending.get(digest).or_else(|| self.ordering.repeated.get(digest))
    }

    fn make_block(&self, commit: &Commit, batches: Vec<Arc<HeldBatch>>) -> HeldBlock {
        let (top, parent) = self.finality.top();
        let mut times_ms = self.top_times_ms.clone();
        note_times(&mut times_ms, self.epoch.start.manifest.number.0, batches.iter().map(AsRef::as_ref));
        let former_ms =
            self.finality.block(top).map_or(self.ledger.time_ms, |held| held.record.block.time_ms);
        let block = Block {
            index: commit.index,
            time_ms: block_time(&self.epoch.committee, &times_ms, former_ms),
            batches: commit.batches.clone(),
            state_root: self.bound_root(commit.index),
            resumed: self.fallback.resumed,
        };
        #[cfg(feature = "planted")]
        let block = if self.has(super::Planted::ClockInBlocks) {
            Block { time_ms: self.now.wall_ms.max(former_ms), ..block }
        } else {
            block
        };
        let record = BlockRecord {
            epoch: self.epoch.start.manifest.number,
            identity: self.finality.identity(),
            global: self.global_of(block.index),
            parent,
            hash: link(parent, block.body()),
            block,
        };
        HeldBlock { record: Arc::new(record), batches, ordered_at_ms: Some(self.now.mono_ms) }
    }

    /// K14: the first executed block of an epoch binds the state root at the barrier before it.
    pub(super) fn bound_root(&self, index: CommitIndex) -> Option<Digest> {
        let is_first = self.global_of(index) == self.epoch.start.base.next();
        self.epoch.start.state_root.filter(|_| is_first)
    }

    /// Puts a block on top of the chain held here.
    pub(super) fn push_block(&mut self, held: HeldBlock) {
        note_times(
            &mut self.top_times_ms,
            self.epoch.start.manifest.number.0,
            held.batches.iter().map(AsRef::as_ref),
        );
        if !self.fallback.is_resuming() && held.record.block.index == self.guard.state().prepared.0 {
            self.voting.prepared_on_chain = Some(held.record.hash);
        }
        self.finality.push(held);
    }

    /// Whether this epoch's blocks are executed on the engine's word.
    pub(super) fn is_graduated(&self) -> bool {
        #[cfg(feature = "planted")]
        if self.has(super::Planted::WithoutCertificates) {
            return true;
        }
        self.epoch.start.manifest.finality == Finality::Graduated && self.fallback.main_phase == 0
    }

    /// K16: what the engine has ordered is executed, a window ahead of its certificate at most.
    /// It is ordered again after a crash: from the engine's own records, which were synced
    /// before a quorum could rely on them.
    fn execute_ahead(&mut self) {
        if !self.is_graduated() {
            return;
        }
        let (barrier, now_ms) = (self.barrier(), self.now.mono_ms);
        while let Some(held) = self.finality.execute_ahead(barrier) {
            let (record, batches) = (held.record.clone(), held.batches.clone());
            for batch in &batches {
                self.batching.ended(&batch.digest, now_ms);
            }
            self.execute(record, batches);
        }
    }

    fn execute(&mut self, record: Arc<BlockRecord>, batches: Vec<Arc<HeldBatch>>) {
        let index = record.block.index;
        let marker = self.reads.marked().filter(|marker| batches.iter().any(|b| b.digest == *marker));
        self.out.release.push(Effect::Execute { record, batches });
        if marker.is_some() {
            self.on_read_marker(index);
        }
    }

    /// Everything in the main chain up to an index is final: ledger, execution, engine.
    pub(super) fn finalize(&mut self, index: CommitIndex, proof: FinalityProof) {
        #[cfg(feature = "planted")]
        {
            self.ledger.clock_ms = self.now.wall_ms;
        }
        let executed = self.finality.executed();
        let done = self.finality.finalize(index);
        let Some(last) = done.last() else { return };
        let (index, ordered_at_ms) = (last.record.block.index, last.ordered_at_ms);
        let (global, hash, time_ms) = (last.record.global, last.record.hash, last.record.block.time_ms);
        let mut final_batches = Vec::new();
        for held in done {
            let batches: Vec<&HeldBatch> = held.batches.iter().map(AsRef::as_ref).collect();
            let Epoch { start, committee, .. } = &self.epoch;
            let present = Present { chain: self.chain, manifest: &start.manifest, committee };
            let changed = self.ledger.apply(present, &held.record, &batches);
            for record in changed {
                if !record.state.is_open() {
                    self.out.durable.push(Persist::History(Box::new(record.clone())));
                }
                self.event(Event::Proposal(Box::new(record)));
            }
            for batch in &held.batches {
                self.release(batch.digest);
                final_batches.push(batch.digest);
            }
            if held.record.block.index > executed {
                self.execute(held.record, held.batches);
            }
        }
        self.note_guard(GuardUpdate::FinalMark { global, hash });
        let ledger = Arc::new(self.ledger.clone());
        self.out.durable.push(Persist::Final {
            global,
            proof: Box::new(proof),
            ledger,
            batches: final_batches.clone(),
        });
        let latency_ms = ordered_at_ms.map_or(0, |at| self.now.mono_ms.saturating_sub(at));
        self.event(Event::Final { index, global, time_ms, latency_ms });
        self.sync.last_progress_ms = self.now.mono_ms;
        if !self.fallback.is_resuming() {
            self.tell_final(index, final_batches);
        }
        if self.closing() {
            self.on_barrier();
        }
    }

    /// The engine of the main chain is told what is final.
    fn tell_final(&mut self, index: CommitIndex, final_batches: Vec<Digest>) {
        self.ordering.on_progress();
        self.ordering.committed = self.ordering.committed.max(index);
        self.ordering.ordered = self.ordering.ordered.split_off(&index.next());
        if self.ordering.is_running() {
            match self.ordering.events.last_mut() {
                Some(EngineEvent::Final { index: last, batches }) if batches.len() < FINAL_BATCHES_MAX => {
                    *last = index;
                    batches.extend(final_batches);
                }
                _ => self.ordering.events.push(EngineEvent::Final { index, batches: final_batches }),
            }
        }
    }

    /// Blocks above the last final one, as found on disk.
    pub(super) fn recover_tail(&mut self, tail: Vec<Arc<BlockRecord>>) {
        for record in tail {
            let (top, hash) = self.finality.top();
            let fits = record.identity == self.finality.identity()
                && record.block.index == top.next()
                && record.parent == hash;
            let Some(batches) = fits.then(|| self.payloads(&record.block.batches)).flatten() else {
                // Never final here: peers have it if it is final there.
                self.out.durable.push(Persist::DropBlocksAbove(self.global_of(top)));
                return;
            };
            self.push_block(HeldBlock { record, batches, ordered_at_ms: None });
        }
    }

    /// Drops blocks above an index that were never final; their batches stay pending.
    pub(super) fn drop_blocks_above(&mut self, index: CommitIndex) {
        if self.finality.drop_above(index) {
            self.top_times_ms = self.ledger.author_times_ms.clone();
            let mut at = self.finality.last_final().next();
            while let Some(held) = self.finality.block(at) {
                let number = self.epoch.start.manifest.number.0;
                note_times(&mut self.top_times_ms, number, held.batches.iter().map(AsRef::as_ref));
                at = at.next();
            }
            self.out.durable.push(Persist::DropBlocksAbove(self.global_of(index)));
        }
    }

    /// Notes batches that are needed and not held; they are asked for in a moment, if they have
    /// not come by then.
    pub(super) fn miss(&mut self, batches: Vec<Digest>, likely_holder: Option<AuthorityIndex>) {
        for digest in batches {
            // What was final once is in this node's own store.
            let after_ms = if self.done.contains(&digest) { 0 } else { PUSHED_MS };
            let ask_ms = self.now.mono_ms + after_ms;
            if self.payload(&digest).is_none() && !self.ordering.missing.contains_key(&digest) {
                self.ordering.missing.insert(digest, ask_ms);
                self.ordering.asks.insert((ask_ms, digest), likely_holder);
            }
        }
    }

    /// Asks for the batches whose time has come: first who likely has them, then everybody.
    pub(super) fn ask_missing(&mut self) {
        let now_ms = self.now.mono_ms;
        let mut due: BTreeMap<Option<AuthorityIndex>, Vec<Digest>> = BTreeMap::new();
        while let Some(first) = self.ordering.asks.first_entry()
            && first.key().0 <= now_ms
        {
            let ((ask_ms, digest), holder) = first.remove_entry();
            // Else it came, or is not needed any more.
            if self.ordering.missing.get(&digest) == Some(&ask_ms) {
                due.entry(holder).or_default().push(digest);
            }
        }
        for (holder, digests) in due {
            let from = match holder {
                Some(holder) => Target::Keys(self.keys_of(std::iter::once(holder))),
                None => self.members(),
            };
            for batches in digests.chunks(FETCH_MAX) {
                self.out.release.push(Effect::Fetch { batches: batches.to_vec(), from: from.clone() });
            }
            let again_ms = now_ms + REFETCH_MS;
            self.ordering.missing.extend(digests.iter().map(|digest| (*digest, again_ms)));
            self.ordering.asks.extend(digests.into_iter().map(|digest| ((again_ms, digest), None)));
        }
    }
}
