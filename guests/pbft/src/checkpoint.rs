//! Checkpoints: when a quorum has executed up to a sequence number, what lies below is
//! let go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moult_sdk::engine::{Action, Choice, Recipients};
use moult_sdk::{AuthorityIndex, Digest, Slot, Statement};

use crate::codec::{
    CHECKPOINT, COMMIT, NEW_VIEW, PRE_PREPARE, PREPARE, VIEW_CHANGE, checkpoint_digest, slot,
};
use crate::log::{Entry, pre_prepare};
use crate::records::Record;
use crate::replica::Replica;
use crate::rotation::Rotation;

/// A checkpoint that a quorum has signed; number 0 needs no signature.
#[derive(Clone, Default)]
pub(crate) struct Checkpoint {
    pub(crate) seq: u64,
    pub(crate) digest: Digest,
    pub(crate) statements: Vec<Statement>,
}

/// Votes for checkpoints: of each author the highest few, so that an author who names
/// absurd numbers crowds out only itself.
pub(crate) struct CheckpointVotes {
    by: Vec<BTreeMap<(u64, u64), Digest>>,
}

/// `b` of a checkpoint's slot where the author has executed the interval: the digest is
/// that of its proposals.
const EXECUTED: u64 = 0;
/// `b` of a checkpoint's slot where the author has it from its host that everything up to
/// there is final.
const FINAL: u64 = 1;

impl CheckpointVotes {
    pub(crate) fn new(authorities: usize) -> Self {
        Self { by: vec![BTreeMap::new(); authorities] }
    }

    fn insert(&mut self, vote: Statement) -> bool {
        let Some(votes) = self.by.get_mut(vote.author.as_usize()) else { return false };
        let place = (vote.slot.a, vote.slot.b);
        if votes.contains_key(&place) {
            return false;
        }
        votes.insert(place, vote.digest);
        if votes.len() > VOTES_PER_AUTHOR_MAX {
            votes.pop_first();
        }
        true
    }

    pub(crate) fn remove(&mut self, author: AuthorityIndex, slot: Slot) {
        if let Some(votes) = self.by.get_mut(author.as_usize()) {
            votes.remove(&(slot.a, slot.b));
        }
    }

    /// What an author has signed above `seq`.
    pub(crate) fn of(&self, author: AuthorityIndex, seq: u64) -> Vec<Choice> {
        let votes = self.by.get(author.as_usize()).into_iter().flatten().filter(|((s, _), _)| *s > seq);
        votes.map(|((s, b), digest)| Choice { slot: slot(CHECKPOINT, *s, *b), digest: *digest }).collect()
    }

    fn statements(&self, choice: Choice) -> Vec<Statement> {
        let place = (choice.slot.a, choice.slot.b);
        (self.by.iter().zip(0..).filter(|(votes, _)| votes.get(&place) == Some(&choice.digest)))
            .map(|(_, i)| Statement { author: AuthorityIndex(i), slot: choice.slot, digest: choice.digest })
            .collect()
    }

    /// Sequence numbers above `seq` that somebody calls final.
    fn called_final(&self, seq: u64) -> BTreeSet<u64> {
        let places = self.by.iter().flat_map(BTreeMap::keys);
        places.filter(|(s, b)| *b == FINAL && *s > seq).map(|(s, _)| *s).collect()
    }
}

/// The statement by which an author supports a checkpoint at `seq` with that digest.
pub(crate) fn checkpoint_slot(seq: u64, digest: Digest) -> Slot {
    let b = if digest == final_digest(seq) { FINAL } else { EXECUTED };
    slot(CHECKPOINT, seq, b)
}

/// No interval is empty, so this is the digest of no executed one.
fn final_digest(seq: u64) -> Digest {
    checkpoint_digest(seq, std::iter::empty())
}

impl<R: Rotation> Replica<R> {
    /// Upon finality: sign the checkpoints up to there whose intervals this node knows.
    /// Not before, since what a checkpoint lets go must be where a node that lost it can
    /// find it: with the hosts of a quorum.
    ///
    /// A node that was carried past part of the last interval says that its end is final,
    /// and so does everybody else where somebody has to. Without this, a few restarts in
    /// each interval could keep checkpoints from ever being stable.
    pub(crate) fn vote_checkpoints(&mut self) {
        let (interval, stable) = (self.config.checkpoint_interval, self.stable.seq);
        let known = self.proposals.range(stable + 1..).map(|(seq, _)| *seq);
        let known: Vec<u64> = known
            .take_while(|seq| *seq <= self.last_final)
            .filter(|seq| seq.is_multiple_of(interval) && self.knows_interval(*seq))
            .collect();
        let last = self.last_final - self.last_final % interval;
        let mut called = self.checkpoints.called_final(stable);
        if last > stable && !known.contains(&last) {
            called.insert(last);
        }
        called.retain(|seq| *seq <= self.last_final);
        for seq in known {
            let proposals = self.proposals.range(seq.saturating_sub(interval) + 1..=seq).map(|(_, d)| *d);
            let digest = checkpoint_digest(seq, proposals);
            self.sign_checkpoint(Choice { slot: slot(CHECKPOINT, seq, EXECUTED), digest });
        }
        for seq in called {
            self.sign_checkpoint(Choice { slot: slot(CHECKPOINT, seq, FINAL), digest: final_digest(seq) });
        }
    }

    /// Upon a checkpoint vote.
    pub(crate) fn on_checkpoint_vote(&mut self, vote: Statement) {
        let (seq, interval) = (vote.slot.a, self.config.checkpoint_interval);
        let is_of_interest = seq > self.stable.seq && seq.is_multiple_of(interval);
        if is_of_interest && vote.slot == checkpoint_slot(seq, vote.digest) && self.checkpoints.insert(vote) {
            self.weigh_checkpoint(Choice { slot: vote.slot, digest: vote.digest });
            if vote.slot.b == FINAL {
                self.vote_checkpoints();
            }
        }
    }

    fn weigh_checkpoint(&mut self, choice: Choice) {
        let statements = self.checkpoints.statements(choice);
        if choice.slot.a > self.stable.seq && self.stake_of(&statements) >= self.committee.quorum {
            self.set_stable(Checkpoint { seq: choice.slot.a, digest: choice.digest, statements });
        }
    }

    fn knows_interval(&self, seq: u64) -> bool {
        let interval = self.config.checkpoint_interval;
        seq >= interval && self.proposals.range(seq - interval + 1..=seq).count() as u64 == interval
    }

    fn sign_checkpoint(&mut self, choice: Choice) {
        let Some(author) = self.me else { return };
        // A checkpoint signed a moment ago may have become stable and let this one go.
        if choice.slot.a > self.stable.seq
            && self.checkpoints.insert(Statement { author, slot: choice.slot, digest: choice.digest })
        {
            self.out.release.push(Action::Vote { to: Recipients::All, choice });
            self.weigh_checkpoint(choice);
        }
    }

    /// Raises the low watermark.
    pub(crate) fn set_stable(&mut self, checkpoint: Checkpoint) {
        if checkpoint.seq <= self.stable.seq {
            return;
        }
        self.stable = checkpoint;
        self.base = self.base.max(self.stable.seq);
        self.proposals = self.proposals.split_off(&(self.stable.seq + 1));
        self.unsaved.retain(|(seq, _)| *seq > self.stable.seq);
        self.pool.age();
        self.prune();
        self.compact();
    }

    /// Drops what is both executed and behind the stable checkpoint. What is not executed
    /// is kept: the votes for it may yet be complete.
    pub(crate) fn prune(&mut self) {
        let low = self.stable.seq.min(self.executed);
        while let Some(first) = self.entries.first_entry()
            && *first.key() <= low
        {
            let (seq, entry) = first.remove_entry();
            self.lacking.remove(&seq);
            if let Some(batches) = (entry.committed.map(|c| c.batches)).or(entry.accepted.map(|a| a.batches))
            {
                self.pool.leave(&batches, seq);
            }
        }
    }

    /// Writes what still matters again, so that the records before it can go, and gives up
    /// the slots that nothing can ask for.
    pub(crate) fn compact(&mut self) {
        let before = self.record_id;
        let stable = self.stable.clone();
        if stable.seq > 0 {
            self.save(&Record::Stable { seq: stable.seq, digest: stable.digest }, &stable.statements);
        }
        if let Some(entered) = self.entered.take() {
            self.save(&Record::Entered { payload: entered.payload.clone() }, &entered.statements);
            self.entered = Some(entered);
        }
        if let Some(change) = self.change.take() {
            self.save(&Record::Changing { payload: change.payload.clone() }, &change.statements);
            self.change = Some(change);
        }
        let entries = std::mem::take(&mut self.entries);
        for (seq, entry) in entries.range(stable.seq + 1..) {
            self.save_entry(*seq, entry);
        }
        self.entries = entries;
        self.unsaved = self.proposals.iter().map(|(seq, digest)| (*seq, *digest)).collect();
        self.save_executed();
        if before > 0 {
            self.out.release.push(Action::Truncate(before));
        }
        self.release_slots();
    }

    fn save_entry(&mut self, seq: u64, entry: &Entry) {
        if let Some(cert) = &entry.prepared {
            let pre_prepare = pre_prepare(cert.view, seq, self.leader(cert.view), cert.digest);
            let accepted = Record::Accepted { view: cert.view, seq, batches: Arc::clone(&cert.batches) };
            self.save(&accepted, &[pre_prepare]);
            self.save(&Record::Prepared { view: cert.view, seq, digest: cert.digest }, &cert.statements);
        }
        let view = self.installed;
        if let Some(accepted) = &entry.accepted
            && entry.prepared.as_ref().is_none_or(|cert| cert.view != view)
            && !self.is_changing()
        {
            let pre_prepare = pre_prepare(view, seq, self.leader(view), accepted.digest);
            let accepted = Record::Accepted { view, seq, batches: Arc::clone(&accepted.batches) };
            self.save(&accepted, &[pre_prepare]);
        }
    }

    /// Writes down which proposals were executed: needed for the next checkpoint only, and not
    /// even there if too few know it, so nothing waits for it.
    pub(crate) fn save_executed(&mut self) {
        let mut unsaved = std::mem::take(&mut self.unsaved).into_iter().peekable();
        while let Some((first, digest)) = unsaved.next() {
            let mut proposals = vec![digest];
            while let Some((_, digest)) = unsaved.next_if(|(seq, _)| *seq == first + proposals.len() as u64) {
                proposals.push(digest);
            }
            self.save(&Record::Executed { first, proposals }, &[]);
        }
    }

    /// Votes of views that are over are never cast again, except the prepares that certify
    /// what a view-change must still claim; within a view, none at or below the stable
    /// checkpoint.
    pub(crate) fn release_slots(&mut self) {
        if self.me.is_none() || self.is_changing() {
            return;
        }
        let votes = self.votes_over();
        for kind in [PRE_PREPARE, PREPARE, COMMIT] {
            self.release_slot(kind, votes);
        }
        self.release_slot(CHECKPOINT, self.stable.seq.checked_sub(1).map(|seq| (seq, u64::MAX)));
        let views = self.installed.checked_sub(1).map(|view| (view, u64::MAX));
        self.release_slot(VIEW_CHANGE, views);
        self.release_slot(NEW_VIEW, views);
    }

    /// Up to where votes are never cast again.
    fn votes_over(&self) -> Option<(u64, u64)> {
        let claimed = self
            .entries
            .range(self.stable.seq + 1..)
            .filter_map(|(_, e)| e.prepared.as_ref().map(|c| c.view));
        let oldest = claimed.min().unwrap_or(self.installed).min(self.installed);
        if oldest == self.installed && self.stable.seq > 0 {
            Some((self.installed, self.stable.seq))
        } else {
            oldest.checked_sub(1).map(|view| (view, u64::MAX))
        }
    }

    /// Who stopped in the midst of a view change does not know what it had released before: that
    /// is not signed again.
    pub(crate) fn assume_released(&mut self) {
        if self.is_changing() {
            let votes = self.votes_over();
            for kind in [PRE_PREPARE, PREPARE, COMMIT] {
                if let Some(released) = self.released.get_mut(usize::from(kind)) {
                    *released = votes;
                }
            }
        }
    }

    fn release_slot(&mut self, kind: u16, mark: Option<(u64, u64)>) {
        let Some(released) = self.released.get_mut(usize::from(kind)) else { return };
        if let Some((a, b)) = mark
            && mark > *released
        {
            *released = mark;
            self.out.release.push(Action::ReleaseSlots(slot(kind, a, b)));
        }
    }
}

/// At most this many votes are kept of one author: the next two checkpoints matter, the
/// rest is for a node that is behind.
const VOTES_PER_AUTHOR_MAX: usize = 8;
