//! An engine that was given up is not proposed again unless that is said, and every node has the
//! same ledger after the same block, however it came there.

use std::collections::BTreeMap;

use moult_core::governance::{Ledger, ProposalRecord, ProposalState};
use moult_core::io::PhaseRecord;
use moult_types::codec::hash_of;
use moult_types::phase::Phase;
use moult_types::{CommitIndex, Digest, EpochNumber, Manifest, ModulePin};

use crate::report::Violation;

/// A place among the executed blocks.
type Place = (EpochNumber, CommitIndex);

#[derive(Default)]
pub(crate) struct Failed {
    /// Each engine with its failures.
    failures: Vec<(ModulePin, Place)>,
    /// The same as nodes found them and have not synced yet.
    unsynced: BTreeMap<usize, Vec<(ModulePin, Place)>>,
    /// Each engine with the epochs at whose end a quorum let it in again.
    readmitted: Vec<(ModulePin, EpochNumber)>,
    /// By the hash of the block, and what may follow it there.
    ledgers: BTreeMap<(Digest, EpochNumber, Phase), Digest>,
}

impl Failed {
    /// A fallback goes on: those before it failed, whether they resumed or not.
    pub(crate) fn resumed(
        &mut self,
        node: usize,
        record: &PhaseRecord,
        manifest: &Manifest,
        ledger: &Ledger,
    ) {
        for pin in (0..record.phase).filter_map(|phase| manifest.engine(phase)) {
            let failure = (pin.clone(), (record.number, ledger.index));
            let is_known =
                |(known, (number, _)): &(ModulePin, Place)| known == pin && *number == record.number;
            if !self.failures.iter().any(is_known) {
                self.unsynced.entry(node).or_default().push(failure);
            }
        }
    }

    /// What the node found is on its disk, and what others do may follow from it.
    pub(crate) fn synced(&mut self, node: usize) {
        self.failures.extend(self.unsynced.remove(&node).unwrap_or_default());
    }

    pub(crate) fn crashed(&mut self, node: usize) {
        self.unsynced.remove(&node);
    }

    /// Engines that were given up, whatever became of them.
    pub(crate) fn pins(&self) -> impl Iterator<Item = &ModulePin> {
        self.failures.iter().map(|(pin, _)| pin)
    }

    /// A proposal came to its end.
    pub(crate) fn closed(&mut self, record: &ProposalRecord) {
        let proposal = &record.proposal;
        if record.state == ProposalState::Active && proposal.readmit_failed {
            let voted_in = EpochNumber(proposal.new_epoch.0 - 1);
            self.readmitted.extend(proposal.engines().map(|pin| (pin.clone(), voted_in)));
        }
    }

    /// What a node has after a block.
    pub(crate) fn ledger(
        &mut self,
        node: usize,
        number: EpochNumber,
        ledger: &Ledger,
    ) -> Result<(), Violation> {
        for record in ledger.open.values().filter(|record| !record.proposal.readmit_failed) {
            let place = (number, record.proposed.0);
            if let Some(pin) = record.proposal.engines().find(|pin| self.is_out(pin, place)) {
                let what = format!("node {node}: proposal {} pins {:?} again", record.id, pin.hash);
                return Err(Violation::new("failed engines stay out", what));
            }
        }
        let hash = hash_of("ledger", ledger);
        let known = *self.ledgers.entry((ledger.hash, number, ledger.phase)).or_insert(hash);
        if known != hash {
            let what = format!("node {node}, block {}, phase {}: {ledger:?}", ledger.global, ledger.phase);
            return Err(Violation::new("one ledger", what));
        }
        Ok(())
    }

    fn is_out(&self, pin: &ModulePin, proposed: Place) -> bool {
        let failures = self.failures.iter().filter(|(failed, at)| failed == pin && *at < proposed);
        failures.map(|(_, at)| at.0).any(|failed_in| {
            let let_in = |(known, end): &(ModulePin, EpochNumber)| {
                known == pin && *end >= failed_in && *end < proposed.0
            };
            !self.readmitted.iter().any(let_in)
        })
    }
}
