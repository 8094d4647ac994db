//! Runs a record again with the engine that it is of, and compares every answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use moult_core::ports::{EngineInstance, Fault};
use moult_module::WorldStats;
use moult_sdk::NowMs;
use moult_sdk::engine::{Event, InitError, Outcome, Recovered, Settings};
use serde::Serialize;

use crate::entry::{Answer, Entry, FaultRecord, outcome_hash};
use crate::error::RecordError;
use crate::reader::{Ending, RecordReader};
use crate::recorder::timed;
use crate::shadow::{LiveStep, MakeEngine, Shadow};

/// Longest text of one side of a difference, in characters.
const TEXT_MAX: usize = 2_000;

/// Told how far a run is: calls, bytes read, bytes of all.
pub type Teller<'a> = dyn FnMut(u64, u64, u64) + 'a;

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Replayed {
    /// Calls that were run again, `init` among them.
    pub calls: u64,
    /// Events in them.
    pub events: u64,
    /// Blocks that the engine committed.
    pub commits: u64,
    /// The first answer that differs; the run ends there.
    pub difference: Option<Difference>,
    /// Calls that the watchdog stopped on the node: those are not compared, and end a run.
    pub not_comparable: u64,
    /// How the record ends, for a person.
    pub ending: String,
}

/// An answer that is not what was recorded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// Which call: 0 is `init`.
    pub call: u64,
    /// The engine's time, in milliseconds.
    pub now_ms: u64,
    /// Where in the answer they part, for a person.
    pub at: String,
    /// What was recorded.
    pub recorded: String,
    /// What came now.
    pub replayed: String,
}

type Given = Result<Result<Outcome, InitError>, Fault>;

/// Another engine that is fed the same as the pinned one while a record is run again.
pub struct Beside<'a> {
    /// Makes its instances.
    pub make: Box<MakeEngine<'a>>,
    /// Its configuration; `None`: the recorded one.
    pub config: Option<Vec<u8>>,
    /// Where the calls of the pinned engine are counted.
    pub pinned: Option<Arc<WorldStats>>,
    /// Once it was started.
    pub shadow: Option<Result<Shadow, String>>,
}

impl Beside<'_> {
    fn start(&mut self, settings: &Settings, recovered: Option<&Recovered>) {
        let config = self.config.clone().unwrap_or_else(|| settings.config.clone());
        let settings = Settings { config, ..settings.clone() };
        self.shadow = Some(Shadow::start(&mut *self.make, &settings, recovered));
    }

    fn step(
        &mut self,
        pinned: &mut dyn EngineInstance,
        now: NowMs,
        events: Vec<Event>,
    ) -> Result<Outcome, Fault> {
        let (copy, fuel) = (events.clone(), self.fuel());
        let (result, took_us) = timed(|| pinned.step(now, events));
        let step = LiveStep::new(now, copy, result.as_ref().ok(), took_us, self.fuel() - fuel);
        if let Some(Ok(shadow)) = &mut self.shadow {
            shadow.feed(&step);
        }
        result
    }

    fn fuel(&self) -> u64 {
        self.pinned.as_ref().map_or(0, |stats| stats.fuel.load(Ordering::Relaxed))
    }
}

/// Runs a record again on a fresh engine of the pinned module, under the same limits, with
/// another engine beside it if one is given.
///
/// # Errors
/// The record cannot be read, or its entries are in no order.
pub fn replay(
    reader: &mut RecordReader,
    engine: &mut dyn EngineInstance,
    mut beside: Option<&mut Beside<'_>>,
    tell: &mut Teller<'_>,
) -> Result<Replayed, RecordError> {
    let mut done = Replayed {
        calls: 0,
        events: 0,
        commits: 0,
        difference: None,
        not_comparable: 0,
        ending: String::new(),
    };
    let mut has_ended = false;
    while done.difference.is_none()
        && let Some(entry) = reader.next()?
    {
        if has_ended {
            return Err(reader.order("a call", "the end, since the engine had failed"));
        }
        let (now_ms, given, answer) = match entry {
            Entry::Init { settings, recovered, answer, .. } if done.calls == 0 => {
                if let Some(beside) = &mut beside {
                    beside.start(&settings, recovered.as_ref());
                }
                (0, engine.init(&settings, recovered.as_ref()), answer)
            }
            Entry::Step { now, events, answer, .. } if done.calls > 0 => {
                done.events += events.len() as u64;
                let result = match &mut beside {
                    Some(beside) => beside.step(engine, now, events),
                    None => engine.step(now, events),
                };
                (now, result.map(Ok), answer)
            }
            Entry::Init { .. } => return Err(reader.order("`init`", "a step")),
            Entry::Step { .. } => return Err(reader.order("a step", "`init`")),
            Entry::Start(_) | Entry::End(_) => return Err(reader.order("a start", "a call")),
        };
        has_ended = !matches!(given, Ok(Ok(_)));
        if matches!(answer, Answer::Fault(FaultRecord::Watchdog { .. })) {
            done.not_comparable += 1;
            has_ended = true;
        } else {
            done.difference = difference(done.calls, now_ms, &answer, &given);
        }
        if let Ok(Ok(outcome)) = &given {
            done.commits += crate::shadow::commits_of(outcome).count() as u64;
        }
        done.calls += 1;
        let (read, of) = reader.progress();
        tell(done.calls, read, of);
    }
    done.ending = match reader.ending() {
        _ if done.difference.is_some() => "not reached".into(),
        Some(ending) => text_of(ending),
        None => "not reached".into(),
    };
    Ok(done)
}

fn text_of(ending: &Ending) -> String {
    use crate::entry::EndReason;
    match ending {
        Ending::Closed(EndReason::Engine) => "complete: to the end of the engine".into(),
        Ending::Closed(EndReason::QueueFull) => "cut short: the writer was behind the engine".into(),
        Ending::Closed(EndReason::Full) => "cut short: the bytes for records were used up".into(),
        Ending::Open => "without an end: the node stopped without warning, or still writes it".into(),
        Ending::Torn { path, offset, bytes } => {
            format!(
                "torn: the last {bytes} bytes of {} (from byte {offset}) are no whole entry",
                path.display()
            )
        }
    }
}

fn difference(call: u64, now_ms: u64, answer: &Answer, given: &Given) -> Option<Difference> {
    let difference = |at: String, recorded: String, replayed: String| {
        Some(Difference { call, now_ms, at, recorded: shorten(recorded), replayed: shorten(replayed) })
    };
    match (answer, given) {
        (Answer::Hash(hash), Ok(Ok(outcome))) => {
            let found = outcome_hash(outcome);
            if found == *hash {
                return None;
            }
            let recorded = format!("an outcome with the hash {hash} (outcomes were not recorded whole)");
            difference("the outcome".into(), recorded, format!("hash {found}: {outcome:?}"))
        }
        (Answer::Outcome(recorded), Ok(Ok(outcome))) if recorded == outcome => None,
        (Answer::Outcome(recorded), Ok(Ok(outcome))) => {
            let (at, recorded, replayed) = first_part(recorded, outcome);
            difference(at, recorded, replayed)
        }
        (Answer::Refused(recorded), Ok(Err(refusal))) if recorded == refusal => None,
        (Answer::Fault(recorded), Err(fault)) if *recorded == FaultRecord::from(fault) => None,
        (recorded, given) => {
            let given = match given {
                Ok(Ok(outcome)) => format!("an outcome: {outcome:?}"),
                Ok(Err(refusal)) => format!("a refusal: {refusal:?}"),
                Err(fault) => format!("a failure: {fault}"),
            };
            difference("the kind of answer".into(), format!("{recorded:?}"), given)
        }
    }
}

/// The first record or action in which two outcomes differ.
fn first_part(recorded: &Outcome, replayed: &Outcome) -> (String, String, String) {
    fn part<T: PartialEq + std::fmt::Debug>(
        what: &str,
        a: &[T],
        b: &[T],
    ) -> Option<(String, String, String)> {
        let at = (0..a.len().max(b.len())).find(|at| a.get(*at) != b.get(*at))?;
        let text = |it: Option<&T>| it.map_or_else(|| "nothing".to_owned(), |it| format!("{it:?}"));
        Some((format!("{what} {at} (of {} recorded)", a.len()), text(a.get(at)), text(b.get(at))))
    }
    part("durable record", &recorded.durable, &replayed.durable)
        .or_else(|| part("action", &recorded.release, &replayed.release))
        .unwrap_or_default()
}

fn shorten(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push_str(" ..");
    }
    text
}
