//! Engines that were given up: what a later epoch does not let in by accident.
//!
//! Replicated with the ledger and carried from epoch to epoch. Here live the list, its bound, and
//! when it holds a proposal back. Why a node suspected an engine is its own knowledge and stands in
//! its history of the epoch, not here.

use std::fmt;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::Digest;
use moult_types::codec::hash_of;
use moult_types::phase::Phase;
use moult_types::{EpochChangeProposal, EpochNumber, GlobalIndex, Manifest, ModuleHash, ModulePin};

use super::check::ProposalError;

/// So many engines that were given up are remembered, the latest ones. Each takes the abort of a
/// quorum, and an epoch has nine engines at most.
pub const FAILED_ENGINES_MAX: usize = 32;

/// An engine that a quorum gave up, with the configuration that it ran with: another
/// configuration may be the repair, so it makes another engine.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct FailedEngine {
    /// The module.
    pub module: ModuleHash,
    /// Hash of its configuration, which may be as long as 64 KiB.
    pub config: Digest,
    /// The epoch in which it failed last.
    pub epoch: EpochNumber,
    /// The phase that was aborted.
    pub phase: Phase,
    /// The block, over all epochs, that the fallback went on from.
    pub resumed_from: GlobalIndex,
}

impl FailedEngine {
    fn new(pin: &ModulePin, epoch: EpochNumber, phase: Phase, resumed_from: GlobalIndex) -> Self {
        Self { module: pin.hash, config: config_hash(pin), epoch, phase, resumed_from }
    }

    /// Whether a pin is this engine, configuration and all.
    pub fn is(&self, pin: &ModulePin) -> bool {
        self.module == pin.hash && self.config == config_hash(pin)
    }
}

impl fmt::Display for FailedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { module, epoch, phase, resumed_from, .. } = self;
        write!(
            f,
            "engine {module} was given up in epoch {epoch}, phase {phase}, after block {resumed_from}, with \
             this configuration"
        )
    }
}

/// What stands for the configuration of an engine that failed.
pub fn config_hash(pin: &ModulePin) -> Digest {
    hash_of("moult configuration", &pin.config)
}

/// The engines that were given up, those that failed last at the end.
#[derive(Clone, PartialEq, Eq, Debug, Default, BorshSerialize, BorshDeserialize)]
pub struct FailedEngines(Vec<FailedEngine>);

impl FailedEngines {
    /// Each once, with its last failure; those that failed last at the end.
    pub fn iter(&self) -> impl Iterator<Item = &FailedEngine> {
        self.0.iter()
    }

    /// The failure of a pin.
    pub fn of(&self, pin: &ModulePin) -> Option<&FailedEngine> {
        self.0.iter().find(|failed| failed.is(pin))
    }

    /// K12: a fallback goes on, and the engines of all phases before it are given up. Some of these
    /// may never have resumed, and a node that catches up need not hear of them one by one: it
    /// comes to the same list either way.
    pub(super) fn note(&mut self, manifest: &Manifest, aborted: std::ops::Range<Phase>, at: GlobalIndex) {
        for phase in aborted {
            let Some(pin) = manifest.engine(phase) else { continue };
            self.0.retain(|failed| !failed.is(pin));
            self.0.push(FailedEngine::new(pin, manifest.number, phase, at));
        }
        let surplus = self.0.len().saturating_sub(FAILED_ENGINES_MAX);
        self.0.drain(..surplus);
    }

    /// Whether a proposal may pin what it pins.
    pub(super) fn check(&self, proposal: &EpochChangeProposal) -> Result<(), ProposalError> {
        if proposal.readmit_failed {
            return Ok(());
        }
        match proposal.engines().find_map(|pin| self.of(pin)) {
            Some(failed) => Err(ProposalError::EngineFailed(Box::new(failed.clone()))),
            None => Ok(()),
        }
    }

    /// A quorum let engines in again: what is active is not held against the next proposal.
    pub(super) fn readmit(&mut self, proposal: &EpochChangeProposal) {
        if proposal.readmit_failed {
            self.0.retain(|failed| !proposal.engines().any(|pin| failed.is(pin)));
        }
    }
}
