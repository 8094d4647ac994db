//! Modules as native code behind the same ports: for simulators, tests and tools.
//!
//! Answers are held to the same bounds as those of a component, and accesses to the state
//! to the same rules. A panic is a trap. There is no fuel and no memory limit.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};

use moult_core::ports::{ApplicationInstance, ApprovalInstance, EngineInstance, Fault};
use moult_sdk::application::{self, Application, ReadState, Receipt, State};
use moult_sdk::approval::{self, ApprovalPolicy};
use moult_sdk::engine::{self, Engine, Event, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, NowMs};
use moult_types::state::Overlay;

use crate::instance::state_fault;
use crate::output::{self, EngineBounds};
use crate::state::{GuestState, StateFault};

/// An engine.
pub struct NativeEngine<E> {
    engine: Option<E>,
    bounds: EngineBounds,
    ended: bool,
}

impl<E> Default for NativeEngine<E> {
    fn default() -> Self {
        Self { engine: None, bounds: EngineBounds::default(), ended: false }
    }
}

impl<E> NativeEngine<E> {
    /// An instance before `init`.
    pub fn new() -> Self {
        Self::default()
    }

    fn guarded<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.ended {
            return Err(Fault::Trap("the instance ended at an earlier fault".to_owned()));
        }
        let result = guarded(|| call(self)).and_then(|result| result);
        self.ended = result.is_err();
        result
    }

    fn checked(&self, outcome: Outcome) -> Result<Outcome, Fault> {
        output::check_engine(&outcome, &self.bounds).map_err(Fault::Output)?;
        Ok(outcome)
    }
}

impl<E: Engine + Send> EngineInstance for NativeEngine<E> {
    fn describe(&mut self) -> Result<engine::Info, Fault> {
        guarded(E::describe)
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        self.guarded(|this| {
            this.bounds = EngineBounds::of(settings);
            match E::init(settings.clone(), recovered.cloned()) {
                Ok((engine, outcome)) => {
                    this.engine = Some(engine);
                    this.checked(outcome).map(Ok)
                }
                Err(refusal) => Ok(Err(refusal)),
            }
        })
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        self.guarded(|this| {
            let Some(engine) = &mut this.engine else {
                return Err(Fault::Trap("step before init".to_owned()));
            };
            let outcome = engine.step(now, events);
            this.checked(outcome)
        })
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        guarded(|| E::judge(committee, proof))
    }
}

/// The engine of this name that is compiled into a build for measuring.
#[cfg(feature = "native-engines")]
pub(crate) fn engine(name: &str) -> Option<Box<dyn EngineInstance>> {
    match name {
        "pbft" => Some(Box::new(NativeEngine::<moult_pbft::Pbft>::new())),
        "pbft-reverse" => Some(Box::new(NativeEngine::<moult_pbft_reverse::PbftReverse>::new())),
        "raft" => Some(Box::new(NativeEngine::<moult_raft::Raft>::new())),
        _ => None,
    }
}

/// An approval policy.
pub struct NativeApproval<P>(PhantomData<fn() -> P>);

impl<P> Default for NativeApproval<P> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<P> NativeApproval<P> {
    /// The policy; it has no state.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<P: ApprovalPolicy> ApprovalInstance for NativeApproval<P> {
    fn describe(&mut self) -> Result<approval::Info, Fault> {
        guarded(P::describe)
    }

    fn evaluate(
        &mut self,
        config: &[u8],
        proposal: &approval::Proposal,
        context: &approval::Context,
    ) -> Result<approval::Verdict, Fault> {
        let verdict = guarded(|| P::evaluate(config, proposal, context))?;
        output::check_verdict(&verdict).map_err(Fault::Output)?;
        Ok(verdict)
    }
}

/// An application.
pub struct NativeApplication<A>(PhantomData<fn() -> A>);

impl<A> Default for NativeApplication<A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<A> NativeApplication<A> {
    /// The application; its state is the host's.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lends the overlay for one call.
    fn call<T>(
        overlay: Overlay,
        writable: bool,
        call: impl FnOnce(&mut Lent) -> T,
    ) -> (Overlay, Result<T, Fault>) {
        let mut lent = Lent(GuestState::new(overlay, writable, u64::MAX));
        let result = guarded(|| call(&mut lent));
        (lent.0.into_overlay(), result)
    }
}

impl<A: Application> ApplicationInstance for NativeApplication<A> {
    fn describe(&self) -> Result<application::Info, Fault> {
        guarded(A::describe)
    }

    fn execute(
        &self,
        overlay: Overlay,
        config: &[u8],
        block: application::Block,
        transactions: &[Vec<u8>],
    ) -> (Overlay, Result<Vec<Receipt>, Fault>) {
        let (overlay, receipts) =
            Self::call(overlay, true, |state| A::execute(state, config, &block, transactions));
        let receipts = receipts.and_then(|receipts| {
            output::check_receipts(&receipts, transactions.len()).map_err(Fault::Output)?;
            Ok(receipts)
        });
        (overlay, receipts)
    }

    fn query(
        &self,
        overlay: Overlay,
        config: &[u8],
        request: &[u8],
    ) -> Result<Result<Vec<u8>, String>, Fault> {
        Self::call(overlay, false, |state| A::query(state, config, request)).1
    }

    fn upgrade(
        &self,
        overlay: Overlay,
        config: &[u8],
        from: Option<&application::Info>,
    ) -> (Overlay, Result<Result<(), String>, Fault>) {
        Self::call(overlay, true, |state| A::upgrade(state, config, from))
    }
}

/// The state as native code sees it: a broken rule ends the call by unwinding.
struct Lent(GuestState);

fn or_end<T>(result: Result<T, StateFault>) -> T {
    result.unwrap_or_else(|fault| panic_any(fault))
}

impl ReadState for Lent {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        or_end(self.0.get(key))
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        or_end(self.0.scan(start, end, limit))
    }
}

impl State for Lent {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        or_end(self.0.put(key, value));
    }

    fn delete(&mut self, key: &[u8]) {
        or_end(self.0.delete(key));
    }
}

/// Turns a panic into the fault that a component would have had.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        if let Some(fault) = panic.downcast_ref::<StateFault>() {
            return state_fault(fault);
        }
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
        Fault::Trap(text.to_owned())
    })
}
