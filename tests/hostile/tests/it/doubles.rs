//! Engines that misbehave on purpose: a good one whose answers are changed on their way, or
//! another one altogether, in one node of a simulated cluster.

use std::sync::Arc;

use moult_core::ports::{EngineInstance, Fault};
use moult_sdk::engine::{Action, Choice, Event, Info, InitError, Outcome, Recipients, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, Digest, NowMs, Slot};
use moult_sim::{Modules, Plan, Replace, Report, Violation, run};

/// Changes an answer: the number of the step (0: `init`), what the step was given, the answer.
pub(crate) type Tamper = fn(u64, &[Event], &mut Outcome) -> Result<(), Fault>;

/// An engine behind a tamperer.
struct Double {
    inner: Box<dyn EngineInstance>,
    tamper: Tamper,
    steps: u64,
    forgets: bool,
}

impl EngineInstance for Double {
    fn describe(&mut self) -> Result<Info, Fault> {
        self.inner.describe()
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        let without = recovered.map(|recovered| Recovered { records: Vec::new(), ..recovered.clone() });
        let recovered = if self.forgets { without.as_ref() } else { recovered };
        match self.inner.init(settings, recovered)? {
            Ok(mut outcome) => (self.tamper)(0, &[], &mut outcome).map(|()| Ok(outcome)),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        self.steps += 1;
        let given = events.clone();
        let mut outcome = self.inner.step(now, events)?;
        (self.tamper)(self.steps, &given, &mut outcome)?;
        Ok(outcome)
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        self.inner.judge(committee, proof)
    }
}

/// The node's engine with its answers changed.
pub(crate) fn tampered(tamper: Tamper) -> Replace {
    Arc::new(move |inner| Box::new(Double { inner, tamper, steps: 0, forgets: false }))
}

/// The node's engine, which never sees its records again.
pub(crate) fn forgetful() -> Replace {
    Arc::new(|inner| Box::new(Double { inner, tamper: |_, _, _| Ok(()), steps: 0, forgets: true }))
}

/// A cluster in which one member runs this, while links fail, nodes crash and modules change.
/// Every promise of the simulator holds for all nodes, the host of the hostile engine among
/// them, and everything that clients handed in is executed in the end.
pub(crate) fn cluster_with(name: &str, replace: &Replace) -> Report {
    let mut total = Report::default();
    for seed in seeds(name) {
        let plan = Plan::with_hostile(seed as usize % 4, replace.clone());
        let trace = std::env::var_os("MOULT_HOSTILE_SEED").is_some();
        match run(seed, &plan, &Modules::pbft(), trace) {
            Ok(report) => total.add(&report),
            // The seed alone does not repeat it: it is this engine's.
            Err(Violation { property, detail, at_us, .. }) => panic!(
                "{name}: seed {seed} breaks `{property}` at {} ms: {detail}\n\
                 repeat it, with a trace: MOULT_HOSTILE_SEED={seed} and this test alone",
                at_us / 1000
            ),
        }
    }
    let heard: Vec<_> = total.notes.iter().filter(|(note, _)| is_about_the_engine(note)).collect();
    println!("{name}: {} blocks, {} acknowledged, {heard:?}", total.blocks, total.acknowledged);
    assert!(total.acknowledged > 10, "{name}: {total}");
    total
}

/// A seed for each name, or the one in `MOULT_HOSTILE_SEED`, or as many more as
/// `MOULT_HOSTILE_SEEDS` says.
fn seeds(name: &str) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let first = name.bytes().map(u64::from).sum::<u64>() * 100;
    match (number("MOULT_HOSTILE_SEED"), number("MOULT_HOSTILE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => first..first + count,
        (None, None) => first..first + 1,
    }
}

fn is_about_the_engine(note: &str) -> bool {
    ["hostile", "slot", "it attached", "an accusation"].iter().any(|words| note.starts_with(words))
}

/// Whether something of this kind was noted.
pub(crate) fn noted(report: &Report, words: &str) -> bool {
    report.notes.keys().any(|note| note.contains(words))
}

// ---- what an engine can do wrong ----

pub(crate) fn vote(kind: u16, a: u64, b: u64, digest: u8) -> Action {
    let choice = Choice { slot: Slot { kind, a, b }, digest: Digest([digest; 32]) };
    Action::Vote { to: Recipients::All, choice }
}

/// Every choice that an outcome signs.
fn choices(outcome: &Outcome) -> Vec<Choice> {
    let of = |action: &Action| match action {
        Action::Vote { choice, .. } => vec![*choice],
        Action::Send(envelope) => envelope.sign.clone(),
        _ => Vec::new(),
    };
    outcome.release.iter().flat_map(of).collect()
}

/// Signs another digest for whatever it signs, for half of the committee.
pub(crate) fn contradict(_: u64, _: &[Event], outcome: &mut Outcome) -> Result<(), Fault> {
    for mut choice in choices(outcome) {
        choice.digest.0[0] ^= 1;
        let to = Recipients::Some(vec![AuthorityIndex(0), AuthorityIndex(1)]);
        outcome.release.push(Action::Vote { to, choice });
    }
    Ok(())
}

/// The same, the other digest first: the host cannot know which is the lie.
pub(crate) fn contradict_first(_: u64, _: &[Event], outcome: &mut Outcome) -> Result<(), Fault> {
    for mut choice in choices(outcome).into_iter().rev() {
        choice.digest.0[0] ^= 1;
        outcome.release.insert(0, Action::Vote { to: Recipients::One(AuthorityIndex(1)), choice });
    }
    Ok(())
}
