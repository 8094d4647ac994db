//! What will happen, by virtual time and then by the order in which it was decided.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moult_core::Input;
use moult_types::Message;

use crate::disk::Kept;

/// Something that happens.
pub(crate) enum Event {
    /// A message arrives.
    Deliver { from: usize, to: usize, message: Arc<Message> },
    /// A node's replica takes what has come in.
    Process { node: usize, life: u64 },
    /// A node's replica asked to be woken.
    Wake { node: usize, life: u64 },
    /// The store of a node is synced.
    StoreSynced { node: usize, life: u64 },
    /// The guard of a node is synced.
    GuardSynced { node: usize, life: u64 },
    /// An answer from outside the replica.
    Answer { node: usize, life: u64, input: Box<Input> },
    /// The shell tries to start the engine whose module it lacked.
    RetryEngine { node: usize, life: u64 },
    /// The executor finished a block.
    Executed { node: usize, life: u64 },
    /// A client submits a transaction.
    Transaction,
    /// A client reads.
    Read,
    /// Clients look after transactions that were not acknowledged.
    Retry,
    /// A fault.
    Fault,
    /// A node's process ends.
    Crash { node: usize, kept: Kept },
    /// A node's process starts.
    Restart { node: usize },
    /// A pause is over.
    Resume { node: usize },
    /// Links are repaired.
    RepairLinks,
    /// Nodes are cut off from the others once more.
    Cut { side: BTreeSet<usize> },
    /// A Byzantine node does something of its own accord.
    Mischief,
    /// An operator looks after a node that refuses to start, or signs nothing.
    Repair { node: usize },
    /// A slow node is fast again.
    SpeedUp { node: usize },
    /// Somebody proposes an epoch change.
    Change,
    /// Somebody takes a proposal back, or votes by hand.
    Afterthought { node: usize, kind: &'static str },
    /// A module becomes available on a node.
    ModuleArrives { node: usize },
    /// No more faults from now on.
    Calm,
    /// Whether everything came to rest.
    Look,
}

/// The queue of events.
#[derive(Default)]
pub(crate) struct Queue {
    events: BTreeMap<(u64, u64), Event>,
    next: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at_us: u64, event: Event) {
        self.events.insert((at_us, self.next), event);
        self.next += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, Event)> {
        self.events.pop_first().map(|((at_us, _), event)| (at_us, event))
    }
}
