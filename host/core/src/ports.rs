//! What `core` needs of a module, whoever runs it: Wasm (`moult-module`) or native code.
//!
//! An instance is single-threaded and synchronous. A [`Fault`] ends it: the caller drops
//! the instance and asks for a new one. Determinism and limits are the implementer's duty.

use moult_sdk::engine::{Event, Info as EngineInfo, InitError, Outcome, Recovered, Settings};
use moult_sdk::{AuthorityIndex, Committee, NowMs};
use moult_sdk::{application, approval};
use moult_types::state::Overlay;
use thiserror::Error;

/// Why an instance is gone.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// The module ran into `unreachable`, an out-of-bounds access, a stack overflow or the like.
    #[error("the module trapped: {0}")]
    Trap(String),
    /// The fuel of the call was used up. Local by nature: never an input to consensus.
    #[error("the module used up its budget of {fuel} fuel in one call")]
    Budget {
        /// The limit that was hit.
        fuel: u64,
    },
    /// The watchdog ended a call that ran far beyond its budget's time. Local by nature.
    #[error("the module did not return within {limit_ms} ms")]
    Watchdog {
        /// The limit that was hit.
        limit_ms: u64,
    },
    /// The answer breaks the contract (too large, an index out of range, ...).
    #[error("the module's answer breaks its contract: {0}")]
    Output(String),
}

impl Fault {
    /// Whether the same call faults on every node alike, so that it may decide replicated
    /// state (roll back one transaction). Budgets and watchdogs are local stops.
    pub fn is_deterministic(&self) -> bool {
        matches!(self, Self::Trap(_) | Self::Output(_))
    }
}

/// A consensus engine, instantiated for one epoch.
pub trait EngineInstance: Send {
    /// What the engine is.
    ///
    /// # Errors
    /// The instance is gone.
    fn describe(&mut self) -> Result<EngineInfo, Fault>;

    /// Called once, before `step`.
    ///
    /// # Errors
    /// The outer error: the instance is gone. The inner one: the engine refuses.
    fn init(
        &mut self,
        settings: &Settings,
        recovered: Option<&Recovered>,
    ) -> Result<Result<Outcome, InitError>, Fault>;

    /// 1 to 1,024 events in order.
    ///
    /// # Errors
    /// The instance is gone.
    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Result<Outcome, Fault>;

    /// See the contract; pure.
    ///
    /// # Errors
    /// The instance is gone.
    fn judge(&mut self, committee: &Committee, proof: &[u8]) -> Result<Option<AuthorityIndex>, Fault>;
}

/// An approval policy.
pub trait ApprovalInstance: Send {
    /// What the policy is.
    ///
    /// # Errors
    /// The call failed; there is no vote.
    fn describe(&mut self) -> Result<approval::Info, Fault>;

    /// This node's vote.
    ///
    /// # Errors
    /// The call failed; there is no vote.
    fn evaluate(
        &mut self,
        config: &[u8],
        proposal: &approval::Proposal,
        context: &approval::Context,
    ) -> Result<approval::Verdict, Fault>;
}

/// The application. Every call may run in a fresh instance; the overlay goes in and comes
/// back with the writes of the call, also after a fault (the caller then throws them away).
pub trait ApplicationInstance: Send + Sync {
    /// What the application is.
    ///
    /// # Errors
    /// The call failed.
    fn describe(&self) -> Result<application::Info, Fault>;

    /// Executes transactions in order, one receipt each.
    fn execute(
        &self,
        overlay: Overlay,
        config: &[u8],
        block: application::Block,
        transactions: &[Vec<u8>],
    ) -> (Overlay, Result<Vec<application::Receipt>, Fault>);

    /// Answers a read; writes are refused.
    ///
    /// # Errors
    /// The outer error: the call failed. The inner one is for the client.
    fn query(
        &self,
        overlay: Overlay,
        config: &[u8],
        request: &[u8],
    ) -> Result<Result<Vec<u8>, String>, Fault>;

    /// Takes the state over from the former application.
    fn upgrade(
        &self,
        overlay: Overlay,
        config: &[u8],
        from: Option<&application::Info>,
    ) -> (Overlay, Result<Result<(), String>, Fault>);
}
