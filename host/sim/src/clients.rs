//! Clients: transactions with numbers of their own, retried at the same node until they are
//! acknowledged or refused, and reads at any node.

use std::collections::BTreeMap;

use moult_core::execution::{self, APPLICATION_PREFIX, Receipt};
use moult_core::io::Input;
use moult_kv::{Command, keys};
use moult_linear::{Entry, History, Outcome, Request};
use moult_types::{AuthorityId, ClientId, ClientTransaction, GlobalIndex, TransactionId};

use crate::node::Node;
use crate::planted::Bug;
use crate::queue::Event;
use crate::report::{Report, Violation};
use crate::rng::Rng;
use crate::world::World;

/// A client sends a transaction again after this time.
const RETRY_US: u64 = 1_500_000;
/// Most transactions of one client that wait for their acknowledgement.
const OPEN_MAX: usize = 24;

/// States of the search for an order of one key's operations, after which it is given up.
const TRIED_MAX: usize = 200_000;

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
    readings: BTreeMap<u64, Reading>,
    /// What clients asked for and were told, key by key.
    history: History,
}

struct Client {
    id: ClientId,
    node: usize,
    next_seq: u64,
    /// By number.
    open: BTreeMap<u64, Asked>,
}

/// A transaction that is neither acknowledged nor refused.
struct Asked {
    command: Option<Command>,
    payload: Vec<u8>,
    /// When it was handed in first, and last; `None` while its node was down.
    first_us: Option<u64>,
    last_us: Option<u64>,
}

/// A read that is not answered.
struct Reading {
    node: usize,
    key: Vec<u8>,
    asked_us: u64,
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
        Self { list, ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            list: Vec::new(),
            acked_max: GlobalIndex(0),
            acknowledged: 0,
            refused_count: 0,
            acks: BTreeMap::new(),
            submitted: BTreeMap::new(),
            readings: BTreeMap::new(),
            history: History::default(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    /// The answer to a read; its key's value when it is answered.
    pub(crate) fn read_served(&mut self, id: u64, state: &BTreeMap<Vec<u8>, Vec<u8>>, now_us: u64) {
        let Some(Reading { node, key, asked_us }) = self.readings.remove(&id) else { return };
        let stored = [&[APPLICATION_PREFIX, keys::USER][..], &key].concat();
        let outcome = Outcome::Value(state.get(&stored).and_then(|value| number(value)));
        self.note(format!("at node {node}"), &key, (asked_us, now_us), Request::Read, outcome);
    }

    /// A process is gone: who waits for it to answer a read gets an error.
    pub(crate) fn crashed(&mut self, node: usize) {
        self.readings.retain(|_, reading| reading.node != node);
    }

    fn note(
        &mut self,
        who: String,
        key: &[u8],
        (called, returned): (u64, u64),
        request: Request,
        outcome: Outcome,
    ) {
        let (called, returned) = (called * 1000, returned * 1000 + 999);
        let entry = Entry { who, called, returned, request, outcome };
        self.history.push(&String::from_utf8_lossy(key), entry);
    }

    /// Notes a transaction with what its client knows of it at last.
    fn note_transaction(&mut self, who: String, asked: &Asked, receipt: Option<&Receipt>, now_us: u64) {
        let (Some(command), Some(first_us)) = (&asked.command, asked.first_us) else { return };
        let (key, request) = match command {
            Command::Put { key, value } => (key, Request::Write(number(value))),
            Command::Delete { key } => (key, Request::Write(None)),
            Command::CompareAndSwap { key, expect, value } => {
                let value_of = |v: &Option<Vec<u8>>| v.as_deref().and_then(number);
                (key, Request::Swap { expect: value_of(expect), value: value_of(value) })
            }
        };
        let outcome = match receipt.map(|receipt| &receipt.outcome) {
            Some(execution::Outcome::Executed { code: 0, .. }) => Outcome::Applied,
            Some(execution::Outcome::Executed { code: 1, .. }) => Outcome::Mismatch,
            Some(_) | None => Outcome::Unknown,
        };
        self.note(who, key, (first_us, now_us), request, outcome);
    }

    /// The whole history: what is not answered yet stays open for ever.
    ///
    /// Answers with the number of keys whose histories are too entangled to be decided.
    pub(crate) fn check_history(&self) -> Result<usize, Violation> {
        let mut rest = Self { history: self.history.clone(), ..Self::empty() };
        for client in &self.list {
            for asked in client.open.values() {
                rest.note_transaction(name(client), asked, None, 0);
            }
        }
        moult_linear::decide(&rest.history, TRIED_MAX)
            .map_err(|e| Violation::new("linearizable", e.to_string()))
    }

    /// Transactions that are neither acknowledged nor refused, at nodes that are not left out.
    pub(crate) fn open(&self, nodes: &[Node]) -> usize {
        let waiting = self.list.iter().filter(|client| !nodes[client.node].is_left_out);
        waiting.map(|client| client.open.len()).sum()
    }

    /// A node executed transactions: its own clients hear of it.
    pub(crate) fn executed(
        &mut self,
        authority: AuthorityId,
        node: usize,
        receipts: &[(TransactionId, Receipt)],
        now_us: u64,
        report: &mut Report,
    ) -> Result<(), Violation> {
        for (id, receipt) in receipts.iter().filter(|(id, _)| id.client.ingress == authority) {
            let Some(client) =
                self.list.iter_mut().find(|client| client.id == id.client && client.node == node)
            else {
                continue;
            };
            if let Some(asked) = client.open.remove(&id.seq) {
                let who = name(client);
                self.note_transaction(who, &asked, Some(receipt), now_us);
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
        if for_good && let Some(asked) = client.open.remove(&id.seq) {
            self.refused_count += 1;
            // An earlier copy may still be on its way.
            let who = name(client);
            self.note_transaction(who, &asked, None, 0);
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
            if self.clients.list[place].open.len() < OPEN_MAX {
                self.ask(place);
            }
        }
    }

    /// A new transaction of a client.
    pub(crate) fn ask(&mut self, place: usize) {
        let command = command(&mut self.rng);
        let payload = command.as_ref().map_or(b"no command".to_vec(), Command::encode);
        let client = &mut self.clients.list[place];
        let seq = client.next_seq;
        client.next_seq += if self.rng.chance(20) { 3 } else { 1 };
        client.open.insert(seq, Asked { command, payload, first_us: None, last_us: None });
        self.submit(place, seq);
    }

    fn submit(&mut self, place: usize, seq: u64) {
        let now_us = self.now_us;
        let client = &mut self.clients.list[place];
        let Some(asked) = client.open.get_mut(&seq) else { return };
        if !self.nodes[client.node].is_running() {
            self.report.fault("submit-while-down");
            return;
        }
        if asked.last_us.is_some() {
            self.report.fault("client-retry");
        }
        asked.last_us = Some(now_us);
        asked.first_us.get_or_insert(now_us);
        let transaction =
            ClientTransaction { client: client.id.clone(), seq, payload: asked.payload.clone() };
        self.clients.submitted.insert(transaction.id(), transaction.payload.clone());
        let node = client.node;
        if self.plan.has_bug(Bug::ToldBeforeExecuted) {
            let told = GlobalIndex(self.checks.chain.length() + 1);
            self.clients.list[place].open.remove(&seq);
            self.clients.acks.insert(transaction.id(), told);
        }
        self.give(node, Input::Submit(vec![transaction]));
    }

    pub(crate) fn retry(&mut self) {
        self.queue.push(self.now_us + 300_000, Event::Retry);
        for place in 0..self.clients.list.len() {
            let due: Vec<u64> = self.clients.list[place]
                .open
                .iter()
                .filter(|(_, asked)| asked.last_us.is_none_or(|at| at + RETRY_US <= self.now_us))
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
        let it = &self.nodes[node];
        if !it.is_running() || it.byzantine || it.is_left_out {
            return;
        }
        let id = self.checks.reads.asked(node, it.life, self.clients.acked_max);
        let key = key(&mut self.rng);
        self.clients.readings.insert(id, Reading { node, key, asked_us: self.now_us });
        self.give(node, Input::Read { id });
    }
}

/// For messages.
fn name(client: &Client) -> String {
    format!("{} at node {}", String::from_utf8_lossy(&client.id.name), client.node)
}

/// A value of this simulation.
fn number(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_le_bytes)
}

fn key(rng: &mut Rng) -> Vec<u8> {
    format!("key{}", rng.below(16)).into_bytes()
}

/// A command of the key-value store; values are never the same twice in practice. `None`: what
/// is no command.
fn command(rng: &mut Rng) -> Option<Command> {
    let key = key(rng);
    let value = rng.number().to_le_bytes().to_vec();
    let command = match rng.below(10) {
        0 => Command::Delete { key },
        1 | 2 => Command::CompareAndSwap { key, expect: None, value: Some(value) },
        _ => Command::Put { key, value },
    };
    (!rng.chance(10)).then_some(command)
}
