//! Where peers are, and how a node that is behind catches up: final blocks with a
//! proof, from anyone. Nothing but a proof is believed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use moult_sdk::{CommitIndex, Digest};
use moult_types::block::link;
use moult_types::message::{Blocks, Status};
use moult_types::phase::FinalityProof;
use moult_types::{BlockRecord, GlobalIndex, HeldBatch, Message, PublicKey, Scope, SignedBatch};

use super::Replica;
use crate::io::{Effect, Event, Persist, Target};
use crate::kernel::HeldBlock;

/// A changed status is told at most so often, and an unchanged one so often at least.
const STATUS_CHANGED_MS: u64 = 50;
const STATUS_IDLE_MS: u64 = 1000;
/// A member that made no final block for this time, while a peer has one, asks for it.
const BEHIND_MS: u64 = 250;
/// A question for blocks that was not answered is asked of another peer after this time.
const FETCH_TIMEOUT_MS: u64 = 1000;
/// Messages of an epoch to come that are kept.
const EARLY_MAX: usize = 4096;
/// How many of this node's state roots are remembered for comparison.
const ROOTS_MAX: usize = 1024;

/// What is known of peers and of an ongoing catch-up.
#[derive(Default)]
pub(super) struct Sync {
    peers: BTreeMap<PublicKey, Option<Status>>,
    early: VecDeque<(PublicKey, Message)>,
    /// The question for blocks that is out: (peer, first block, asked at).
    asked: Option<(PublicKey, GlobalIndex, u64)>,
    /// The peer that was asked last, if it did not answer or its answer led no further.
    unhelpful: Option<PublicKey>,
    pub(super) last_progress_ms: u64,
    last_status_ms: u64,
    /// The status changed since it was told.
    pub(super) status_due: bool,
    told: Option<(u64, GlobalIndex)>,
    roots: BTreeMap<GlobalIndex, Digest>,
    /// Peers that hold another block or state than this node: told of once, until they agree.
    forked: BTreeSet<PublicKey>,
    pub(super) peers_announced: Vec<(PublicKey, Option<String>)>,
    /// Members of the epoch before: some may still have to fetch its last certificate.
    pub(super) former_peers: Vec<(PublicKey, String)>,
}

impl Sync {
    /// Of too many, the latest are kept: the oldest may never become good.
    fn keep_early(&mut self, from: PublicKey, message: Message) {
        self.early.push_back((from, message));
        if self.early.len() > EARLY_MAX {
            self.early.pop_front();
        }
    }

    pub(super) fn take_early(&mut self) -> Vec<(PublicKey, Message)> {
        std::mem::take(&mut self.early).into()
    }

    pub(super) fn note_root(&mut self, global: GlobalIndex, state_root: Digest) {
        self.roots.insert(global, state_root);
        while self.roots.len() > ROOTS_MAX {
            self.roots.pop_first();
        }
    }
}

impl Replica {
    pub(super) fn on_early(&mut self, from: PublicKey, message: Message) {
        let present = match &message {
            Message::Engine { identity, .. }
            | Message::Votes { identity, .. }
            | Message::Waiting { identity, .. }
            | Message::Suspect { identity }
            | Message::Abort { identity, .. } => *identity == self.epoch.identity,
            Message::StateRoot(said) => said.epoch <= self.epoch.start.manifest.number,
            Message::Batches(batches) => {
                batches.iter().all(|b| b.batch.number <= self.epoch.start.manifest.number)
            }
            _ => false,
        };
        if present {
            // The switch came in between: the shell has the new keys by the time it does this.
            self.out.release.push(Effect::Reverify(vec![(from, message)]));
        } else {
            self.sync.keep_early(from, message);
        }
    }

    pub(super) fn peer(&mut self, key: PublicKey, up: bool, rtt_us: u32) {
        self.reads.forget_asker(&key);
        if up {
            self.sync.peers.entry(key).or_insert(None);
            self.sync.status_due = true;
            self.tell_votes(Target::Keys(vec![key]));
            self.tell_opening(Target::Keys(vec![key]));
            self.tell_root(key);
        } else {
            self.sync.peers.remove(&key);
            if self.sync.asked.is_some_and(|(peer, ..)| peer == key) {
                self.sync.asked = None;
            }
        }
        if let Some(peer) = self.epoch.committee.index_of_key(&key)
            && self.ordering.is_running()
        {
            self.ordering.events.push(moult_sdk::engine::Event::Peer { peer, up, rtt_us });
        }
    }

    pub(super) fn tell_status(&mut self) {
        let at = (self.epoch.start.manifest.number.0, self.ledger.global);
        if self.sync.told != Some(at) {
            self.sync.status_due = true;
        }
        // The end of an epoch is told at once: those who only follow wait for it.
        let urgent = self.sync.told.is_some_and(|(epoch, _)| epoch != at.0)
            || (self.closing() && self.sync.told != Some(at));
        let every_ms = if self.sync.status_due { STATUS_CHANGED_MS } else { STATUS_IDLE_MS };
        if !urgent && self.sync.last_status_ms + every_ms > self.now.mono_ms && self.sync.told.is_some() {
            return;
        }
        self.sync.status_due = false;
        self.sync.told = Some(at);
        self.sync.last_status_ms = self.now.mono_ms;
        let status = Status {
            epoch: self.epoch.start.manifest.number,
            phase: self.fallback.main_phase,
            last_final: self.ledger.global,
            hash: self.ledger.hash,
            executed: self.executed.0,
            state_root: self.executed.1.unwrap_or(Digest::ZERO),
        };
        self.send(Target::Everyone, Message::Status(status));
    }

    pub(super) fn on_status(&mut self, from: PublicKey, status: Status) {
        let same_block =
            status.last_final == self.ledger.global && status.epoch == self.epoch.start.manifest.number;
        let forked = same_block && status.hash != self.ledger.hash;
        let root = self.sync.roots.get(&status.executed).filter(|_| status.state_root != Digest::ZERO);
        let (is_known, other_root) = (root.is_some(), root.is_some_and(|root| *root != status.state_root));
        if !forked && !other_root {
            if is_known {
                self.sync.forked.remove(&from);
            }
        } else if self.sync.forked.insert(from) && !self.roots.is_forked {
            self.event(Event::ForkDetected { peer: from, global: status.last_final.min(status.executed) });
        }
        if status.epoch == self.epoch.start.manifest.number && status.phase < self.fallback.phase {
            self.tell_opening(Target::Keys(vec![from]));
        }
        self.sync.peers.insert(from, Some(status));
        // A node that only follows asks at once; a member first gives its engine a chance.
        if self.epoch.me.is_none() {
            self.ask_blocks();
        }
    }

    pub(super) fn housekeep_sync(&mut self) {
        self.ask_blocks();
        let at = self.ledger.global;
        let same =
            |status: &&Status| status.last_final.0 + self.epoch.start.manifest.limits.window_blocks >= at.0;
        let (mut stake, mut nodes) = (0, 0);
        for member in self.epoch.committee.members() {
            let there = self.sync.peers.get(&member.key).and_then(Option::as_ref).filter(same).is_some();
            if there || member.key == self.signer.public_key() {
                stake += member.stake;
                nodes += 1;
            }
        }
        let highest =
            self.sync.peers.values().flatten().map(|status| status.last_final).fold(at, GlobalIndex::max);
        let nodes_total = self.epoch.committee.members().len() as u32;
        let stake_total = self.epoch.committee.total();
        self.event(Event::Sync { stake, stake_total, nodes, nodes_total, highest });
    }

    fn ask_blocks(&mut self) {
        let (at, now_ms) = (self.ledger.global, self.now.mono_ms);
        if let Some((_, _, asked_ms)) = self.sync.asked
            && asked_ms + FETCH_TIMEOUT_MS > now_ms
        {
            return;
        }
        let follows = self.epoch.me.is_none() || self.voting.diverged || !self.ordering.is_running();
        let window = self.epoch.start.manifest.limits.window_blocks;
        let patient = !follows && self.sync.last_progress_ms + BEHIND_MS > now_ms;
        if let Some((peer, ..)) = self.sync.asked.take() {
            self.sync.unhelpful = Some(peer);
        }
        let here = (self.epoch.start.manifest.number, self.fallback.main_phase);
        let ahead = |status: &Status| {
            let is_later = status.last_final >= at && (status.epoch, status.phase) > here;
            is_later || status.last_final > at && (!patient || status.last_final.0 > at.0 + window)
        };
        let candidates: Vec<_> = self
            .sync
            .peers
            .iter()
            .filter(|(_, status)| status.as_ref().is_some_and(ahead))
            .map(|(key, _)| *key)
            .collect();
        // One after the other where they do not help: several may be silent, or lie about what
        // they have. Else spread by height.
        let turn = match self.sync.unhelpful {
            Some(peer) => candidates.iter().position(|key| *key > peer).unwrap_or(0),
            None => at.0 as usize % candidates.len().max(1),
        };
        if let Some(peer) = candidates.get(turn).copied() {
            let from = at.next();
            self.sync.asked = Some((peer, from, now_ms));
            let (epoch, phase) = here;
            self.send(Target::Keys(vec![peer]), Message::FetchBlocks { from, epoch, phase });
        }
    }

    /// Blocks from a peer: believed as far as their certificate reaches.
    pub(super) fn on_blocks(&mut self, from: PublicKey, blocks: Blocks) {
        let was_asked = self.sync.asked.is_some_and(|(peer, ..)| peer == from);
        if was_asked {
            self.sync.asked = None;
        }
        if self.closing() {
            return;
        }
        let proof = blocks.proof.clone();
        let held = self.check_blocks(blocks).unwrap_or_else(|reason| {
            self.event(Event::EngineMisbehaved(format!("blocks of peer {from}: {reason}")));
            None
        });
        let last = held.as_ref().and_then(|held| held.last()).map(|held| held.record.block.index);
        let helps = held.is_some_and(|held| self.follow(held));
        if was_asked {
            // An answer that leads nowhere is as good as none: a liar is not asked again at once.
            self.sync.unhelpful = (!helps).then_some(from);
        }
        if helps {
            self.take_proof(last, proof);
            self.ask_blocks();
        }
    }

    /// What a proof makes of the blocks that came with it and are held now.
    fn take_proof(&mut self, last: Option<CommitIndex>, proof: FinalityProof) {
        self.mind_certificate(proof.certificate());
        match proof {
            FinalityProof::Resumed { bodies, resumption } if bodies.is_empty() => {
                self.on_resumption(*resumption);
            }
            proof => {
                if let Some(last) = last {
                    self.finalize(last, proof);
                    self.retry_resumption();
                }
            }
        }
    }

    /// Checks chain, payloads and proof; returns the blocks above the last final one, which may
    /// be none where a fallback resumed from that. `None`: nothing of it is new here.
    fn check_blocks(&self, blocks: Blocks) -> Result<Option<Vec<HeldBlock>>, String> {
        let Blocks { blocks, batches, proof } = blocks;
        let Some(last) = blocks.last() else {
            let FinalityProof::Resumed { resumption, .. } = &proof else { return Err("none at all".into()) };
            if resumption.block.epoch != self.epoch.start.manifest.number
                || resumption.phase <= self.fallback.main_phase
                || self.fallback.is_waiting_for(resumption)
            {
                return Ok(None);
            }
            let point = self.phases().check_resumption(resumption).map_err(|e| e.to_string())?;
            return Ok((point.global >= self.ledger.global).then(Vec::new));
        };
        let is_other = last.identity != self.finality.identity();
        if is_other || last.block.index <= self.finality.last_final() {
            return Ok(None);
        }
        let checked = self.phases().check_final(last, &proof);
        #[cfg(feature = "planted")]
        let checked = if self.has(super::Planted::CertificateUnchecked) { Ok(()) } else { checked };
        checked.map_err(|e| format!("the last one is not final: {e}"))?;
        self.check_stretch(blocks, batches).map(Some)
    }

    /// Checks that blocks go on from the last final one, with their payloads.
    pub(super) fn check_stretch(
        &self,
        blocks: Vec<BlockRecord>,
        batches: Vec<SignedBatch>,
    ) -> Result<Vec<HeldBlock>, String> {
        let payloads = self.check_batches(batches)?;
        let (mut index, mut hash) = (self.finality.last_final(), self.finality.last_hash());
        let mut held = Vec::new();
        for record in blocks {
            if record.block.index <= index {
                continue;
            }
            self.check_link(&record, index, hash)?;
            let batches = record
                .block
                .batches
                .iter()
                .map(|digest| payloads.get(digest).cloned())
                .collect::<Option<_>>();
            let batches =
                batches.ok_or_else(|| format!("block {} comes without its batches", record.block.index.0))?;
            (index, hash) = (record.block.index, record.hash);
            held.push(HeldBlock { record: Arc::new(record), batches, ordered_at_ms: None });
        }
        Ok(held)
    }

    /// The digest is certified; the signature is what others may need as evidence.
    pub(super) fn check_batch(&self, signed: SignedBatch) -> Result<Arc<HeldBatch>, String> {
        let batch = HeldBatch::new(signed);
        let number = batch.batch().number;
        let keyring = self.keyring_of(number).ok_or_else(|| format!("a batch of epoch {number}"))?;
        let statement = batch.batch().statement(batch.digest);
        keyring
            .verify(Scope::Number(number), &statement, &batch.signed.signature)
            .map_err(|e| format!("a batch of authority {}: {e}", statement.author.0))?;
        Ok(Arc::new(batch))
    }

    fn check_link(&self, record: &BlockRecord, index: CommitIndex, hash: Digest) -> Result<(), String> {
        let linked = record.block.index == index.next()
            && record.parent == hash
            && record.hash == link(hash, record.block.body())
            && record.identity == self.finality.identity()
            && record.block.resumed == self.fallback.resumed
            && record.epoch == self.epoch.start.manifest.number
            && record.global == self.global_of(record.block.index);
        if !linked {
            return Err(format!("block {} does not follow block {}", record.block.index.0, index.0));
        }
        // The root at the barrier is this node's own: it cannot follow another one.
        if record.block.state_root != self.bound_root(record.block.index) {
            return Err(format!(
                "block {} binds another state root than this node computed",
                record.block.index.0
            ));
        }
        Ok(())
    }

    /// Replaces what is held above the last final block by certified blocks; whether it can.
    pub(super) fn follow(&mut self, certified: Vec<HeldBlock>) -> bool {
        let fork = certified
            .iter()
            .find(|held| {
                self.finality.hash_at(held.record.block.index).is_some_and(|own| own != held.record.hash)
            })
            .map(|held| held.record.block.index);
        if let Some(index) = fork.filter(|index| *index <= self.finality.executed()) {
            self.halt_executed_otherwise(index);
            return false;
        }
        if let Some(index) = fork {
            if !self.fallback.is_resuming() {
                self.diverge(index);
            }
            self.drop_blocks_above(CommitIndex(index.0 - 1));
        }
        for held in certified {
            if held.record.block.index <= self.finality.top().0 {
                continue;
            }
            for batch in &held.batches {
                self.mind_batch(batch.batch());
                if !self.pending.contains_key(&batch.digest) {
                    self.out.durable.push(Persist::Batch(batch.clone()));
                    self.ordering.missing.remove(&batch.digest);
                }
            }
            self.out.durable.push(Persist::Block(held.record.clone()));
            self.push_block(held);
        }
        true
    }
}
