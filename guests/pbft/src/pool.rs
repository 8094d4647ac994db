//! The batches that this node holds, and which of them wait for a proposal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moult_sdk::Digest;

/// Batches by where they stand.
///
/// # Invariants
/// - a digest in `waiting` is in `held` under the same number and neither in `placed` nor in
///   `settled`, since every way into those takes it out;
/// - `placed` names only slots above the stable checkpoint, so it is bounded by the window.
#[derive(Default)]
pub(crate) struct Pool {
    /// Held, with the number under which it came.
    held: BTreeMap<Digest, u64>,
    /// Held and in no slot: to propose, oldest first.
    waiting: BTreeMap<u64, Digest>,
    /// In the slot of a proposal of this view, or committed in one.
    placed: BTreeMap<Digest, u64>,
    /// Final, or committed behind the stable checkpoint, lately: still held, so that whoever
    /// is told of them late, or repeats them, does not make them wait again.
    settled: BTreeSet<Digest>,
    generations: VecDeque<Vec<Digest>>,
    next: u64,
}

impl Pool {
    /// Takes note of a batch; the slot whose proposal lists it, if any.
    pub(crate) fn hold(&mut self, digest: Digest) -> Option<u64> {
        if self.held.contains_key(&digest) {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.held.insert(digest, number);
        let place = self.placed.get(&digest).copied();
        if place.is_none() && !self.settled.contains(&digest) {
            self.waiting.insert(number, digest);
        }
        place
    }

    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.held.contains_key(digest)
    }

    /// The slot that lists the batch.
    pub(crate) fn place_of(&self, digest: &Digest) -> Option<u64> {
        self.placed.get(digest).copied()
    }

    /// The batches are listed in a slot; the first slot that lists a batch keeps it.
    pub(crate) fn place(&mut self, batches: &[Digest], seq: u64) {
        for digest in batches {
            self.placed.entry(*digest).or_insert(seq);
            if let Some(number) = self.held.get(digest) {
                self.waiting.remove(number);
            }
        }
    }

    /// Forgets all places: what is held and in none of `places` waits again.
    pub(crate) fn replace<'a>(&mut self, places: impl Iterator<Item = (u64, &'a [Digest])>) {
        let former = std::mem::take(&mut self.placed);
        for (seq, batches) in places {
            self.place(batches, seq);
        }
        for digest in former.into_keys() {
            if let Some(number) = self.held.get(&digest)
                && !self.placed.contains_key(&digest)
                && !self.settled.contains(&digest)
            {
                self.waiting.insert(*number, digest);
            }
        }
    }

    /// The slot is behind the stable checkpoint: its batches are of no more interest.
    pub(crate) fn leave(&mut self, batches: &[Digest], seq: u64) {
        for digest in batches {
            if self.placed.get(digest) == Some(&seq) {
                self.placed.remove(digest);
                self.settle(*digest);
            }
        }
    }

    /// The batches are final, wherever they were committed.
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
            match self.generations.back_mut() {
                Some(generation) => generation.push(digest),
                None => self.generations.push_back(vec![digest]),
            }
        }
    }

    /// A checkpoint became stable: forgets what was settled a few checkpoints ago.
    pub(crate) fn age(&mut self) {
        self.generations.push_back(Vec::new());
        if self.generations.len() > GENERATIONS {
            for digest in self.generations.pop_front().unwrap_or_default() {
                self.settled.remove(&digest);
                if !self.placed.contains_key(&digest)
                    && let Some(number) = self.held.remove(&digest)
                {
                    self.waiting.remove(&number);
                }
            }
        }
    }

    /// The oldest batches that wait.
    pub(crate) fn oldest(&self, max: usize) -> Vec<Digest> {
        self.waiting.values().take(max).copied().collect()
    }

    /// How many batches wait for a proposal.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// Checkpoints for which settled batches are remembered.
const GENERATIONS: usize = 4;

#[cfg(test)]
mod tests {
    use super::Pool;
    use moult_sdk::Digest;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    #[test]
    fn a_batch_waits_until_it_is_placed_and_again_when_its_place_is_lost() {
        let mut pool = Pool::default();
        assert_eq!((pool.hold(digest(1)), pool.hold(digest(2)), pool.hold(digest(1))), (None, None, None));
        assert_eq!(pool.oldest(8), [digest(1), digest(2)]);
        pool.place(&[digest(1), digest(3)], 7);
        assert_eq!(pool.oldest(8), [digest(2)]);
        assert_eq!(pool.hold(digest(3)), Some(7));
        pool.replace([(8, &[digest(3)][..])].into_iter());
        assert_eq!(pool.oldest(8), [digest(1), digest(2)]);
        pool.age();
        pool.leave(&[digest(3)], 8);
        assert_eq!((pool.hold(digest(3)), pool.oldest(8)), (None, vec![digest(1), digest(2)]));
        (0..4).for_each(|_| pool.age());
        assert!(!pool.holds(&digest(3)));
    }

    /// Found by a seed: it waited, was forgotten as held, and was proposed for ever.
    #[test]
    fn what_is_told_when_it_is_settled_does_not_wait() {
        let mut pool = Pool::default();
        pool.age();
        pool.place(&[digest(1)], 7);
        pool.leave(&[digest(1)], 7);
        assert_eq!((pool.hold(digest(1)), pool.waiting()), (None, 0));
        (0..4).for_each(|_| pool.age());
        assert!(!pool.holds(&digest(1)));
        // Forgotten altogether, it is new, and goes when its place does.
        pool.hold(digest(1));
        pool.place(&[digest(1)], 90);
        assert_eq!(pool.waiting(), 0);
    }

    #[test]
    fn what_is_final_never_waits_again() {
        let mut pool = Pool::default();
        (1..=4).for_each(|n| {
            pool.hold(digest(n));
        });
        pool.place(&[digest(2)], 5);
        // Batch 9 was never told: it is committed elsewhere.
        pool.finish(&[digest(1), digest(2), digest(9)]);
        assert_eq!(pool.oldest(8), [digest(3), digest(4)]);
        pool.replace(std::iter::empty());
        assert_eq!((pool.hold(digest(1)), pool.oldest(8)), (None, vec![digest(3), digest(4)]));
    }
}
