//! Transactions into batches: closed at once when none of this node's is in flight, else by
//! size or age, or when those who were answered last have written again. Also the batches of
//! peers, and what was held when an epoch ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use moult_sdk::Digest;
use moult_sdk::engine::Event as EngineEvent;
use moult_types::{
    Batch, ClientTransaction, HeldBatch, Message, Scope, SignedBatch, SystemTransaction, Transaction,
};

use super::Replica;
use crate::io::{Effect, Event, Persist, Refusal};

/// What an encoded transaction takes beyond its payload, at most.
const TRANSACTION_OVERHEAD_BYTES: usize = 128;
/// Clients that are answered together write again together: so long after their batch was
/// final the first of them wait for the others, in milliseconds. Each batch costs every node
/// a signature to check, and each block much more.
const GATHER_MS: u64 = 3;
/// Own batches that are not final after this time are pushed again, in milliseconds.
const RESEND_BATCH_MS: u64 = 1000;
/// An idle chain moves at least this often while it must, in milliseconds.
const TICK_MS: u64 = 500;
/// While a barrier is set the chain is driven to it.
const TICK_TO_BARRIER_MS: u64 = 2;

/// Transactions on their way into a batch, and own batches that are not final.
#[derive(Default)]
pub(super) struct Batching {
    queue: VecDeque<(Transaction, usize)>,
    queue_bytes: usize,
    oldest_ms: Option<u64>,
    pub(super) next_seq: u64,
    last_closed_ms: u64,
    /// Own batches that are not final.
    pub(super) in_flight: BTreeMap<Digest, InFlight>,
    /// How many transactions are expected of those who were answered since the last batch.
    expected: usize,
    /// Until when they are waited for; in the past once all have come.
    gather_until_ms: Option<u64>,
}

/// New transactions that a replica wants to be woken for: so many, or so many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Their number, at least one.
    pub transactions: usize,
    /// Of their payloads.
    pub bytes: usize,
}

/// A batch on its way.
pub(super) struct InFlight {
    pub(super) pushed_ms: u64,
    pub(super) transactions: usize,
}

impl Batching {
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// When a batch of what is queued is to be closed, however small it is.
    fn close_ms(&self, settings: &super::Settings) -> Option<u64> {
        let oldest_ms = self.oldest_ms?;
        let limit_ms = oldest_ms + settings.batch_delay_ms;
        Some(match self.gather_until_ms {
            Some(until_ms) => until_ms.min(limit_ms),
            None if self.in_flight.is_empty() => oldest_ms,
            None => limit_ms,
        })
    }

    /// An own batch is final: its clients are about to be told.
    pub(super) fn ended(&mut self, digest: &Digest, now_ms: u64) {
        let Some(batch) = self.in_flight.remove(digest) else { return };
        if batch.transactions > 0 {
            self.expected += batch.transactions;
            self.gather_until_ms = Some(now_ms + GATHER_MS);
        }
    }

    fn push(&mut self, transaction: Transaction, bytes: usize, now_ms: u64) {
        if self.expected > 0 {
            self.expected -= 1;
            if self.expected == 0 {
                self.gather_until_ms = Some(now_ms);
            }
        }
        self.queue_bytes += bytes;
        self.queue.push_back((transaction, bytes));
        self.oldest_ms.get_or_insert(now_ms);
    }

    fn push_first(&mut self, transaction: Transaction, bytes: usize, now_ms: u64) {
        self.queue_bytes += bytes;
        self.queue.push_front((transaction, bytes));
        self.oldest_ms.get_or_insert(now_ms);
    }

    fn take(&mut self, bytes_max: usize, now_ms: u64) -> Vec<Transaction> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some((_, size)) = self.queue.front() {
            if !taken.is_empty() && bytes_max.saturating_sub(bytes) < *size {
                break;
            }
            let Some((transaction, size)) = self.queue.pop_front() else { break };
            bytes += size;
            taken.push(transaction);
        }
        self.queue_bytes -= bytes;
        (self.expected, self.gather_until_ms) = (0, None);
        self.oldest_ms = if self.queue.is_empty() { None } else { Some(now_ms) };
        taken
    }
}

impl Replica {
    pub(super) fn submit(&mut self, transactions: Vec<ClientTransaction>) {
        let batch_bytes_max = self.epoch.start.manifest.limits.batch_bytes_max as usize;
        for transaction in transactions {
            let bytes = transaction.payload.len() + TRANSACTION_OVERHEAD_BYTES;
            let refusal = if self.draining {
                Some(Refusal::Draining)
            } else if self.epoch.me.is_none() || !self.guard.is_enabled() {
                Some(Refusal::Observer)
            } else if bytes + TRANSACTION_OVERHEAD_BYTES > batch_bytes_max {
                Some(Refusal::TooLarge)
            } else if self.batching.queue_bytes + bytes > self.settings.queue_bytes_max {
                Some(Refusal::Overloaded)
            } else {
                None
            };
            match refusal {
                Some(reason) => {
                    self.out.release.push(Effect::Refused { transaction: transaction.id(), reason })
                }
                None => self.batching.push(Transaction::Client(transaction), bytes, self.now.mono_ms),
            }
        }
    }

    /// Governance of this node's own, before anything that waits.
    pub(super) fn submit_system(&mut self, system: SystemTransaction) {
        let bytes = system_bytes(&system);
        self.batching.push_first(Transaction::System(system), bytes, self.now.mono_ms);
    }

    /// When a batch is to be closed for its age; `None` where none may be.
    pub(super) fn next_close_ms(&self) -> Option<u64> {
        if self.makes_batches() && self.has_room() { self.batching.close_ms(&self.settings) } else { None }
    }

    /// What is worth a step before [`Replica::next_wake_ms`]; less can wait for the next one.
    pub fn wanted(&self) -> Wanted {
        let batching = &self.batching;
        // The first sets the time of its batch. Where no batches are made they are refused, and at once.
        if batching.queue.is_empty() || !self.makes_batches() {
            return Wanted { transactions: 1, bytes: 0 };
        }
        if !self.has_room() {
            return Wanted { transactions: usize::MAX, bytes: usize::MAX };
        }
        let gathers = batching.gather_until_ms.is_some() && batching.expected > 0;
        Wanted {
            transactions: if gathers { batching.expected } else { usize::MAX },
            bytes: self.settings.batch_bytes.saturating_sub(batching.queue_bytes),
        }
    }

    fn makes_batches(&self) -> bool {
        self.epoch.me.is_some() && self.guard.is_enabled() && !self.closing()
    }

    fn has_room(&self) -> bool {
        self.batching.in_flight.len() < self.settings.batches_in_flight_max
    }

    pub(super) fn close_batches(&mut self) {
        if !self.makes_batches() {
            return;
        }
        loop {
            let (batching, room) = (&self.batching, self.has_room());
            let due = batching.queue_bytes >= self.settings.batch_bytes
                || batching.close_ms(&self.settings).is_some_and(|at| at <= self.now.mono_ms);
            let tick = self.next_tick_ms().is_some_and(|at| at <= self.now.mono_ms);
            if !(room && (due && batching.queued() > 0 || tick)) {
                return;
            }
            if self.close_batch().is_none() {
                return;
            }
        }
    }

    /// Makes a batch of what is queued, be it nothing.
    fn close_batch(&mut self) -> Option<Digest> {
        let batch_bytes_max = self.epoch.start.manifest.limits.batch_bytes_max as usize;
        let bytes_max = self.settings.batch_bytes.min(batch_bytes_max - TRANSACTION_OVERHEAD_BYTES);
        let transactions = self.batching.take(bytes_max, self.now.mono_ms);
        self.make_batch(transactions)
    }

    pub(super) fn make_batch(&mut self, transactions: Vec<Transaction>) -> Option<Digest> {
        let author = self.epoch.me?;
        let batch = Batch {
            number: self.epoch.start.manifest.number,
            author,
            start: self.guard.state().start_count,
            seq: self.batching.next_seq,
            time_ms: self.now.wall_ms,
            transactions,
        };
        self.batching.next_seq += 1;
        self.batching.last_closed_ms = self.now.mono_ms;
        // The start count is durable before any batch of this start is signed, and sequence
        // numbers are given out once: a slot is never signed twice.
        self.guard.batch().ok()?;
        let in_flight = InFlight { pushed_ms: self.now.mono_ms, transactions: batch.transactions.len() };
        let statement = batch.statement(batch.digest());
        let signature = self.signer.sign_statement(self.chain, Scope::Number(batch.number), &statement);
        let held = Arc::new(HeldBatch::new(SignedBatch { batch, signature }));
        let digest = held.digest;
        self.batching.in_flight.insert(digest, in_flight);
        let message = Message::Batches(vec![held.signed.clone()]);
        self.out.durable.push(Persist::Batch(held.clone()));
        self.send(self.members(), message);
        self.hold(held);
        Some(digest)
    }

    /// Makes a batch although nothing calls for one, if one may be made.
    pub(super) fn close_batch_now(&mut self) -> Option<Digest> {
        if self.makes_batches() && self.has_room() { self.close_batch() } else { None }
    }

    /// When an idle chain wants a tick of this node; `None` while it need not move.
    pub(super) fn next_tick_ms(&self) -> Option<u64> {
        let me = self.epoch.me?;
        if !self.batching.in_flight.is_empty() || !self.makes_batches() || self.fallback.is_resuming() {
            return None;
        }
        let started = self.ledger.author_times_ms.get(me.as_usize()).is_some_and(|time| *time > 0);
        let every_ms = match self.ledger.barrier() {
            Some(_) => TICK_TO_BARRIER_MS,
            None if self.ledger.open.is_empty() && started => return None,
            None => TICK_MS,
        };
        Some(self.batching.last_closed_ms + every_ms)
    }

    /// A batch of a peer (or asked for).
    pub(super) fn receive_batch(&mut self, batch: Arc<HeldBatch>) {
        self.mind_batch(batch.batch());
        // It was verified before the switch, or comes from this node's own store.
        if self.is_expired(&batch) {
            return;
        }
        let opens = self.fallback.is_resuming() && batch.batch().bundles().next().is_some();
        let wanted = self.ordering.missing.remove(&batch.digest).is_some() || opens;
        if self.payload(&batch.digest).is_some() {
            return;
        }
        if self.done.contains(&batch.digest) {
            // It is on disk, and final: it must not wait to be ordered, here or after a start.
            if wanted {
                self.tell_engine(&batch);
                self.ordering.repeated.insert(batch.digest, batch);
            }
            return;
        }
        let author = batch.batch().author;
        let own = Some(author) == self.epoch.me && batch.batch().number == self.epoch.start.manifest.number;
        if own && !wanted {
            // It was on disk before anybody else had it: it is final.
            return;
        }
        let held = self.pending_bytes.get(&author).copied().unwrap_or(0);
        if held + batch.encoded.len() > self.settings.pending_bytes_per_author_max && !wanted {
            self.event(Event::EngineMisbehaved(format!(
                "authority {} has {held} bytes of batches that are not final: one more was dropped",
                author.0
            )));
            return;
        }
        #[cfg(feature = "planted")]
        if self.has(super::Planted::BarrierFromGossip) {
            let super::Epoch { start, committee, .. } = &self.epoch;
            let present =
                crate::governance::Present { chain: self.chain, manifest: &start.manifest, committee };
            self.ledger.hear(present, &batch);
        }
        self.out.durable.push(Persist::Batch(batch.clone()));
        self.hold(batch);
    }

    /// Keeps a batch until it is final, and tells the engine.
    pub(super) fn hold(&mut self, batch: Arc<HeldBatch>) {
        *self.pending_bytes.entry(batch.batch().author).or_default() += batch.encoded.len();
        self.tell_engine(&batch);
        self.pending.insert(batch.digest, batch);
    }

    pub(super) fn tell_engine(&mut self, batch: &HeldBatch) {
        if self.ordering.is_running() && self.is_for_engine(batch) {
            self.stall.note_told(batch.digest, self.now.mono_ms);
            let told = sdk_batch(batch);
            match self.ordering.events.last_mut() {
                Some(EngineEvent::Batches(batches)) => batches.push(told),
                _ => self.ordering.events.push(EngineEvent::Batches(vec![told])),
            }
        }
    }

    /// A batch is final, or can never be ordered any more.
    pub(super) fn release(&mut self, digest: Digest) {
        if let Some(batch) = self.pending.remove(&digest)
            && let Some(bytes) = self.pending_bytes.get_mut(&batch.batch().author)
        {
            *bytes = bytes.saturating_sub(batch.encoded.len());
        }
        self.batching.ended(&digest, self.now.mono_ms);
        self.ordering.missing.remove(&digest);
        self.ordering.repeated.remove(&digest);
        self.remember_done(digest);
    }

    pub(super) fn remember_done(&mut self, digest: Digest) {
        if self.done.insert(digest) {
            self.done_order.push_back(digest);
        }
        while self.done_order.len() > super::DONE_MAX {
            if let Some(oldest) = self.done_order.pop_front() {
                self.done.remove(&oldest);
            }
        }
    }

    pub(super) fn resend_batches(&mut self) {
        let now_ms = self.now.mono_ms;
        let late: Vec<_> = self
            .batching
            .in_flight
            .iter_mut()
            .filter(|(_, batch)| batch.pushed_ms + RESEND_BATCH_MS <= now_ms)
            .take(4)
            .collect();
        let mut digests = Vec::new();
        for (digest, batch) in late {
            batch.pushed_ms = now_ms;
            digests.push(*digest);
        }
        for batch in digests.iter().filter_map(|digest| self.pending.get(digest)).cloned().collect::<Vec<_>>()
        {
            self.send(self.members(), Message::Batches(vec![batch.signed.clone()]));
        }
    }

    fn is_expired(&self, batch: &HeldBatch) -> bool {
        batch.batch().number.0 + 1 < self.epoch.start.manifest.number.0
    }

    /// Batches that no block of the epoch that begins may hold. This node's own
    /// transactions among them go back into the queue: (client, seq) makes them run once.
    pub(super) fn expire_batches(&mut self) -> Vec<Digest> {
        let expired: Vec<_> = self.pending.values().filter(|batch| self.is_expired(batch)).cloned().collect();
        let mut again = Vec::new();
        for batch in &expired {
            if self.batching.in_flight.contains_key(&batch.digest) {
                again.extend(batch.batch().transactions.iter().cloned());
            }
            self.release(batch.digest);
        }
        self.requeue(again);
        expired.iter().map(|batch| batch.digest).collect()
    }

    /// Takes the queue into the epoch that begins. Governance of the former one is void; a
    /// node outside the committee has to refuse what it cannot order any more.
    pub(super) fn requeue(&mut self, mut transactions: Vec<Transaction>) {
        transactions.extend(self.batching.take(usize::MAX, self.now.mono_ms));
        for transaction in transactions {
            let Transaction::Client(client) = &transaction else { continue };
            if self.epoch.me.is_none() {
                let refused = Effect::Refused { transaction: client.id(), reason: Refusal::Observer };
                self.out.release.push(refused);
                continue;
            }
            let bytes = client.payload.len() + TRANSACTION_OVERHEAD_BYTES;
            self.batching.push(transaction, bytes, self.now.mono_ms);
        }
    }
}

/// A batch as the engine is told of it.
pub(super) fn sdk_batch(batch: &HeldBatch) -> moult_sdk::Batch {
    let bytes = u32::try_from(batch.encoded.len()).unwrap_or(u32::MAX);
    moult_sdk::Batch { digest: batch.digest, author: batch.batch().author, bytes }
}

fn system_bytes(system: &SystemTransaction) -> usize {
    moult_types::encode(system).len() + TRANSACTION_OVERHEAD_BYTES
}
