//! The modules of the simulator: native code behind the ports, known by made-up hashes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use moult_core::ports::{ApplicationInstance, EngineInstance, Fault};
use moult_sdk::application::{self, Application, Receipt};
use moult_sdk::approval::{self, Verdict};
use moult_sdk::engine::{Engine, Event, Info, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, NowMs};
use moult_types::state::Overlay;
use moult_types::{ModuleHash, ModulePin};

/// Makes an instance of a pinned engine; `None` where there is no such module.
pub type EngineFactory = Arc<dyn Fn(&ModulePin) -> Option<Box<dyn EngineInstance>> + Send + Sync>;

/// The hash that stands for a module's name.
pub fn module_hash(name: &str) -> ModuleHash {
    ModuleHash::of(name.as_bytes())
}

/// PBFT forwards and backwards, as native code.
pub fn native_engines() -> EngineFactory {
    let (pbft, reverse) = (module_hash("pbft"), module_hash("pbft-reverse"));
    let failing = ["silent", "fading", "trapping"].map(module_hash);
    Arc::new(move |pin| -> Option<Box<dyn EngineInstance>> {
        if pin.hash == pbft {
            Some(Box::new(NativeEngine::<moult_pbft::Pbft>(None)))
        } else if pin.hash == reverse {
            Some(Box::new(NativeEngine::<moult_pbft_reverse::PbftReverse>(None)))
        } else if let Some(place) = failing.iter().position(|hash| *hash == pin.hash) {
            let engine = Box::new(NativeEngine::<moult_pbft::Pbft>(None));
            Some(match place {
                0 => Box::new(Fading { engine, steps_left: 0 }),
                1 => Box::new(Fading { engine, steps_left: FADES_AFTER }),
                _ => Box::new(Trapping { engine, steps_left: TRAPS_AFTER }),
            })
        } else {
            None
        }
    })
}

/// The application of a pin; `None` where there is no such module.
pub(crate) fn application(hash: ModuleHash) -> Option<Box<dyn ApplicationInstance>> {
    if hash == module_hash("kv") {
        Some(Box::new(NativeApplication::<moult_kv::Kv>(std::marker::PhantomData)))
    } else if hash == module_hash("kv2") {
        Some(Box::new(NativeApplication::<moult_kv2::Kv2>(std::marker::PhantomData)))
    } else {
        None
    }
}

/// The approval policy: the operator's veto, else what the host's checks say.
pub(crate) fn approve_valid(context: &approval::Context) -> Verdict {
    if let Some(veto @ Verdict::Reject(_)) = &context.operator {
        return veto.clone();
    }
    match context.checks.iter().find_map(|check| check.problem.clone()) {
        Some(problem) => Verdict::Reject(problem),
        None if context.checks.is_empty() => Verdict::Wait,
        None => Verdict::Approve,
    }
}

struct NativeEngine<E>(Option<E>);

impl<E: Engine + Send> EngineInstance for NativeEngine<E> {
    fn describe(&mut self) -> Result<Info, Fault> {
        Ok(E::describe())
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        let started = guarded(|| E::init(settings.clone(), recovered.cloned()))?;
        Ok(started.map(|(engine, outcome)| {
            self.0 = Some(engine);
            outcome
        }))
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        let Some(engine) = &mut self.0 else { return Err(Fault::Trap("step before init".into())) };
        guarded(|| engine.step(now, events))
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        Ok(E::judge(committee, proof))
    }
}

/// A panic of a guest is a trap, as it is in Wasm.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Fault::Trap(
            text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default(),
        )
    })
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

struct NativeApplication<A>(std::marker::PhantomData<fn() -> A>);

impl<A: Application> ApplicationInstance for NativeApplication<A> {
    fn describe(&self) -> Result<application::Info, Fault> {
        Ok(A::describe())
    }

    fn execute(
        &self,
        mut overlay: Overlay,
        config: &[u8],
        block: application::Block,
        transactions: &[Vec<u8>],
    ) -> (Overlay, Result<Vec<Receipt>, Fault>) {
        let receipts = A::execute(&mut overlay, config, &block, transactions);
        (overlay, Ok(receipts))
    }

    fn query(
        &self,
        overlay: Overlay,
        config: &[u8],
        request: &[u8],
    ) -> Result<Result<Vec<u8>, String>, Fault> {
        Ok(A::query(&overlay, config, request))
    }

    fn upgrade(
        &self,
        mut overlay: Overlay,
        config: &[u8],
        from: Option<&application::Info>,
    ) -> (Overlay, Result<Result<(), String>, Fault>) {
        let result = A::upgrade(&mut overlay, config, from);
        (overlay, Ok(result))
    }
}
