//! Agreement and density: one block at each global index, on every node and for ever, each
//! on its parent, without a gap, across epochs.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_core::io::EpochStart;
use moult_types::block::link;
use moult_types::{BlockRecord, EpochNumber, GlobalIndex, Manifest};

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

    /// A process starts from a disk with these final blocks. What is final there is final, also
    /// where the process ended before it handed it to execution.
    pub(crate) fn started<'a>(
        &mut self,
        node: usize,
        blocks: impl Iterator<Item = &'a Arc<BlockRecord>>,
        epochs: &BTreeMap<EpochNumber, Manifest>,
    ) -> Result<(), Violation> {
        self.next.insert(node, GlobalIndex(1));
        blocks.into_iter().try_for_each(|record| self.final_block(node, record, epochs))
    }

    /// A block is final here: the node's next one, and the one that every other node has there.
    pub(crate) fn final_block(
        &mut self,
        node: usize,
        record: &Arc<BlockRecord>,
        epochs: &BTreeMap<EpochNumber, Manifest>,
    ) -> Result<(), Violation> {
        let global = record.global;
        let next = self.next.entry(node).or_insert(GlobalIndex(1));
        if *next != global {
            return Err(Violation::new(
                "density",
                format!("block {global} is final at node {node}, expected {next}"),
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

    fn extend(
        &self,
        node: usize,
        record: &BlockRecord,
        epochs: &BTreeMap<EpochNumber, Manifest>,
    ) -> Result<(), Violation> {
        let wrong = |what: &str| {
            Violation::new("chain", format!("node {node}, block {}: {what}: {record:?}", record.global))
        };
        let manifest = epochs.get(&record.epoch).ok_or_else(|| wrong("its epoch has not begun"))?;
        if manifest.identity() != record.identity || record.hash != link(record.parent, record.block.body()) {
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
            last => {
                let from = last.map(|last| (last.identity, last.block.index, last.hash));
                record.block.index.0 == 1
                    && record.parent == record.identity.digest()
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

#[cfg(test)]
mod tests {
    use moult_types::{Block, CommitIndex, Digest};

    use super::*;
    use crate::modules::Modules;
    use crate::plan::Plan;
    use crate::world::World;

    /// The chain's first blocks, each with a digest of its own.
    fn blocks(manifest: &Manifest, salts: &[u8]) -> Vec<Arc<BlockRecord>> {
        let identity = manifest.identity();
        let mut parent = identity.digest();
        let next = |(index, salt): (u64, &u8)| {
            let batches = vec![Digest([*salt; 32])];
            let block = Block { index: CommitIndex(index), time_ms: index, batches, state_root: None };
            let hash = link(parent, block.body());
            let epoch = manifest.number;
            let record = BlockRecord { epoch, identity, global: GlobalIndex(index), parent, hash, block };
            parent = hash;
            Arc::new(record)
        };
        (1..).zip(salts).map(next).collect()
    }

    /// A node wrote that block 2 is final, crashed before it executed it, and goes on with block
    /// 3 after its start. Nobody else had block 2 yet: Raft's seed 287.
    #[test]
    fn what_is_final_on_a_disk_is_final_though_nobody_executed_it() {
        let manifest = World::new(1, Plan::quiet(), Modules::pbft(), false).genesis.manifest;
        let epochs = BTreeMap::from([(manifest.number, manifest.clone())]);
        let ours = blocks(&manifest, &[1, 2, 3]);
        let mut chain = Chain::default();
        chain.started(1, [].iter(), &epochs).unwrap();
        chain.final_block(1, &ours[0], &epochs).unwrap();
        chain.started(1, ours[..2].iter(), &epochs).unwrap();
        chain.final_block(1, &ours[2], &epochs).unwrap();
        assert_eq!(chain.length(), 3);
        // Nor may another disk hold another block there, or miss one.
        let others = blocks(&manifest, &[1, 9]);
        assert_eq!(chain.started(2, others.iter(), &epochs).unwrap_err().property, "agreement");
        assert_eq!(chain.started(2, ours[1..].iter(), &epochs).unwrap_err().property, "density");
    }
}
