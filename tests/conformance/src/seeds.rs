//! Runs whose faults are drawn from a seed.
//!
//! Each seed draws a committee, three to six kinds of fault and a load that is long enough
//! for fifty blocks; the world checks every event, and once the faults stop everything has
//! to become final. The same seed of the same plan is the same run.

use moult_sdk::FaultModel;
use serde::{Deserialize, Serialize};

use crate::engine::Factory;
use crate::report::Tally;
use crate::rng::Rng;
use crate::tuning::Tuning;
use crate::world::{Counts, Lie, Point, Quality, Setup, Violation, World};

/// Which seeds to run, and over what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seeds {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub count: u64,
    /// Fault models to draw from; those that the engine is not made for are left out.
    pub fault_models: Vec<FaultModelName>,
    /// Sizes of committees to draw from.
    pub sizes: Vec<u32>,
    /// How stakes are drawn.
    pub stakes: Stakes,
}

/// How stakes are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stakes {
    /// One each.
    Equal,
    /// One to five each.
    Unequal,
    /// Either.
    Mixed,
}

/// A fault model by name; the contract's type carries no encoding of its own here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultModelName {
    /// See [`FaultModel::Crash`].
    Crash,
    /// See [`FaultModel::Byzantine`].
    Byzantine,
}

impl From<FaultModelName> for FaultModel {
    fn from(name: FaultModelName) -> Self {
        match name {
            FaultModelName::Crash => Self::Crash,
            FaultModelName::Byzantine => Self::Byzantine,
        }
    }
}

impl Seeds {
    /// Seeds over every size and both fault models.
    pub fn new(from: u64, count: u64) -> Self {
        Self {
            from,
            count,
            fault_models: vec![FaultModelName::Byzantine, FaultModelName::Crash],
            sizes: vec![1, 3, 4, 5, 7, 10],
            stakes: Stakes::Mixed,
        }
    }
}

/// Blocks that each seed comes to at least.
pub(crate) const HEIGHT_MIN: u64 = 50;
/// How long faults last.
const FAULTS_MS: u64 = 6_000;
/// How long everything may take to become final after that.
const SETTLE_MS: u64 = 120_000;

/// A kind of fault that a seed may draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Loss,
    Duplicates,
    SlowLinks,
    Crashes,
    Blackouts,
    CrashPoints,
    Partitions,
    OneWayCuts,
    Pauses,
    Clocks,
    LateTimers,
    LateBatches,
    Hints,
    Liar,
}

/// Kinds that a single node has, too.
const ALONE: [Fault; 7] = [
    Fault::Crashes,
    Fault::Blackouts,
    Fault::CrashPoints,
    Fault::Pauses,
    Fault::Clocks,
    Fault::LateTimers,
    Fault::Hints,
];
const TOGETHER: [Fault; 13] = [
    Fault::Loss,
    Fault::Duplicates,
    Fault::SlowLinks,
    Fault::Crashes,
    Fault::Blackouts,
    Fault::CrashPoints,
    Fault::Partitions,
    Fault::OneWayCuts,
    Fault::Pauses,
    Fault::Clocks,
    Fault::LateTimers,
    Fault::LateBatches,
    Fault::Hints,
];

/// What a seed comes to.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The world.
    pub setup: Setup,
    faults: Vec<Fault>,
    rng: Rng,
}

/// Draws a seed. `models` are those that plan and engine share; not empty.
pub fn draw(seeds: &Seeds, models: &[FaultModel], tuning: &Tuning, seed: u64) -> Drawn {
    let mut rng = Rng::new(seed ^ 0x5eed_0000);
    let fault_model = rng.pick(models);
    // Three authorities bear no Byzantine fault.
    let fits = |size: &&u32| fault_model == FaultModel::Crash || !(2..4).contains(*size);
    let sizes: Vec<u32> = seeds.sizes.iter().filter(fits).copied().collect();
    let size = if sizes.is_empty() { 4 } else { rng.pick(&sizes) };
    let unequal = match seeds.stakes {
        Stakes::Equal => false,
        Stakes::Unequal => true,
        Stakes::Mixed => rng.percent(50),
    };
    let stakes: Vec<u64> = (0..size).map(|_| if unequal { rng.range(1, 5) } else { 1 }).collect();
    let mut kinds = if size == 1 { ALONE.to_vec() } else { TOGETHER.to_vec() };
    let mut faults = Vec::new();
    for _ in 0..rng.range(3, 6) {
        faults.push(kinds.swap_remove(rng.index(kinds.len())));
    }
    let liar = draw_liar(&mut rng, &stakes, fault_model);
    faults.extend(liar.is_some().then_some(Fault::Liar));
    let has = |fault| faults.contains(&fault);
    let quality = Quality {
        delay_ms: if has(Fault::SlowLinks) { rng.pick(&[(1, 60), (5, 150), (40, 45)]) } else { (1, 5) },
        loss: if has(Fault::Loss) { rng.pick(&[2, 10, 25]) } else { 0 },
        duplicates: if has(Fault::Duplicates) { rng.pick(&[5, 30]) } else { 0 },
        late_batches: if has(Fault::LateBatches) { rng.pick(&[10, 40]) } else { 0 },
        late_timers_ms: if has(Fault::LateTimers) { rng.pick(&[20, 200]) } else { 0 },
    };
    let clocks =
        if has(Fault::Clocks) { (0..size).map(|_| rng.range(70, 130)).collect() } else { Vec::new() };
    let setup = Setup {
        seed,
        config: tuning.draw(rng.number()).to_vec(),
        liar,
        clocks,
        catch_up_ms: rng.pick(&[50, 500, 2_000]),
        quality,
        max_batches_in_commit: rng.range(1, 4) as u32,
        recovered_at_first: rng.percent(50),
        // A second instance of each engine costs as much again.
        shadows: seed.is_multiple_of(8),
        ..Setup::new(&stakes, fault_model)
    };
    Drawn { setup, faults, rng }
}

fn draw_liar(rng: &mut Rng, stakes: &[u64], fault_model: FaultModel) -> Option<(u32, Lie)> {
    let tolerated = (stakes.iter().sum::<u64>() - 1) / 3;
    let liar = rng.index(stakes.len());
    let may = fault_model == FaultModel::Byzantine && stakes[liar] <= tolerated;
    let lies = [Lie::Silent, Lie::Twins, Lie::Garble, Lie::Flip, Lie::Replay, Lie::Amnesia];
    let lie = lies[rng.index(lies.len())].clone();
    (may && rng.percent(60)).then_some((liar as u32, lie))
}

/// A seed that was run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What broke, with the last lines of what happened.
    pub violation: Option<(Violation, Vec<String>)>,
    /// How often what happened.
    pub counts: Counts,
    /// Commits of all nodes.
    pub commits: u64,
    /// Blocks of the chain.
    pub height: u64,
    /// A hash of everything that happened, if it was traced.
    pub hash: u64,
    /// In words, what was run.
    pub label: String,
}

impl Drawn {
    /// In words.
    pub fn label(&self) -> String {
        let Setup { fault_model, stakes, liar, .. } = &self.setup;
        let liar = liar.as_ref().map_or(String::new(), |(who, lie)| format!(", {who} lies ({lie:?})"));
        format!("{fault_model:?}, stakes {stakes:?}{liar}, {:?}", self.faults)
    }

    /// Runs it.
    pub fn run(self, factory: &dyn Factory) -> Run {
        let label = self.label();
        match World::new(factory, self.setup.clone()) {
            Ok(mut world) => {
                let result = self.drive(&mut world);
                let (tail, hash) = world.trace_tail();
                Run {
                    violation: result.err().map(|violation| (violation, tail)),
                    counts: world.counts().clone(),
                    commits: world.commits(),
                    height: world.height(),
                    hash,
                    label,
                }
            }
            Err(violation) => Run {
                violation: Some((violation, Vec::new())),
                counts: Counts::new(),
                commits: 0,
                height: 0,
                hash: 0,
                label,
            },
        }
    }

    fn drive(mut self, world: &mut World<'_>) -> Result<(), Violation> {
        world.note_faults(&self);
        if self.faults.contains(&Fault::Crashes) {
            world.crash_often(self.rng.pick(&[5, 30, 100]));
        }
        let load = HEIGHT_MIN * u64::from(self.setup.max_batches_in_commit) + self.rng.range(0, 20);
        let mut next_fault = self.rng.range(50, 500);
        for i in 0..load {
            self.submit(world);
            // Two thirds of the time of faults have load.
            let until = FAULTS_MS * 2 * (i + 1) / (load * 3);
            while next_fault <= until {
                world.run(next_fault.saturating_sub(world.now()))?;
                self.inject(world)?;
                next_fault += self.rng.range(100, 900);
            }
            world.run(until.saturating_sub(world.now()))?;
        }
        while next_fault <= FAULTS_MS {
            world.run(next_fault.saturating_sub(world.now()))?;
            self.inject(world)?;
            next_fault += self.rng.range(100, 900);
        }
        world.run(FAULTS_MS.saturating_sub(world.now()))?;
        world.settle(SETTLE_MS)?;
        // An engine may put what waited into few blocks; the rest comes one by one.
        while world.height() < HEIGHT_MIN {
            self.submit(world);
            world.settle(SETTLE_MS)?;
        }
        Ok(())
    }

    fn submit(&mut self, world: &mut World<'_>) {
        let honest: Vec<u32> = world.honest().collect();
        let author = self.rng.pick(&honest);
        world.submit(author, false);
    }

    /// One fault of those that come at instants.
    fn inject(&mut self, world: &mut World<'_>) -> Result<(), Violation> {
        let size = self.setup.stakes.len() as u32;
        let node = self.rng.range(0, u64::from(size) - 1) as u32;
        let back_ms = self.rng.range(1, 2_000);
        match self.faults[self.rng.index(self.faults.len())] {
            Fault::Blackouts if self.rng.percent(40) => {
                world.count("blackouts");
                for node in 0..size {
                    let back_ms = self.rng.range(1, back_ms);
                    world.crash_for(node, back_ms);
                }
            }
            Fault::CrashPoints => {
                let point = self.rng.pick(&Point::ALL);
                world.crash_later(node, self.rng.range(1, 5), point, Some(back_ms));
            }
            Fault::Partitions => {
                if self.rng.percent(40) {
                    world.heal();
                } else {
                    let sides = self.rng.number();
                    let (one, other) = (0..size).partition(|node| sides >> node & 1 == 1);
                    world.partition(&[one, other]);
                }
            }
            Fault::OneWayCuts => {
                if self.rng.percent(40) {
                    world.heal();
                } else {
                    let others: Vec<u32> = (0..size).filter(|other| *other != node).collect();
                    if self.rng.percent(50) {
                        world.cut(&[node], &others);
                    } else {
                        world.cut(&others, &[node]);
                    }
                }
            }
            Fault::Pauses => world.pause(node, back_ms),
            Fault::Hints => self.hint(world, node)?,
            _ => {}
        }
        Ok(())
    }

    /// Word from the host that may be wrong, and must do no harm.
    fn hint(&mut self, world: &mut World<'_>, node: u32) -> Result<(), Violation> {
        use moult_sdk::AuthorityIndex;
        use moult_sdk::engine::Event;
        world.count("hints");
        let peer = AuthorityIndex(self.rng.range(0, self.setup.stakes.len() as u64 - 1) as u32);
        let event = match self.rng.range(0, 3) {
            0 if !world.shunned_too_many(peer.0) => Event::Shun(peer),
            0 | 1 => Event::Peer { peer, up: self.rng.percent(50), rtt_us: self.rng.number() as u32 },
            2 => Event::Draining,
            _ => Event::Timer(self.rng.number()),
        };
        world.tell_node(node, &event)
    }
}

impl World<'_> {
    /// Counts the faults that last for the whole run.
    fn note_faults(&mut self, drawn: &Drawn) {
        for fault in &drawn.faults {
            match fault {
                Fault::SlowLinks => self.count("runs with slow links"),
                Fault::Clocks => self.count("runs with clocks off"),
                Fault::Liar => self.count(match &drawn.setup.liar {
                    Some((_, Lie::Silent)) => "runs with a silent liar",
                    Some((_, Lie::Twins)) => "runs with twins",
                    _ => "runs with another liar",
                }),
                _ => {}
            }
        }
    }

    /// Jailing is for a few: at most one authority in a run, so that somebody leads.
    fn shunned_too_many(&mut self, peer: u32) -> bool {
        *self.shunned.get_or_insert(peer) != peer
    }
}

/// Runs one seed of a plan; a failing one twice, the second time with a trace.
pub fn run_seed(
    factory: &dyn Factory,
    seeds: &Seeds,
    models: &[FaultModel],
    seed: u64,
    trace_lines: usize,
) -> Run {
    let tuning = factory.tuning();
    let run = draw(seeds, models, &tuning, seed).run(factory);
    if run.violation.is_none() {
        return run;
    }
    let mut again = draw(seeds, models, &tuning, seed);
    again.setup.trace_lines = Some(trace_lines);
    let again = again.run(factory);
    // An engine that is not deterministic may pass the second time.
    if again.violation.is_some() { again } else { run }
}

impl Run {
    /// Adds it to the sums of a report.
    pub(crate) fn add_to(&self, tally: &mut Tally) {
        for (what, times) in &self.counts {
            *tally.faults.entry((*what).to_owned()).or_default() += times;
        }
        tally.commits += self.commits;
        tally.height_min = Some(tally.height_min.map_or(self.height, |min| min.min(self.height)));
    }
}
