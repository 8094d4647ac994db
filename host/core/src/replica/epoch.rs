//! The end of an epoch and the beginning of the next: barrier first, drain second.
//!
//! When the barrier block is final, the old engine is dropped and the executor is waited
//! for; then one durable record moves this node into the new epoch. Batches that the old
//! epoch ordered past the barrier, or not at all, are told to the new engine. A crash at
//! any instant leaves the node wholly in the one epoch or wholly in the other.

use std::sync::Arc;

use moult_sdk::{CommitIndex, Digest};
use moult_types::{GlobalIndex, PublicKey};

use super::phases::Fallback;
use super::votes::Voting;
use super::{Epoch, Replica};
use crate::io::{Effect, EpochStart, Event, GuardUpdate, Persist};
use crate::kernel::Finality;

impl Replica {
    /// The barrier block is final: nothing of this epoch is ordered any more.
    pub(super) fn on_barrier(&mut self) {
        self.drop_blocks_above(self.finality.last_final());
        self.fallback.side = None;
        self.stop_engine();
        self.switch_if_executed();
    }

    pub(super) fn on_executed(&mut self, global: GlobalIndex, state_root: Digest) {
        if global >= self.executed.0 {
            self.executed = (global, Some(state_root));
            self.sync.note_root(global, state_root);
            self.roots.note_own(global, state_root);
        }
        self.switch_if_executed();
    }

    /// The first block of the new epoch binds the state root at the barrier, so it waits
    /// for the executor.
    fn switch_if_executed(&mut self) {
        let (global, Some(state_root)) = self.executed else { return };
        if self.closing() && global == self.ledger.global {
            self.switch(state_root);
        }
    }

    fn switch(&mut self, state_root: Digest) {
        let Some(manifest) = self.ledger.next_manifest(&self.epoch.start.manifest) else { return };
        let start = EpochStart {
            base: self.ledger.global,
            state_root: Some(state_root),
            time_ms: self.ledger.time_ms,
            switched_at_ms: self.now.wall_ms,
            manifest,
        };
        let former = Some((self.epoch.identity, self.epoch.keyring.clone()));
        let next = match Epoch::new(self.chain, start, self.signer.as_ref(), former) {
            Ok(next) => next,
            // Checked when it was proposed, by every node alike.
            Err(reason) => return self.halt(format!("the next epoch cannot begin: {reason}")),
        };
        let left = self.epoch.committee.members().iter();
        self.sync.former_peers = left.map(|member| (member.key, member.address.clone())).collect();
        let closed = self.ledger.close();
        self.ledger = self.ledger.at_next(&next.start.manifest);
        let window = next.start.manifest.limits.window_blocks;
        self.finality = Finality::new(next.identity, window, CommitIndex(0), self.ledger.hash);
        self.epoch = next;
        self.fallback = Fallback::default();
        self.stall.begin(self.now.mono_ms);
        self.roots.begin(self.epoch.start.base, Some(state_root));
        #[cfg(feature = "planted")]
        self.plant();
        #[cfg(feature = "planted")]
        if self.has(super::Planted::PendingDropped) {
            self.pending.clear();
        }
        self.top_times_ms = self.ledger.author_times_ms.clone();
        self.ordering.missing.clear();
        self.ordering.asks.clear();
        self.duties.clear();
        self.pending_bytes.clear();
        for batch in self.pending.values() {
            *self.pending_bytes.entry(batch.batch().author).or_default() += batch.encoded.len();
        }
        let expired = self.expire_batches();
        self.enter_guard_epoch();
        let start = Box::new(self.epoch.start.clone());
        let ledger = Arc::new(self.ledger.clone());
        self.out.durable.push(Persist::Epoch { start, expired, ledger });
        for record in closed {
            self.out.durable.push(Persist::History(Box::new(record.clone())));
            self.event(Event::Proposal(Box::new(record)));
        }
        self.announce_epoch();
        let early = self.sync.take_early();
        if !early.is_empty() {
            self.out.release.push(Effect::Reverify(early));
        }
        self.restart_reads();
    }

    /// The guard follows the epoch; it never goes back.
    pub(super) fn enter_guard_epoch(&mut self) {
        let (number, identity) = (self.epoch.start.manifest.number.0, self.epoch.identity);
        let state = self.guard.state();
        if state.identity == identity {
            if self.guard.state().prepared.0 == CommitIndex(0) {
                self.voting.prepared_on_chain = Some(identity.digest());
            }
            return;
        }
        self.voting = Voting::begin(identity);
        // Never back, also where nothing is signed anyway: a node that gets its chain back from
        // peers goes through epochs and phases that its guard has left.
        if state.epoch < number {
            self.note_guard(GuardUpdate::Epoch { number, identity: self.epoch.first });
        }
        // Where the store was synced and the guard was not: nothing was signed in the phase.
        if let Some(proof) = self.fallback.proof()
            && let Ok(update) = self.guard.enter(number, self.fallback.phase, identity, proof)
        {
            self.out.durable.push(Persist::Guard(update));
        }
        if self.guard.state().identity != identity && self.guard.is_enabled() {
            self.guard.disable();
            self.event(Event::SigningStopped(format!(
                "the signer guard is in epoch {} ({:?}), the chain here in epoch {number} ({identity:?})",
                self.guard.state().epoch,
                self.guard.state().identity,
            )));
        }
    }

    /// Tells the shell what an epoch needs: keys, peers, engine.
    pub(super) fn announce_epoch(&mut self) {
        self.out.release.push(Effect::Verify(Arc::new(self.verify_context())));
        self.announce_peers();
        self.out.release.push(Effect::EpochStarted(Box::new(self.epoch.start.clone())));
        self.want_engine();
        self.sync.status_due = true;
    }

    /// Committee, committees of open proposals, configured observers.
    pub(super) fn announce_peers(&mut self) {
        let me = self.signer.public_key();
        let mut peers: std::collections::BTreeMap<PublicKey, Option<String>> =
            self.settings.observers.iter().cloned().collect();
        let proposed = self.ledger.open.values().flat_map(|record| &record.proposal.new_committee);
        for member in proposed.chain(self.epoch.committee.members()) {
            peers.insert(member.key, Some(member.address.clone()));
        }
        for (key, address) in &self.sync.former_peers {
            peers.entry(*key).or_insert_with(|| Some(address.clone()));
        }
        peers.remove(&me);
        let peers: Vec<_> = peers.into_iter().collect();
        if self.sync.peers_announced != peers {
            self.sync.peers_announced.clone_from(&peers);
            self.out.release.push(Effect::Peers(peers));
        }
    }
}
