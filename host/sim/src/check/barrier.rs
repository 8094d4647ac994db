//! The barrier is a wall: nothing of an epoch is prepared or executed past it, and the next
//! epoch begins exactly there.

use std::collections::BTreeMap;

use moult_core::governance::Ledger;
use moult_core::io::EpochStart;
use moult_types::{BlockRecord, Digest, EpochIdentity};

use crate::report::Violation;

#[derive(Default)]
pub(crate) struct Barriers {
    /// By epoch: the barrier, as it follows from each chain that was final in a step. There may be
    /// more than one where an authority is a quorum by itself: what it made final and lost before it
    /// was synced never left it.
    set: BTreeMap<EpochIdentity, BTreeMap<Digest, u64>>,
    /// By epoch: the highest index executed or prepared anywhere.
    reached: BTreeMap<EpochIdentity, u64>,
}

impl Barriers {
    fn check(&self, node: usize, identity: EpochIdentity) -> Result<(), Violation> {
        let barrier = self.set.get(&identity).and_then(|set| set.values().max());
        match (barrier, self.reached.get(&identity)) {
            (Some(barrier), Some(reached)) if reached > barrier => {
                let what = format!("node {node}: {reached} is past the barrier {barrier} of {identity:?}");
                Err(Violation::new("barrier", what))
            }
            _ => Ok(()),
        }
    }

    fn reach(&mut self, node: usize, identity: EpochIdentity, index: u64) -> Result<(), Violation> {
        let reached = self.reached.entry(identity).or_default();
        *reached = index.max(*reached);
        self.check(node, identity)
    }

    pub(crate) fn block(&mut self, node: usize, record: &BlockRecord) -> Result<(), Violation> {
        self.reach(node, record.identity, record.block.index.0)
    }

    pub(crate) fn vote(&mut self, node: usize, identity: EpochIdentity, index: u64) -> Result<(), Violation> {
        self.reach(node, identity, index)
    }

    pub(crate) fn ledger(&mut self, node: usize, ledger: &Ledger) -> Result<(), Violation> {
        let Some(barrier) = ledger.barrier() else { return Ok(()) };
        let identity = ledger.identity;
        let barrier = ledger.commit.0 + barrier.0 - ledger.index.0;
        let set = *self.set.entry(identity).or_default().entry(ledger.hash).or_insert(barrier);
        if set != barrier {
            let what = format!("node {node}: barrier {barrier} of {identity:?}, others: {set}");
            return Err(Violation::new("barrier", what));
        }
        self.check(node, identity)
    }

    pub(crate) fn epoch(&self, node: usize, start: &EpochStart) -> Result<(), Violation> {
        let Some(follows) = start.manifest.follows else { return Ok(()) };
        let set = self.set.get(&follows.identity);
        if set.and_then(|set| set.get(&follows.hash)) != Some(&follows.index.0) {
            let what = format!("node {node}: epoch {} begins elsewhere: {follows:?}", start.manifest.number);
            return Err(Violation::new("barrier", what));
        }
        Ok(())
    }
}
