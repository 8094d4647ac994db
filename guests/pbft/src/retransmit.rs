//! What keeps a replica going over links that lose messages: timers, sending again, and
//! telling others what is missing here.

use std::sync::Arc;

use moult_sdk::engine::{Action, Choice, Envelope, Recipients};
use moult_sdk::{AuthorityIndex, Digest, NowMs, Statement};

use crate::codec::{COMMIT, PREPARE, Payload, Proposal, Status, encode, slot};
use crate::log::{Committed, Entry};
use crate::replica::Replica;
use crate::rotation::Rotation;

/// Runs while there is work and no progress.
pub(crate) const VIEW_TIMER: u64 = 1;
/// Runs while there is anything to send again.
pub(crate) const RETRANSMIT_TIMER: u64 = 2;
/// Runs while a leader waits for more batches before it proposes again.
pub(crate) const PACE_TIMER: u64 = 3;

impl<R: Rotation> Replica<R> {
    /// Whether there is anything that the committee owes an answer to: batches without a
    /// commit, proposals without one, or votes of others about something unknown here.
    pub(crate) fn has_work(&self) -> bool {
        let validity = self.committee.validity;
        let stakes = &self.committee.stakes;
        let open = || self.entries.range(self.executed + 1..).map(|(_, e)| e);
        let is_voted =
            |e: &Entry| e.prepares.heaviest(stakes) >= validity || e.commits.heaviest(stakes) >= validity;
        self.pool.waiting() > 0
            || open().any(|e| e.accepted.is_some() || e.committed.is_some())
            || open().take(RESENT_MAX).any(is_voted)
    }

    /// How long this node waits for its view: doubles from attempt to attempt.
    pub(crate) fn timeout_ms(&self) -> NowMs {
        self.config.view_timeout_ms.saturating_mul(1 << self.attempts.min(DOUBLINGS_MAX))
    }

    /// Sets the timers that are needed and not running. A deadline that moved away is not
    /// worth a timer of its own: the old one fires early and is set again.
    pub(crate) fn arm(&mut self) {
        let work = self.has_work();
        let waits = if self.is_changing() {
            // Without a quorum behind it a further step would only lead this node away
            // from the others.
            self.support(self.view) >= self.committee.quorum
                || (self.change.is_none() && self.deadline.is_some())
        } else {
            // Behind the stable checkpoint it is the host's turn to catch up.
            work && self.me.is_some() && self.executed >= self.stable.seq
        };
        if waits {
            let deadline = self.deadline.unwrap_or_else(|| self.now.saturating_add(self.timeout_ms()));
            self.deadline = Some(deadline);
            if self.view_timer.is_none_or(|at| at > deadline) {
                self.view_timer = Some(deadline);
                let after_ms = deadline.saturating_sub(self.now).max(1);
                self.out.release.push(Action::SetTimer { id: VIEW_TIMER, after_ms });
            }
        } else {
            self.deadline = None;
        }
        if !self.retransmit_timer && (work || self.is_changing_with_others()) {
            self.retransmit_timer = true;
            let after_ms = self.config.retransmit_ms;
            self.out.release.push(Action::SetTimer { id: RETRANSMIT_TIMER, after_ms });
        }
    }

    /// A node that alone gave up its view has nobody to persuade while nothing is to be
    /// done.
    fn is_changing_with_others(&self) -> bool {
        let own = self.me.map_or(0, |me| self.committee.stake(me));
        let support = self.support(self.view);
        self.is_changing() && support >= self.committee.validity && support > own
    }

    /// Upon a timer.
    pub(crate) fn on_timer(&mut self, id: u64) {
        match id {
            VIEW_TIMER => {
                self.view_timer = None;
                if self.deadline.is_some_and(|deadline| deadline <= self.now) {
                    self.start_view_change(self.next_view(self.view));
                }
            }
            RETRANSMIT_TIMER => {
                self.retransmit_timer = false;
                if self.has_work() || self.is_changing_with_others() {
                    self.retransmit();
                }
            }
            // Every step ends with proposing what may be proposed.
            PACE_TIMER => self.pace_timer = false,
            _ => {}
        }
    }

    fn retransmit(&mut self) {
        let stale_at = self.now.saturating_sub(self.config.retransmit_ms);
        let open = self.entries.range(self.executed.max(self.stable.seq) + 1..).take(RESENT_MAX);
        let stale = open.filter(|(_, e)| e.accepted.is_some() && e.sent_at <= stale_at);
        for seq in stale.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            if self.is_changing() {
                break;
            }
            if self.leads() {
                self.resend(seq, Recipients::All);
            } else {
                self.vote_again(seq);
            }
        }
        self.fetch_again();
        let (leader, wanted) = (self.leader(self.installed), self.pool.oldest(WANTED_MAX));
        if !self.is_changing() && self.me != Some(leader) && !wanted.is_empty() {
            self.dispatch(Recipients::One(leader), &Payload::Wanted(wanted.into()), &[]);
        }
        for choice in self.me.map(|me| self.checkpoints.of(me, self.stable.seq)).unwrap_or_default() {
            self.out.release.push(Action::Vote { to: Recipients::All, choice });
        }
        let patience = self.config.retransmit_ms.saturating_mul(4);
        if self.is_changing() && self.now.saturating_sub(self.change_sent_at) >= patience {
            self.send_change(Recipients::All);
        }
        self.send_status(Recipients::All);
    }

    /// Upon word of batches that wait elsewhere: get them, so as to propose them. Without
    /// this, who gives a batch to a few authorities only makes those few give up a leader
    /// that has done nothing wrong.
    pub(crate) fn on_wanted(&mut self, sender: AuthorityIndex, batches: &[Digest]) {
        let mut batches: Vec<Digest> = batches.iter().take(WANTED_MAX).copied().collect();
        batches.retain(|b| !self.pool.holds(b) && self.pool.place_of(b).is_none());
        batches.sort_unstable();
        batches.dedup();
        if self.leads() && !batches.is_empty() && Some(sender) != self.me {
            self.out.release.push(Action::Fetch { batches, likely_holder: Some(sender) });
        }
    }

    fn vote_again(&mut self, seq: u64) {
        let (Some(me), now, view) = (self.me, self.now, self.installed) else { return };
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        entry.sent_at = now;
        for (kind, vote) in [(PREPARE, entry.prepares.of(me)), (COMMIT, entry.commits.of(me))] {
            if let Some(digest) = vote {
                let choice = Choice { slot: slot(kind, view, seq), digest };
                self.out.release.push(Action::Vote { to: Recipients::All, choice });
            }
        }
    }

    fn fetch_again(&mut self) {
        let next = self
            .entries
            .get(&(self.executed + 1))
            .and_then(|e| e.committed.as_ref())
            .map(|c| c.batches.iter());
        let accepted = self.lacking.iter().filter_map(|seq| self.entries.get(seq)?.accepted.as_ref());
        let mut batches: Vec<Digest> = accepted
            .flat_map(|a| a.missing.iter())
            .chain(next.into_iter().flatten().filter(|b| !self.pool.holds(b)))
            .copied()
            .collect();
        batches.sort_unstable();
        batches.dedup();
        if !batches.is_empty() {
            let likely_holder = Some(self.leader(self.installed)).filter(|leader| Some(*leader) != self.me);
            self.out.release.push(Action::Fetch { batches, likely_holder });
        }
    }

    /// Tells what this node has.
    pub(crate) fn send_status(&mut self, to: Recipients) {
        let status = Status {
            view: self.view,
            installed: self.installed,
            stable: self.stable.seq,
            executed: self.executed,
            high: self.high(),
        };
        self.dispatch(to, &Payload::Status(status), &[]);
    }

    fn high(&self) -> u64 {
        let last = self.entries.iter().rev().find(|(_, e)| e.accepted.is_some()).map_or(0, |(seq, _)| *seq);
        last.max(self.executed)
    }

    /// Upon a status: send what the sender lacks, at most twice in a retransmission time.
    pub(crate) fn on_status(&mut self, sender: AuthorityIndex, status: Status) {
        let is_ahead = status.installed > self.installed
            || status.executed > self.executed
            || status.stable > self.stable.seq
            || status.high > self.high();
        if is_ahead {
            self.ask(sender);
        }
        let lacks_view = status.installed < self.installed && status.view <= self.installed;
        let lacks_checkpoint = status.stable < self.stable.seq;
        let lacks_change = self.is_changing() && status.view <= self.view;
        let has_my_view = status.installed == self.installed || lacks_view;
        let from = status.executed.max(self.stable.seq).saturating_add(1);
        // What is decided helps in any view, and whether or not the votes of others still come.
        let helps = |e: &Entry| e.committed.is_some() || (has_my_view && e.accepted.is_some());
        let entries = self.entries.range(from..).filter(|(_, e)| helps(e));
        let entries: Vec<u64> = entries.map(|(seq, _)| *seq).take(RESENT_MAX).collect();
        let lacks = lacks_view || lacks_checkpoint || lacks_change || !entries.is_empty();
        if !lacks || !self.may_reply(sender) {
            return;
        }
        let to = || Recipients::One(sender);
        if lacks_view {
            self.send_new_view(to());
        }
        if lacks_checkpoint {
            let statements = self.stable.statements.clone();
            self.dispatch(to(), &Payload::Votes, &statements);
        }
        if lacks_change {
            let sent_at = self.change_sent_at;
            self.send_change(to());
            self.change_sent_at = sent_at;
        }
        for seq in entries {
            self.send_entry(seq, sender);
        }
    }

    /// What is decided with its commits; else the proposal of this view with own votes.
    fn send_entry(&mut self, seq: u64, to: AuthorityIndex) {
        let Some(entry) = self.entries.get(&seq) else { return };
        if let Some(Committed { view, batches, commits, .. }) = &entry.committed {
            let (batches, commits) = (Arc::clone(batches), commits.clone());
            let decided = Payload::Decided(Proposal { view: *view, seq, batches });
            return self.dispatch(Recipients::One(to), &decided, &commits);
        }
        // Only sending to all counts as sending again.
        let sent_at = entry.sent_at;
        self.resend(seq, Recipients::One(to));
        if let Some(entry) = self.entries.get_mut(&seq) {
            entry.sent_at = sent_at;
        }
    }

    /// Upon a sign that `peer` is in an older view, or goes to one.
    pub(crate) fn help_with_view(&mut self, peer: AuthorityIndex) {
        let news = self.entered.is_some() || self.change.is_some();
        if news && self.may_reply(peer) {
            self.send_new_view(Recipients::One(peer));
            let sent_at = self.change_sent_at;
            self.send_change(Recipients::One(peer));
            self.change_sent_at = sent_at;
        }
    }

    /// Upon a vote of a view that this node is not in: it or the author is behind.
    pub(crate) fn on_vote_of_another_view(&mut self, vote: Statement) {
        let settled_at = self.entered_at.saturating_add(self.config.retransmit_ms);
        if vote.slot.a > self.installed {
            if let Some(postponed) = self.postponed_votes.get_mut(vote.author.as_usize()) {
                postponed.push_back(vote);
                if postponed.len() > POSTPONED_VOTES_MAX {
                    postponed.pop_front();
                }
            }
            if vote.slot.a > self.view {
                self.ask(vote.author);
            }
        } else if self.now >= settled_at {
            self.help_with_view(vote.author);
        }
    }

    pub(crate) fn postpone_proposal(&mut self, sender: AuthorityIndex, proposal: Proposal) {
        if let Some(postponed) = self.postponed_proposals.get_mut(sender.as_usize()) {
            postponed.push_back(proposal);
            if postponed.len() > POSTPONED_PROPOSALS_MAX {
                postponed.pop_front();
            }
        }
        self.ask(sender);
    }

    /// Upon entering a view: what came too early is looked at again.
    pub(crate) fn replay_postponed(&mut self) {
        for author in 0..self.postponed_votes.len() {
            let proposals = self.postponed_proposals.get_mut(author).map(std::mem::take).unwrap_or_default();
            for proposal in proposals {
                self.on_known_proposal(proposal, AuthorityIndex(author as u32));
            }
        }
        for author in 0..self.postponed_votes.len() {
            let votes = self.postponed_votes.get_mut(author).map(std::mem::take).unwrap_or_default();
            for vote in votes {
                if vote.slot.a >= self.installed {
                    self.on_vote(vote);
                }
            }
        }
    }

    /// Asks a peer that seems to be ahead, at most once in a retransmission time.
    pub(crate) fn ask(&mut self, peer: AuthorityIndex) {
        let (now, pause) = (self.now, self.config.retransmit_ms);
        if let Some(asked) = self.asked_at.get_mut(peer.as_usize())
            && asked.is_none_or(|at| now.saturating_sub(at) >= pause)
            && self.me != Some(peer)
        {
            *asked = Some(now);
            self.send_status(Recipients::One(peer));
        }
    }

    fn may_reply(&mut self, peer: AuthorityIndex) -> bool {
        let (now, pause) = (self.now, self.config.retransmit_ms / 2);
        match self.replied_at.get_mut(peer.as_usize()) {
            Some(replied)
                if replied.is_none_or(|at| now.saturating_sub(at) >= pause) && self.me != Some(peer) =>
            {
                *replied = Some(now);
                true
            }
            _ => false,
        }
    }

    /// Sends a message with statements: this node's own are signed (again), others' are
    /// attached.
    pub(crate) fn dispatch(&mut self, to: Recipients, payload: &Payload, statements: &[Statement]) {
        let payload = encode(self.committee.epoch, payload);
        self.dispatch_bytes(to, payload, statements);
    }

    pub(crate) fn dispatch_bytes(&mut self, to: Recipients, payload: Vec<u8>, statements: &[Statement]) {
        // What was released is not signed again; the host may still hold the signature.
        let signs = |s: &&Statement| {
            let released = self.released.get(usize::from(s.slot.kind)).copied().flatten();
            Some(s.author) == self.me && Some((s.slot.a, s.slot.b)) > released
        };
        let (sign, attach): (Vec<&Statement>, Vec<&Statement>) = statements.iter().partition(signs);
        let sign = sign.into_iter().map(|s| Choice { slot: s.slot, digest: s.digest }).collect();
        let attach = attach.into_iter().copied().collect();
        self.out.release.push(Action::Send(Envelope { to, payload, sign, attach }));
    }
}

/// The timeout grows to 32 times its base.
const DOUBLINGS_MAX: u32 = 5;
/// Most sequence numbers sent again at once.
const RESENT_MAX: usize = 8;
/// Most batches named to the leader at once.
const WANTED_MAX: usize = 64;
/// Votes of later views kept of one author: a pipeline's worth of prepares and commits.
const POSTPONED_VOTES_MAX: usize = 64;
/// Proposals of later views kept of one sender.
const POSTPONED_PROPOSALS_MAX: usize = 8;
