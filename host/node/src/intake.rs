//! Transactions that come in one by one, until the replica takes them together.
//!
//! Each would wake the replica's thread, which has nothing to do with most of them but to wait for
//! those that will share their batch. So the replica says before it sleeps how many it wants to be
//! woken for, and takes what is here whenever it is awake. What comes in together (streams) goes
//! through the replica's queue.

use std::sync::{Mutex, MutexGuard, PoisonError};

use moult_core::replica::Wanted;
use moult_types::ClientTransaction;

pub(crate) struct Intake {
    waiting: Mutex<Waiting>,
    /// How many may wait.
    places: usize,
}

#[derive(Default)]
struct Waiting {
    transactions: Vec<ClientTransaction>,
    /// Of their payloads.
    bytes: usize,
    /// What the replica sleeps for; nothing while it is awake.
    wanted: Option<Wanted>,
}

impl Waiting {
    fn is_enough(&self, wanted: Wanted, places: usize) -> bool {
        let (n, bytes) = (self.transactions.len(), self.bytes);
        n > 0 && (n >= wanted.transactions.min(places) || bytes >= wanted.bytes)
    }
}

/// There is no place for one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

impl Intake {
    pub(crate) fn new(places: usize) -> Self {
        Self { waiting: Mutex::default(), places }
    }

    /// Takes one in; whether the replica is to be woken.
    pub(crate) fn put(&self, transaction: ClientTransaction) -> Result<bool, Full> {
        let mut waiting = self.waiting();
        if waiting.transactions.len() >= self.places {
            return Err(Full);
        }
        waiting.bytes += transaction.payload.len();
        waiting.transactions.push(transaction);
        // Woken once: whoever comes next finds it awake.
        let is_enough = waiting.wanted.is_some_and(|wanted| waiting.is_enough(wanted, self.places));
        if is_enough {
            waiting.wanted = None;
        }
        Ok(is_enough)
    }

    /// The replica is about to sleep until what it wants is here; false if it must not, since it is.
    pub(crate) fn sleep_until(&self, wanted: Wanted) -> bool {
        let mut waiting = self.waiting();
        let sleeps = !waiting.is_enough(wanted, self.places);
        waiting.wanted = sleeps.then_some(wanted);
        sleeps
    }

    /// All that are here; the replica is awake.
    pub(crate) fn take(&self) -> Vec<ClientTransaction> {
        std::mem::take(&mut *self.waiting()).transactions
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use moult_types::{AuthorityId, ClientId};

    use super::*;

    fn transaction(seq: u64) -> ClientTransaction {
        let client = ClientId { ingress: AuthorityId([1; 32]), name: b"client".to_vec() };
        ClientTransaction { client, seq, payload: vec![1] }
    }

    fn put(intake: &Intake, seqs: std::ops::Range<u64>) -> Vec<bool> {
        seqs.map(|seq| intake.put(transaction(seq)).expect("a place")).collect()
    }

    fn wanted(transactions: usize) -> Wanted {
        Wanted { transactions, bytes: usize::MAX }
    }

    #[test]
    fn the_replica_is_woken_once_for_as_many_as_it_wants() {
        let intake = Intake::new(100);
        assert_eq!(put(&intake, 0..2), [false, false], "it is awake");
        assert_eq!(intake.take().len(), 2);
        assert!(intake.sleep_until(wanted(3)));
        assert_eq!(put(&intake, 2..7), [false, false, true, false, false]);
        assert_eq!(intake.take().iter().map(|t| t.seq).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert_eq!(put(&intake, 7..8), [false]);
    }

    #[test]
    fn it_does_not_sleep_beside_what_it_waits_for() {
        let intake = Intake::new(100);
        assert!(intake.sleep_until(wanted(0)), "nothing is here");
        put(&intake, 0..2);
        assert!(!intake.sleep_until(wanted(0)) && !intake.sleep_until(wanted(2)));
        assert!(intake.sleep_until(wanted(3)));
        assert_eq!(put(&intake, 2..3), [true]);
    }

    #[test]
    fn bytes_wake_it_as_numbers_do() {
        let intake = Intake::new(100);
        assert!(intake.sleep_until(Wanted { transactions: 50, bytes: 2 }));
        assert_eq!(put(&intake, 0..3), [false, true, false]);
        assert!(!intake.sleep_until(Wanted { transactions: 50, bytes: 2 }));
        assert_eq!(intake.take().len(), 3);
        assert!(intake.sleep_until(Wanted { transactions: 50, bytes: 2 }), "their bytes have gone with them");
    }

    #[test]
    fn a_full_intake_wakes_and_takes_no_more() {
        let intake = Intake::new(2);
        assert!(intake.sleep_until(wanted(usize::MAX)));
        assert_eq!(put(&intake, 0..2), [false, true]);
        assert_eq!(intake.put(transaction(2)), Err(Full));
        assert_eq!(intake.take().len(), 2);
        assert_eq!(put(&intake, 3..5), [false, false]);
    }
}
