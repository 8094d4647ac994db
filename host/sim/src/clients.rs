//! Clients: transactions with numbers of their own, retried at the same node until they are
//! acknowledged or refused, and reads at any node.

use std::collections::BTreeMap;

use moult_core::execution::Receipt;
use moult_core::io::Input;
use moult_kv::Command;
use moult_types::{AuthorityId, ClientId, ClientTransaction, GlobalIndex, TransactionId};

use crate::node::Node;
use crate::queue::Event;
use crate::report::{Report, Violation};
use crate::rng::Rng;
use crate::world::World;

/// A client sends a transaction again after this time.
const RETRY_US: u64 = 1_500_000;
/// Most transactions of one client that wait for their acknowledgement.
const OPEN_MAX: usize = 24;

/// All clients.
pub(crate) struct Clients {
    list: Vec<Client>,
    /// The highest block in which an acknowledged transaction ran.
    pub(crate) acked_max: GlobalIndex,
    pub(crate) acknowledged: u64,
    pub(crate) refused_count: u64,
    /// What was acknowledged, and in which block.
    pub(crate) acks: BTreeMap<TransactionId, GlobalIndex>,
    /// Everything that was ever handed to a node.
    pub(crate) submitted: BTreeMap<TransactionId, Vec<u8>>,
}

struct Client {
    id: ClientId,
    node: usize,
    next_seq: u64,
    /// By number: (payload, last submitted; `None` while its node was down).
    open: BTreeMap<u64, (Vec<u8>, Option<u64>)>,
}

impl Clients {
    /// Most clients are at the first members: the others refuse until they join.
    pub(crate) fn new(rng: &mut Rng, nodes: &[Node], members: usize, max: u64) -> Self {
        let count = rng.range(2, max.max(2));
        let (first, others): (Vec<_>, Vec<_>) =
            (0..nodes.len()).filter(|node| !nodes[*node].byzantine).partition(|node| *node < members);
        let list = (0..count)
            .filter_map(|i| {
                let outside = !others.is_empty() && rng.chance(150);
                let node = rng.pick(if outside { &others } else { &first })?;
                let id = ClientId { ingress: nodes[node].authority, name: format!("client{i}").into_bytes() };
                Some(Client { id, node, next_seq: 1 + rng.below(3), open: BTreeMap::new() })
            })
            .collect();
        Self {
            list,
            acked_max: GlobalIndex(0),
            acknowledged: 0,
            refused_count: 0,
            acks: BTreeMap::new(),
            submitted: BTreeMap::new(),
        }
    }

    /// Transactions that are neither acknowledged nor refused.
    pub(crate) fn open(&self) -> usize {
        self.list.iter().map(|client| client.open.len()).sum()
    }

    /// A node executed transactions: its own clients hear of it.
    pub(crate) fn executed(
        &mut self,
        authority: AuthorityId,
        node: usize,
        receipts: &[(TransactionId, Receipt)],
        _now_us: u64,
        report: &mut Report,
    ) -> Result<(), Violation> {
        for (id, receipt) in receipts.iter().filter(|(id, _)| id.client.ingress == authority) {
            let Some(client) =
                self.list.iter_mut().find(|client| client.id == id.client && client.node == node)
            else {
                continue;
            };
            if client.open.remove(&id.seq).is_some() {
                self.acknowledged += 1;
                self.acked_max = self.acked_max.max(receipt.global);
                self.acks.insert(id.clone(), receipt.global);
            } else if self.acks.get(id).is_some_and(|global| *global != receipt.global) {
                return Err(Violation::new(
                    "one receipt",
                    format!("{id} has two: {receipt:?} and {:?}", self.acks.get(id)),
                ));
            } else {
                report.note("receipt repeated");
            }
        }
        Ok(())
    }

    /// A node will not order a transaction.
    pub(crate) fn refused(&mut self, id: &TransactionId, for_good: bool, report: &mut Report) {
        report.note(if for_good { "refused" } else { "overloaded" });
        let Some(client) = self.list.iter_mut().find(|client| client.id == id.client) else { return };
        if for_good && client.open.remove(&id.seq).is_some() {
            self.refused_count += 1;
        }
    }
}

impl World {
    pub(crate) fn transaction(&mut self) {
        if self.is_calm {
            return;
        }
        let mean_us = self.plan.between_transactions_ms * 1000;
        let next_us = self.now_us + self.rng.below(2 * mean_us) + 1;
        self.queue.push(next_us, Event::Transaction);
        // Now and then many at once.
        let count = if self.rng.chance(50) { self.rng.range(5, 40) } else { 1 };
        for _ in 0..count {
            let place = self.rng.below(self.clients.list.len() as u64) as usize;
            let command = command(&mut self.rng);
            let client = &mut self.clients.list[place];
            if client.open.len() >= OPEN_MAX {
                continue;
            }
            let seq = client.next_seq;
            client.next_seq += if self.rng.chance(20) { 3 } else { 1 };
            client.open.insert(seq, (command, None));
            self.submit(place, seq);
        }
    }

    fn submit(&mut self, place: usize, seq: u64) {
        let now_us = self.now_us;
        let client = &mut self.clients.list[place];
        let Some((payload, last_us)) = client.open.get_mut(&seq) else { return };
        if !self.nodes[client.node].is_running() {
            self.report.fault("submit-while-down");
            return;
        }
        if last_us.is_some() {
            self.report.fault("client-retry");
        }
        *last_us = Some(now_us);
        let transaction = ClientTransaction { client: client.id.clone(), seq, payload: payload.clone() };
        self.clients.submitted.insert(transaction.id(), payload.clone());
        let node = client.node;
        self.give(node, Input::Submit(vec![transaction]));
    }

    pub(crate) fn retry(&mut self) {
        self.queue.push(self.now_us + 300_000, Event::Retry);
        for place in 0..self.clients.list.len() {
            let due: Vec<u64> = self.clients.list[place]
                .open
                .iter()
                .filter(|(_, (_, last_us))| last_us.is_none_or(|at| at + RETRY_US <= self.now_us))
                .map(|(seq, _)| *seq)
                .collect();
            for seq in due {
                self.submit(place, seq);
            }
        }
    }

    pub(crate) fn read(&mut self) {
        if self.is_calm {
            return;
        }
        let next_us = self.now_us + self.rng.below(300_000) + 1;
        self.queue.push(next_us, Event::Read);
        let running = self.running();
        if let Some(node) = self.rng.pick(&running) {
            self.read_on(node);
        }
    }

    pub(crate) fn read_on(&mut self, node: usize) {
        if !self.nodes[node].is_running() || self.nodes[node].byzantine {
            return;
        }
        let life = self.nodes[node].life;
        let id = self.checks.reads.asked(node, life, self.clients.acked_max);
        self.give(node, Input::Read { id });
    }
}

/// A command of the key-value store; values are never the same twice in practice.
fn command(rng: &mut Rng) -> Vec<u8> {
    let key = format!("key{}", rng.below(16)).into_bytes();
    let value = rng.number().to_le_bytes().to_vec();
    let command = match rng.below(10) {
        0 => Command::Delete { key },
        1 | 2 => Command::CompareAndSwap { key, expect: None, value: Some(value) },
        _ => Command::Put { key, value },
    };
    if rng.chance(10) { b"no command".to_vec() } else { command.encode() }
}
