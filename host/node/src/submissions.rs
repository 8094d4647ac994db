//! Many writes of one client at once: each gets one end, in the order in which they come.
//!
//! What one write costs is a place in a map and in a queue; the queue into the replica takes
//! all writes that are given together as one input. The owner asks [`Submissions::has_room`]
//! before it takes more from its client: that bounds what is held here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use moult_core::execution::Receipt;
use moult_core::io::Refusal;
use moult_types::{ClientTransaction, TransactionId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::handle::WriteError;
use crate::shared::{Shared, Told};

/// Writes in flight beyond which there is no room for more.
pub(crate) const IN_FLIGHT_MAX: usize = 4096;
/// The same for the bytes of their payloads.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 2 << 20;

/// The writes of one client that are in flight. Dropping it forgets them: they may still be
/// applied.
pub struct Submissions {
    shared: Arc<Shared>,
    sender: mpsc::UnboundedSender<Told>,
    /// Holds at most what is in flight.
    told: mpsc::UnboundedReceiver<Told>,
    in_flight: BTreeMap<u64, (TransactionId, usize)>,
    bytes: usize,
    /// When the numbers below this one have run out of time; rising.
    deadlines: VecDeque<(Instant, u64)>,
    next: u64,
    buffer: Vec<Told>,
}

/// The end of one write: its number from 0, in the order of submission, and what became of it.
pub type Ended = (u64, TransactionId, Result<Receipt, WriteError>);

impl Submissions {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (sender, told) = mpsc::unbounded_channel();
        Self {
            shared,
            sender,
            told,
            in_flight: BTreeMap::new(),
            bytes: 0,
            deadlines: VecDeque::new(),
            next: 0,
            buffer: Vec::new(),
        }
    }

    /// Whether more may be submitted.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX && self.bytes < IN_FLIGHT_BYTES_MAX
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Orders transactions; waits while the replica is behind. They get the next numbers.
    pub async fn submit(&mut self, transactions: Vec<(TransactionId, Vec<u8>)>) {
        let limit = Duration::from_millis(self.shared.config.limits.write_timeout_ms);
        let first = self.next;
        self.next += transactions.len() as u64;
        self.deadlines.push_back((Instant::now() + limit, self.next));
        for (number, (id, payload)) in (first..).zip(&transactions) {
            self.in_flight.insert(number, (id.clone(), payload.len()));
            self.bytes += payload.len();
        }
        let ids: Vec<_> =
            (first..).zip(&transactions).map(|(number, (id, _))| (id.clone(), number)).collect();
        let transactions = transactions.into_iter().map(|(id, payload)| ClientTransaction {
            client: id.client,
            seq: id.seq,
            payload,
        });
        let register = || self.shared.wait_for_writes(ids.into_iter(), &self.sender);
        if let Err(refusal) = self.shared.submit_waiting(transactions.collect(), register).await {
            for number in first..self.next {
                let _ = self.sender.send((number, Some(Err(refusal))));
            }
        }
    }

    /// Waits until at least one write has ended, and gives those that have. May be dropped
    /// and called again.
    pub async fn ended(&mut self) -> Vec<Ended> {
        loop {
            let deadline = self.deadlines.front().map(|(at, _)| *at);
            let time_out = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.told.recv_many(&mut self.buffer, IN_FLIGHT_MAX) => {}
                () = time_out => {}
            }
            let ended = self.take();
            if !ended.is_empty() {
                return ended;
            }
        }
    }

    /// Tells of everything that is in flight: the node ends, and no end is told any more.
    pub fn abandon(&mut self) -> Vec<Ended> {
        while let Ok(told) = self.told.try_recv() {
            self.buffer.push(told);
        }
        let mut ended = self.take();
        let lost: Vec<u64> = self.in_flight.keys().copied().collect();
        ended.extend(lost.into_iter().filter_map(|number| self.end(number, None)));
        ended
    }

    /// What was told, and what has run out of time.
    fn take(&mut self) -> Vec<Ended> {
        let told = std::mem::take(&mut self.buffer);
        let mut ended: Vec<Ended> =
            told.into_iter().filter_map(|(number, result)| self.end(number, result)).collect();
        let now = Instant::now();
        while let Some((at, below)) = self.deadlines.front().copied() {
            let oldest = self.in_flight.first_key_value().map(|(number, _)| *number);
            match oldest.filter(|oldest| *oldest < below) {
                // None of them is in flight any more.
                None => drop(self.deadlines.pop_front()),
                Some(oldest) if at <= now => ended.extend(self.end(oldest, None)),
                Some(_) => break,
            }
        }
        ended
    }

    fn end(&mut self, number: u64, told: Option<Result<Receipt, Refusal>>) -> Option<Ended> {
        // One that ran out of time is not told of twice.
        let (id, bytes) = self.in_flight.remove(&number)?;
        self.bytes -= bytes;
        let result = match told {
            Some(result) => result.map_err(WriteError::Refused),
            None => {
                self.shared.forget_one_of_many(&id, number, &self.sender);
                Err(if self.shared.is_stopping() {
                    WriteError::Stopped
                } else {
                    WriteError::Timeout { limit_ms: self.shared.config.limits.write_timeout_ms }
                })
            }
        };
        Some((number, id, result))
    }
}

impl Drop for Submissions {
    fn drop(&mut self) {
        for (number, (id, _)) in &self.in_flight {
            self.shared.forget_one_of_many(id, *number, &self.sender);
        }
    }
}
