//! The batches that this node holds, and which of them wait for a place in the log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moult_sdk::{CommitIndex, Digest};

/// Batches by where they stand.
///
/// # Invariants
/// - a digest in `waiting` is in `held` under the same number and neither in `placed` nor in
///   `settled`, since every way into those takes it out;
/// - `placed` names entries of the log only, so it is bounded as the log is.
#[derive(Default)]
pub(crate) struct Pool {
    /// Held, with the number under which it came.
    held: BTreeMap<Digest, u64>,
    /// Held and in no entry: to propose, oldest first.
    waiting: BTreeMap<u64, Digest>,
    /// In this entry of the log.
    placed: BTreeMap<Digest, CommitIndex>,
    /// Final, lately: whoever names them, or proposes them again, does not
    /// make them wait again.
    settled: BTreeSet<Digest>,
    settled_order: VecDeque<Digest>,
    next: u64,
}

impl Pool {
    /// Takes note of a batch.
    pub(crate) fn hold(&mut self, digest: Digest) {
        if self.held.contains_key(&digest) {
            return;
        }
        let number = self.next;
        self.next += 1;
        self.held.insert(digest, number);
        if !self.is_known(&digest) {
            self.waiting.insert(number, digest);
        }
    }

    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.held.contains_key(digest)
    }

    /// Whether the batch is in the log, or was.
    pub(crate) fn is_known(&self, digest: &Digest) -> bool {
        self.placed.contains_key(digest) || self.settled.contains(digest)
    }

    /// The batches are in an entry; the first entry that lists a batch keeps it.
    pub(crate) fn place(&mut self, batches: &[Digest], index: CommitIndex) {
        for digest in batches {
            self.placed.entry(*digest).or_insert(index);
            if let Some(number) = self.held.get(digest) {
                self.waiting.remove(number);
            }
        }
    }

    /// The entry is lost: its batches wait again.
    pub(crate) fn unplace(&mut self, batches: &[Digest], index: CommitIndex) {
        for digest in batches {
            if self.placed.get(digest) == Some(&index) {
                self.placed.remove(digest);
                if let Some(number) = self.held.get(digest)
                    && !self.settled.contains(digest)
                {
                    self.waiting.insert(*number, *digest);
                }
            }
        }
    }

    /// The entry is final and leaves the log: its batches are of no more interest.
    pub(crate) fn forget(&mut self, batches: &[Digest], index: CommitIndex) {
        for digest in batches {
            if self.placed.get(digest) == Some(&index) {
                self.placed.remove(digest);
                self.held.remove(digest);
                self.settle(*digest);
            }
        }
    }

    /// The batches are final, in whatever entry.
    pub(crate) fn finish(&mut self, batches: &[Digest]) {
        for digest in batches {
            if let Some(number) = self.held.get(digest) {
                self.waiting.remove(number);
                self.settle(*digest);
            }
        }
    }

    fn settle(&mut self, digest: Digest) {
        if self.settled.insert(digest) {
            self.settled_order.push_back(digest);
        }
        while self.settled_order.len() > SETTLED_MAX {
            let Some(oldest) = self.settled_order.pop_front() else { return };
            self.settled.remove(&oldest);
            if !self.placed.contains_key(&oldest)
                && let Some(number) = self.held.remove(&oldest)
            {
                self.waiting.remove(&number);
            }
        }
    }

    /// The oldest batches that wait and came before batch number `before`.
    pub(crate) fn oldest(&self, max: usize, before: u64) -> Vec<Digest> {
        self.waiting.range(..before).take(max).map(|(_, digest)| *digest).collect()
    }

    /// The number that the next batch gets.
    pub(crate) fn mark(&self) -> u64 {
        self.next
    }

    /// How many batches wait for an entry.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// Most settled batches that are remembered: at 100 bytes each, 6.5 MB.
const SETTLED_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::Pool;
    use moult_sdk::{CommitIndex, Digest};

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    #[test]
    fn a_batch_waits_until_it_is_placed_and_again_when_its_place_is_lost() {
        let mut pool = Pool::default();
        [1, 2, 1].iter().for_each(|n| pool.hold(digest(*n)));
        assert_eq!(pool.oldest(8, u64::MAX), [digest(1), digest(2)]);
        pool.place(&[digest(1), digest(3)], CommitIndex(7));
        pool.place(&[digest(1)], CommitIndex(9));
        pool.hold(digest(3));
        assert_eq!(pool.oldest(8, u64::MAX), [digest(2)]);
        pool.unplace(&[digest(1)], CommitIndex(9));
        assert!(pool.is_known(&digest(1)));
        pool.unplace(&[digest(1), digest(3)], CommitIndex(7));
        assert_eq!(pool.oldest(8, u64::MAX), [digest(1), digest(2), digest(3)]);
        pool.place(&[digest(2)], CommitIndex(7));
        pool.forget(&[digest(2)], CommitIndex(7));
        assert!(!pool.holds(&digest(2)) && pool.is_known(&digest(2)) && pool.waiting() == 2);
        pool.hold(digest(2));
        assert!(pool.holds(&digest(2)) && pool.waiting() == 2);
    }

    #[test]
    fn what_is_final_never_waits_again() {
        let mut pool = Pool::default();
        (1..=4).for_each(|n| pool.hold(digest(n)));
        pool.place(&[digest(2)], CommitIndex(5));
        // Batch 9 was never told: it is committed elsewhere.
        pool.finish(&[digest(1), digest(2), digest(9)]);
        pool.unplace(&[digest(2)], CommitIndex(5));
        pool.hold(digest(1));
        assert_eq!(pool.oldest(8, u64::MAX), [digest(3), digest(4)]);
        assert!(pool.is_known(&digest(1)) && pool.is_known(&digest(2)) && pool.holds(&digest(2)));
    }
}
