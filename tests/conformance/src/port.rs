//! Engines behind the host's port as engines under test.
//!
//! `moult-module` makes such instances of a component; the traps and exhausted budgets of
//! one become [`Fault`]s with their text.

use moult_core::ports::EngineInstance;
use moult_sdk::engine::{Event, Info, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, NowMs};

use crate::engine::{Factory, Fault, Instance};

/// Makes instances by a function that makes instances of the port.
pub struct PortFactory<F>(pub F);

impl<F, E> Factory for PortFactory<F>
where
    F: Fn() -> Result<Box<dyn EngineInstance>, E>,
    E: std::fmt::Display,
{
    fn instance(&self) -> Result<Box<dyn Instance>, Fault> {
        let made = (self.0)().map_err(|error| Fault(error.to_string()))?;
        Ok(Box::new(PortInstance(made)))
    }
}

struct PortInstance(Box<dyn EngineInstance>);

fn fault(fault: moult_core::ports::Fault) -> Fault {
    Fault(fault.to_string())
}

impl Instance for PortInstance {
    fn describe(&mut self) -> Result<Info, Fault> {
        self.0.describe().map_err(fault)
    }

    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault> {
        self.0.init(settings, recovered).map_err(fault)
    }

    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault> {
        self.0.step(now, events).map_err(fault)
    }

    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault> {
        self.0.judge(committee, proof).map_err(fault)
    }
}
