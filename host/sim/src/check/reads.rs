//! Linearizable reads: a read is placed at or after every write that was acknowledged, and
//! every read that was answered, before it began.

use std::collections::BTreeMap;

use moult_types::GlobalIndex;

use crate::node::Node;
use crate::report::Violation;

#[derive(Default)]
pub(crate) struct Reads {
    next: u64,
    open: BTreeMap<u64, Read>,
    /// The highest block at which a read was answered.
    served_max: GlobalIndex,
}

struct Read {
    node: usize,
    life: u64,
    floor: GlobalIndex,
    placed: Option<GlobalIndex>,
}

impl Reads {
    /// A read begins; answers with its name.
    pub(crate) fn asked(&mut self, node: usize, life: u64, acked_max: GlobalIndex) -> u64 {
        self.next += 1;
        let floor = acked_max.max(self.served_max);
        self.open.insert(self.next, Read { node, life, floor, placed: None });
        self.next
    }

    /// The replica says at which block it is current.
    pub(crate) fn placed(&mut self, node: usize, id: u64, global: GlobalIndex) -> Result<(), Violation> {
        let Some(read) = self.open.get_mut(&id) else { return Ok(()) };
        if global < read.floor {
            let what = format!(
                "node {node} places read {id} at {global}, {} was visible before it began",
                read.floor
            );
            return Err(Violation::new("linearizable reads", what));
        }
        read.placed = Some(global);
        Ok(())
    }

    /// It is answered.
    pub(crate) fn served(&mut self, id: u64) {
        if let Some(global) = self.open.remove(&id).and_then(|read| read.placed) {
            self.served_max = self.served_max.max(global);
        }
    }

    /// Its client gets an error.
    pub(crate) fn crashed(&mut self, node: usize) {
        self.open.retain(|_, read| read.node != node);
    }

    /// Reads that are not answered and whose process still runs.
    pub(crate) fn waiting(&self, nodes: &[Node]) -> usize {
        let waits = |read: &&Read| nodes[read.node].life == read.life && !nodes[read.node].is_left_out;
        self.open.values().filter(waits).count()
    }
}
