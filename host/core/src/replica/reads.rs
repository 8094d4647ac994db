//! Linearizable reads without a log entry, whatever the engine.
//!
//! A write is acknowledged only when a quorum has committed to its block, and whoever commits
//! holds a certificate of the first round for it durably. So a node that asks everyone for the
//! highest such certificate, and hears a quorum, hears one honest node that holds one at or above
//! every block acknowledged before it asked: once it has executed the highest index named, the
//! read is current. A liar can name an index that
//! does not exist and delay a read; after a while its answers are left out where others
//! make a quorum.
//!
//! In a graduated epoch a write is acknowledged before anybody signed for its block. A member
//! orders a *marker* there, a batch of its own that it makes once the read waits: whatever was
//! acknowledged before lies in a block before it, or in the same one. Who orders nothing asks
//! the members as above, and they answer with the index of a marker.

use std::collections::{BTreeMap, BTreeSet};

use moult_sdk::{AuthorityIndex, CommitIndex, Digest};
use moult_types::phase::Phase;
use moult_types::{EpochNumber, Message, PublicKey};

use super::Replica;
use crate::io::{Effect, Target};

/// Who did not answer a round's question is asked again after this time. It is the same question,
/// so that an answer counts however long it takes: in a graduated epoch it waits for two markers.
const ASK_AGAIN_MS: u64 = 500;
/// An index that was named and did not become final within this time is not believed.
const BELIEF_MS: u64 = 2000;

/// Reads that wait, and the round that is out.
#[derive(Default)]
pub(super) struct Reads {
    /// Reads that no round covers yet.
    pub(super) waiting: Vec<u64>,
    round: Option<Round>,
    /// Peers that asked in a graduated epoch, each with its last question.
    asking: BTreeMap<PublicKey, u64>,
    marker: Option<Marker>,
    /// How many were begun since the start.
    rounds: u64,
    /// Rounds whose index is not final here yet.
    resolved: Vec<Resolved>,
    distrusted: BTreeSet<AuthorityIndex>,
}

struct Round {
    nonce: u64,
    ids: Vec<u64>,
    asked_ms: u64,
    answers: BTreeMap<AuthorityIndex, CommitIndex>,
}

/// A batch of this node's, and who waits for it to be executed.
struct Marker {
    digest: Digest,
    ids: Vec<u64>,
    peers: BTreeMap<PublicKey, u64>,
}

struct Resolved {
    ids: Vec<u64>,
    index: CommitIndex,
    named_by: AuthorityIndex,
    since_ms: u64,
}

impl Reads {
    /// The marker that is on its way.
    pub(super) fn marked(&self) -> Option<Digest> {
        self.marker.as_ref().map(|marker| marker.digest)
    }

    /// A peer's connection begins or ends: what it asked on another one is void.
    pub(super) fn forget_asker(&mut self, peer: &PublicKey) {
        self.asking.remove(peer);
        if let Some(marker) = &mut self.marker {
            marker.peers.remove(peer);
        }
    }
}

impl Replica {
    /// Whether reads are served by markers of this node's own.
    fn marks_reads(&self) -> bool {
        self.is_graduated() && self.epoch.me.is_some() && self.guard.is_enabled()
    }

    /// Makes a marker for every read that waits; the next one once it is executed.
    pub(super) fn place_read_marker(&mut self) {
        let is_needed = !(self.reads.waiting.is_empty() && self.reads.asking.is_empty());
        if !is_needed || self.reads.marker.is_some() || !self.marks_reads() {
            return;
        }
        if let Some(digest) = self.close_batch_now() {
            let ids = std::mem::take(&mut self.reads.waiting);
            let peers = std::mem::take(&mut self.reads.asking);
            self.reads.marker = Some(Marker { digest, ids, peers });
        }
    }

    /// The marker lies in this block, which is about to be executed.
    pub(super) fn on_read_marker(&mut self, index: CommitIndex) {
        let Some(marker) = self.reads.marker.take() else { return };
        let global = self.global_of(index);
        self.out.release.push(Effect::ReadAt { ids: marker.ids, global });
        for (peer, nonce) in marker.peers {
            let (epoch, phase) = (self.epoch.start.manifest.number, self.fallback.phase);
            let reply = Message::ReadReply { nonce, epoch, phase, index };
            self.send(Target::Keys(vec![peer]), reply);
        }
    }

    /// One round serves every read that waits; the next begins when it is answered.
    pub(super) fn ask_reads(&mut self) {
        self.serve_reads();
        let is_over = self.closing() || self.fallback.is_resuming();
        if self.marks_reads() || self.reads.round.is_some() || self.reads.waiting.is_empty() || is_over {
            return;
        }
        #[cfg(feature = "planted")]
        if self.has(super::Planted::ReadsUnasked) {
            let ids = std::mem::take(&mut self.reads.waiting);
            self.out.release.push(Effect::ReadAt { ids, global: self.ledger.global });
            return;
        }
        // What answers a question of an earlier start answers none of this one.
        let nonce = (self.guard.state().start_count << 32) + self.reads.rounds;
        self.reads.rounds += 1;
        let ids = std::mem::take(&mut self.reads.waiting);
        let mut answers = BTreeMap::new();
        if let Some(me) = self.epoch.me.filter(|_| self.guard.is_enabled()) {
            answers.insert(me, self.highest_certified());
        }
        self.reads.round = Some(Round { nonce, ids, asked_ms: self.now.mono_ms, answers });
        self.send(self.members(), Message::ReadQuery { nonce });
        self.finish_round();
        self.serve_reads();
    }

    /// A node that does not sign may have forgotten what it signed: it says nothing.
    pub(super) fn on_read_query(&mut self, from: PublicKey, nonce: u64) {
        if !self.guard.is_enabled() {
            return;
        }
        if self.is_graduated() {
            if self.epoch.me.is_some() {
                self.reads.asking.insert(from, nonce);
            }
            return;
        }
        let reply = Message::ReadReply {
            nonce,
            epoch: self.epoch.start.manifest.number,
            phase: self.fallback.phase,
            index: self.highest_certified(),
        };
        self.send(Target::Keys(vec![from]), reply);
    }

    pub(super) fn on_read_reply(
        &mut self,
        from: PublicKey,
        nonce: u64,
        at: (EpochNumber, Phase),
        index: CommitIndex,
    ) {
        let Some(author) = self.epoch.committee.index_of_key(&from) else { return };
        let here = (self.epoch.start.manifest.number, self.fallback.phase);
        let Some(round) = self.reads.round.as_mut().filter(|round| round.nonce == nonce) else { return };
        if at > here {
            // The phase is over elsewhere: only a round in the new one says anything.
            return;
        }
        // One that has not reached this phase has committed to nothing in it; what it committed to
        // before lies below the point where this one resumed.
        let index = if at < here { CommitIndex(0) } else { index };
        round.answers.insert(author, index);
        self.finish_round();
        self.serve_reads();
    }

    fn finish_round(&mut self) {
        let Some(round) = &self.reads.round else { return };
        let all: BTreeSet<_> = round.answers.keys().copied().collect();
        let trusted: BTreeSet<_> = all.difference(&self.reads.distrusted).copied().collect();
        let heard = if self.epoch.committee.is_quorum(&trusted) {
            trusted
        } else if self.epoch.committee.is_quorum(&all) {
            all
        } else {
            return;
        };
        let Some(round) = self.reads.round.take() else { return };
        let named = heard.iter().filter_map(|a| Some((*round.answers.get(a)?, *a))).max();
        if let Some((index, named_by)) = named {
            self.reads.resolved.push(Resolved {
                ids: round.ids,
                index,
                named_by,
                since_ms: self.now.mono_ms,
            });
        }
    }

    fn serve_reads(&mut self) {
        let last_final = self.finality.last_final();
        let at_barrier = self.closing();
        for resolved in std::mem::take(&mut self.reads.resolved) {
            if resolved.index > last_final {
                self.reads.resolved.push(resolved);
            } else if at_barrier {
                // The barrier is final: the next epoch may have acknowledged more.
                self.reads.waiting.extend(resolved.ids);
            } else {
                // Not the last final block but the one named: executing up to it is enough.
                let global = self.global_of(resolved.index);
                self.out.release.push(Effect::ReadAt { ids: resolved.ids, global });
            }
        }
    }

    pub(super) fn housekeep_reads(&mut self) {
        let now_ms = self.now.mono_ms;
        if let Some(round) = self.reads.round.as_mut().filter(|round| round.asked_ms + ASK_AGAIN_MS <= now_ms)
        {
            round.asked_ms = now_ms;
            let nonce = round.nonce;
            let members = self.epoch.committee.indices();
            let silent: Vec<_> = members.filter(|member| !round.answers.contains_key(member)).collect();
            let to = Target::Keys(self.keys_of(silent.into_iter()));
            self.send(to, Message::ReadQuery { nonce });
        }
        for resolved in std::mem::take(&mut self.reads.resolved) {
            if resolved.since_ms + BELIEF_MS <= now_ms {
                if self.epoch.me != Some(resolved.named_by) {
                    self.reads.distrusted.insert(resolved.named_by);
                }
                self.reads.waiting.extend(resolved.ids);
            } else {
                self.reads.resolved.push(resolved);
            }
        }
    }

    /// A round of the former epoch says nothing about the present one. A marker of it may still
    /// be ordered in this one, and need not.
    pub(super) fn restart_reads(&mut self) {
        let reads = &mut self.reads;
        reads.asking.clear();
        reads.waiting.extend(reads.marker.take().into_iter().flat_map(|marker| marker.ids));
        reads.waiting.extend(reads.round.take().into_iter().flat_map(|round| round.ids));
        reads
            .waiting
            .extend(std::mem::take(&mut reads.resolved).into_iter().flat_map(|resolved| resolved.ids));
        reads.distrusted.clear();
    }

    fn highest_certified(&self) -> CommitIndex {
        let certified = self.guard.certified(self.epoch.identity).map_or(CommitIndex(0), |c| c.index);
        certified.max(self.voted().last_final())
    }
}
