//! The phases of an epoch as this node goes through them (K10 to K14).
//!
//! A phase that a quorum aborted is followed by a fallback: the same committee on another engine.
//! Its chain begins with blocks that are not executed, up to the first that holds a valid bundle,
//! the resume block; that says from which certified block the chain goes on. Until the resume
//! block is final there are two chains: the *main* one, whose blocks are executed, and the *side*
//! one, which this node votes on. Then the main chain ends at the point of resumption, and the
//! side chain goes on from there as the main one. Nothing past the resume block is assembled
//! before it is final.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moult_crypto::Keyring;
use moult_sdk::engine::Event as EngineEvent;
use moult_sdk::{CommitIndex, Digest};
use moult_types::block::link;
use moult_types::message::Prepared;
use moult_types::phase::{Bundle, FinalityProof, Phase, Point, Resumed, Resumption};
use moult_types::{
    Block, BlockRecord, EpochIdentity, EpochNumber, GlobalIndex, HeldBatch, Message, ModuleHash, PublicKey,
    SignedBatch, SystemTransaction, Transaction,
};

use super::Replica;
use super::duties::shorten;
use super::votes::Voting;
use crate::io::{Effect, Event, Persist, PhaseProof, PhaseRecord, Target};
use crate::kernel::{Finality, HeldBlock, Phases};

/// Blocks that are certified and not held here are asked for again after this time.
const REFETCH_POINT_MS: u64 = 300;
/// Most bytes of batches in one answer to such a question; at least one block.
const PREPARED_BYTES_MAX: usize = 2 << 20;

/// Where this node is among the phases of the present epoch.
#[derive(Default)]
pub(super) struct Fallback {
    /// The phase it votes in.
    pub(super) phase: Phase,
    /// What opened that.
    opened: Option<Bundle>,
    /// The phase of the main chain, and where that goes on from the one before.
    pub(super) main_phase: Phase,
    pub(super) resumed: Option<Resumed>,
    /// The chain of the phase it votes in, until that resumes.
    pub(super) side: Option<Side>,
    /// A fallback resumed from a point that is not held here yet.
    waiting: Option<Resumption>,
    records: BTreeMap<Phase, PhaseRecord>,
    asked_ms: u64,
    /// Whom to ask next.
    turn: usize,
}

/// The chain of a fallback up to its resume block.
pub(super) struct Side {
    pub(super) finality: Finality,
    /// What its resume block says, once that is assembled here: it is on top then.
    pub(super) resumed: Option<Resumed>,
    /// Batches that its blocks name.
    named: BTreeSet<Digest>,
}

impl Fallback {
    /// After a start, with the phase that the guard is in.
    pub(super) fn recovered(mut records: Vec<PhaseRecord>, guard: EpochIdentity) -> Self {
        // Whoever follows a resumption into its phase writes that it opened, then that it resumed. If
        // only the first is there, nothing was signed in the phase, and it is entered anew.
        let is_torn = |record: &PhaseRecord| record.opened.is_none() && record.resumption.is_none();
        while records.last().is_some_and(|record| is_torn(record) && record.identity != guard) {
            records.pop();
        }
        let resumption = records.iter().rev().find_map(|record| record.resumption.clone());
        let last = records.last();
        Self {
            phase: last.map_or(0, |record| record.phase),
            opened: last.and_then(|record| record.opened.clone()),
            main_phase: resumption.as_ref().map_or(0, |resumption| resumption.phase),
            resumed: resumption.and_then(|resumption| resumption.block.block.resumed),
            records: records.into_iter().map(|record| (record.phase, record)).collect(),
            ..Self::default()
        }
    }

    /// What opened the phase, as its record has it.
    pub(super) fn proof(&self) -> Option<PhaseProof> {
        let record = self.records.get(&self.phase)?;
        let resumed = || record.resumption.clone().map(Box::new).map(PhaseProof::Resumed);
        record.opened.clone().map(PhaseProof::Aborted).or_else(resumed)
    }

    /// The last resume block that is final here.
    pub(super) fn resume_block(&self) -> Option<&BlockRecord> {
        self.records.get(&self.main_phase)?.resumption.as_ref().map(|resumption| &resumption.block)
    }

    /// Whether only the chain to its point is missing here.
    pub(super) fn is_waiting_for(&self, resumption: &Resumption) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.phase == resumption.phase)
    }

    /// Whether the phase this node votes in has yet to resume.
    pub(super) fn is_resuming(&self) -> bool {
        self.side.is_some()
    }

    /// What opened the phase, for a bundle that this one leaves the decision to.
    pub(super) fn opened(&self) -> Option<&Bundle> {
        self.opened.as_ref()
    }
}

impl Side {
    pub(super) fn new(finality: Finality) -> Self {
        Self { finality, resumed: None, named: BTreeSet::new() }
    }

    fn push(&mut self, held: HeldBlock) {
        self.resumed = held.record.block.resumed;
        self.named.extend(&held.record.block.batches);
        self.finality.push(held);
    }
}

impl Replica {
    pub(super) fn phases(&self) -> Phases<'_> {
        Phases {
            first: self.epoch.first,
            base: self.epoch.start.base,
            committee: &self.epoch.committee,
            keyring: &self.epoch.keyring,
            window_blocks: self.epoch.start.manifest.limits.window_blocks,
            #[cfg(feature = "planted")]
            planted: self.settings.planted,
        }
    }

    /// The chain that this node votes on.
    pub(super) fn voted(&self) -> &Finality {
        self.fallback.side.as_ref().map_or(&self.finality, |side| &side.finality)
    }

    pub(super) fn voted_mut(&mut self) -> &mut Finality {
        self.fallback.side.as_mut().map_or(&mut self.finality, |side| &mut side.finality)
    }

    /// The position of a block of the main chain over all epochs; for blocks that are not
    /// executed that of the point of resumption.
    pub(super) fn global_of(&self, index: CommitIndex) -> GlobalIndex {
        match self.fallback.resumed {
            None => GlobalIndex(self.epoch.start.base.0 + index.0),
            Some(resumed) => resumed.global_of(index).unwrap_or(resumed.point.global),
        }
    }

    /// The index in the main chain of the epoch's n-th executed block.
    pub(super) fn index_of(&self, position: CommitIndex) -> CommitIndex {
        match self.fallback.resumed {
            None => position,
            Some(Resumed { at, point }) => {
                let before = point.global.0 - self.epoch.start.base.0;
                CommitIndex((at.0 + position.0).saturating_sub(before))
            }
        }
    }

    /// K3: whether the executed chain, or what is held above it, reaches a point.
    fn has_point(&self, point: &Point) -> bool {
        match point.global.cmp(&self.ledger.global) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => point.hash == self.ledger.hash,
            std::cmp::Ordering::Greater => {
                self.finality.identity() == point.identity
                    && self.finality.hash_at(point.index) == Some(point.hash)
            }
        }
    }

    /// How far the chain that is voted on may be prepared: the resume block only where the
    /// payloads of the chain to its point are held.
    pub(super) fn preparable(&self) -> CommitIndex {
        let (top, _) = self.voted().top();
        match &self.fallback.side {
            None => self.barrier().map_or(top, |barrier| top.min(barrier)),
            Some(Side { resumed: Some(resumed), .. }) if !self.has_point(&resumed.point) => {
                CommitIndex(top.0 - 1)
            }
            Some(_) => top,
        }
    }

    /// K9, K17: the phase before is over, and this one begins here, with its proof.
    fn enter_phase(&mut self, phase: Phase, proof: PhaseProof) {
        let Ok(identity) = self.phases().identity(phase) else { return };
        let mut record = self.new_record(phase, identity);
        record.reason = shorten(self.stall.take_reason());
        if let PhaseProof::Aborted(bundle) = &proof {
            record.opened = Some(bundle.clone());
        }
        let window = self.epoch.start.manifest.limits.window_blocks;
        match self.guard.enter(record.number.0, phase, identity, proof) {
            Ok(update) => self.out.durable.push(Persist::Guard(update)),
            Err(refusal) if self.guard.is_enabled() => {
                self.guard.disable();
                self.event(Event::SigningStopped(format!(
                    "the signer guard is ahead of the chain: {refusal}"
                )));
            }
            Err(_) => {}
        }
        self.stop_engine();
        self.epoch.identity = identity;
        self.fallback.phase = phase;
        self.fallback.opened.clone_from(&record.opened);
        let finality = Finality::new(identity, window, CommitIndex(0), identity.digest());
        self.fallback.side = Some(Side::new(finality));
        #[cfg(feature = "planted")]
        self.plant();
        #[cfg(feature = "planted")]
        if self.settings.planted == Some(super::Planted::DropsPrepared) {
            self.drop_blocks_above(self.finality.last_final());
        }
        self.voting = Voting::begin(identity);
        self.stall.begin(self.now.mono_ms);
        self.out.durable.push(Persist::PhaseOpened(Box::new(record.clone())));
        self.fallback.records.insert(phase, record.clone());
        self.event(Event::PhaseOpened(Box::new(record)));
        self.announce_phase();
        self.propose_opening();
    }

    fn new_record(&self, phase: Phase, identity: EpochIdentity) -> PhaseRecord {
        let manifest = &self.epoch.start.manifest;
        let failed = phase.checked_sub(1).and_then(|former| manifest.engine(former));
        PhaseRecord {
            number: manifest.number,
            phase,
            identity,
            failed: failed.map_or(ModuleHash([0; 32]), |pin| pin.hash),
            reason: String::new(),
            opened: None,
            resumption: None,
            entered_at_ms: self.now.wall_ms,
        }
    }

    /// Tells the shell what a phase needs: what messages are verified against, and an engine.
    fn announce_phase(&mut self) {
        self.out.release.push(Effect::Verify(Arc::new(self.verify_context())));
        self.want_engine();
        let early = self.sync.take_early();
        if !early.is_empty() {
            self.out.release.push(Effect::Reverify(early));
        }
        self.restart_reads();
        self.sync.status_due = true;
    }

    /// Orders what opened the phase, in a batch of its own: the engine gets no other until the
    /// chain has resumed.
    pub(super) fn propose_opening(&mut self) {
        let is_needed = self.fallback.side.as_ref().is_some_and(|side| side.resumed.is_none());
        if let Some(bundle) = self.fallback.opened.clone().filter(|_| is_needed) {
            self.make_batch(vec![Transaction::System(SystemTransaction::Open(Box::new(bundle)))]);
        }
    }

    /// A verified bundle from a peer, or made here.
    pub(super) fn on_opening(&mut self, epoch: EpochNumber, phase: Phase, bundle: Bundle) {
        let is_ahead = epoch == self.epoch.start.manifest.number && phase > self.fallback.phase;
        if is_ahead && self.epoch.me.is_some() && !self.closing() && self.may_abort() {
            self.enter_phase(phase, PhaseProof::Aborted(bundle));
        }
    }

    /// To a peer that may not know yet.
    pub(super) fn tell_opening(&mut self, to: Target) {
        if let Some(bundle) = self.fallback.opened.clone() {
            let (epoch, phase) = (self.epoch.start.manifest.number, self.fallback.phase);
            self.send(to, Message::Opening { epoch, phase, bundle });
        }
    }

    /// K10: turns ordered commits into blocks up to the resume block, the first that holds a
    /// valid bundle. Each bundle is judged before anything at or past its block is signed.
    pub(super) fn assemble_side(&mut self) -> bool {
        let mut any = false;
        loop {
            let Some(side) = &self.fallback.side else { return any };
            let (top, parent) = side.finality.top();
            let next = top.next();
            if self.closing() || side.resumed.is_some() {
                return any;
            }
            let Some((commit, batches)) = self.next_ordered(next) else { return any };
            let bundles = batches.iter().flat_map(|batch| batch.batch().bundles());
            let point = bundles
                .map(|bundle| self.phases().check_bundle(self.fallback.phase, bundle))
                .find_map(Result::ok);
            let resumed = point.map(|point| Resumed { at: next, point });
            let block = Block { index: next, time_ms: 0, batches: commit.batches, state_root: None, resumed };
            let record = Arc::new(BlockRecord {
                epoch: self.epoch.start.manifest.number,
                identity: self.epoch.identity,
                global: GlobalIndex(0),
                parent,
                hash: link(parent, block.body()),
                block,
            });
            self.out.durable.push(Persist::SideBlock(record.clone()));
            let ordered_at_ms = Some(self.now.mono_ms);
            self.push_side(HeldBlock { record, batches, ordered_at_ms });
            any = true;
        }
    }

    fn push_side(&mut self, held: HeldBlock) {
        let Some(side) = &mut self.fallback.side else { return };
        if held.record.block.index == self.guard.state().prepared.0 {
            self.voting.prepared_on_chain = Some(held.record.hash);
        }
        side.push(held);
    }

    /// Blocks of a fallback that had not resumed, as found on disk.
    pub(super) fn recover_side(&mut self, blocks: Vec<Arc<BlockRecord>>) {
        for record in blocks {
            let Some(side) = &self.fallback.side else { return };
            let (top, hash) = side.finality.top();
            let fits = record.identity == side.finality.identity()
                && record.block.index == top.next()
                && record.parent == hash;
            let Some(batches) = fits.then(|| self.payloads(&record.block.batches)).flatten() else { return };
            self.push_side(HeldBlock { record, batches, ordered_at_ms: None });
        }
    }

    /// A quorum committed to blocks of the side chain: void ones, or the resume block.
    pub(super) fn finalize_side(&mut self, certificate: moult_types::Certificate) {
        let Some(side) = &mut self.fallback.side else { return };
        let done = side.finality.finalize(certificate.index);
        let Some(last) = done.last().map(|held| held.record.clone()) else { return };
        if last.block.resumed.is_some() {
            let resumption = Resumption { phase: self.fallback.phase, block: (*last).clone(), certificate };
            return self.on_resumption(resumption);
        }
        if self.ordering.is_running() {
            let event = EngineEvent::Final { index: certificate.index, batches: Vec::new() };
            self.ordering.events.push(event);
        }
    }

    /// K11: a fallback's resume block is final, and with it the main chain up to its point.
    pub(super) fn on_resumption(&mut self, resumption: Resumption) {
        let phase = resumption.phase;
        if phase <= self.fallback.main_phase || self.closing() {
            return;
        }
        let Some(resumed) = resumption.block.block.resumed else { return };
        if resumed.point.global < self.ledger.global {
            return self.halt_forked(format!(
                "the fallback of phase {phase} resumed from block {}, and block {} was final here before \
                 (K18): {resumption:?}",
                resumed.point.global, self.ledger.global
            ));
        }
        if phase > self.fallback.phase {
            self.enter_phase(phase, PhaseProof::Resumed(Box::new(resumption.clone())));
        }
        if !self.has_point(&resumed.point) {
            self.fallback.waiting = Some(resumption);
            return self.ask_point();
        }
        self.fallback.waiting = None;
        if resumed.point.global > self.ledger.global {
            let proof =
                FinalityProof::Resumed { bodies: Vec::new(), resumption: Box::new(resumption.clone()) };
            self.finalize(resumed.point.index, proof);
        }
        // K12: where that was the barrier, the epoch is over.
        if !self.closing() {
            self.resume(resumption, resumed);
        }
    }

    /// The chain of the fallback becomes the main one, and goes on from its point.
    fn resume(&mut self, resumption: Resumption, resumed: Resumed) {
        let phase = resumption.phase;
        self.drop_blocks_above(self.finality.last_final());
        let (at, hash) = (resumption.block.block.index, resumption.block.hash);
        let window = self.epoch.start.manifest.limits.window_blocks;
        let side = self.fallback.side.take_if(|_| phase == self.fallback.phase);
        let named = side.as_ref().map(|side| side.named.clone()).unwrap_or_default();
        self.finality = match side {
            Some(side) if side.finality.last_hash() == hash => side.finality,
            _ => Finality::new(resumption.block.identity, window, at, hash),
        };
        self.fallback.main_phase = phase;
        self.fallback.resumed = Some(resumed);
        #[cfg(feature = "planted")]
        self.plant();
        for record in self.ledger.resume(&self.epoch.start.manifest, phase) {
            self.out.durable.push(Persist::History(Box::new(record.clone())));
            self.event(Event::Proposal(Box::new(record)));
        }
        self.top_times_ms = self.ledger.author_times_ms.clone();
        let batches = if self.fallback.is_resuming() { Vec::new() } else { self.dissolve(&named) };
        // A phase that this node went past without entering it has no record yet.
        let new = self.new_record(phase, resumption.block.identity);
        let record = self.fallback.records.entry(phase).or_insert(new);
        record.resumption = Some(resumption);
        let record = Box::new(record.clone());
        let ledger = Arc::new(self.ledger.clone());
        self.out.durable.push(Persist::PhaseResumed { record, ledger, batches: batches.clone() });
        self.event(Event::PhaseResumed { phase, global: self.ledger.global });
        self.sync.last_progress_ms = self.now.mono_ms;
        self.sync.status_due = true;
        if self.fallback.is_resuming() {
            return;
        }
        self.ordering.on_progress();
        self.ordering.committed = self.ordering.committed.max(at);
        self.ordering.ordered = self.ordering.ordered.split_off(&at.next());
        if self.ordering.is_running() {
            self.ordering.events.push(EngineEvent::Final { index: at, batches });
        }
        for batch in self.pending.values().cloned().collect::<Vec<_>>() {
            self.tell_engine(&batch);
        }
        self.restart_reads();
    }

    /// Batches that the side chain named were ordered and not executed, and the engine orders
    /// nothing twice. What this node made of them goes into new batches; bundles have done what
    /// they are for.
    fn dissolve(&mut self, named: &BTreeSet<Digest>) -> Vec<Digest> {
        let of_bundles = |batch: &HeldBatch| batch.batch().bundles().count() > 0;
        let all = self.pending.values().filter(|batch| named.contains(&batch.digest) || of_bundles(batch));
        let all: Vec<Arc<HeldBatch>> = all.cloned().collect();
        let mut again = Vec::new();
        for batch in &all {
            if self.batching.in_flight.contains_key(&batch.digest) {
                again.extend(batch.batch().transactions.iter().cloned());
            }
            self.release(batch.digest);
        }
        self.requeue(again);
        all.iter().map(|batch| batch.digest).collect()
    }

    /// The point that this node has to hold and does not: that of a resume block to prepare, or
    /// of one that is final.
    fn wanted_point(&self) -> Option<Point> {
        let of_side = || self.fallback.side.as_ref()?.resumed;
        let waiting = self.fallback.waiting.as_ref().and_then(|resumption| resumption.block.block.resumed);
        let point = waiting.or_else(of_side)?.point;
        (!self.has_point(&point)).then_some(point)
    }

    /// Asks a member for the chain to the point: whoever prepared it holds it.
    pub(super) fn ask_point(&mut self) {
        let Some(to) = self.wanted_point().filter(|point| point.identity == self.finality.identity()) else {
            return;
        };
        if self.fallback.asked_ms + REFETCH_POINT_MS > self.now.mono_ms && self.fallback.turn > 0 {
            return;
        }
        self.fallback.asked_ms = self.now.mono_ms;
        let members = self.keys_of(self.epoch.committee.indices());
        let Some(peer) = members.get(self.fallback.turn % members.len().max(1)).copied() else { return };
        self.fallback.turn += 1;
        let from = self.finality.last_final().next();
        self.send(Target::Keys(vec![peer]), Message::FetchPrepared { from, to });
    }

    pub(super) fn on_fetch_prepared(&mut self, peer: PublicKey, from: CommitIndex, to: Point) {
        let is_held =
            self.finality.identity() == to.identity && self.finality.hash_at(to.index) == Some(to.hash);
        if !is_held || from <= self.finality.last_final() || from > to.index {
            return;
        }
        let mut answer = Prepared { blocks: Vec::new(), batches: Vec::new(), bodies: Vec::new() };
        let (mut bytes, mut seen) = (0, BTreeSet::new());
        let mut at = from;
        while at <= to.index {
            let Some(held) = self.finality.block(at) else { return };
            if bytes < PREPARED_BYTES_MAX && answer.bodies.is_empty() {
                for batch in held.batches.iter().filter(|batch| seen.insert(batch.digest)) {
                    bytes += batch.encoded.len();
                    answer.batches.push(batch.signed.clone());
                }
                answer.blocks.push((*held.record).clone());
            } else {
                answer.bodies.push(held.record.block.body());
            }
            at = at.next();
        }
        self.send(Target::Keys(vec![peer]), Message::Prepared(Box::new(answer)));
    }

    /// Blocks up to a point that is certified: they prove themselves by its hash.
    pub(super) fn on_prepared(&mut self, from: PublicKey, answer: Prepared) {
        let Some(point) = self.wanted_point() else { return };
        let Prepared { blocks, batches, bodies } = answer;
        let Some(last) = blocks.last() else { return };
        let hash = bodies.iter().fold(last.hash, |hash, body| link(hash, *body));
        let reaches = last.block.index.0 + bodies.len() as u64 == point.index.0 && hash == point.hash;
        if !reaches || last.identity != point.identity || point.identity != self.finality.identity() {
            return;
        }
        match self.check_stretch(blocks, batches) {
            Ok(held) => {
                if self.follow(held) {
                    self.fallback.turn = 0;
                    self.retry_resumption();
                    self.ask_point();
                }
            }
            Err(reason) => {
                self.event(Event::EngineMisbehaved(format!("blocks of peer {from}: {reason}")));
            }
        }
    }

    /// The chain held here has grown: perhaps it reaches the point that is waited for.
    pub(super) fn retry_resumption(&mut self) {
        if let Some(resumption) = self.fallback.waiting.clone() {
            self.on_resumption(resumption);
        }
    }

    /// The keys that a batch of a number is verified with.
    pub(super) fn keyring_of(&self, number: EpochNumber) -> Option<&Keyring> {
        match &self.epoch.former {
            _ if number == self.epoch.start.manifest.number => Some(&self.epoch.keyring),
            Some((_, keyring)) if number.next() == self.epoch.start.manifest.number => Some(keyring),
            _ => None,
        }
    }

    /// Whether the engine may be told of a batch: before the chain resumes, only of bundles.
    pub(super) fn is_for_engine(&self, batch: &HeldBatch) -> bool {
        !self.fallback.is_resuming() || batch.batch().bundles().next().is_some()
    }

    pub(super) fn check_batches(
        &self,
        batches: Vec<SignedBatch>,
    ) -> Result<BTreeMap<Digest, Arc<HeldBatch>>, String> {
        batches
            .into_iter()
            .map(|signed| self.check_batch(signed).map(|batch| (batch.digest, batch)))
            .collect()
    }
}
