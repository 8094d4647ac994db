//! The node: its state, and what each event leads to.

use std::collections::{BTreeSet, VecDeque};

use moult_sdk::engine::{
    Action, Commit, DurableRecord, Engine, Envelope, Event, Info, InitError, Message, Outcome, Recipients,
    Recovered, Settings,
};
use moult_sdk::{AuthorityIndex, CommitIndex, Committee, Digest, FaultModel, NowMs, Stake};

use crate::codec::{APPEND_BYTES, BATCH_BYTES, ENTRY_BYTES, Payload, decode, encode, is_of_epoch};
use crate::config::{Config, Planted};
use crate::leader::Leadership;
use crate::log::Log;
use crate::pool::Pool;
use crate::records::ENTRIES_BYTES_MAX;
use crate::timing::Timers;
use crate::types::{Entry, Term};

/// One node of the protocol described at the crate's root.
///
/// # Invariants
/// - `log.base() <= commit` and `log.base() <= last_final`, by index; `last_final <= emitted`;
/// - everything in `log` is durable or in the durable part of this step, and its batches are
///   held here;
/// - as a follower of `leader`: `log` is the leader's up to `verified`, and `stage` is what
///   the leader has after that, first of all something that waits for its batches.
pub struct Raft {
    pub(crate) committee: Committee,
    pub(crate) me: Option<AuthorityIndex>,
    pub(crate) schedule: Vec<AuthorityIndex>,
    pub(crate) config: Config,
    pub(crate) settings_seed: Digest,
    pub(crate) message_bytes_max: usize,
    /// Most batches in an entry.
    pub(crate) batches_max: usize,
    faults_tolerated: u64,
    pub(crate) now: NowMs,

    pub(crate) term: Term,
    pub(crate) vote: Option<AuthorityIndex>,
    /// Term or vote changed and are not in a record yet.
    pub(crate) vote_is_new: bool,
    pub(crate) role: Role,
    /// Who leads the term, as far as known.
    pub(crate) leader: Option<AuthorityIndex>,
    /// When this node last heard from `leader`.
    pub(crate) heard_ms: NowMs,
    /// When this node stops waiting for a leader, or for votes.
    pub(crate) deadline_ms: NowMs,

    pub(crate) log: Log,
    /// Last index that is known to be committed, by the word of a leader or by counting.
    pub(crate) commit: CommitIndex,
    /// What the host last called final, in this life.
    pub(crate) told_final: CommitIndex,
    /// The same, or the base of the log if that is higher.
    pub(crate) last_final: CommitIndex,
    /// Last commit handed to the host, or final.
    pub(crate) emitted: CommitIndex,

    pub(crate) verified: CommitIndex,
    pub(crate) stage: VecDeque<Entry>,
    /// Batches of entries staged in this step.
    pub(crate) staged_batches: Vec<Digest>,
    pub(crate) leader_commit: CommitIndex,
    /// The leader gets an answer at the end of this step.
    pub(crate) reply_is_due: bool,

    pub(crate) pool: Pool,
    /// Batches below this number have waited since the retry timer was set.
    pub(crate) retry_mark: u64,
    pub(crate) shunned: BTreeSet<AuthorityIndex>,
    pub(crate) is_draining: bool,
    /// Smoothed round trips to the peers that are up, in microseconds.
    round_trips_us: Vec<u32>,

    pub(crate) timers: Timers,
    pub(crate) record_id: u64,
    /// Records since those before were last dropped.
    pub(crate) records: usize,
    gauges: [Option<u64>; GAUGES.len()],
    pub(crate) out: Outcome,
}

/// What a node is in its term.
pub(crate) enum Role {
    /// Follows whoever leads.
    Follower,
    /// Asks who would vote for it in the next term.
    Polling(Ballots),
    /// Stands in this term.
    Candidate {
        /// The answers.
        ballots: Ballots,
        /// The former leader asked for it.
        transfer: bool,
    },
    /// Leads this term.
    Leader(Leadership),
}

/// The answers to a candidate, by voter.
pub(crate) type Ballots = Vec<Option<bool>>;

impl Engine for Raft {
    fn describe() -> Info {
        Info {
            name: "raft".to_owned(),
            version: "0.1.0".to_owned(),
            fault_models: vec![FaultModel::Crash],
            min_authorities: 1,
            gauges: GAUGES.iter().map(|g| (*g).to_owned()).collect(),
        }
    }

    fn init(settings: Settings, recovered: Option<Recovered>) -> Result<(Self, Outcome), InitError> {
        let mut raft = Self::new(settings)?;
        raft.recover(&recovered.unwrap_or_default())?;
        raft.start();
        let outcome = raft.finish();
        Ok((raft, outcome))
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Outcome {
        self.now = self.now.max(now);
        for event in events {
            self.handle(event);
        }
        self.finish()
    }

    /// Under the crash model nobody breaks the protocol.
    fn judge(_committee: &Committee, _proof: &[u8]) -> Option<AuthorityIndex> {
        None
    }
}

impl Raft {
    fn new(settings: Settings) -> Result<Self, InitError> {
        let config = Config::parse(&settings.config).map_err(InitError::BadConfig)?;
        let committee = settings.committee;
        check_suitable(&committee, &settings.schedule).map_err(InitError::Unsuitable)?;
        let batches_max = batches_max(settings.max_message_bytes, settings.max_batches_in_commit)?;
        Ok(Self {
            me: committee.me,
            schedule: settings.schedule,
            config,
            settings_seed: settings.seed,
            message_bytes_max: settings.max_message_bytes as usize,
            batches_max,
            faults_tolerated: faults_tolerated(&committee),
            now: 0,
            term: Term(0),
            vote: None,
            vote_is_new: false,
            role: Role::Follower,
            leader: None,
            heard_ms: 0,
            deadline_ms: 0,
            log: Log::default(),
            commit: CommitIndex(0),
            told_final: CommitIndex(0),
            last_final: CommitIndex(0),
            emitted: CommitIndex(0),
            verified: CommitIndex(0),
            stage: VecDeque::new(),
            staged_batches: Vec::new(),
            leader_commit: CommitIndex(0),
            reply_is_due: false,
            pool: Pool::default(),
            retry_mark: 0,
            shunned: BTreeSet::new(),
            is_draining: false,
            round_trips_us: vec![0; committee.stakes.len()],
            timers: Timers::default(),
            record_id: 0,
            records: 0,
            gauges: [None; GAUGES.len()],
            out: Outcome::default(),
            committee,
        })
    }

    /// The first leader of an epoch stands at once; who is a quorum alone always does.
    fn start(&mut self) {
        self.reset_deadline();
        let is_first = self.me.is_some() && self.schedule.first().copied() == self.me;
        let is_fresh = self.term == Term(0) && self.last_final == CommitIndex(0);
        if self.is_quorum_alone() || (is_first && is_fresh) {
            self.poll();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Message(message) => self.on_message(&message),
            Event::Timer(id) => self.on_timer(id),
            Event::Batches(batches) => batches.iter().for_each(|b| self.pool.hold(b.digest)),
            Event::Final { index, batches } => self.on_final(index, &batches),
            Event::Shun(authority) => {
                if self.committee.stake(authority) > 0 {
                    self.shunned.insert(authority);
                }
            }
            Event::Peer { peer, up, rtt_us } => self.on_peer(peer, up, rtt_us),
            Event::Draining => self.is_draining = true,
            // This engine signs nothing.
            Event::Vote(_) | Event::Refused(_) => {}
        }
    }

    fn on_message(&mut self, message: &Message) {
        let (sender, epoch) = (message.sender, self.committee.epoch);
        let is_peer = self.committee.stake(sender) > 0 && Some(sender) != self.me;
        if !is_peer || !is_of_epoch(&message.payload, epoch) {
            return;
        }
        let Some(payload) = decode(epoch, &message.payload) else { return };
        match payload {
            Payload::Append(append) => self.on_append(sender, append),
            Payload::Accept { term, index } => self.on_accept(sender, term, index),
            Payload::Reject { term, prev, hint } => self.on_reject(sender, term, prev, hint),
            Payload::Poll(ballot) => self.on_poll(sender, ballot),
            Payload::PollReply(reply) => self.on_poll_reply(sender, reply),
            Payload::Vote { ballot, transfer } => self.on_vote(sender, ballot, transfer),
            Payload::VoteReply(reply) => self.on_vote_reply(sender, reply),
            Payload::TimeoutNow(term) => self.on_timeout_now(sender, term),
            Payload::Wanted(batches) => self.on_wanted(sender, &batches),
        }
    }

    /// Upon the host's word that everything up to `index` is final. The log, the term and
    /// the vote stay as they are: see the crate's root.
    fn on_final(&mut self, index: CommitIndex, batches: &[Digest]) {
        self.pool.finish(batches);
        self.told_final = self.told_final.max(index);
        self.last_final = self.last_final.max(index);
        if !self.config.has(Planted::CommitFinalAgain) {
            self.emitted = self.emitted.max(self.last_final);
        }
        if matches!(self.role, Role::Leader(_)) && self.last_final > self.log.last().index {
            self.outrun();
        }
        let keep = self.last_final.min(self.commit).0.saturating_sub(self.config.retained);
        if keep > self.log.base().index.0 {
            let first = self.log.base().index.0 + 1;
            for (index, entry) in (first..).zip(self.log.drop_to(CommitIndex(keep))) {
                self.pool.forget(&entry.batches, CommitIndex(index));
            }
        }
    }

    fn on_peer(&mut self, peer: AuthorityIndex, up: bool, rtt_us: u32) {
        if let Some(round_trip_us) = self.round_trips_us.get_mut(peer.as_usize()) {
            *round_trip_us = if up { rtt_us } else { 0 };
        }
        if self.committee.stake(peer) == 0 || Some(peer) == self.me {
            return;
        }
        match &mut self.role {
            Role::Leader(leadership) => leadership.on_peer(peer, up),
            Role::Polling(ballots) | Role::Candidate { ballots, .. } => {
                let is_open = ballots.get(peer.as_usize()).is_some_and(Option::is_none);
                if up && is_open {
                    self.ask(Recipients::One(peer));
                }
            }
            Role::Follower => {}
        }
    }

    /// What every step ends with, once for all its events.
    pub(crate) fn finish(&mut self) -> Outcome {
        self.drain();
        self.fetch_staged();
        self.lead_on();
        self.emit();
        self.send_appends();
        self.answer_leader();
        self.compact();
        self.save_vote();
        self.arm();
        self.measure();
        std::mem::take(&mut self.out)
    }

    /// Hands to the host what is committed and not final there.
    fn emit(&mut self) {
        while self.emitted < self.commit {
            let index = self.emitted.next();
            let Some(entry) = self.log.get(index) else { break };
            let leader = self.leader.filter(|_| entry.term == self.term);
            let commit = Commit { index, batches: entry.batches.to_vec(), round: entry.term.0, leader };
            self.emitted = index;
            self.out.release.push(Action::Commit(commit));
        }
    }

    fn measure(&mut self) {
        let (role, serves) = match &self.role {
            Role::Follower => (0, false),
            Role::Polling(_) | Role::Candidate { .. } => (1, false),
            Role::Leader(leadership) => (2, leadership.serves(self.emitted)),
        };
        let replicas = self.committee.stakes.len() as u64;
        let round_trip_us = self.round_trips_us.iter().copied().max().unwrap_or(0);
        let values = [
            self.term.0,
            role,
            u64::from(serves),
            self.emitted.0,
            self.log.last().index.0,
            self.pool.waiting() as u64,
            replicas,
            u64::from(replicas.is_multiple_of(2)),
            u64::from(self.config.is_too_tight(u64::from(round_trip_us))),
            self.faults_tolerated,
        ];
        for (gauge, (value, former)) in (0..).zip(values.into_iter().zip(&mut self.gauges)) {
            if *former != Some(value) {
                *former = Some(value);
                self.out.release.push(Action::Measure { gauge, value });
            }
        }
    }

    /// Sends a message without statements: this engine signs nothing.
    pub(crate) fn send(&mut self, to: Recipients, payload: &Payload) {
        let payload = encode(self.committee.epoch, payload);
        self.out.release.push(Action::Send(Envelope { to, payload, sign: Vec::new(), attach: Vec::new() }));
    }

    /// Makes a change durable, after the vote that it may rest on.
    pub(crate) fn save(&mut self, body: Vec<u8>) {
        self.save_vote();
        self.push_record(body);
    }

    pub(crate) fn push_record(&mut self, body: Vec<u8>) {
        self.record_id += 1;
        self.records += 1;
        self.out.durable.push(DurableRecord { id: self.record_id, body, statements: Vec::new() });
    }

    pub(crate) fn own_stake(&self) -> Stake {
        self.me.map_or(0, |me| self.committee.stake(me))
    }

    /// Whether this node needs nobody else.
    pub(crate) fn is_quorum_alone(&self) -> bool {
        self.me.is_some() && self.own_stake() >= self.committee.quorum
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = AuthorityIndex> + use<> {
        let me = self.me;
        self.committee.authorities().filter(move |a| Some(*a) != me)
    }
}

fn check_suitable(committee: &Committee, schedule: &[AuthorityIndex]) -> Result<(), String> {
    let authorities = committee.stakes.len();
    if committee.fault_model != FaultModel::Crash {
        return Err("Raft survives crashes only, the committee's fault model is byzantine".to_owned());
    }
    if authorities == 0 {
        return Err("the committee is empty".to_owned());
    }
    if committee.stakes.contains(&0) {
        return Err("an authority of the committee has no stake".to_owned());
    }
    let (total, quorum) =
        (committee.stakes.iter().map(|s| u128::from(*s)).sum::<u128>(), u128::from(committee.quorum));
    if quorum * 2 <= total || quorum > total {
        return Err(format!("a quorum of {quorum} out of a stake of {total}: two quorums must meet"));
    }
    if schedule.is_empty() || schedule.iter().any(|a| a.as_usize() >= authorities) {
        return Err("the schedule is empty or names somebody outside the committee".to_owned());
    }
    if committee.me.is_some_and(|me| me.as_usize() >= authorities) {
        return Err("this node's place is outside the committee".to_owned());
    }
    Ok(())
}

/// Most batches in an entry, so that an entry fits into a message and into a record.
fn batches_max(message_bytes_max: u32, commit_max: u32) -> Result<usize, InitError> {
    if commit_max == 0 {
        return Err(InitError::Unsuitable("a commit may hold no batch at all".to_owned()));
    }
    let room = (message_bytes_max as usize).min(ENTRIES_BYTES_MAX);
    match room.saturating_sub(APPEND_BYTES + ENTRY_BYTES) / BATCH_BYTES {
        0 => Err(InitError::Unsuitable(format!(
            "messages of {message_bytes_max} bytes are too short for an entry with one batch, which takes {}",
            APPEND_BYTES + ENTRY_BYTES + BATCH_BYTES
        ))),
        most => Ok(most.min(commit_max as usize)),
    }
}

/// How many authorities may stop, whichever they are.
fn faults_tolerated(committee: &Committee) -> u64 {
    let mut stakes = committee.stakes.clone();
    stakes.sort_unstable();
    let mut left = stakes.iter().fold(0, |sum: Stake, stake| sum.saturating_add(*stake));
    let mut faults = 0;
    for stake in stakes.into_iter().rev() {
        left = left.saturating_sub(stake);
        if left < committee.quorum {
            break;
        }
        faults += 1;
    }
    faults
}

/// Names of the gauges, by position.
const GAUGES: [&str; 10] = [
    "term",
    "role",
    "is_leader",
    "commit",
    "last_log",
    "pending",
    "replicas",
    "even_committee",
    "timeouts_too_tight",
    "faults_tolerated",
];

#[cfg(test)]
mod tests {
    use super::faults_tolerated;
    use moult_sdk::{Committee, FaultModel};

    #[test]
    fn tolerated_faults_are_those_of_the_heaviest() {
        let of = |stakes: &[u64], quorum| {
            faults_tolerated(&Committee {
                epoch: 0,
                fault_model: FaultModel::Crash,
                stakes: stakes.to_vec(),
                quorum,
                validity: 1,
                me: None,
            })
        };
        assert_eq!([of(&[1], 1), of(&[1; 3], 2), of(&[1; 4], 3), of(&[1; 5], 3)], [0, 1, 1, 2]);
        assert_eq!(of(&[3, 1, 1], 3), 0);
        assert_eq!(of(&[2, 2, 1, 1, 1], 4), 1);
    }
}
