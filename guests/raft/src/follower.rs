//! The follower: takes entries of the leader into its log as their batches come.

use moult_sdk::engine::{Action, Recipients};
use moult_sdk::{AuthorityIndex, CommitIndex};

use crate::codec::{Append, Payload, entry_bytes};
use crate::config::Planted;
use crate::raft::{Raft, Role};
use crate::records::{ENTRIES_BYTES_MAX, Record};
use crate::types::{Entry, Position};

impl Raft {
    /// Upon an append, a heartbeat included.
    pub(crate) fn on_append(&mut self, sender: AuthorityIndex, append: Append) {
        if append.term < self.term {
            return self.reject(sender, append.prev);
        }
        let is_other = self.leader.is_some_and(|leader| leader != sender);
        if append.term == self.term && (is_other || matches!(self.role, Role::Leader(_))) {
            // A term has one leader; whatever this is, it is not of this protocol.
            return;
        }
        if append.term > self.term || self.leader.is_none() {
            self.become_follower(append.term);
            self.leader = Some(sender);
            self.verified = self.log.base().index;
            self.leader_commit = CommitIndex(0);
            self.stage.clear();
        }
        self.heard_ms = self.now;
        self.reset_deadline();
        if !self.is_consistent(append.prev, append.is_base) {
            return self.reject(sender, append.prev);
        }
        self.reply_is_due |= append.reply;
        self.leader_commit = self.leader_commit.max(append.commit);
        let end = CommitIndex(append.prev.index.0 + append.entries.len() as u64);
        self.take(append.prev, append.entries);
        if self.config.has(Planted::CutAlways) && end > self.log.base().index {
            self.drain();
            self.cut(end.next());
            self.verified = self.verified.min(self.log.last().index);
        }
    }

    /// Whether the leader's log up to `prev` is in this log or staged, or final here.
    fn is_consistent(&mut self, prev: Position, is_base: bool) -> bool {
        if prev.index <= self.verified {
            return true;
        }
        let staged = usize::try_from(prev.index.0 - self.verified.0 - 1).ok();
        if staged.and_then(|i| self.stage.get(i)).is_some_and(|entry| entry.term == prev.term) {
            return true;
        }
        if self.log.term_at(prev.index) == Some(prev.term) {
            // Log matching: everything before is the leader's, too.
            self.verified = prev.index;
            self.stage.clear();
            return true;
        }
        // The leader has no more, and the host has what comes before: as if it had been sent.
        let is_final = is_base && prev.index <= self.last_final && prev.index > self.commit;
        if is_final {
            self.rebase(prev);
            self.verified = prev.index;
            self.stage.clear();
        }
        is_final
    }

    /// Begins the log above a final position; what was in it and is not final waits again.
    pub(crate) fn rebase(&mut self, base: Position) {
        let first = self.log.base().index.0 + 1;
        for (index, entry) in (first..).zip(self.log.reset(base)) {
            self.pool.unplace(&entry.batches, CommitIndex(index));
        }
        self.commit = self.commit.max(base.index);
        self.save(Record::base(base));
    }

    fn reject(&mut self, sender: AuthorityIndex, prev: Position) {
        let before = Position { term: prev.term, index: CommitIndex(prev.index.0.saturating_sub(1)) };
        let hint = self.log.floor(before);
        if self.me.is_some() {
            let reject = Payload::Reject { term: self.term, prev: prev.index, hint };
            self.send(Recipients::One(sender), &reject);
        }
    }

    /// Stages entries that are not in the log, as far as the window allows.
    fn take(&mut self, prev: Position, entries: Vec<Entry>) {
        let top = self.last_final.0.max(self.log.base().index.0).saturating_add(2 * self.config.window);
        let mut index = prev.index;
        for entry in entries {
            index = index.next();
            let staged_to = self.verified.0 + self.stage.len() as u64;
            if index.0 <= staged_to {
                continue;
            }
            let known = self.log.term_at(index);
            if self.stage.is_empty() && known == Some(entry.term) {
                self.verified = index;
                continue;
            }
            // Terms never fall along the log of a leader that does not lie.
            let before = self.stage.back().map(|e| e.term).or_else(|| self.log.term_at(self.verified));
            let falls = before.is_some_and(|before| entry.term < before);
            let is_absurd = falls || index <= self.commit || entry.batches.len() > self.batches_max;
            if index.0 != staged_to + 1 || index.0 > top || is_absurd {
                break;
            }
            self.staged_batches.extend_from_slice(&entry.batches);
            self.stage.push_back(entry);
        }
    }

    /// Moves staged entries into the log as far as their batches are held, so that whoever
    /// has an entry in its log, and may come to lead with it, has its payload.
    pub(crate) fn drain(&mut self) {
        let first = self.verified.next();
        while let Some(entry) = self.stage.front() {
            let index = self.verified.next();
            let is_held = index <= self.last_final
                || entry.batches.iter().all(|b| self.pool.holds(b))
                || self.config.has(Planted::AckUnheld);
            if !is_held {
                break;
            }
            let Some(entry) = self.stage.pop_front() else { break };
            if index == first {
                self.cut(index);
            }
            self.append(entry);
            self.verified = index;
        }
        if self.verified >= first {
            self.save_entries(first);
            self.reply_is_due = true;
        }
        if !matches!(self.role, Role::Leader(_)) && self.leader.is_some() {
            self.commit = self.commit.max(self.leader_commit.min(self.verified));
        }
    }

    /// Cuts off what another leader had put here; its batches wait again.
    fn cut(&mut self, first: CommitIndex) {
        for (index, entry) in (first.0..).zip(self.log.cut(first)) {
            self.pool.unplace(&entry.batches, CommitIndex(index));
        }
    }

    /// Puts an entry at the end of the log.
    pub(crate) fn append(&mut self, entry: Entry) {
        let index = self.log.last().index.next();
        self.pool.place(&entry.batches, index);
        self.log.push(entry);
    }

    /// Writes the log from `first` to its end, in records that the host takes.
    pub(crate) fn save_entries(&mut self, first: CommitIndex) {
        if self.config.has(Planted::AckVolatile) {
            return;
        }
        self.save_vote();
        let mut first = first;
        loop {
            let (mut count, mut bytes) = (0, 0);
            for entry in self.log.from(first) {
                bytes += entry_bytes(entry);
                if count > 0 && bytes > ENTRIES_BYTES_MAX {
                    break;
                }
                count += 1;
            }
            if count == 0 {
                return;
            }
            let body = Record::entries(first, self.log.from(first).take(count));
            self.push_record(body);
            first = CommitIndex(first.0 + count as u64);
        }
    }

    /// Asks for what the entries staged in this step lack.
    pub(crate) fn fetch_staged(&mut self) {
        let mut missing = std::mem::take(&mut self.staged_batches);
        missing.retain(|b| !self.pool.holds(b));
        if self.stage.is_empty() || missing.is_empty() {
            return;
        }
        missing.sort_unstable();
        missing.dedup();
        self.out.release.push(Action::Fetch { batches: missing, likely_holder: self.leader });
    }

    /// Tells the leader how far the log is its own, once a step.
    pub(crate) fn answer_leader(&mut self) {
        let is_due = std::mem::take(&mut self.reply_is_due);
        if let (Some(leader), Some(me)) = (self.leader, self.me)
            && is_due
            && leader != me
        {
            let accept = Payload::Accept { term: self.term, index: self.verified };
            self.send(Recipients::One(leader), &accept);
        }
    }
}
