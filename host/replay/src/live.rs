//! Shadow runs beside a live engine, each on a thread of its own.
//!
//! The engine's thread copies what it was fed into bounded queues and never waits: a candidate
//! that cannot keep up within its share of a core is dropped, and says so.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moult_core::ports::{EngineInstance, Fault};
use moult_module::WorldStats;
use moult_sdk::engine::{Event, Info, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, Digest, NowMs};

use crate::recorder::timed;
use crate::shadow::{LiveStep, Shadow, ShadowReport};

/// What a shadow run may use, beside the limits of every engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowLimits {
    /// Share of one core, in percent, over its whole run; its thread has the lowest priority.
    pub cpu_percent: u32,
    /// What waits for it, in bytes; beyond, it is dropped.
    pub queue_bytes_max: usize,
    /// Shadow runs at once; more are not begun.
    pub runs_max: usize,
}

/// Calls that may wait, whatever their size.
const QUEUE_CALLS: usize = 16_384;
/// What it may use of a core at once before the share counts.
const BURST_US: u64 = 1_000_000;
/// How often its report is published while it runs.
const PUBLISH: Duration = Duration::from_millis(250);
/// Longest pause at once, so that the end is not missed.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Where a shadow run stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShadowState {
    /// It is being started or fed.
    Running,
    /// It was fed to the end: the proposal was decided, or the epoch ended.
    Complete,
    /// The candidate refused to start or failed; see the report.
    Ended,
    /// It was given up for the live engine's sake; nothing is known against the candidate but
    /// what the report says.
    DroppedOut(String),
}

/// A shadow run as it is published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShadowView {
    /// Where it stands.
    pub state: ShadowState,
    /// What was seen.
    pub report: ShadowReport,
}

/// An instance of the candidate, with the counters of its calls.
pub type Made = (Box<dyn EngineInstance>, Option<Arc<WorldStats>>);

/// Takes a report, from the run's thread.
pub type Publish = Box<dyn FnMut(ShadowView) + Send>;

/// The shadow runs beside one node's engine, which may be rebuilt meanwhile.
#[derive(Default)]
pub struct Taps {
    /// Spares the lock where nothing is tapped.
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Of the live engine, once it was started.
    settings: Option<Settings>,
    taps: Vec<Tap>,
}

struct Tap {
    name: Digest,
    sender: SyncSender<Fed>,
    waiting: Arc<Waiting>,
    bytes_max: usize,
}

#[derive(Default)]
struct Waiting {
    bytes: AtomicUsize,
    overflowed: AtomicBool,
    /// Nothing is fed any more: what waits is run without pauses.
    closed: AtomicBool,
}

enum Fed {
    Step(Box<LiveStep>, usize),
    Restarted,
}

impl Taps {
    /// The live engine, which is watched from now on.
    pub fn wrap(self: &Arc<Self>, engine: Box<dyn EngineInstance>) -> Tapped {
        Tapped { engine, taps: self.clone() }
    }

    /// Begins a shadow run under a name, with the live engine's settings but for the
    /// configuration. Does nothing where there is one of this name, no engine runs, or there
    /// are too many; whether it was begun.
    pub fn begin(
        &self,
        name: Digest,
        config: Vec<u8>,
        recovered: Recovered,
        limits: ShadowLimits,
        make: Box<dyn FnMut() -> Result<Made, String> + Send>,
        publish: Publish,
    ) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(settings) = inner.settings.clone() else { return false };
        if inner.taps.len() >= limits.runs_max || inner.taps.iter().any(|tap| tap.name == name) {
            return false;
        }
        let (sender, queue) = sync_channel(QUEUE_CALLS);
        let waiting = Arc::new(Waiting::default());
        let run = Run {
            settings: Settings { config, ..settings },
            recovered,
            limits,
            waiting: waiting.clone(),
            queue,
        };
        let thread = std::thread::Builder::new().name("moult-shadow".into());
        if thread.spawn(move || run.run(make, publish)).is_err() {
            return false;
        }
        inner.taps.push(Tap { name, sender, waiting, bytes_max: limits.queue_bytes_max });
        self.count.store(inner.taps.len(), Ordering::Release);
        true
    }

    /// Whether an engine runs and another shadow run may begin.
    pub fn has_room(&self, runs_max: usize) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.settings.is_some() && inner.taps.len() < runs_max
    }

    /// Ends the shadow run of this name: it is complete.
    pub fn end(&self, name: Digest) {
        self.retain(|tap| tap.name != name);
    }

    /// Ends all of them, and forgets the live engine: its epoch is over.
    pub fn end_all(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).settings = None;
        self.retain(|_| false);
    }

    fn retain(&self, keep: impl FnMut(&Tap) -> bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.taps.retain(keep);
        self.count.store(inner.taps.len(), Ordering::Release);
    }

    fn is_tapped(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    fn on_start(&self, settings: &Settings) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.settings = Some(settings.clone());
        drop(inner);
        // A full queue is found at the next step.
        self.retain(|tap| tap.sender.try_send(Fed::Restarted).is_ok());
    }

    fn on_step(&self, step: &LiveStep) {
        let bytes = bytes_of(step);
        self.retain(|tap| tap.push(step, bytes));
    }
}

impl Tap {
    /// Whether the run goes on.
    fn push(&self, step: &LiveStep, bytes: usize) -> bool {
        let before = self.waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = before == 0 || before + bytes <= self.bytes_max;
        if fits {
            match self.sender.try_send(Fed::Step(Box::new(step.clone()), bytes)) {
                Ok(()) => return true,
                // The candidate has ended by itself.
                Err(std::sync::mpsc::TrySendError::Disconnected(_)) => return false,
                Err(std::sync::mpsc::TrySendError::Full(_)) => {}
            }
        }
        self.waiting.overflowed.store(true, Ordering::Release);
        false
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.waiting.closed.store(true, Ordering::Release);
    }
}

/// About what a step takes in memory.
fn bytes_of(step: &LiveStep) -> usize {
    let of = |event: &Event| {
        size_of::<Event>()
            + match event {
                Event::Message(message) => message.payload.len() + 64 * message.statements.len(),
                Event::Batches(batches) => 48 * batches.len(),
                Event::Final { batches, .. } => 32 * batches.len(),
                _ => 0,
            }
    };
    let commits: usize = step.commits.iter().map(|commit| 64 + 32 * commit.batches.len()).sum();
    size_of::<LiveStep>() + step.events.iter().map(of).sum::<usize>() + commits
}

/// The live engine. It answers what the engine inside answers.
pub struct Tapped {
    engine: Box<dyn EngineInstance>,
    taps: Arc<Taps>,
}

impl EngineInstance for Tapped {
    fn describe(&mut self) -> Result<Info, Fault> {
        self.engine.describe()
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        let result = self.engine.init(settings, recovered);
        if matches!(result, Ok(Ok(_))) {
            self.taps.on_start(settings);
        }
        result
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        if !self.taps.is_tapped() {
            return self.engine.step(now, events);
        }
        let copy = events.clone();
        let (result, took_us) = timed(|| self.engine.step(now, events));
        self.taps.on_step(&LiveStep::new(now, copy, result.as_ref().ok(), took_us, 0));
        result
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        self.engine.judge(committee, proof)
    }
}

/// A shadow run on its thread.
struct Run {
    settings: Settings,
    recovered: Recovered,
    limits: ShadowLimits,
    waiting: Arc<Waiting>,
    queue: Receiver<Fed>,
}

impl Run {
    fn run(self, mut make: Box<dyn FnMut() -> Result<Made, String> + Send>, mut publish: Publish) {
        // Of this thread alone; where it fails, the share still holds.
        let _ = rustix::process::nice(19);
        let begun = Instant::now();
        let mut shadow = match Shadow::start(&mut *make, &self.settings, Some(&self.recovered)) {
            Ok(shadow) => shadow,
            Err(problem) => {
                let view =
                    ShadowView { state: ShadowState::DroppedOut(problem), report: ShadowReport::default() };
                return publish(view);
            }
        };
        let mut published = begun;
        publish(ShadowView { state: ShadowState::Running, report: shadow.report() });
        while shadow.is_running() && !self.waiting.overflowed.load(Ordering::Acquire) {
            match self.queue.recv_timeout(PUBLISH) {
                Ok(Fed::Step(step, bytes)) => {
                    shadow.feed(&step);
                    self.waiting.bytes.fetch_sub(bytes, Ordering::AcqRel);
                    self.pause(shadow.busy_us(), begun);
                }
                Ok(Fed::Restarted) => shadow.on_restart(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if published.elapsed() >= PUBLISH {
                published = Instant::now();
                publish(ShadowView { state: ShadowState::Running, report: shadow.report() });
            }
        }
        let state = if !shadow.is_running() {
            ShadowState::Ended
        } else if self.waiting.overflowed.load(Ordering::Acquire) {
            ShadowState::DroppedOut(format!(
                "it cannot keep up with the live engine within {} % of a core",
                self.limits.cpu_percent
            ))
        } else {
            ShadowState::Complete
        };
        publish(ShadowView { state, report: shadow.report() });
    }

    /// Keeps to the share of a core.
    fn pause(&self, busy_us: u64, begun: Instant) {
        let due_us = busy_us.saturating_sub(BURST_US) * 100 / u64::from(self.limits.cpu_percent.max(1));
        let due = Duration::from_micros(due_us);
        while begun.elapsed() < due && !self.waiting.closed.load(Ordering::Acquire) {
            std::thread::sleep(due.saturating_sub(begun.elapsed()).min(PAUSE_MAX));
        }
    }
}
