//! Elections: pre-votes, votes, and the hand-over of leadership.

use moult_sdk::engine::Recipients;
use moult_sdk::{AuthorityIndex, CommitIndex, Stake};

use crate::codec::{Ballot, NUMBER_MAX, Payload, Reply};
use crate::config::Planted;
use crate::leader::Leadership;
use crate::raft::{Ballots, Raft, Role};
use crate::records::Record;
use crate::types::{Position, Term};

impl Raft {
    /// Where this node's log stands among others. One that never had an entry goes by what
    /// is final here: term 0 is below that of every entry.
    pub(crate) fn position(&self) -> Position {
        let last = self.log.last();
        if last.term > Term(0) {
            return last;
        }
        Position { term: last.term, index: last.index.max(self.last_final) }
    }

    /// No leader was heard of for too long: ask who would vote for this node.
    pub(crate) fn poll(&mut self) {
        self.reset_deadline();
        if self.me.is_none() || self.is_last_term() {
            return;
        }
        self.leader = None;
        if self.is_quorum_alone() {
            return self.stand(false);
        }
        // Somebody has what is final and not here: this node would lose.
        let log_ends = self.position().index;
        if log_ends < self.last_final {
            self.role = Role::Follower;
            return;
        }
        self.role = Role::Polling(self.own_ballot());
        self.ask(Recipients::All);
    }

    /// Stands for the next term.
    pub(crate) fn stand(&mut self, transfer: bool) {
        if self.is_last_term() {
            return;
        }
        self.enter(self.term.next());
        self.vote = self.me;
        self.role = Role::Candidate { ballots: self.own_ballot(), transfer };
        self.reset_deadline();
        if self.is_quorum_alone() {
            self.lead();
        } else {
            self.ask(Recipients::All);
        }
    }

    /// Whether no term above the present one can be said or read back. Only who lies gets there.
    fn is_last_term(&self) -> bool {
        self.term >= Term(NUMBER_MAX)
    }

    fn own_ballot(&self) -> Ballots {
        let mut ballots = vec![None; self.committee.stakes.len()];
        if let Some(own) = self.me.and_then(|me| ballots.get_mut(me.as_usize())) {
            *own = Some(true);
        }
        ballots
    }

    /// Asks for a pre-vote or for a vote.
    pub(crate) fn ask(&mut self, to: Recipients) {
        let last = self.position();
        match self.role {
            Role::Polling(_) => {
                self.send(to, &Payload::Poll(Ballot { term: self.term.next(), last }));
            }
            Role::Candidate { transfer, .. } => {
                self.send(to, &Payload::Vote { ballot: Ballot { term: self.term, last }, transfer });
            }
            Role::Follower | Role::Leader(_) => {}
        }
    }

    /// Asks those again who have not answered.
    pub(crate) fn ask_again(&mut self) {
        let (Role::Polling(ballots) | Role::Candidate { ballots, .. }) = &self.role else { return };
        // Who refused a pre-vote, since it heard of a leader a little later, may give it now.
        let polls = matches!(self.role, Role::Polling(_));
        let is_open = |b: &Option<bool>| b.is_none() || (polls && *b == Some(false));
        let silent = (0..).zip(ballots).filter(|(_, ballot)| is_open(ballot));
        let silent: Vec<_> = silent.map(|(i, _)| AuthorityIndex(i)).collect();
        if !silent.is_empty() {
            self.ask(Recipients::Some(silent));
        }
    }

    /// Enters a term, as nothing in particular.
    fn enter(&mut self, term: Term) {
        if term > self.term {
            self.term = term;
            self.vote = None;
        }
        self.vote_is_new = true;
        self.role = Role::Follower;
        self.leader = None;
        self.stage.clear();
    }

    /// Upon a sign of a higher term, or of another leader of this one.
    pub(crate) fn become_follower(&mut self, term: Term) {
        if term > self.term {
            self.enter(term);
        }
        self.role = Role::Follower;
        self.leader = None;
        self.reset_deadline();
    }

    /// Writes term and vote, before anything leaves that rests on them.
    pub(crate) fn save_vote(&mut self) {
        if std::mem::take(&mut self.vote_is_new) {
            let vote = self.vote.filter(|_| !self.config.has(Planted::ForgetVote));
            self.push_record(Record::vote(self.term, vote));
        }
    }

    /// Whether this node leads, or has heard from its leader within the lease.
    fn has_live_leader(&self) -> bool {
        let is_within = self.now.saturating_sub(self.heard_ms) < self.config.lease_ms;
        let is_live = matches!(self.role, Role::Leader(_)) || (self.leader.is_some() && is_within);
        is_live && !self.config.has(Planted::IgnoreLease)
    }

    /// Whether a candidate's log is as up-to-date as this node's, so that it has all that
    /// this node helped to commit.
    fn is_up_to_date(&self, last: Position) -> bool {
        last >= self.position() || self.config.has(Planted::SkipLogCheck)
    }

    /// Upon a pre-vote. It changes nothing here.
    pub(crate) fn on_poll(&mut self, sender: AuthorityIndex, ballot: Ballot) {
        let granted = ballot.term > self.term && !self.has_live_leader() && self.is_up_to_date(ballot.last);
        let term = if granted { ballot.term } else { self.term };
        if self.me.is_some() {
            self.send(Recipients::One(sender), &Payload::PollReply(Reply { term, granted }));
        }
    }

    /// Upon the answer to a pre-vote.
    pub(crate) fn on_poll_reply(&mut self, sender: AuthorityIndex, reply: Reply) {
        if !reply.granted && reply.term > self.term {
            return self.become_follower(reply.term);
        }
        let next = self.term.next();
        if let Role::Polling(ballots) = &mut self.role
            && (!reply.granted || reply.term == next)
        {
            note(ballots, sender, reply.granted);
            if self.is_elected() {
                self.stand(false);
            }
        }
    }

    /// Upon a candidate. One that comes while a leader is alive is not listened to, unless
    /// that leader wants it so.
    pub(crate) fn on_vote(&mut self, sender: AuthorityIndex, ballot: Ballot, transfer: bool) {
        if self.me.is_none() || (ballot.term > self.term && !transfer && self.has_live_leader()) {
            return;
        }
        if ballot.term > self.term {
            self.become_follower(ballot.term);
        }
        let is_free = self.vote.is_none_or(|vote| vote == sender) || self.config.has(Planted::VoteTwice);
        let follows = matches!(self.role, Role::Follower);
        let granted = ballot.term == self.term && is_free && follows && self.is_up_to_date(ballot.last);
        if granted {
            self.vote_is_new |= self.vote != Some(sender);
            self.vote = Some(sender);
            self.reset_deadline();
        }
        let reply = Reply { term: self.term, granted };
        self.send(Recipients::One(sender), &Payload::VoteReply(reply));
    }

    /// Upon the answer to a candidate.
    pub(crate) fn on_vote_reply(&mut self, sender: AuthorityIndex, reply: Reply) {
        if reply.term > self.term {
            return self.become_follower(reply.term);
        }
        if let Role::Candidate { ballots, .. } = &mut self.role
            && reply.term == self.term
        {
            note(ballots, sender, reply.granted);
            if self.is_elected() {
                self.lead();
            }
        }
    }

    fn is_elected(&self) -> bool {
        let (Role::Polling(ballots) | Role::Candidate { ballots, .. }) = &self.role else { return false };
        let granted = ballots.iter().zip(&self.committee.stakes).filter(|(b, _)| **b == Some(true));
        granted.fold(0, |sum: Stake, (_, stake)| sum.saturating_add(*stake)) >= self.committee.quorum
    }

    /// A quorum voted for this node.
    fn lead(&mut self) {
        if self.last_final > self.log.last().index {
            if self.log.last().term > Term(0) && !self.is_quorum_alone() {
                // Elected with votes of long ago: a later leader has got further.
                return self.become_follower(self.term);
            }
            self.go_on_from_final();
        }
        if self.config.has(Planted::ProposeTwice) {
            let first = self.commit.next();
            for (index, entry) in (first.0..).zip(self.log.from(first)) {
                self.pool.unplace(&entry.batches, CommitIndex(index));
            }
        }
        self.leader = self.me;
        self.stage.clear();
        let last = self.log.last().index;
        self.role = Role::Leader(Leadership::new(self.committee.stakes.len(), last, self.now));
    }

    /// What is final lies above the log of a leader: another one leads.
    pub(crate) fn outrun(&mut self) {
        if self.is_quorum_alone() {
            self.go_on_from_final();
        } else {
            self.become_follower(self.term);
        }
    }

    /// Begins the log at what is final, where nobody has a log that reaches there.
    fn go_on_from_final(&mut self) {
        let base = Position { term: self.log.last().term, index: self.last_final };
        self.rebase(base);
    }

    /// Upon the leader's wish to hand over: no pre-vote, since the leader is alive.
    pub(crate) fn on_timeout_now(&mut self, sender: AuthorityIndex, term: Term) {
        let follows = matches!(self.role, Role::Follower) && self.leader == Some(sender);
        if term == self.term && follows && self.me.is_some() && !self.is_draining {
            self.stand(true);
        }
    }
}

fn note(ballots: &mut Ballots, voter: AuthorityIndex, granted: bool) {
    if let Some(ballot) = ballots.get_mut(voter.as_usize()) {
        *ballot = Some(granted);
    }
}
