//! The leader: proposes, replicates, counts, and hands over.

use std::collections::BTreeMap;

use moult_sdk::engine::{Action, Recipients};
use moult_sdk::{AuthorityIndex, CommitIndex, NowMs, Stake};

use crate::codec::{APPEND_BYTES, Append, Payload, entry_bytes};
use crate::config::Planted;
use crate::progress::{Mode, Progress, quorum_index};
use crate::raft::{Raft, Role};
use crate::timing::PACE_TIMER;
use crate::types::{Entry, Position, Term};

/// So long the first batch waits for as many others as the last entry had, in milliseconds.
const GATHER_MS: u64 = 2;

/// What a leader keeps of its term.
pub(crate) struct Leadership {
    /// By authority; this node's own is not used.
    progress: Vec<Progress>,
    /// The first entry of the term, once it is there.
    first: Option<CommitIndex>,
    /// When the last entry was made, and of how many batches.
    proposed: (NowMs, usize),
    /// Since when batches wait for the next.
    waiting_since: Option<NowMs>,
    /// The log grew or was confirmed since the last count.
    is_counted: bool,
    handover: Option<Handover>,
}

/// Leadership on its way to another.
#[derive(Clone, Copy)]
struct Handover {
    since_ms: NowMs,
    /// Who was told to stand.
    to: Option<AuthorityIndex>,
    /// It has failed before: nothing waits for it any more.
    is_late: bool,
}

/// What one append holds: the entries after `prev` up to `end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    prev: CommitIndex,
    end: CommitIndex,
    reply: bool,
}

impl Leadership {
    pub(crate) fn new(authorities: usize, last: CommitIndex, now: NowMs) -> Self {
        Self {
            progress: vec![Progress::new(last, now); authorities],
            first: None,
            proposed: (now, 0),
            waiting_since: None,
            is_counted: false,
            handover: None,
        }
    }

    /// Whether all that was committed before the term is handed to the host.
    pub(crate) fn serves(&self, emitted: CommitIndex) -> bool {
        self.first.is_some_and(|first| emitted >= first)
    }

    pub(crate) fn on_peer(&mut self, peer: AuthorityIndex, up: bool) {
        if let Some(progress) = self.progress.get_mut(peer.as_usize()) {
            if up {
                progress.is_due = true;
            } else {
                progress.probe(progress.start);
            }
        }
    }

    fn of(&mut self, peer: AuthorityIndex) -> Option<&mut Progress> {
        self.progress.get_mut(peer.as_usize())
    }
}

impl Raft {
    /// Upon a follower's word that its log is this one's up to `index`.
    pub(crate) fn on_accept(&mut self, sender: AuthorityIndex, term: Term, index: CommitIndex) {
        if term > self.term {
            return self.become_follower(term);
        }
        let (now, last) = (self.now, self.log.last().index);
        if let Role::Leader(leadership) = &mut self.role
            && term == self.term
            && index <= last
            && let Some(progress) = leadership.of(sender)
        {
            progress.heard_ms = now;
            progress.accept(index, now);
            leadership.is_counted = false;
        }
    }

    /// Upon a follower's word that it has something else before the entries sent, or that a
    /// higher term has begun.
    pub(crate) fn on_reject(
        &mut self,
        sender: AuthorityIndex,
        term: Term,
        prev: CommitIndex,
        hint: Position,
    ) {
        if term > self.term {
            return self.become_follower(term);
        }
        let now = self.now;
        let agreed = self.log.floor(hint).index;
        if let Role::Leader(leadership) = &mut self.role
            && term == self.term
            && let Some(progress) = leadership.of(sender)
        {
            progress.heard_ms = now;
            // At the base there is nothing more to try: the next heartbeat does.
            progress.is_due |= progress.reject(prev, agreed) && progress.next <= prev;
        }
    }

    /// The part of a step that only a leader has.
    pub(crate) fn lead_on(&mut self) {
        if !matches!(self.role, Role::Leader(_)) {
            return;
        }
        self.hand_over();
        while self.propose() | self.count() {}
    }

    /// Puts into the log what waits, oldest first. The first entry of a term is made even if
    /// nothing does: only what follows it commits what was there before.
    fn propose(&mut self) -> bool {
        let Role::Leader(leadership) = &self.role else { return false };
        let is_paused = leadership.handover.is_some_and(|handover| !handover.is_late);
        let mut is_first = leadership.first.is_none();
        let from = self.log.last().index.next();
        // The host has yet to say which batches are final below the base: some of them wait.
        let is_told = self.told_final >= self.log.base().index;
        loop {
            let last = self.log.last().index.0;
            let has_room = last.saturating_sub(self.commit.0) < self.config.pipeline
                && last.saturating_sub(self.last_final.0) < self.config.window
                && !is_paused
                && is_told;
            if !is_first && (!has_room || self.paces()) {
                break;
            }
            let batches = self.pool.oldest(if is_told { self.batches_max } else { 0 }, u64::MAX);
            if batches.is_empty() && !is_first {
                break;
            }
            is_first = false;
            if let Role::Leader(leadership) = &mut self.role {
                leadership.proposed = (self.now, batches.len());
                leadership.waiting_since = None;
            }
            self.append(Entry { term: self.term, batches: batches.into() });
        }
        let has_more = self.log.last().index >= from;
        if has_more {
            self.save_entries(from);
            if let Role::Leader(leadership) = &mut self.role {
                leadership.first.get_or_insert(from);
                leadership.is_counted = false;
            }
        }
        has_more
    }

    /// Whether the next entry has to wait for more batches; if so, for how long is set.
    fn paces(&mut self) -> bool {
        let waiting = self.pool.waiting();
        let Role::Leader(leadership) = &mut self.role else { return false };
        if waiting == 0 || waiting >= self.batches_max {
            return false;
        }
        let since = *leadership.waiting_since.get_or_insert(self.now);
        let (proposed, former) = leadership.proposed;
        // While one is on its way to a quorum, the clients of the one before are answered and
        // write again.
        let due = if self.log.last().index > self.commit {
            proposed.saturating_add(self.config.pace_ms)
        } else if waiting >= former {
            self.now
        } else {
            since.saturating_add(GATHER_MS.min(self.config.pace_ms))
        };
        if due <= self.now {
            return false;
        }
        if self.timers.pace_ms.is_none_or(|at| at > due) {
            self.timers.pace_ms = Some(due);
            self.out.release.push(Action::SetTimer { id: PACE_TIMER, after_ms: due - self.now });
        }
        true
    }

    /// Commits what a quorum has, if it is of this term: an entry of an earlier one may
    /// still be replaced by a later leader (figure 8 of the paper).
    fn count(&mut self) -> bool {
        let Role::Leader(leadership) = &mut self.role else { return false };
        if std::mem::replace(&mut leadership.is_counted, true) {
            return false;
        }
        let (me, last) = (self.me, self.log.last().index);
        let stakes = self.committee.authorities().zip(&self.committee.stakes);
        let mut matched: Vec<(CommitIndex, Stake)> = stakes
            .zip(&leadership.progress)
            .map(|((a, stake), progress)| (if Some(a) == me { last } else { progress.matched }, *stake))
            .collect();
        let mut enough = self.committee.quorum;
        if self.config.has(Planted::QuorumMinusOne) {
            enough = enough.saturating_sub(1).max(1);
        }
        let index = quorum_index(&mut matched, enough);
        let is_own = self.log.term_at(index) == Some(self.term) || self.config.has(Planted::CountOldTerms);
        if index > self.commit && is_own {
            self.commit = index;
            return true;
        }
        false
    }

    /// Upon the heartbeat timer: word to everybody, and a look at who is still there.
    pub(crate) fn on_heartbeat(&mut self) {
        let (now, config, own) = (self.now, self.config, self.own_stake());
        let (me, stakes) = (self.me, &self.committee.stakes);
        let Role::Leader(leadership) = &mut self.role else { return };
        let mut heard = own;
        for ((i, progress), stake) in (0..).zip(&mut leadership.progress).zip(stakes) {
            if me == Some(AuthorityIndex(i)) {
                continue;
            }
            if now.saturating_sub(progress.heard_ms) < config.lease_ms {
                heard = heard.saturating_add(*stake);
            }
            if progress.unanswered_ms.is_some_and(|at| now.saturating_sub(at) >= config.send_timeout_ms) {
                progress.probe(progress.start);
            }
            progress.is_due = true;
        }
        if let Some(handover) = &mut leadership.handover
            && now.saturating_sub(handover.since_ms) >= config.election_timeout_ms
        {
            *handover = Handover { since_ms: now, to: None, is_late: true };
        }
        if heard < self.committee.quorum {
            // Check-quorum: somebody else may lead by now, and followers should not wait.
            self.become_follower(self.term);
        }
    }

    /// A leader that stops, or that should not lead, passes its office to the follower that
    /// has most; proposals wait meanwhile, so that one gets to have everything.
    fn hand_over(&mut self) {
        let me = self.me;
        let leaves = self.is_draining || me.is_some_and(|me| self.shunned.contains(&me));
        let (now, lease_ms, last, term) = (self.now, self.config.lease_ms, self.log.last().index, self.term);
        let Role::Leader(leadership) = &mut self.role else { return };
        if !leaves || leadership.handover.is_some_and(|handover| handover.to.is_some()) {
            return;
        }
        let peers = (0..).zip(&leadership.progress).map(|(i, progress)| (AuthorityIndex(i), progress));
        let best = peers
            .filter(|(peer, p)| Some(*peer) != me && now.saturating_sub(p.heard_ms) < lease_ms)
            .max_by_key(|(peer, p)| (!self.shunned.contains(peer), p.matched));
        let Some((peer, progress)) = best else { return };
        let has_all = progress.matched == last && leadership.first.is_some();
        let handover =
            leadership.handover.get_or_insert(Handover { since_ms: now, to: None, is_late: false });
        if has_all {
            handover.to = Some(peer);
            self.send(Recipients::One(peer), &Payload::TimeoutNow(term));
        }
    }

    /// At most one append a follower and step; equal ones are encoded once.
    pub(crate) fn send_appends(&mut self) {
        let mut parts: BTreeMap<Part, Vec<AuthorityIndex>> = BTreeMap::new();
        for peer in self.peers() {
            if let Some(part) = self.part_for(peer) {
                parts.entry(part).or_default().push(peer);
            }
        }
        let everyone = self.committee.stakes.len() - 1;
        for (part, peers) in parts {
            let count = (part.end.0 - part.prev.0) as usize;
            let Some(term) = self.log.term_at(part.prev) else { continue };
            let append = Append {
                term: self.term,
                prev: Position { term, index: part.prev },
                commit: self.commit,
                reply: part.reply,
                is_base: part.prev == self.log.base().index,
                entries: self.log.from(part.prev.next()).take(count).cloned().collect(),
            };
            let to = if peers.len() == everyone { Recipients::All } else { Recipients::Some(peers) };
            self.send(to, &Payload::Append(append));
        }
    }

    /// What a follower is to be sent in this step.
    fn part_for(&mut self, peer: AuthorityIndex) -> Option<Part> {
        let Role::Leader(leadership) = &mut self.role else { return None };
        let progress = leadership.of(peer)?;
        // What is gone from here the follower's host brings.
        progress.next = progress.next.max(self.log.base().index.next());
        let prev = CommitIndex(progress.next.0 - 1);
        let room = self.config.window.saturating_sub(progress.in_flight());
        let mut count = 0;
        if progress.mode == Mode::Replicate && room > 0 {
            let mut bytes = APPEND_BYTES;
            for entry in self.log.from(progress.next).take(room as usize) {
                bytes += entry_bytes(entry);
                if bytes > self.message_bytes_max {
                    break;
                }
                count += 1;
            }
        }
        let is_news = progress.mode == Mode::Replicate && progress.told_commit < self.commit;
        let reply = progress.is_due || count > 0;
        if !reply && !is_news {
            return None;
        }
        progress.is_due = false;
        progress.told_commit = self.commit;
        let end = CommitIndex(prev.0 + count);
        progress.next = end.next();
        if count > 0 {
            progress.unanswered_ms.get_or_insert(self.now);
        }
        Some(Part { prev, end, reply })
    }
}
