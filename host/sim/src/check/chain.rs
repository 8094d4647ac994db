//! Agreement and density: one block at each global index, on every node and for ever, each
//! on its parent, without a gap, across epochs.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_core::Recovery;
use moult_core::io::EpochStart;
use moult_types::block::link;
use moult_types::phase::Point;
use moult_types::{BlockRecord, EpochNumber, GlobalIndex};

use super::Epochs;
use crate::report::Violation;

/// The chain as the first node to finalise each block saw it.
#[derive(Default)]
pub(crate) struct Chain {
    blocks: Vec<Arc<BlockRecord>>,
    starts: BTreeMap<EpochNumber, EpochStart>,
    /// The next block that a node has to execute.
    next: BTreeMap<usize, GlobalIndex>,
}

impl Chain {
    pub(crate) fn length(&self) -> u64 {
        self.blocks.len() as u64
    }

    pub(crate) fn switches(&self) -> u64 {
        self.starts.len().saturating_sub(1) as u64
    }

    pub(crate) fn is_new(&self, record: &BlockRecord) -> bool {
        record.global.0 > self.length()
    }

    pub(crate) fn started(&mut self, node: usize, recovery: &Recovery) {
        let last = recovery.ledger.as_ref().map_or(GlobalIndex(0), |ledger| ledger.global);
        self.next.insert(node, last.next());
    }

    pub(crate) fn final_block(
        &mut self,
        node: usize,
        record: &Arc<BlockRecord>,
        epochs: &Epochs,
    ) -> Result<(), Violation> {
        let global = record.global;
        let next = self.next.entry(node).or_insert(GlobalIndex(1));
        if *next != global {
            return Err(Violation::new(
                "density",
                format!("node {node} executes block {global}, expected {next}"),
            ));
        }
        *next = global.next();
        match self.blocks.get(global.0 as usize - 1) {
            Some(known) if known == record => Ok(()),
            Some(known) => Err(Violation::new(
                "agreement",
                format!("node {node}, block {global}: {record:?}, others: {known:?}"),
            )),
            None => {
                self.extend(node, record, epochs)?;
                self.blocks.push(record.clone());
                Ok(())
            }
        }
    }

    fn extend(&self, node: usize, record: &BlockRecord, epochs: &Epochs) -> Result<(), Violation> {
        let wrong = |what: &str| {
            Violation::new("chain", format!("node {node}, block {}: {what}: {record:?}", record.global))
        };
        let manifest = epochs.of(record.identity).ok_or_else(|| wrong("its epoch has not begun"))?;
        if manifest.number != record.epoch || record.hash != link(record.parent, record.block.body()) {
            return Err(wrong("identity or hash"));
        }
        if record.global.0 != self.length() + 1 {
            return Err(wrong("a gap"));
        }
        let follows = match self.blocks.last() {
            Some(last) if last.identity == record.identity => {
                record.parent == last.hash
                    && record.block.index == last.block.index.next()
                    && record.block.time_ms >= last.block.time_ms
                    && record.block.state_root.is_none()
            }
            // A fallback goes on from the block that its own blocks name.
            Some(last) if last.epoch == record.epoch => {
                let point = Point {
                    identity: last.identity,
                    index: last.block.index,
                    hash: last.hash,
                    global: last.global,
                };
                let resumed = record.block.resumed;
                resumed
                    .is_some_and(|resumed| resumed.point == point && record.block.index == resumed.at.next())
                    && record.block.time_ms >= last.block.time_ms
                    && record.block.state_root.is_none()
            }
            last => {
                let from = last.map(|last| (last.identity, last.block.index, last.hash));
                let begins = match record.block.resumed {
                    None => record.block.index.0 == 1 && record.parent == record.identity.digest(),
                    Some(resumed) => {
                        record.block.index == resumed.at.next()
                            && resumed.point.hash == manifest.identity().digest()
                    }
                };
                begins
                    && manifest.follows.map(|f| (f.identity, f.index, f.hash)) == from
                    && record.block.state_root.is_some() == from.is_some()
            }
        };
        if follows { Ok(()) } else { Err(wrong("it does not follow the block before it")) }
    }

    /// All nodes begin an epoch alike, at the block after which it says that it begins.
    pub(crate) fn epoch(&mut self, node: usize, start: &EpochStart) -> Result<(), Violation> {
        let number = start.manifest.number;
        let mut start = start.clone();
        start.switched_at_ms = 0;
        let wrong =
            |what: &str| Violation::new("one successor", format!("node {node}, epoch {number}: {what}"));
        if let Some(known) = self.starts.get(&number) {
            return if *known == start { Ok(()) } else { Err(wrong("others began another one")) };
        }
        if number.0 != self.starts.len() as u64 {
            return Err(wrong("an epoch is left out"));
        }
        let last = self.blocks.last().map(|last| (last.global, last.identity, last.block.index, last.hash));
        let follows = start.manifest.follows.map(|f| (start.base, f.identity, f.index, f.hash));
        if last != follows {
            return Err(wrong("it does not follow the last block"));
        }
        self.starts.insert(number, start);
        Ok(())
    }
}
