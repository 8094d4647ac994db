//! The boundary by itself: steps of an engine that does next to nothing.
//!
//! The first one answers each vote by a vote, and is written by hand, so that all it costs is
//! the host's: events in, one action an event out. The second one is Raft, which passes over
//! votes: events in, through the bindings that every engine in Rust has.

use std::hint::black_box;
use std::time::{Duration, Instant};

use moult_core::ports::EngineInstance;
use moult_module::{ModuleHost, NativeEngine};
use moult_raft::Raft;
use moult_sdk::engine::{
    Action, Choice, Engine, Event, Info, InitError, Outcome, Recipients, Recovered, Settings,
};
use moult_sdk::{AuthorityIndex, Committee, Digest, FaultModel, NowMs, Slot, Statement};
use moult_types::World;

use crate::{committee, in_turns, module, prepare, verdict};

/// Events in one turn, over all its steps.
const EVENTS: usize = 1 << 16;
/// Nanoseconds an event that the boundary may take at 128 events a step.
const TARGET_NS: f64 = 150.0;

pub(crate) fn measure(host: &ModuleHost) {
    println!("\nboundary, ns an event");
    println!("  {:<26}{:>12}{:>12}{:>12}{:>12}", "", "events/step", "component", "native", "difference");
    let echo =
        moult_hostile::component(World::Engine, moult_hostile::fill(World::Engine, include_str!("echo.wat")));
    let echo = prepare(host, &echo);
    let mut component = echo.engine().expect("a place in the pool");
    check_echo(component.as_mut());
    compare("one vote in, one out", component.as_mut(), &mut NativeEngine::<Echo>::new());

    let raft = prepare(host, &module("raft"));
    let mut component = raft.engine().expect("a place in the pool");
    compare("one vote in, passed over", component.as_mut(), &mut NativeEngine::<Raft>::new());
}

fn compare(what: &str, component: &mut dyn EngineInstance, native: &mut dyn EngineInstance) {
    let settings = committee::settings(0, FaultModel::Crash, String::new());
    component.init(&settings, None).expect("no fault").expect("no refusal");
    native.init(&settings, None).expect("no fault").expect("no refusal");
    for step_events in [1, 16, 128] {
        let [ours, theirs] =
            in_turns([&mut || run(component, step_events), &mut || run(native, step_events)])
                .map(|time| time.as_secs_f64() * 1e9 / EVENTS as f64);
        let verdict = if step_events == 128 {
            format!("  {} (at most {TARGET_NS} at 128)", verdict(ours <= TARGET_NS))
        } else {
            String::new()
        };
        println!("  {what:<26}{step_events:>12}{ours:>12.1}{theirs:>12.1}{:>12.1}{verdict}", ours - theirs);
    }
}

/// One turn.
fn run(engine: &mut dyn EngineInstance, step_events: usize) -> Duration {
    let steps: Vec<Vec<Event>> = (0..EVENTS / step_events).map(|_| votes(step_events)).collect();
    let start = Instant::now();
    for events in steps {
        black_box(engine.step(0, events).expect("no fault"));
    }
    start.elapsed()
}

fn votes(count: usize) -> Vec<Event> {
    let digest = Digest([7; 32]);
    let vote = |b| Statement { author: AuthorityIndex(1), slot: Slot { kind: 2, a: 1, b }, digest };
    (0..count as u64).map(|b| Event::Vote(vote(b))).collect()
}

/// The component does what the native engine does.
fn check_echo(component: &mut dyn EngineInstance) {
    let (mut native, _) =
        Echo::init(committee::settings(0, FaultModel::Crash, String::new()), None).expect("no refusal");
    let ours = component.step(0, votes(128)).expect("no fault");
    assert_eq!(ours, native.step(0, votes(128)));
    assert_eq!(ours.release.len(), 128);
}

/// `echo.wat` natively.
struct Echo;

impl Engine for Echo {
    fn describe() -> Info {
        let (name, version) = ("echo".to_owned(), "1".to_owned());
        Info { name, version, fault_models: Vec::new(), min_authorities: 1, gauges: Vec::new() }
    }

    fn init(_: Settings, _: Option<Recovered>) -> Result<(Self, Outcome), InitError> {
        Ok((Self, Outcome::default()))
    }

    fn step(&mut self, _: NowMs, events: Vec<Event>) -> Outcome {
        let answer = |event| match event {
            Event::Vote(Statement { slot, digest, .. }) => {
                Some(Action::Vote { to: Recipients::All, choice: Choice { slot, digest } })
            }
            _ => None,
        };
        Outcome { durable: Vec::new(), release: events.into_iter().filter_map(answer).collect() }
    }

    fn judge(_: &Committee, _: &[u8]) -> Option<AuthorityIndex> {
        None
    }
}
