//! Engines that break the contract outright: each check of the suite can fail.

use std::marker::PhantomData;

use moult_conformance::{Check, Native, Plan, Report, Seeds, conform};
use moult_pbft::Pbft;
use moult_sdk::engine::{
    Action, Engine, Envelope, Event, Info, InitError, Outcome, Recipients, Recovered, Settings,
};
use moult_sdk::{AuthorityIndex, Committee, NowMs, Slot};

/// What an engine does wrong, around an engine that is right.
trait Wrong: 'static {
    fn describe(info: Info, _calls: u64) -> Info {
        info
    }
    fn configured(settings: Settings) -> Settings {
        settings
    }
    fn outcome(outcome: Outcome) -> Outcome {
        outcome
    }
    fn judge() -> Option<AuthorityIndex> {
        None
    }
}

struct Rogue<W>(Pbft, PhantomData<W>);

std::thread_local! {
    static CALLS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl<W: Wrong> Engine for Rogue<W> {
    fn describe() -> Info {
        CALLS.set(CALLS.get() + 1);
        W::describe(Pbft::describe(), CALLS.get())
    }

    fn init(settings: Settings, recovered: Option<Recovered>) -> Result<(Self, Outcome), InitError> {
        let (engine, outcome) = Pbft::init(W::configured(settings), recovered)?;
        Ok((Self(engine, PhantomData), W::outcome(outcome)))
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Outcome {
        W::outcome(self.0.step(now, events))
    }

    fn judge(_: &Committee, _: &[u8]) -> Option<AuthorityIndex> {
        W::judge()
    }
}

fn report<W: Wrong>() -> Report {
    let calm = Plan::of_scenarios(&["calm"]).expect("there is one");
    let plan = Plan { probes: true, seeds: Some(Seeds::new(0, 2)), failures_max: 1, ..calm };
    conform(&Native::<Rogue<W>>::new(), &plan, &mut |_| {})
}

/// What a probe or a scenario broke.
fn broke(report: &Report, name: &str) -> Option<Check> {
    let mut items = report.probes.iter().chain(&report.scenarios);
    items.find(|item| item.name == name)?.failures.first().map(|failure| failure.check)
}

struct Right;
impl Wrong for Right {}

#[test]
fn an_engine_that_does_nothing_wrong_passes_the_same_plan() {
    let report = report::<Right>();
    assert!(report.passed(), "{report}");
}

struct ChangesItsMind;
impl Wrong for ChangesItsMind {
    fn describe(info: Info, calls: u64) -> Info {
        Info { version: calls.to_string(), ..info }
    }
}

#[test]
fn a_description_that_changes_is_caught() {
    assert_eq!(broke(&report::<ChangesItsMind>(), "describe-is-constant"), Some(Check::Describe));
}

struct TakesAnything;
impl Wrong for TakesAnything {
    fn configured(mut settings: Settings) -> Settings {
        settings.config.clear();
        settings.committee.fault_model = moult_sdk::FaultModel::Crash;
        settings
    }
    fn describe(info: Info, _: u64) -> Info {
        Info { min_authorities: 4, ..info }
    }
}

#[test]
fn an_engine_that_refuses_nothing_is_caught() {
    let report = report::<TakesAnything>();
    assert_eq!(broke(&report, "malformed-configurations-are-refused"), Some(Check::Init));
    assert_eq!(broke(&report, "unsuitable-committees-are-refused"), Some(Check::Init));
}

struct SaysTooMuch;
impl Wrong for SaysTooMuch {
    fn outcome(mut outcome: Outcome) -> Outcome {
        let payload = vec![0; (4 << 20) + 1];
        let envelope = Envelope { to: Recipients::All, payload, sign: Vec::new(), attach: Vec::new() };
        outcome.release.push(Action::Send(envelope));
        outcome
    }
}

#[test]
fn a_message_that_is_too_long_is_caught() {
    assert_eq!(broke(&report::<SaysTooMuch>(), "calm"), Some(Check::Limits));
}

struct SendsOutside;
impl Wrong for SendsOutside {
    fn outcome(mut outcome: Outcome) -> Outcome {
        let to = Recipients::One(AuthorityIndex(10));
        let (payload, sign, attach) = (Vec::new(), Vec::new(), Vec::new());
        outcome.release.push(Action::Send(Envelope { to, payload, sign, attach }));
        outcome
    }
}

#[test]
fn a_message_to_an_outsider_is_caught() {
    assert_eq!(broke(&report::<SendsOutside>(), "calm"), Some(Check::Limits));
}

struct Shouts;
impl Wrong for Shouts {
    fn outcome(mut outcome: Outcome) -> Outcome {
        for _ in 0..200 {
            let (payload, sign, attach) = (vec![0], Vec::new(), Vec::new());
            outcome.release.push(Action::Send(Envelope { to: Recipients::All, payload, sign, attach }));
        }
        outcome
    }
}

#[test]
fn a_flood_of_messages_is_caught() {
    assert_eq!(broke(&report::<Shouts>(), "calm"), Some(Check::Flood));
}

struct Slanders;
impl Wrong for Slanders {
    fn outcome(mut outcome: Outcome) -> Outcome {
        outcome.release.push(Action::Accuse(vec![1]));
        outcome
    }
    fn judge() -> Option<AuthorityIndex> {
        Some(AuthorityIndex(0))
    }
}

#[test]
fn a_false_accusation_is_caught() {
    let report = report::<Slanders>();
    assert_eq!(broke(&report, "calm"), Some(Check::Accusation));
    assert_eq!(broke(&report, "noise-convicts-nobody"), Some(Check::Accusation));
}

struct TakesHostSlots;
impl Wrong for TakesHostSlots {
    fn outcome(mut outcome: Outcome) -> Outcome {
        for action in &mut outcome.release {
            if let Action::Vote { choice, .. } = action {
                choice.slot = Slot { kind: 0x8001, ..choice.slot };
            }
        }
        outcome
    }
}

#[test]
fn a_slot_of_the_host_is_caught() {
    assert_eq!(broke(&report::<TakesHostSlots>(), "calm"), Some(Check::Limits));
}

struct SaysNothing;
impl Wrong for SaysNothing {
    fn outcome(_: Outcome) -> Outcome {
        Outcome::default()
    }
}

#[test]
fn an_engine_that_does_nothing_is_not_live() {
    let report = report::<SaysNothing>();
    assert_eq!(broke(&report, "calm"), Some(Check::Expectation));
    let seeds = report.seeds.expect("the plan has seeds");
    assert_eq!(seeds.failures.first().map(|failure| failure.check), Some(Check::Liveness));
}

#[test]
fn a_report_is_readable_both_ways() {
    let report = report::<SaysNothing>();
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    let shown = report.to_string();
    assert!(
        shown.contains("FAILED calm") && shown.contains("at line") && shown.ends_with("FAILED\n"),
        "{shown}"
    );
}
