//! The normal case: pre-prepare, prepare, commit, execute.

use std::sync::Arc;

use moult_sdk::engine::{Action, Choice, Commit, Message, Recipients};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Slot, Statement};

use crate::codec::{Batches, COMMIT, PRE_PREPARE, PREPARE, Payload, Proposal, proposal_digest, slot};
use crate::log::{Accepted, Certificate, Committed, Entry, pre_prepare};
use crate::records::Record;
use crate::replica::Replica;
use crate::retransmit::PACE_TIMER;
use crate::rotation::Rotation;

impl<R: Rotation> Replica<R> {
    /// As leader of the view: propose what waits, oldest first.
    pub(crate) fn propose(&mut self) -> bool {
        let mut proposed = false;
        // Behind the stable checkpoint some of what waits is final: the host is about to say so.
        while self.leads() && self.executed >= self.stable.seq {
            self.next_seq = self.next_seq.max(self.executed + 1);
            let seq = self.next_seq;
            let top = self.stable.seq.saturating_add(self.config.window);
            let outstanding = seq - 1 - self.executed;
            if seq > top || outstanding >= self.config.pipeline || (outstanding > 0 && self.paces()) {
                break;
            }
            let batches: Batches = self.pool.oldest(self.proposal_max).into();
            if batches.is_empty() {
                break;
            }
            let digest = proposal_digest(&batches);
            self.follow(seq, digest, &batches);
            self.resend(seq, Recipients::All);
            self.proposed_at = Some(self.now);
            proposed = true;
        }
        proposed
    }

    /// Whether the next proposal has to wait for more batches; if so, for how long is set.
    fn paces(&mut self) -> bool {
        let waiting = self.pool.waiting();
        let Some(due) = self.proposed_at.map(|at| at.saturating_add(self.config.pace_ms)) else {
            return false;
        };
        if due <= self.now || waiting >= self.proposal_max {
            return false;
        }
        if waiting > 0 && !self.pace_timer {
            self.pace_timer = true;
            self.out.release.push(Action::SetTimer { id: PACE_TIMER, after_ms: due - self.now });
        }
        true
    }

    /// Whether this node leads the view, and the view is open.
    pub(crate) fn leads(&self) -> bool {
        self.me == Some(self.leader(self.installed)) && !self.is_changing()
    }

    /// Upon a pre-prepare.
    pub(crate) fn on_proposal(&mut self, proposal: Proposal, message: &Message) {
        let digest = proposal_digest(&proposal.batches);
        let (view, seq) = (proposal.view, proposal.seq);
        let leader = self.leader(view);
        if !message.statements.contains(&pre_prepare(view, seq, leader, digest)) || Some(leader) == self.me {
            return;
        }
        if view > self.installed {
            self.postpone_proposal(message.sender, proposal);
        } else if view == self.installed && self.is_acceptable(&proposal, digest) {
            self.follow(seq, digest, &proposal.batches);
        }
    }

    fn is_acceptable(&self, proposal: &Proposal, digest: Digest) -> bool {
        let seq = proposal.seq;
        if !self.is_in_window(seq)
            || proposal.batches.is_empty()
            || proposal.batches.len() > self.proposal_max
        {
            return false;
        }
        if self.entries.get(&seq).is_some_and(|e| e.accepted.is_some()) || self.contradicts(seq, digest) {
            return false;
        }
        let mut sorted = proposal.batches.to_vec();
        sorted.sort_unstable();
        let repeats_itself = sorted.array_windows().any(|[a, b]| a == b);
        let repeats_another =
            proposal.batches.iter().any(|b| self.pool.place_of(b).is_some_and(|s| s != seq));
        !repeats_itself && !repeats_another
    }

    /// Whether this node has seen a quorum commit something else at `seq`.
    fn contradicts(&self, seq: u64, digest: Digest) -> bool {
        let committed = self.entries.get(&seq).and_then(|e| e.committed.as_ref().map(|c| c.digest));
        committed.or_else(|| self.proposals.get(&seq).copied()).is_some_and(|known| known != digest)
    }

    /// Takes a proposal of the view into the log, and votes for it as far as it may.
    fn follow(&mut self, seq: u64, digest: Digest, batches: &Batches) {
        let (view, leader) = (self.installed, self.leader(self.installed));
        if self.me.is_some() && !self.is_changing() {
            let statement = pre_prepare(view, seq, leader, digest);
            self.save(&Record::Accepted { view, seq, batches: Arc::clone(batches) }, &[statement]);
        }
        self.take_in(seq, digest, batches);
    }

    /// [`Replica::follow`] for what is durable already.
    pub(crate) fn take_in(&mut self, seq: u64, digest: Digest, batches: &Batches) {
        let leader = self.leader(self.installed);
        let missing: Vec<Digest> = batches.iter().filter(|b| !self.pool.holds(b)).copied().collect();
        self.pool.place(batches, seq);
        self.next_seq = self.next_seq.max(seq + 1);
        let (now, authorities) = (self.now, self.committee.stakes.len());
        let entry = self.entries.entry(seq).or_insert_with(|| Entry::new(authorities));
        entry.sent_at = now;
        let accepted =
            Accepted { digest, batches: Arc::clone(batches), missing: missing.clone(), prepared: false };
        entry.accept(accepted, leader, &self.committee.stakes);
        if !missing.is_empty() {
            self.lacking.insert(seq);
            self.out.release.push(Action::Fetch { batches: missing, likely_holder: Some(leader) });
        }
        self.vote_prepare(seq);
        self.advance(seq);
    }

    /// Upon batches that this node now holds: vote for the proposals that waited for them.
    pub(crate) fn on_batches(&mut self, batches: &[moult_sdk::Batch]) {
        for batch in batches {
            self.pool.hold(batch.digest);
        }
        for seq in self.lacking.clone() {
            let Some(accepted) = self.entries.get_mut(&seq).and_then(|e| e.accepted.as_mut()) else {
                self.lacking.remove(&seq);
                continue;
            };
            accepted.missing.retain(|b| !self.pool.holds(b));
            if accepted.missing.is_empty() {
                self.lacking.remove(&seq);
                self.vote_prepare(seq);
                self.advance(seq);
            }
        }
    }

    /// Upon a prepare or a commit.
    pub(crate) fn on_vote(&mut self, vote: Statement) {
        let Slot { kind, a: view, b: seq } = vote.slot;
        if view != self.installed {
            return self.on_vote_of_another_view(vote);
        }
        if !self.is_in_window(seq) {
            return;
        }
        let leader = self.leader(view);
        let (authorities, stake) = (self.committee.stakes.len(), self.committee.stake(vote.author));
        let entry = self.entries.entry(seq).or_insert_with(|| Entry::new(authorities));
        let counts = entry.digest() == Some(vote.digest) && !(kind == PREPARE && vote.author == leader);
        let votes = if kind == PREPARE { &mut entry.prepares } else { &mut entry.commits };
        if votes.insert(vote.author, vote.digest) && counts {
            votes.stake = votes.stake.saturating_add(stake);
            self.advance(seq);
        }
    }

    /// Casts this node's prepare once everything in the proposal is held here, since a
    /// certificate promises that an honest authority can hand out the batches.
    pub(crate) fn vote_prepare(&mut self, seq: u64) {
        let leader = self.leader(self.installed);
        let Some((entry, digest)) = self.votable(seq) else { return };
        let complete = entry.accepted.as_ref().is_some_and(|a| a.missing.is_empty());
        if self.me != Some(leader) && complete && !entry.refused.0 {
            self.cast(PREPARE, seq, digest);
        }
    }

    fn vote_commit(&mut self, seq: u64) {
        let Some((entry, digest)) = self.votable(seq) else { return };
        if entry.accepted.as_ref().is_some_and(|a| a.prepared) && !entry.refused.1 {
            self.cast(COMMIT, seq, digest);
        }
    }

    fn votable(&self, seq: u64) -> Option<(&Entry, Digest)> {
        let entry = self.entries.get(&seq)?;
        let digest = entry.digest()?;
        let may = self.me.is_some()
            && !self.is_changing()
            && seq > self.stable.seq
            && !self.contradicts(seq, digest);
        may.then_some((entry, digest))
    }

    fn cast(&mut self, kind: u16, seq: u64, digest: Digest) {
        let (Some(me), Some(entry)) = (self.me, self.entries.get_mut(&seq)) else { return };
        let votes = if kind == PREPARE { &mut entry.prepares } else { &mut entry.commits };
        if votes.insert(me, digest) {
            votes.stake = votes.stake.saturating_add(self.committee.stake(me));
            let choice = Choice { slot: slot(kind, self.installed, seq), digest };
            self.out.release.push(Action::Vote { to: Recipients::All, choice });
        }
    }

    /// Moves a sequence number on as far as its votes allow.
    pub(crate) fn advance(&mut self, seq: u64) {
        let (view, leader, changing) = (self.installed, self.leader(self.installed), self.is_changing());
        let enough = self.config.certificate_stake(self.committee.quorum);
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        let Some(accepted) = &mut entry.accepted else { return };
        let (digest, batches) = (accepted.digest, Arc::clone(&accepted.batches));
        if !accepted.prepared && entry.prepares.stake >= enough {
            accepted.prepared = true;
            // While it changes view this node only learns: its claims are made, and an older
            // certificate that is durable must not be hidden by one that is not. At or
            // below the stable checkpoint nobody needs the certificate.
            if self.me.is_some() && !changing && seq > self.stable.seq {
                let statements = entry.certificate(view, seq, leader, digest);
                entry.prepared = Some(Certificate { view, digest, batches, statements: statements.clone() });
                self.save(&Record::Prepared { view, seq, digest }, &statements);
            }
            self.vote_commit(seq);
        }
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        if let Some(accepted) = &entry.accepted
            && accepted.prepared
            && entry.committed.is_none()
            && entry.commits.stake >= enough
        {
            let (batches, commits) =
                (Arc::clone(&accepted.batches), entry.commit_statements(view, seq, digest));
            entry.committed = Some(Committed { view, digest, batches, commits });
        }
    }

    /// Upon a proposal with the commits of a quorum: decided, whatever view this node is in.
    /// It may have given up a view in which the others went on, with the help of one that has
    /// fallen silent since; then only this brings it to where they are.
    pub(crate) fn on_decided(&mut self, proposal: Proposal, message: &Message) {
        let Proposal { view, seq, batches } = proposal;
        let digest = proposal_digest(&batches);
        if seq <= self.executed || !self.is_in_window(seq) || self.contradicts(seq, digest) {
            return;
        }
        let is_commit = |s: &&Statement| s.slot == slot(COMMIT, view, seq) && s.digest == digest;
        let mut commits: Vec<Statement> = message.statements.iter().filter(is_commit).copied().collect();
        commits.sort_unstable();
        commits.dedup();
        let stakes = commits.iter().map(|s| self.committee.stake(s.author));
        let stake = stakes.fold(0, |sum: moult_sdk::Stake, stake| sum.saturating_add(stake));
        if stake < self.config.certificate_stake(self.committee.quorum) {
            return;
        }
        let missing: Vec<Digest> = batches.iter().filter(|b| !self.pool.holds(b)).copied().collect();
        if !missing.is_empty() {
            let likely_holder = Some(message.sender);
            self.out.release.push(Action::Fetch { batches: missing, likely_holder });
        }
        let authorities = self.committee.stakes.len();
        let entry = self.entries.entry(seq).or_insert_with(|| Entry::new(authorities));
        entry.committed.get_or_insert(Committed { view, digest, batches, commits });
    }

    /// Commits in order what is committed and held.
    pub(crate) fn execute(&mut self) -> bool {
        let mut progress = false;
        loop {
            let seq = self.executed + 1;
            let Some(committed) = self.entries.get(&seq).and_then(|e| e.committed.as_ref()) else { break };
            if !committed.batches.iter().all(|b| self.pool.holds(b)) {
                break;
            }
            let (view, digest, batches) = (committed.view, committed.digest, Arc::clone(&committed.batches));
            self.executed = seq;
            self.proposals.insert(seq, digest);
            self.unsaved.push((seq, digest));
            self.pool.place(&batches, seq);
            let leader = Some(self.leader(view));
            let commit = Commit { index: CommitIndex(seq), batches: batches.to_vec(), round: view, leader };
            self.out.release.push(Action::Commit(commit));
            self.made_progress();
            progress = true;
        }
        if progress {
            self.prune();
        }
        progress
    }

    /// Upon the host's word that everything up to `index` is final.
    pub(crate) fn on_final(&mut self, index: u64, batches: &[Digest]) {
        self.pool.finish(batches);
        self.last_final = self.last_final.max(index);
        if index > self.executed {
            self.jump(index);
        }
        self.vote_checkpoints();
    }

    /// The host holds everything up to `index`: go on from there.
    fn jump(&mut self, index: u64) {
        for seq in self.executed + 1..=index.min(self.base.saturating_add(self.config.window)) {
            let committed = self.entries.get(&seq).and_then(|e| e.committed.as_ref());
            if let Some(committed) = committed {
                self.proposals.insert(seq, committed.digest);
                self.unsaved.push((seq, committed.digest));
                self.pool.place(&Arc::clone(&committed.batches), seq);
            }
        }
        self.executed = index;
        if index > self.base.saturating_add(self.config.window) {
            self.base = index;
            let keep = index.saturating_sub(self.config.window.saturating_mul(4));
            self.entries = self.entries.split_off(&keep);
            self.forgotten = self.forgotten.max(keep.saturating_sub(1));
            self.lacking = self.lacking.split_off(&keep);
            self.settle_places();
        }
        self.made_progress();
        self.prune();
    }

    fn made_progress(&mut self) {
        self.attempts = 0;
        if !self.is_changing() {
            self.deadline = None;
        }
    }

    /// Sends the proposal at `seq` with this node's votes on it.
    pub(crate) fn resend(&mut self, seq: u64, to: Recipients) {
        let (view, now) = (self.installed, self.now);
        let leader = self.leader(view);
        let me = self.me;
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        let Some(accepted) = &entry.accepted else { return };
        entry.sent_at = now;
        let mut statements = vec![pre_prepare(view, seq, leader, accepted.digest)];
        for (kind, votes) in [(PREPARE, &entry.prepares), (COMMIT, &entry.commits)] {
            if let Some((author, digest)) = me.and_then(|me| votes.of(me).map(|digest| (me, digest))) {
                statements.push(Statement { author, slot: slot(kind, view, seq), digest });
            }
        }
        let proposal = Proposal { view, seq, batches: Arc::clone(&accepted.batches) };
        self.dispatch(to, &Payload::Proposal(proposal), &statements);
    }

    /// Upon the host's refusal to sign: what was not signed counts for nothing. An earlier
    /// life of this node chose differently, so in this slot it stays silent.
    pub(crate) fn on_refused(&mut self, slot: Slot) {
        let Some(me) = self.me else { return };
        let current = slot.a == self.installed && !self.is_changing();
        match slot.kind {
            PRE_PREPARE if current && self.leads() && slot.b > self.stable.seq => {
                self.start_view_change(self.next_view(self.installed));
            }
            crate::codec::NEW_VIEW if current && self.leads() => {
                self.start_view_change(self.next_view(self.installed));
            }
            PREPARE | COMMIT if slot.a == self.installed => self.withdraw(me, slot),
            crate::codec::CHECKPOINT => self.checkpoints.remove(me, slot),
            crate::codec::VIEW_CHANGE if slot.a == self.view && self.is_changing() => {
                self.withdraw_change(me)
            }
            _ => {}
        }
    }

    fn withdraw(&mut self, me: AuthorityIndex, slot: Slot) {
        let enough = self.config.certificate_stake(self.committee.quorum);
        let stake = self.committee.stake(me);
        let Some(entry) = self.entries.get_mut(&slot.b) else { return };
        let votes = if slot.kind == PREPARE {
            entry.refused.0 = true;
            &mut entry.prepares
        } else {
            entry.refused.1 = true;
            &mut entry.commits
        };
        let vote = votes.remove(me);
        if vote.is_none() || vote != entry.digest() {
            return;
        }
        let votes = if slot.kind == PREPARE { &mut entry.prepares } else { &mut entry.commits };
        votes.stake = votes.stake.saturating_sub(stake);
        // A certificate that stood on the refused prepare is none.
        if entry.prepares.stake < enough
            && let Some(accepted) = &mut entry.accepted
            && accepted.prepared
        {
            accepted.prepared = false;
            entry.prepared = entry.prepared.take().filter(|c| c.view != slot.a);
        }
    }
}
