//! An engine in Wasm.

use std::sync::Arc;

use moult_core::ports::{EngineInstance, Fault};
use moult_sdk::engine::{Event, Info, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, NowMs};
use moult_types::World;
use wasmtime::Store;

use super::{HostData, bad_output, no_instance, run, start, store};
use crate::bindings::engine::{ConsensusEngine, ConsensusEnginePre, exports::moult::engine::engine as wit};
use crate::host::{Place, Shared};
use crate::limits::CallLimits;
use crate::output;
use crate::stats::WorldStats;

const WORLD: World = World::Engine;

/// One long-lived instance.
pub(crate) struct WasmEngine {
    shared: Arc<Shared>,
    /// Where its calls are counted.
    stats: Arc<WorldStats>,
    pre: ConsensusEnginePre<HostData>,
    /// Dropped at the first fault.
    live: Option<Live>,
    /// What answers are held against, from `init` on.
    bounds: output::EngineBounds,
}

struct Live {
    store: Store<HostData>,
    bindings: ConsensusEngine,
    _place: Option<Place>,
}

impl WasmEngine {
    pub(crate) fn new(
        shared: Arc<Shared>,
        stats: Arc<WorldStats>,
        pre: ConsensusEnginePre<HostData>,
        place: Option<Place>,
    ) -> Result<Self, Fault> {
        let live = Live::new(&shared, &pre, place)?;
        Ok(Self { shared, stats, pre, live: Some(live), bounds: output::EngineBounds::default() })
    }

    /// Runs one call on the instance; a fault is its end.
    fn call<T>(
        &mut self,
        call: impl FnOnce(&wit::Guest, &mut Store<HostData>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let Some(mut live) = self.live.take() else { return Err(ended()) };
        let result = live.call(&self.shared, &self.stats, call)?;
        self.live = Some(live);
        Ok(result)
    }

    fn checked(&mut self, outcome: wit::Outcome) -> Result<Outcome, Fault> {
        let outcome = outcome.into();
        if let Err(problem) = output::check_engine(&outcome, &self.bounds) {
            self.live = None;
            return Err(bad_output(&self.stats, problem));
        }
        Ok(outcome)
    }
}

impl Live {
    fn new(shared: &Shared, pre: &ConsensusEnginePre<HostData>, place: Option<Place>) -> Result<Self, Fault> {
        let limits = limits(shared);
        let mut store = store(shared, WORLD, None);
        let bindings = start(&mut store, limits)
            .and_then(|()| pre.instantiate(&mut store))
            .map_err(|error| no_instance(&error, limits))?;
        Ok(Self { store, bindings, _place: place })
    }

    fn call<T>(
        &mut self,
        shared: &Shared,
        stats: &WorldStats,
        call: impl FnOnce(&wit::Guest, &mut Store<HostData>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let guest = self.bindings.moult_engine_engine();
        run(stats, WORLD, limits(shared), &mut self.store, |store| call(guest, store))
    }
}

impl EngineInstance for WasmEngine {
    fn describe(&mut self) -> Result<Info, Fault> {
        let info: Info = self.call(|guest, store| guest.call_describe(store))?.into();
        if let Err(problem) = output::check_engine_info(&info) {
            self.live = None;
            return Err(bad_output(&self.stats, problem));
        }
        Ok(info)
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        self.bounds = output::EngineBounds::of(settings);
        let wit_settings = wit::Settings::from(settings);
        let wit_recovered = recovered.map(wit::Recovered::from);
        match self.call(|guest, store| guest.call_init(store, &wit_settings, wit_recovered.as_ref()))? {
            Ok(outcome) => self.checked(outcome).map(Ok),
            Err(refusal) => Ok(Err(refusal.into())),
        }
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        let events: Vec<_> = events.into_iter().map(wit::Event::from).collect();
        let outcome = self.call(|guest, store| guest.call_step(store, now, &events))?;
        self.checked(outcome)
    }

    /// In an instance of its own, so that a hostile proof cannot end this one.
    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        let _place = Place::of_call(&self.shared);
        let mut fresh = Live::new(&self.shared, &self.pre, None)?;
        let committee = committee.into();
        let judged = fresh
            .call(&self.shared, &self.stats, |guest, store| guest.call_judge(store, &committee, proof))?;
        Ok(judged.map(AuthorityIndex))
    }
}

fn limits(shared: &Shared) -> CallLimits {
    shared.limits.engine.call
}

fn ended() -> Fault {
    Fault::Trap("the instance ended at an earlier fault".to_owned())
}
