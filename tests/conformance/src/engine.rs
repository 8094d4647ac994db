//! The engine under test: instances whose calls can fail, and what makes them.
//!
//! An instance is native code behind a guard that turns a panic into a [`Fault`], or (with
//! the feature `port`) whatever stands behind the host's own port, such as a component. The
//! suite sees no difference. Nothing here knows of a particular engine.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use moult_sdk::engine::{Engine, Event, Info, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, NowMs};
use thiserror::Error;

use crate::tuning::Tuning;

/// An instance ended: a panic, a trap, an exhausted budget, an answer beyond its limits.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// One instance of an engine, in the form in which the contract has it.
pub trait Instance {
    /// What the engine is.
    ///
    /// # Errors
    /// The instance ended.
    fn describe(&mut self) -> Result<Info, Fault>;

    /// Called once, before `step`.
    ///
    /// # Errors
    /// The outer error: the instance ended. The inner one: the engine refuses.
    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault>;

    /// 1 to 1,024 events in order.
    ///
    /// # Errors
    /// The instance ended.
    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault>;

    /// Whether a proof convicts, and whom.
    ///
    /// # Errors
    /// The instance ended.
    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault>;
}

/// Makes instances of the engine under test.
pub trait Factory {
    /// A fresh instance, before `init`.
    ///
    /// # Errors
    /// There is none to be had.
    fn instance(&self) -> Result<Box<dyn Instance>, Fault>;

    /// The configurations to run it with: by default those that go with its name.
    fn tuning(&self) -> Tuning {
        let info = self.instance().and_then(|mut instance| instance.describe());
        info.map(|info| Tuning::of(&info.name)).unwrap_or_default()
    }
}

/// Makes instances of an engine that is plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Native<E>(PhantomData<fn() -> E>);

impl<E> Native<E> {
    /// The factory.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E> Default for Native<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Engine + 'static> Factory for Native<E> {
    fn instance(&self) -> Result<Box<dyn Instance>, Fault> {
        Ok(Box::new(NativeInstance::<E> { engine: None, ended: false }))
    }
}

struct NativeInstance<E> {
    engine: Option<E>,
    ended: bool,
}

impl<E> NativeInstance<E> {
    fn call<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.ended {
            return Err(Fault("the instance ended at an earlier fault".to_owned()));
        }
        let result = guarded(|| call(self)).and_then(|result| result);
        self.ended = result.is_err();
        result
    }
}

impl<E: Engine> Instance for NativeInstance<E> {
    fn describe(&mut self) -> Result<Info, Fault> {
        guarded(E::describe)
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        self.call(|this| {
            Ok(E::init(settings.clone(), recovered.cloned()).map(|(engine, outcome)| {
                this.engine = Some(engine);
                outcome
            }))
        })
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        self.call(|this| match &mut this.engine {
            Some(engine) => Ok(engine.step(now, events)),
            None => Err(Fault("step before init".to_owned())),
        })
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        guarded(|| E::judge(committee, proof))
    }
}

/// Turns a panic into a fault with its text.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        Fault(format!("panic: {text}"))
    })
}
