//! An engine beside another one: fed the same, with nothing of what it asks for carried out.
//!
//! What it shows: whether the engine traps, hangs or refuses on real traffic, what it costs, and
//! whether it orders what the other one orders. What it cannot show: its own messages reach
//! nobody, so nobody answers them. Where the engine does as the other one would (a new build
//! of one protocol), the answers that the other one gets fit and both go the same way; where it
//! leads otherwise or speaks another protocol, it waits in vain. That it commits less is then
//! no fault of it; a commit of other content always deserves a look.
//!
//! Timers are its own. They fire at their time, or in the step in which the other engine's
//! timer of that number fires, so that an engine beside itself is fed exactly the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;
use moult_core::ports::{EngineInstance, Fault};
use moult_module::WorldStats;
use moult_sdk::engine::{Action, Commit, Event, InitError, Outcome, Recovered, Settings};
use moult_sdk::{CommitIndex, Digest, NowMs, Slot};
use serde::Serialize;

use crate::recorder::timed;
use crate::usage::{Usage, UsageReport};

/// As in a node.
const TIMERS_MAX: usize = 1_024;
/// Timers that fire before one step; an engine that sets more is behind.
const FIRED_MAX: usize = 1_024;
/// Slots it asked to sign that are remembered.
const SLOTS_MAX: usize = 65_536;
/// Commits of one side that wait for the other.
const WAITING_MAX: usize = 65_536;

/// What the other engine was fed in one call, and did.
#[derive(Clone, Debug)]
pub struct LiveStep {
    /// Its time.
    pub now: NowMs,
    /// What it was given.
    pub events: Vec<Event>,
    /// What it committed.
    pub commits: Vec<Commit>,
    /// What it asked for.
    pub sent: Sent,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// Its fuel; 0 where that is not known.
    pub fuel: u64,
}

impl LiveStep {
    /// A call with its answer.
    pub fn new(now: NowMs, events: Vec<Event>, outcome: Option<&Outcome>, took_us: u64, fuel: u64) -> Self {
        let mut sent = Sent::default();
        outcome.into_iter().for_each(|outcome| sent.count(outcome));
        let commits = outcome.into_iter().flat_map(commits_of).cloned().collect();
        Self { now, events, commits, sent, took_us, fuel }
    }
}

pub(crate) fn commits_of(outcome: &Outcome) -> impl Iterator<Item = &Commit> {
    outcome.release.iter().filter_map(|action| match action {
        Action::Commit(commit) => Some(commit),
        _ => None,
    })
}

/// What an engine asked its host for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Sent {
    /// Messages.
    pub messages: u64,
    /// Bytes of their payloads.
    pub message_bytes: u64,
    /// Statements to sign, in messages or alone.
    pub signatures: u64,
    /// Durable records.
    pub records: u64,
    /// Bytes of them.
    pub record_bytes: u64,
    /// Batches to fetch.
    pub fetches: u64,
    /// Accusations of peers.
    pub accusations: u64,
}

impl Sent {
    fn count(&mut self, outcome: &Outcome) {
        self.records += outcome.durable.len() as u64;
        self.record_bytes += outcome.durable.iter().map(|record| record.body.len() as u64).sum::<u64>();
        for action in &outcome.release {
            match action {
                Action::Vote { .. } => self.signatures += 1,
                Action::Send(envelope) => {
                    self.messages += 1;
                    self.message_bytes += envelope.payload.len() as u64;
                    self.signatures += envelope.sign.len() as u64;
                }
                Action::Fetch { batches, .. } => self.fetches += batches.len() as u64,
                Action::Accuse(_) => self.accusations += 1,
                Action::SetTimer { .. }
                | Action::CancelTimer(_)
                | Action::Commit(_)
                | Action::Truncate(_)
                | Action::ReleaseSlots(_)
                | Action::Measure { .. } => {}
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.message_bytes += other.message_bytes;
        self.signatures += other.signatures;
        self.records += other.records;
        self.record_bytes += other.record_bytes;
        self.fetches += other.fetches;
        self.accusations += other.accusations;
    }
}

/// Why an engine in the shadow is fed no more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", content = "reason", rename_all = "kebab-case")]
pub enum ShadowEnd {
    /// It refused to start with this committee or configuration.
    Refused(String),
    /// It trapped, used up its fuel, or broke its contract.
    Failed(String),
}

/// Makes instances of a candidate, each with the counters of its calls if there are any.
pub type MakeEngine<'a> =
    dyn FnMut() -> Result<(Box<dyn EngineInstance>, Option<Arc<WorldStats>>), String> + 'a;

/// An engine that is fed what another one was fed.
pub struct Shadow {
    engine: Box<dyn EngineInstance>,
    meter: Option<Arc<WorldStats>>,
    /// Its time when the other engine's began; that one may begin anew.
    base_ms: NowMs,
    now_ms: NowMs,
    timers: BTreeMap<u64, NowMs>,
    asked: BTreeSet<Slot>,
    committed: CommitIndex,
    without_records: bool,
    usage: Usage,
    live_usage: Usage,
    sent: Sent,
    live_sent: Sent,
    fed: (u64, u64),
    fired: u64,
    matching: Matching,
    end: Option<ShadowEnd>,
}

impl Shadow {
    /// Starts a fresh instance. If it cannot make use of the other engine's records, another one
    /// starts as if there were none.
    ///
    /// # Errors
    /// No instance can be made here: what `make` says.
    pub fn start(
        make: &mut MakeEngine<'_>,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Self, String> {
        let (engine, meter) = make()?;
        let mut shadow = Self {
            engine,
            meter,
            base_ms: 0,
            now_ms: 0,
            timers: BTreeMap::new(),
            asked: BTreeSet::new(),
            committed: recovered.map_or(CommitIndex(0), |recovered| recovered.committed),
            without_records: false,
            usage: Usage::default(),
            live_usage: Usage::default(),
            sent: Sent::default(),
            live_sent: Sent::default(),
            fed: (0, 0),
            fired: 0,
            matching: Matching::default(),
            end: None,
        };
        shadow.init(settings, recovered);
        if shadow.end.is_some()
            && let Some(recovered) = recovered.filter(|recovered| !recovered.records.is_empty())
        {
            (shadow.engine, shadow.meter) = make()?;
            (shadow.end, shadow.without_records) = (None, true);
            shadow.init(settings, Some(&Recovered { records: Vec::new(), ..recovered.clone() }));
        }
        Ok(shadow)
    }

    fn init(&mut self, settings: &Settings, recovered: Option<&Recovered>) {
        let fuel = self.fuel();
        let (result, took_us) = timed(|| self.engine.init(settings, recovered));
        self.count(took_us, fuel);
        match result {
            Ok(Ok(outcome)) => self.take(0, CommitIndex(0), &outcome),
            Ok(Err(
                InitError::BadConfig(text) | InitError::Unsuitable(text) | InitError::CorruptRecords(text),
            )) => {
                self.end = Some(ShadowEnd::Refused(text));
            }
            Err(fault) => self.fail(&fault),
        }
    }

    /// The other engine was rebuilt: its time begins anew.
    pub fn on_restart(&mut self) {
        self.base_ms = self.now_ms;
    }

    /// Feeds it one call of the other engine; nothing once it has ended.
    pub fn feed(&mut self, step: &LiveStep) {
        if self.end.is_some() {
            return;
        }
        self.live_usage.count(step.took_us, step.fuel);
        self.live_sent.add(&step.sent);
        let now_ms = self.base_ms.saturating_add(step.now).max(self.now_ms);
        for commit in &step.commits {
            self.matching.on_live(commit.index, &commit.batches, now_ms);
        }
        self.fed.0 += 1;
        self.fed.1 += step.events.len() as u64;
        let theirs: BTreeSet<u64> = step.events.iter().filter_map(timer).collect();
        self.fire(now_ms, &theirs);
        let events: Vec<_> =
            step.events.iter().filter(|event| self.concerns(event, now_ms)).cloned().collect();
        if !events.is_empty() {
            self.step(now_ms, events);
        }
        for event in &step.events {
            if let Some(index) = final_index(event) {
                self.committed = self.committed.max(index);
                self.matching.on_final(index);
            }
        }
    }

    /// Whether it goes on.
    pub fn is_running(&self) -> bool {
        self.end.is_none()
    }

    /// Time of its calls, in microseconds.
    pub fn busy_us(&self) -> u64 {
        self.usage.busy_us()
    }

    /// What was seen so far.
    pub fn report(&self) -> ShadowReport {
        ShadowReport {
            steps: self.fed.0,
            events: self.fed.1,
            timers: self.fired,
            without_records: self.without_records,
            live: self.live_usage.report(),
            candidate: self.usage.report(),
            live_asked: self.live_sent,
            candidate_asked: self.sent,
            commits: self.matching.report(),
            end: self.end.clone(),
        }
    }

    /// Timers of its own whose time came before this step.
    fn fire(&mut self, now_ms: NowMs, theirs: &BTreeSet<u64>) {
        for _ in 0..FIRED_MAX {
            let own = self.timers.iter().filter(|(id, at)| **at <= now_ms && !theirs.contains(*id));
            let Some((id, at_ms)) = own.map(|(id, at)| (*id, *at)).min_by_key(|(id, at)| (*at, *id)) else {
                return;
            };
            self.timers.remove(&id);
            self.fired += 1;
            self.step(at_ms.max(self.now_ms), vec![Event::Timer(id)]);
            if self.end.is_some() {
                return;
            }
        }
    }

    /// Timers and refusals of the other engine mean nothing to this one, unless they are its own.
    fn concerns(&mut self, event: &Event, now_ms: NowMs) -> bool {
        match event {
            Event::Timer(id) => {
                let is_due = self.timers.get(id).is_some_and(|at| *at <= now_ms);
                if is_due {
                    self.timers.remove(id);
                    self.fired += 1;
                }
                is_due
            }
            Event::Refused(slot) => self.asked.contains(slot),
            _ => true,
        }
    }

    fn step(&mut self, now_ms: NowMs, events: Vec<Event>) {
        if self.end.is_some() {
            return;
        }
        self.now_ms = now_ms;
        let told = events.iter().filter_map(final_index).max().unwrap_or(CommitIndex(0));
        let fuel = self.fuel();
        let (result, took_us) = timed(|| self.engine.step(now_ms, events));
        self.count(took_us, fuel);
        match result {
            Ok(outcome) => self.take(now_ms, told, &outcome),
            Err(fault) => self.fail(&fault),
        }
    }

    /// What it asked for in a step in which it was told that blocks up to `told` are final: those
    /// that it did not order itself are no gap in its commits.
    fn take(&mut self, now_ms: NowMs, told: CommitIndex, outcome: &Outcome) {
        self.sent.count(outcome);
        for action in &outcome.release {
            match action {
                Action::SetTimer { id, after_ms } => {
                    self.timers.insert(*id, now_ms.saturating_add(*after_ms));
                }
                Action::CancelTimer(id) => {
                    self.timers.remove(id);
                }
                Action::Vote { choice, .. } => self.ask(choice.slot),
                Action::Send(envelope) => envelope.sign.iter().for_each(|choice| self.ask(choice.slot)),
                Action::ReleaseSlots(mark) => {
                    self.asked.retain(|slot| slot.kind != mark.kind || (slot.a, slot.b) > (mark.a, mark.b))
                }
                Action::Commit(commit) if commit.index <= self.committed => {}
                Action::Commit(commit) if [self.committed.next(), told.next()].contains(&commit.index) => {
                    self.committed = commit.index;
                    self.matching.on_own(commit.index, &commit.batches, now_ms);
                }
                Action::Commit(commit) => {
                    let problem = format!("commit {} after commit {}", commit.index.0, self.committed.0);
                    return self.fail(&Fault::Output(problem));
                }
                Action::Fetch { .. } | Action::Truncate(_) | Action::Accuse(_) | Action::Measure { .. } => {}
            }
        }
        if self.timers.len() > TIMERS_MAX {
            self.fail(&Fault::Output(format!("more than {TIMERS_MAX} timers are set")));
        }
    }

    fn ask(&mut self, slot: Slot) {
        self.asked.insert(slot);
        if self.asked.len() > SLOTS_MAX {
            self.asked.pop_first();
        }
    }

    fn fail(&mut self, fault: &Fault) {
        self.end = Some(ShadowEnd::Failed(fault.to_string()));
    }

    fn fuel(&self) -> u64 {
        self.meter.as_ref().map_or(0, |meter| meter.fuel.load(Ordering::Relaxed))
    }

    fn count(&mut self, took_us: u64, fuel_before: u64) {
        self.usage.count(took_us, self.fuel() - fuel_before);
        if let Some(meter) = &self.meter {
            self.usage.memory_bytes = meter.memory_bytes.load(Ordering::Relaxed);
        }
    }
}

fn timer(event: &Event) -> Option<u64> {
    match event {
        Event::Timer(id) => Some(*id),
        _ => None,
    }
}

fn final_index(event: &Event) -> Option<CommitIndex> {
    match event {
        Event::Final { index, .. } => Some(*index),
        _ => None,
    }
}

/// What a shadow run has shown so far.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ShadowReport {
    /// Calls of the live engine that it was fed.
    pub steps: u64,
    /// Events in them.
    pub events: u64,
    /// Timers of its own that fired.
    pub timers: u64,
    /// It could not start with the live engine's records and was started without any.
    pub without_records: bool,
    /// Cost of the live engine's calls.
    pub live: UsageReport,
    /// Cost of its own.
    pub candidate: UsageReport,
    /// What the live engine asked its host for.
    pub live_asked: Sent,
    /// What this one asked for; nothing of it was done.
    pub candidate_asked: Sent,
    /// What both ordered.
    pub commits: Commits,
    /// Why it is fed no more, if so.
    pub end: Option<ShadowEnd>,
}

/// What two engines ordered from the same events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Commits {
    /// Of the live engine.
    pub live: u64,
    /// Of the candidate.
    pub candidate: u64,
    /// Both, with the same batches.
    pub equal: u64,
    /// Both, with other batches.
    pub other: u64,
    /// Of the live engine, and final before the candidate had committed them.
    pub missed: u64,
    /// How much later than the live engine the candidate committed the same, in milliseconds of
    /// their time: half of them no later.
    pub behind_p50_ms: u64,
    /// 99 of 100 no later.
    pub behind_p99_ms: u64,
    /// The latest.
    pub behind_max_ms: u64,
    /// The first with other batches.
    pub first_other: Option<CommitDifference>,
}

/// One commit index with two contents.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CommitDifference {
    /// The index.
    pub index: u64,
    /// Batches of the live engine, in hex.
    pub live: Vec<String>,
    /// Batches of the candidate, in hex.
    pub candidate: Vec<String>,
}

/// Commits of both sides until the other side has them.
struct Matching {
    live: BTreeMap<CommitIndex, (Vec<Digest>, NowMs)>,
    own: BTreeMap<CommitIndex, (Vec<Digest>, NowMs)>,
    behind_ms: Histogram<u64>,
    counts: Commits,
}

impl Default for Matching {
    fn default() -> Self {
        let behind_ms =
            Histogram::new_with_bounds(1, 86_400_000, 2).unwrap_or_else(|_| unreachable!("good bounds"));
        Self { live: BTreeMap::new(), own: BTreeMap::new(), behind_ms, counts: Commits::default() }
    }
}

impl Matching {
    fn on_live(&mut self, index: CommitIndex, batches: &[Digest], now_ms: NowMs) {
        self.counts.live += 1;
        match self.own.remove(&index) {
            Some((own, own_ms)) => self.compare(index, (batches, now_ms), (&own, own_ms)),
            None => {
                self.live.insert(index, (batches.to_vec(), now_ms));
                if self.live.len() > WAITING_MAX {
                    self.live.pop_first();
                    self.counts.missed += 1;
                }
            }
        }
    }

    fn on_own(&mut self, index: CommitIndex, batches: &[Digest], now_ms: NowMs) {
        self.counts.candidate += 1;
        match self.live.remove(&index) {
            Some((live, live_ms)) => self.compare(index, (&live, live_ms), (batches, now_ms)),
            None => {
                self.own.insert(index, (batches.to_vec(), now_ms));
                if self.own.len() > WAITING_MAX {
                    self.own.pop_first();
                }
            }
        }
    }

    fn compare(&mut self, index: CommitIndex, live: (&[Digest], NowMs), own: (&[Digest], NowMs)) {
        if live.0 == own.0 {
            self.counts.equal += 1;
            self.behind_ms.saturating_record(own.1.saturating_sub(live.1));
            return;
        }
        self.counts.other += 1;
        let text = |batches: &[Digest]| batches.iter().map(ToString::to_string).collect();
        self.counts.first_other.get_or_insert_with(|| CommitDifference {
            index: index.0,
            live: text(live.0),
            candidate: text(own.0),
        });
    }

    /// The candidate will not commit these any more: it was told that they are final.
    fn on_final(&mut self, index: CommitIndex) {
        let above = self.live.split_off(&index.next());
        self.counts.missed += std::mem::replace(&mut self.live, above).len() as u64;
    }

    fn report(&self) -> Commits {
        let at =
            |quantile| if self.behind_ms.is_empty() { 0 } else { self.behind_ms.value_at_quantile(quantile) };
        Commits {
            behind_p50_ms: at(0.5),
            behind_p99_ms: at(0.99),
            behind_max_ms: self.behind_ms.max(),
            ..self.counts.clone()
        }
    }
}
