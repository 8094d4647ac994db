//! The modules of a run: what there is to pin, and how instances of it are made.
//!
//! The same ports, whatever is behind them: native code for speed, or the components that a
//! node would load, in the module host that a node would load them into.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moult_approve_valid::ApproveValid;
use moult_core::ports::{ApplicationInstance, ApprovalInstance, EngineInstance, Fault};
use moult_module::{ModuleInfo, NativeApplication, NativeApproval, NativeEngine, Prepared, WorldStats};
use moult_sdk::engine::{Action, Engine, Event, Info, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, FaultModel, NowMs};
use moult_types::{ModuleHash, ModulePin};

type Make<T> = Arc<dyn Fn() -> Option<T> + Send + Sync>;

/// An engine that a chain may run.
#[derive(Clone)]
pub struct EngineModule {
    /// For people.
    pub name: String,
    /// What an epoch pins.
    pub hash: ModuleHash,
    info: Info,
    /// Whether it works for good, so that an epoch may graduate on its word.
    is_sound: bool,
    /// What its configuration begins with.
    config: String,
    make: Make<Box<dyn EngineInstance>>,
}

/// How an engine fails, so that it is given up.
#[derive(Clone, Copy)]
enum Failure {
    Silent,
    Fading,
    Trapping,
}

/// An application that a chain may run.
#[derive(Clone)]
struct ApplicationModule {
    name: String,
    hash: ModuleHash,
    make: Make<Arc<dyn ApplicationInstance>>,
}

/// Everything that a run can pin.
#[derive(Clone)]
pub struct Modules {
    /// The chain begins with the first; proposals move it to any.
    engines: Vec<EngineModule>,
    /// The first of them with its failures.
    failing: Vec<EngineModule>,
    /// One that is wrong on purpose, for proposals to move the chain to.
    broken: Option<EngineModule>,
    /// The key-value store and its successor.
    applications: Vec<ApplicationModule>,
    approval: (ModuleHash, Make<Box<dyn ApprovalInstance>>),
}

impl EngineModule {
    /// An engine as native code, known by a hash of its name.
    pub fn native<E: Engine + Send + 'static>(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            hash: ModuleHash::of(name.as_bytes()),
            info: E::describe(),
            is_sound: true,
            config: String::new(),
            make: Arc::new(|| Some(Box::new(NativeEngine::<E>::new()))),
        }
    }

    /// A component that was prepared by a module host; `None` if it is no engine.
    pub fn component(name: &str, prepared: Prepared) -> Option<Self> {
        let ModuleInfo::Engine(info) = prepared.info().clone() else { return None };
        let hash = prepared.hash();
        let make: Make<_> = Arc::new(move || prepared.engine().ok());
        Some(Self { name: name.to_owned(), hash, info, is_sound: true, config: String::new(), make })
    }

    /// The same, with what its instances do and use counted.
    pub fn metered(name: &str, prepared: Prepared) -> Option<(Self, Arc<Meter>)> {
        let meter = Arc::<Meter>::default();
        let (apart, counted) = (prepared.clone(), meter.clone());
        let make: Make<Box<dyn EngineInstance>> = Arc::new(move || {
            let (engine, stats) = apart.engine_apart().ok()?;
            Some(Box::new(Metered { engine, stats, meter: counted.clone() }))
        });
        Some((Self { make, ..Self::component(name, prepared)? }, meter))
    }

    /// This one, as it fails.
    fn failing(&self, failure: Failure) -> Self {
        let (name, make) = (format!("{} that fails {}", self.name, failure as u8), self.make.clone());
        let make = move || -> Option<Box<dyn EngineInstance>> {
            let engine = make()?;
            Some(match failure {
                Failure::Silent => Box::new(Fading { engine, steps_left: 0 }),
                Failure::Fading => Box::new(Fading { engine, steps_left: FADES_AFTER }),
                Failure::Trapping => Box::new(Trapping { engine, steps_left: TRAPS_AFTER }),
            })
        };
        let hash = ModuleHash::of(name.as_bytes());
        let (info, config) = (self.info.clone(), self.config.clone());
        Self { name, hash, info, is_sound: false, config, make: Arc::new(make) }
    }

    /// Whether it works for good, so that an epoch may graduate on its word.
    pub(crate) fn is_sound(&self) -> bool {
        self.is_sound
    }

    /// Whether it was made for a committee of which some may lie.
    pub(crate) fn bears_lies(&self) -> bool {
        self.info.fault_models.contains(&FaultModel::Byzantine)
    }

    /// What its configuration begins with.
    pub(crate) fn config(&self) -> &str {
        &self.config
    }

    /// Which configuration it takes: see [`crate::setup::engine_config`].
    pub(crate) fn kind(&self) -> &str {
        &self.info.name
    }
}

impl Modules {
    /// These engines, the first at genesis, with the key-value store and the default policy
    /// as native code.
    pub fn native(engines: Vec<EngineModule>) -> Self {
        let application = |name: &str, make: Make<Arc<dyn ApplicationInstance>>| ApplicationModule {
            name: name.to_owned(),
            hash: ModuleHash::of(name.as_bytes()),
            make,
        };
        Self {
            failing: failing(&engines),
            broken: None,
            engines,
            applications: vec![
                application("kv", Arc::new(|| Some(Arc::new(NativeApplication::<moult_kv::Kv>::new())))),
                application("kv2", Arc::new(|| Some(Arc::new(NativeApplication::<moult_kv2::Kv2>::new())))),
            ],
            approval: (
                ModuleHash::of(b"approve-valid"),
                Arc::new(|| Some(Box::new(NativeApproval::<ApproveValid>::new()))),
            ),
        }
    }

    /// These engines with other modules as components too: the key-value store, its successor,
    /// the policy. `None` if one of them is of another world.
    pub fn components(engines: Vec<EngineModule>, kv: [Prepared; 2], policy: Prepared) -> Option<Self> {
        let application = |prepared: Prepared| {
            matches!(prepared.info(), ModuleInfo::Application(_)).then(|| ApplicationModule {
                name: prepared.info().name().to_owned(),
                hash: prepared.hash(),
                make: Arc::new(move || prepared.application().ok()),
            })
        };
        let applications = kv.into_iter().map(application).collect::<Option<_>>()?;
        matches!(policy.info(), ModuleInfo::Approval(_)).then(|| Self {
            failing: failing(&engines),
            broken: None,
            engines,
            applications,
            approval: (policy.hash(), Arc::new(move || policy.approval().ok())),
        })
    }

    /// PBFT forwards and backwards, as native code.
    pub fn pbft() -> Self {
        Self::native(vec![
            EngineModule::native::<moult_pbft::Pbft>("pbft"),
            EngineModule::native::<moult_pbft_reverse::PbftReverse>("pbft-reverse"),
        ])
    }

    /// Raft, and PBFT to change to and back from, as native code.
    pub fn raft() -> Self {
        Self::native(vec![
            EngineModule::native::<moult_raft::Raft>("raft"),
            EngineModule::native::<moult_pbft::Pbft>("pbft"),
        ])
    }

    /// With an engine that is wrong on purpose, as its configuration says from its first line on;
    /// most changes of the engine move the chain to it, a quorum has to give it up, and its faults
    /// are no violations. A run has to have fallbacks always: see [`Plan::broken`](crate::Plan::broken).
    #[must_use]
    pub fn with_broken(mut self, engine: EngineModule, config: &str) -> Self {
        self.broken = Some(EngineModule { is_sound: false, config: config.to_owned(), ..engine });
        self
    }

    /// Names and hashes, for messages.
    pub fn list(&self) -> Vec<(String, ModuleHash)> {
        let engines =
            self.engines.iter().chain(&self.broken).map(|module| (module.name.clone(), module.hash));
        let others = self.applications.iter().map(|module| (module.name.clone(), module.hash));
        engines.chain(others).chain([("approval policy".to_owned(), self.approval.0)]).collect()
    }

    /// All hashes.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = ModuleHash> + '_ {
        let engines = self.engines.iter().chain(&self.failing).chain(&self.broken).map(|module| module.hash);
        engines.chain(self.applications.iter().map(|module| module.hash)).chain([self.approval.0])
    }

    pub(crate) fn engines(&self) -> &[EngineModule] {
        &self.engines
    }

    /// One that never orders anything, one that falls silent, one that traps; nothing where there
    /// is no engine at all.
    pub(crate) fn failing(&self) -> &[EngineModule] {
        &self.failing
    }

    /// The one that is wrong on purpose.
    pub(crate) fn broken(&self) -> Option<&EngineModule> {
        self.broken.as_ref()
    }

    /// Which engine a hash is of.
    pub(crate) fn engine_of(&self, hash: ModuleHash) -> Option<&EngineModule> {
        self.engines.iter().chain(&self.failing).chain(&self.broken).find(|module| module.hash == hash)
    }

    /// The application of genesis and the one that proposals bring, and back.
    pub(crate) fn application_hashes(&self) -> [ModuleHash; 2] {
        let hash = |place: usize| self.applications.get(place).map_or(ModuleHash([0; 32]), |a| a.hash);
        [hash(0), hash(1)]
    }

    pub(crate) fn approval_hash(&self) -> ModuleHash {
        self.approval.0
    }

    /// An instance of a pinned engine; `None` where there is no such module.
    pub(crate) fn engine(&self, pin: &ModulePin) -> Option<Box<dyn EngineInstance>> {
        (self.engine_of(pin.hash)?.make)()
    }

    pub(crate) fn application(&self, hash: ModuleHash) -> Option<Arc<dyn ApplicationInstance>> {
        (self.applications.iter().find(|module| module.hash == hash)?.make)()
    }

    pub(crate) fn approval(&self) -> Option<Box<dyn ApprovalInstance>> {
        (self.approval.1)()
    }
}

fn failing(engines: &[EngineModule]) -> Vec<EngineModule> {
    let all = [Failure::Silent, Failure::Fading, Failure::Trapping];
    engines.first().map_or(Vec::new(), |first| all.map(|failure| first.failing(failure)).into())
}

/// What the instances of an engine did and used; complete once they are gone.
#[derive(Debug, Default)]
pub struct Meter {
    /// Commits that they made.
    pub commits: AtomicU64,
    /// Fuel of their calls.
    pub fuel: AtomicU64,
}

/// An engine that is counted.
struct Metered {
    engine: Box<dyn EngineInstance>,
    stats: Arc<WorldStats>,
    meter: Arc<Meter>,
}

impl Metered {
    fn count(&self, outcome: &Outcome) {
        let commits = outcome.release.iter().filter(|action| matches!(action, Action::Commit(_))).count();
        self.meter.commits.fetch_add(commits as u64, Ordering::Relaxed);
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.meter.fuel.fetch_add(self.stats.fuel.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl EngineInstance for Metered {
    fn describe(&mut self) -> Result<Info, Fault> {
        self.engine.describe()
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        let started = self.engine.init(settings, recovered)?;
        started.iter().for_each(|outcome| self.count(outcome));
        Ok(started)
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        let outcome = self.engine.step(now, events)?;
        self.count(&outcome);
        Ok(outcome)
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        self.engine.judge(committee, proof)
    }
}

/// Steps of an instance until an engine that fades says nothing more, and until one that traps
/// does.
const FADES_AFTER: u64 = 300;
const TRAPS_AFTER: u64 = 60;

/// Works for a number of steps, and then neither orders nor says anything.
struct Fading {
    engine: Box<dyn EngineInstance>,
    steps_left: u64,
}

impl EngineInstance for Fading {
    fn describe(&mut self) -> Result<Info, Fault> {
        self.engine.describe()
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        let started = self.engine.init(settings, recovered)?;
        Ok(if self.steps_left == 0 { started.map(|_| Outcome::default()) } else { started })
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        match self.steps_left.checked_sub(1) {
            Some(left) => {
                self.steps_left = left;
                self.engine.step(now, events)
            }
            None => Ok(Outcome::default()),
        }
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        self.engine.judge(committee, proof)
    }
}

/// Ends with a trap after a number of steps.
pub(crate) struct Trapping {
    pub(crate) engine: Box<dyn EngineInstance>,
    pub(crate) steps_left: u64,
}

impl EngineInstance for Trapping {
    fn describe(&mut self) -> Result<Info, Fault> {
        self.engine.describe()
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        self.engine.init(settings, recovered)
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        match self.steps_left.checked_sub(1) {
            Some(left) => {
                self.steps_left = left;
                self.engine.step(now, events)
            }
            None => Err(Fault::Trap("injected".into())),
        }
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        self.engine.judge(committee, proof)
    }
}
