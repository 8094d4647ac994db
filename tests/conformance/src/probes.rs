//! Checks of single instances: what an engine says of itself, what it must refuse, and
//! input that nobody sane would give it.
//!
//! An instance is taken out of a running committee at several stages, so that hostile input
//! meets engines with proposals open, behind, and amid a change of leader.

use moult_sdk::engine::{Action, Event, Info, InitError, Message, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, FaultModel, Slot, Statement};

use crate::engine::{Factory, Fault, Instance};
use crate::hostile::mutate;
use crate::plan::failure;
use crate::rng::Rng;
use crate::scenario::Failure;
use crate::world::{Bounds, Check, Quality, Setup, Violation, World, check_outcome, committee};

/// A check: passes, or says why not.
pub(crate) type Probe = fn(&dyn Factory, &Info) -> Result<(), Failure>;

/// All of them, by name.
pub(crate) const ALL: [(&str, Probe); 10] = [
    ("describe-is-constant", describe_is_constant),
    ("malformed-configurations-are-refused", malformed_configurations_are_refused),
    ("unsuitable-committees-are-refused", unsuitable_committees_are_refused),
    ("senseless-settings-are-no-trap", senseless_settings_are_no_trap),
    ("an-observer-signs-nothing", an_observer_signs_nothing),
    ("same-calls-same-outcomes", same_calls_same_outcomes),
    ("hostile-messages-are-no-trap", hostile_messages_are_no_trap),
    ("records-of-every-prefix-start", records_of_every_prefix_start),
    ("damaged-records-are-no-trap", damaged_records_are_no_trap),
    ("noise-convicts-nobody", noise_convicts_nobody),
];

type Verdict = Result<(), Failure>;

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        failure(Check::Fault, fault.0)
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        failure(violation.check, violation.to_string())
    }
}

fn ensure(holds: bool, check: Check, problem: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(failure(check, problem())) }
}

/// Settings of authority 0 among equals.
fn settings(size: u32, fault_model: FaultModel, config: &[u8]) -> Settings {
    Settings {
        committee: committee(&vec![1; size as usize], fault_model, 0),
        config: config.to_vec(),
        seed: Digest([7; 32]),
        schedule: (0..size).map(AuthorityIndex).collect(),
        max_message_bytes: 4 << 20,
        max_batches_in_commit: 16,
    }
}

/// A size at which an engine has to run.
fn usual_size(info: &Info) -> u32 {
    info.min_authorities.max(4)
}

fn describe_is_constant(factory: &dyn Factory, info: &Info) -> Verdict {
    let text = |name: &str| !name.is_empty() && name.len() <= 128 && !name.chars().any(char::is_control);
    let sensible = text(&info.name)
        && text(&info.version)
        && info.gauges.len() <= 64
        && info.gauges.iter().all(|gauge| text(gauge))
        && !info.fault_models.is_empty()
        && info.min_authorities >= 1;
    ensure(sensible, Check::Describe, || format!("{info:?}"))?;
    let config = factory.tuning().plain;
    let mut instance = factory.instance()?;
    for when in ["before init", "after init", "after a step"] {
        let again = instance.describe()?;
        ensure(again == *info, Check::Describe, || format!("{when}: {again:?}, before: {info:?}"))?;
        match when {
            "before init" => {
                started(instance.init(&settings(usual_size(info), info.fault_models[0], &config), None)?)?;
            }
            _ => {
                instance.step(1, vec![Event::Draining])?;
            }
        }
    }
    Ok(())
}

fn started(outcome: Result<Outcome, InitError>) -> Result<Outcome, Failure> {
    outcome.map_err(|refusal| failure(Check::Init, format!("init refuses: {refusal:?}")))
}

fn malformed_configurations_are_refused(factory: &dyn Factory, info: &Info) -> Verdict {
    let mut configs =
        vec![vec![0xff; 100], b"\0\0\0".to_vec(), vec![b'x'; 64 << 10], b"no such thing".to_vec()];
    let mut rng = Rng::new(1);
    configs.extend((0..20).map(|_| (0..rng.range(1, 300)).map(|_| rng.number() as u8 | 0x80).collect()));
    configs.extend(factory.tuning().malformed);
    for config in configs {
        let shown = String::from_utf8_lossy(&config).chars().take(60).collect::<String>();
        let settings = settings(usual_size(info), info.fault_models[0], &config);
        match factory.instance()?.init(&settings, None) {
            Ok(Err(InitError::BadConfig(_))) => {}
            Ok(other) => {
                let problem = format!("the configuration {shown:?} gives {:?}", other.map(|_| "an instance"));
                return Err(failure(Check::Init, problem));
            }
            Err(fault) => return Err(failure(Check::Fault, format!("the configuration {shown:?}: {fault}"))),
        }
    }
    Ok(())
}

fn unsuitable_committees_are_refused(factory: &dyn Factory, info: &Info) -> Verdict {
    let config = factory.tuning().plain;
    for fault_model in [FaultModel::Crash, FaultModel::Byzantine] {
        for size in [1, 2, 3, 4, 5, 7, 10, 31] {
            let fits = info.fault_models.contains(&fault_model) && size >= info.min_authorities;
            // Less than four bear no Byzantine fault: an engine may refuse them.
            let may = fits && fault_model == FaultModel::Byzantine && (2..4).contains(&size);
            let outcome = factory.instance()?.init(&settings(size, fault_model, &config), None)?;
            let refused = matches!(outcome, Err(InitError::Unsuitable(_)));
            let right = may || if fits { outcome.is_ok() } else { refused };
            ensure(right, Check::Init, || {
                format!("{size} authorities, {fault_model:?}: {:?}", outcome.map(|_| "an instance"))
            })?;
        }
    }
    Ok(())
}

/// Makes settings senseless.
type Change = fn(&mut Settings);

/// What no host gives: refused or taken, but no trap.
fn senseless_settings_are_no_trap(factory: &dyn Factory, info: &Info) -> Verdict {
    let good = settings(usual_size(info), info.fault_models[0], &factory.tuning().plain);
    let changes: [(&str, Change); 9] = [
        ("an empty committee", |s| s.committee.stakes.clear()),
        ("an empty schedule", |s| s.schedule.clear()),
        ("a schedule with an outsider", |s| s.schedule.push(AuthorityIndex(u32::MAX))),
        ("a place outside the committee", |s| s.committee.me = Some(AuthorityIndex(u32::MAX))),
        ("stakes that overflow", |s| s.committee.stakes.fill(u64::MAX)),
        ("a quorum of nothing", |s| s.committee.quorum = 0),
        ("no bytes to a message", |s| s.max_message_bytes = 0),
        ("no batches to a commit", |s| s.max_batches_in_commit = 0),
        ("no end to messages and commits", |s| {
            s.max_message_bytes = u32::MAX;
            s.max_batches_in_commit = u32::MAX;
        }),
    ];
    for (what, change) in changes {
        let mut settings = good.clone();
        change(&mut settings);
        let answer = factory.instance()?.init(&settings, None);
        ensure(answer.is_ok(), Check::Fault, || format!("{what}: {answer:?}"))?;
    }
    Ok(())
}

fn an_observer_signs_nothing(factory: &dyn Factory, info: &Info) -> Verdict {
    let mut settings = settings(usual_size(info), info.fault_models[0], &factory.tuning().plain);
    settings.committee.me = None;
    let mut instance = factory.instance()?;
    // It may refuse to observe.
    let Ok(outcome) = instance.init(&settings, None)? else { return Ok(()) };
    let mut outcomes = vec![outcome];
    let batches =
        (1..5_u8).map(|n| moult_sdk::Batch { digest: Digest([n; 32]), author: AuthorityIndex(1), bytes: 9 });
    outcomes.push(instance.step(1, vec![Event::Batches(batches.collect())])?);
    for now in 1..50 {
        let timers = outcomes.iter().flat_map(|outcome| &outcome.release).filter_map(|action| match action {
            Action::SetTimer { id, .. } => Some(Event::Timer(*id)),
            _ => None,
        });
        let timers: Vec<Event> = timers.take(4).collect();
        let events = if timers.is_empty() { vec![Event::Draining] } else { timers };
        outcomes.push(instance.step(now * 1_000, events)?);
    }
    let signs = |action: &&Action| match action {
        Action::Vote { .. } => true,
        Action::Send(envelope) => !envelope.sign.is_empty(),
        _ => false,
    };
    let signed = outcomes.iter().flat_map(|outcome| &outcome.release).find(signs);
    ensure(signed.is_none(), Check::DoubleSign, || format!("an observer asks for a signature: {signed:?}"))
}

/// Stages at which hostile input comes.
const STAGES: usize = 5;

/// A committee that has come to a stage of its life.
fn staged<'a>(
    factory: &'a dyn Factory,
    fault_model: FaultModel,
    stage: usize,
) -> Result<World<'a>, Violation> {
    let setup = Setup {
        seed: stage as u64,
        config: factory.tuning().plain,
        shadows: true,
        ..Setup::new(&[1; 4], fault_model)
    };
    let mut world = World::new(factory, setup)?;
    world.capturing = true;
    if stage == 0 {
        return Ok(world);
    }
    for i in 0..40 {
        world.submit(i % 4, false);
        world.run(20)?;
    }
    if stage == 2 {
        // Proposals are open that nobody can finish.
        world.partition(&[]);
    }
    if stage == 3 {
        // The leader is gone, and a change is under way.
        let leader = world.leader.1.unwrap_or(0);
        world.crash(leader);
    }
    if stage == 4 {
        world.set_quality(Quality { loss: 30, duplicates: 20, delay_ms: (1, 80), ..Quality::GOOD });
        world.crash_often(50);
    }
    for i in 0..10 {
        let up: Vec<u32> = (0..4).filter(|node| world.nodes[*node as usize].is_up()).collect();
        world.submit(up[i % up.len().max(1)], false);
        world.run(37)?;
    }
    world.crash_often(0);
    Ok(world)
}

fn same_calls_same_outcomes(factory: &dyn Factory, info: &Info) -> Verdict {
    for model in &info.fault_models {
        for stage in 0..STAGES {
            let mut world = staged(factory, *model, stage)?;
            world.settle(120_000)?;
        }
    }
    Ok(())
}

fn hostile_messages_are_no_trap(factory: &dyn Factory, info: &Info) -> Verdict {
    let mut corpus: Vec<Event> = Vec::new();
    for model in &info.fault_models {
        for stage in 0..STAGES {
            let mut world = staged(factory, *model, stage)?;
            corpus.append(&mut world.captured);
            for place in 0..world.nodes.len() {
                let gauges = world.nodes[place].gauges;
                let clock = world.nodes[place].clock(world.now);
                let Some(mut engine) = world.nodes[place].engine.take() else { continue };
                let mut rng = Rng::new((stage * 100 + place) as u64);
                attack(engine.as_mut(), &mut rng, &corpus, clock, &world.settings(place as u32), gauges)
                    .map_err(|problem| {
                        failure(Check::Fault, format!("{model:?}, stage {stage}: {problem}"))
                    })?;
            }
            let excess = corpus.len().saturating_sub(400);
            corpus.drain(..excess);
        }
    }
    Ok(())
}

/// Gives an instance a few hundred hostile events.
fn attack(
    engine: &mut dyn Instance,
    rng: &mut Rng,
    corpus: &[Event],
    mut now: u64,
    settings: &Settings,
    gauges: usize,
) -> Result<(), String> {
    let bounds = Bounds {
        message_bytes: settings.max_message_bytes as usize,
        batches_in_commit: settings.max_batches_in_commit as usize,
        gauges,
    };
    for _ in 0..300 {
        now += rng.range(0, 20);
        let events: Vec<Event> = (0..rng.range(1, 3)).map(|_| hostile_event(rng, corpus)).collect();
        let shown = format!("{events:?}").chars().take(600).collect::<String>();
        match engine.step(now, events) {
            Ok(outcome) => {
                check_outcome(&outcome, bounds).map_err(|(_, text)| format!("{text} upon {shown}"))?
            }
            Err(fault) => return Err(format!("{fault} upon {shown}")),
        }
    }
    Ok(())
}

/// Numbers at the edges.
const EDGES: [u64; 10] = [0, 1, 2, 3, 5, 20, 100, 1 << 40, u64::MAX - 1, u64::MAX];

fn hostile_event(rng: &mut Rng, corpus: &[Event]) -> Event {
    let author = AuthorityIndex(rng.range(0, 3) as u32);
    let statement = Statement {
        author,
        slot: Slot { kind: rng.range(0, 12) as u16, a: rng.pick(&EDGES), b: rng.pick(&EDGES) },
        digest: Digest([rng.range(0, 2) as u8; 32]),
    };
    match rng.range(0, 9) {
        0..=4 => {
            let original = corpus.get(rng.index(corpus.len()));
            let (mut payload, mut statements) = match original {
                Some(Event::Message(message)) => (message.payload.clone(), message.statements.clone()),
                _ => (vec![rng.number() as u8; rng.index(40)], Vec::new()),
            };
            if rng.percent(70) {
                mutate(rng, &mut payload);
            }
            if rng.percent(20) {
                statements.truncate(rng.index(statements.len() + 1));
            }
            if rng.percent(20) {
                statements.push(statement);
            }
            // Whoever sends it: it may be another's message.
            Event::Message(Message { sender: author, payload, statements })
        }
        5 | 6 => Event::Vote(statement),
        7 => match corpus.get(rng.index(corpus.len())) {
            Some(vote @ Event::Vote(_)) => vote.clone(),
            _ => Event::Timer(rng.pick(&EDGES)),
        },
        8 => Event::Refused(statement.slot),
        _ => match rng.range(0, 4) {
            0 => Event::Final {
                index: CommitIndex(rng.range(0, 2_000)),
                batches: vec![statement.digest; rng.index(3)],
            },
            1 => Event::Shun(AuthorityIndex(rng.pick(&[0, 1, 2, 3, 4, u32::MAX]))),
            2 => Event::Peer {
                peer: AuthorityIndex(rng.pick(&[0, 3, 9, u32::MAX])),
                up: true,
                rtt_us: u32::MAX,
            },
            3 => Event::Batches(Vec::new()),
            _ => Event::Draining,
        },
    }
}

/// Any prefix that a crash can leave is a state from which an engine starts.
fn records_of_every_prefix_start(factory: &dyn Factory, info: &Info) -> Verdict {
    for model in &info.fault_models {
        for stage in 1..STAGES {
            let world = staged(factory, *model, stage)?;
            for (place, node) in world.nodes.iter().enumerate() {
                for len in node.disk_floor..=node.disk.len() {
                    let recovered = prefix(&world, place, len);
                    let answer = factory.instance()?.init(&world.settings(place as u32), Some(&recovered))?;
                    started(answer).map_err(|mut failure| {
                        let all = node.disk.len();
                        failure.case =
                            format!("{model:?}, stage {stage}, node {place}, {len} of {all} records");
                        failure
                    })?;
                }
            }
        }
    }
    Ok(())
}

fn prefix(world: &World<'_>, place: usize, len: usize) -> Recovered {
    let mut recovered = world.recovered(place);
    recovered.records.truncate(len);
    recovered.committed = recovered.last_final;
    recovered
}

/// Whatever is on disk: refused or taken, but no trap.
fn damaged_records_are_no_trap(factory: &dyn Factory, info: &Info) -> Verdict {
    let mut rng = Rng::new(2);
    for model in &info.fault_models {
        for stage in 1..STAGES {
            let world = staged(factory, *model, stage)?;
            for place in 0..world.nodes.len() {
                let whole = world.recovered(place);
                for _ in 0..30.min(whole.records.len() * 10) {
                    let mut damaged = whole.clone();
                    damage(&mut rng, &mut damaged);
                    let mut instance = factory.instance()?;
                    if instance.init(&world.settings(place as u32), Some(&damaged))?.is_ok() {
                        instance.step(1, vec![Event::Draining])?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn damage(rng: &mut Rng, recovered: &mut Recovered) {
    let at = rng.index(recovered.records.len());
    match rng.range(0, 5) {
        0 => {
            recovered.records.remove(at);
        }
        1 => {
            let again = recovered.records[at].clone();
            recovered.records.push(again);
        }
        2 => recovered.records[at].statements.clear(),
        3 => recovered.records[at].id = rng.pick(&EDGES),
        _ => mutate(rng, &mut recovered.records[at].body),
    }
}

fn noise_convicts_nobody(factory: &dyn Factory, info: &Info) -> Verdict {
    let mut rng = Rng::new(3);
    let committee = settings(usual_size(info), info.fault_models[0], &[]).committee;
    let mut instance = factory.instance()?;
    for len in 0..200 {
        let proof: Vec<u8> = (0..len).map(|_| rng.number() as u8).collect();
        let verdict = instance.judge(&committee, &proof)?;
        ensure(verdict.is_none(), Check::Accusation, || format!("noise convicts {verdict:?}"))?;
    }
    Ok(())
}
