//! The replica: its state, and what each event leads to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::marker::PhantomData;

use moult_sdk::engine::{Action, Engine, Event, Info, InitError, Message, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, Digest, FaultModel, NowMs, Statement};

use crate::checkpoint::{Checkpoint, CheckpointVotes};
use crate::codec::{CHECKPOINT, COMMIT, PREPARE, Payload, decode, is_of_epoch, proposal_digest};
use crate::config::Config;
use crate::log::Entry;
use crate::pool::Pool;
use crate::records::Record;
use crate::rotation::{Forward, Rotation};
use crate::view_change::Change;

/// PBFT with leaders in the order of the schedule.
pub type Pbft = Replica<Forward>;

/// One replica of the protocol described at the crate's root; `R` says who leads when.
///
/// # Invariants
/// - `installed <= view`; they differ exactly while the view changes, and then nothing is
///   voted for;
/// - `stable.seq <= base`, and `entries` lies within `window` above `base` or was there
///   before `base` jumped;
/// - `next_seq` is above every sequence number with a proposal in this view.
pub struct Replica<R> {
    pub(crate) rotation: PhantomData<fn() -> R>,
    pub(crate) committee: Committee,
    pub(crate) me: Option<AuthorityIndex>,
    pub(crate) schedule: Vec<AuthorityIndex>,
    pub(crate) config: Config,
    /// Most batches in a proposal.
    pub(crate) proposal_max: usize,
    pub(crate) now: NowMs,

    /// The view that this node is in or goes to.
    pub(crate) view: u64,
    /// The view that this node last entered: votes count in it.
    pub(crate) installed: u64,
    /// The new-view by which it did; none in view 0.
    pub(crate) entered: Option<Signed>,
    pub(crate) entered_at: NowMs,
    /// This node's view-change to `view`.
    pub(crate) change: Option<Signed>,
    pub(crate) change_sent_at: NowMs,
    /// The view-change to the highest view, by author.
    pub(crate) changes: BTreeMap<AuthorityIndex, Change>,
    /// View changes since the last progress.
    pub(crate) attempts: u32,
    pub(crate) shunned: BTreeSet<AuthorityIndex>,

    pub(crate) entries: BTreeMap<u64, Entry>,
    /// Last commit, this node's or one it was carried to.
    pub(crate) executed: u64,
    /// What the host last called final.
    pub(crate) last_final: u64,
    pub(crate) stable: Checkpoint,
    /// Where the window starts: the stable checkpoint, or higher if the host carried this
    /// node past the window.
    pub(crate) base: u64,
    /// Up to here the host carried this node so far that the log was dropped, with what this
    /// node signed: it takes no part there any more.
    pub(crate) forgotten: u64,
    /// What was executed above the stable checkpoint.
    pub(crate) proposals: BTreeMap<u64, Digest>,
    /// Those of them that no record names yet.
    pub(crate) unsaved: Vec<(u64, Digest)>,
    /// Where this node proposes next when it leads.
    pub(crate) next_seq: u64,
    /// Sequence numbers whose proposal lists batches that are not held.
    pub(crate) lacking: BTreeSet<u64>,
    pub(crate) checkpoints: CheckpointVotes,
    pub(crate) pool: Pool,

    /// What came for later views, by author and by sender.
    pub(crate) postponed_votes: Vec<VecDeque<Statement>>,
    pub(crate) postponed_proposals: Vec<VecDeque<crate::codec::Proposal>>,
    /// When each peer was last sent what it lacked, and was last asked.
    pub(crate) replied_at: Vec<Option<NowMs>>,
    pub(crate) asked_at: Vec<Option<NowMs>>,

    /// When the view is given up.
    pub(crate) deadline: Option<NowMs>,
    /// When the running view timer fires.
    pub(crate) view_timer: Option<NowMs>,
    pub(crate) retransmit_timer: bool,
    /// When this node proposed last, and whether it waits to propose again.
    pub(crate) proposed_at: Option<NowMs>,
    pub(crate) pace_timer: bool,

    pub(crate) record_id: u64,
    /// What was released, by kind.
    pub(crate) released: [Option<(u64, u64)>; 7],
    gauges: [Option<u64>; GAUGES.len()],
    pub(crate) out: Outcome,
}

/// A message as signed, kept to be sent again.
pub(crate) struct Signed {
    pub(crate) payload: Vec<u8>,
    pub(crate) statements: Vec<Statement>,
}

impl<R: Rotation> Engine for Replica<R> {
    fn describe() -> Info {
        Info {
            name: R::NAME.to_owned(),
            version: R::VERSION.to_owned(),
            fault_models: vec![FaultModel::Byzantine, FaultModel::Crash],
            min_authorities: 1,
            gauges: GAUGES.iter().map(|g| (*g).to_owned()).collect(),
        }
    }

    fn init(settings: Settings, recovered: Option<Recovered>) -> Result<(Self, Outcome), InitError> {
        let mut replica = Self::new(settings)?;
        if let Some(recovered) = recovered {
            replica.recover(&recovered)?;
        }
        let outcome = replica.finish();
        Ok((replica, outcome))
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Outcome {
        self.now = self.now.max(now);
        for event in events {
            self.handle(event);
        }
        self.finish()
    }

    /// Two statements on one slot show every breach that this engine could prove, and
    /// those the host judges by itself.
    fn judge(_committee: &Committee, _proof: &[u8]) -> Option<AuthorityIndex> {
        None
    }
}

impl<R: Rotation> Replica<R> {
    fn new(settings: Settings) -> Result<Self, InitError> {
        let config = Config::parse(&settings.config).map_err(InitError::BadConfig)?;
        let committee = settings.committee;
        let authorities = committee.stakes.len();
        check_suitable(&committee, &settings.schedule)?;
        let proposal_max = proposal_max(&config, authorities, settings.max_message_bytes)
            .map_err(InitError::BadConfig)?
            .min(settings.max_batches_in_commit as usize);
        if proposal_max == 0 {
            return Err(InitError::Unsuitable("a commit may hold no batch at all".to_owned()));
        }
        Ok(Self {
            rotation: PhantomData,
            me: committee.me,
            committee,
            schedule: settings.schedule,
            config,
            proposal_max,
            now: 0,
            view: 0,
            installed: 0,
            entered: None,
            entered_at: 0,
            change: None,
            change_sent_at: 0,
            changes: BTreeMap::new(),
            attempts: 0,
            shunned: BTreeSet::new(),
            entries: BTreeMap::new(),
            executed: 0,
            last_final: 0,
            stable: Checkpoint::default(),
            base: 0,
            forgotten: 0,
            proposals: BTreeMap::new(),
            unsaved: Vec::new(),
            next_seq: 1,
            lacking: BTreeSet::new(),
            checkpoints: CheckpointVotes::new(authorities),
            pool: Pool::default(),
            postponed_votes: vec![VecDeque::new(); authorities],
            postponed_proposals: vec![VecDeque::new(); authorities],
            replied_at: vec![None; authorities],
            asked_at: vec![None; authorities],
            deadline: None,
            view_timer: None,
            retransmit_timer: false,
            proposed_at: None,
            pace_timer: false,
            record_id: 0,
            released: [None; 7],
            gauges: [None; GAUGES.len()],
            out: Outcome::default(),
        })
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Vote(statement) => self.on_statement(statement),
            Event::Message(message) => self.on_message(message),
            Event::Timer(id) => self.on_timer(id),
            Event::Batches(batches) => self.on_batches(&batches),
            Event::Final { index, batches } => self.on_final(index.0, &batches),
            Event::Shun(authority) => self.on_shun(authority),
            Event::Refused(slot) => self.on_refused(slot),
            Event::Peer { peer, up, .. } => self.on_peer(peer, up),
            Event::Draining => self.on_draining(),
        }
    }

    fn on_statement(&mut self, statement: Statement) {
        if Some(statement.author) == self.me || statement.author.as_usize() >= self.committee.stakes.len() {
            return;
        }
        if statement.slot.a.max(statement.slot.b) > NUMBER_MAX {
            return;
        }
        match statement.slot.kind {
            PREPARE | COMMIT => self.on_vote(statement),
            CHECKPOINT => self.on_checkpoint_vote(statement),
            _ => {}
        }
    }

    fn on_message(&mut self, message: Message) {
        let is_of_committee = self.committee.stake(message.sender) > 0;
        if !is_of_committee || !is_of_epoch(&message.payload, self.committee.epoch) {
            return;
        }
        let Some(payload) = decode(self.committee.epoch, &message.payload) else { return };
        if payload.highest_number() > NUMBER_MAX {
            return;
        }
        match payload {
            Payload::Proposal(proposal) => {
                self.on_proposal(proposal, &message);
                message.statements.into_iter().for_each(|s| self.on_statement(s));
            }
            Payload::ViewChange(change) => {
                self.on_checkpoint_statements(&message);
                self.on_view_change(change, message);
            }
            Payload::NewView(new_view) => {
                self.on_checkpoint_statements(&message);
                self.on_new_view(&new_view, message);
            }
            Payload::Status(status) => self.on_status(message.sender, status),
            Payload::Votes => message.statements.into_iter().for_each(|s| self.on_statement(s)),
            Payload::Wanted(batches) => self.on_wanted(message.sender, &batches),
            Payload::Decided(proposal) => self.on_decided(proposal, &message),
        }
    }

    fn on_checkpoint_statements(&mut self, message: &Message) {
        for statement in message.statements.iter().filter(|s| s.slot.kind == CHECKPOINT) {
            self.on_statement(*statement);
        }
    }

    /// A proposal whose pre-prepare was seen with it and which came before its view.
    pub(crate) fn on_known_proposal(&mut self, proposal: crate::codec::Proposal, sender: AuthorityIndex) {
        let leader = self.leader(proposal.view);
        let digest = proposal_digest(&proposal.batches);
        let statements = vec![crate::log::pre_prepare(proposal.view, proposal.seq, leader, digest)];
        self.on_proposal(proposal, &Message { sender, payload: Vec::new(), statements });
    }

    fn on_shun(&mut self, authority: AuthorityIndex) {
        if self.committee.stake(authority) > 0
            && self.shunned.insert(authority)
            && self.leader(self.view) == authority
        {
            self.start_view_change(self.next_view(self.view));
        }
    }

    /// A link that came up may have lost anything: say what is here, so that either side
    /// can send what the other lacks.
    fn on_peer(&mut self, peer: AuthorityIndex, up: bool) {
        let has_news = self.view > 0 || self.executed > 0 || self.has_work();
        if up && has_news && self.committee.stake(peer) > 0 {
            self.ask(peer);
        }
    }

    fn on_draining(&mut self) {
        if self.leads() && self.committee.stakes.len() > 1 {
            self.start_view_change(self.next_view(self.view));
        }
    }

    /// What every step ends with, once for all its events.
    pub(crate) fn finish(&mut self) -> Outcome {
        while self.execute() || self.propose() {}
        // They ride along: a record of their own would be a sync more for each proposal.
        if !self.out.durable.is_empty() && !self.unsaved.is_empty() {
            self.save_executed();
        }
        self.arm();
        self.measure();
        std::mem::take(&mut self.out)
    }

    fn measure(&mut self) {
        let values = [
            self.view,
            self.checkpoints_reached(),
            self.stable.seq,
            self.executed,
            self.pool.waiting() as u64,
            self.committee.validity.saturating_sub(1),
            self.committee.stakes.len() as u64,
            u64::from(self.leads()),
        ];
        for (gauge, (value, former)) in (0..).zip(values.into_iter().zip(&mut self.gauges)) {
            if *former != Some(value) {
                *former = Some(value);
                self.out.release.push(Action::Measure { gauge, value });
            }
        }
    }

    fn checkpoints_reached(&self) -> u64 {
        self.executed - self.executed % self.config.checkpoint_interval
    }

    /// Makes a record durable.
    pub(crate) fn save(&mut self, record: &Record, statements: &[Statement]) {
        self.record_id += 1;
        self.out.durable.push(record.seal(self.record_id, statements, self.me));
    }

    /// Who leads a view.
    pub(crate) fn leader(&self, view: u64) -> AuthorityIndex {
        R::leader(&self.schedule, view)
    }

    pub(crate) fn is_changing(&self) -> bool {
        self.view > self.installed
    }

    pub(crate) fn is_in_window(&self, seq: u64) -> bool {
        seq > self.executed.min(self.stable.seq).max(self.forgotten)
            && seq <= self.base.saturating_add(self.config.window)
    }
}

fn check_suitable(committee: &Committee, schedule: &[AuthorityIndex]) -> Result<(), InitError> {
    let authorities = committee.stakes.len();
    let unsuitable = |reason: &str| Err(InitError::Unsuitable(reason.to_owned()));
    match committee.fault_model {
        FaultModel::Byzantine if authorities != 1 && authorities < 4 => {
            return unsuitable("byzantine faults take at least 4 authorities (or 1, for development)");
        }
        _ if authorities == 0 => return unsuitable("the committee is empty"),
        _ => {}
    }
    if schedule.is_empty() || schedule.iter().any(|a| a.as_usize() >= authorities) {
        return unsuitable("the schedule is empty or names somebody outside the committee");
    }
    if committee.me.is_some_and(|me| me.as_usize() >= authorities) {
        return unsuitable("this node's place is outside the committee");
    }
    Ok(())
}

/// Most batches in a proposal, so that a new-view with a full window of proposals and a
/// whole committee of view-changes still fits into a message and into a record.
fn proposal_max(config: &Config, authorities: usize, message_bytes_max: u32) -> Result<usize, String> {
    let (window, budget) = (config.window as usize, (message_bytes_max as usize).min(RECORD_BYTES_MAX));
    let changes = authorities.saturating_mul(HEADER_BYTES + CLAIM_BYTES * window);
    let own_statements = OWN_STATEMENT_BYTES * (2 * window + 16);
    let fixed = changes.saturating_add(own_statements + FRAME_BYTES);
    let each = budget.saturating_sub(fixed) / window;
    match each.saturating_sub(4) / 32 {
        0 => Err(format!(
            "with {authorities} authorities and messages of {message_bytes_max} bytes, a `window` of {window} is too large"
        )),
        most => Ok(most),
    }
}

/// No chain gets to a higher view or sequence number; only liars name one. Half of what a record
/// may hold, so that what follows from a message can be written and read back.
const NUMBER_MAX: u64 = 1 << 61;
/// Longest body of a record that the host takes.
const RECORD_BYTES_MAX: usize = 1 << 20;
const HEADER_BYTES: usize = 64;
const CLAIM_BYTES: usize = 48;
const OWN_STATEMENT_BYTES: usize = 50;
const FRAME_BYTES: usize = 64;

/// Names of the gauges, by position.
const GAUGES: [&str; 8] = [
    "view",
    "checkpoint",
    "stable_checkpoint",
    "executed",
    "pending",
    "faults_tolerated",
    "replicas",
    "is_primary",
];
