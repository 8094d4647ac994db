//! The batches that this node holds, and which of them wait for a place in the log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use moult_sdk::{CommitIndex, Digest, NowMs};

/// Batches by where they stand.
///
/// # Invariants
/// - a digest in `waiting` or `doubtful` is in `held` under the same number and not in
///   `placed`, since every way into `placed` takes it out of both;
/// - `placed` names entries of the log only, so it is bounded as the log is.
#[derive(Default)]
pub(crate) struct Pool {
    /// Held, with the number under which it came.
    held: BTreeMap<Digest, u64>,
    /// Held and in no entry: to propose, oldest first.
    waiting: BTreeMap<u64, Digest>,
    /// In this entry of the log.
    placed: BTreeMap<Digest, CommitIndex>,
    /// Waited when this node was carried past commits whose content it does not know:
    /// perhaps committed there.
    doubtful: BTreeMap<u64, Digest>,
    doubtful_since: NowMs,
    /// Those below this number were named to a leader.
    named: u64,
    /// Proposed in spite of doubt, and not again: nobody else asks for them.
    offered: BTreeSet<Digest>,
    /// Left the log as final, lately: whoever names them, or proposes them again, does not
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
                self.doubtful.remove(number);
            }
        }
    }

    /// The entry is lost: its batches wait again.
    pub(crate) fn unplace(&mut self, batches: &[Digest], index: CommitIndex) {
        for digest in batches {
            if self.placed.get(digest) == Some(&index) {
                self.placed.remove(digest);
                self.offered.remove(digest);
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
                self.offered.remove(digest);
                self.held.remove(digest);
                if self.settled.insert(*digest) {
                    self.settled_order.push_back(*digest);
                }
            }
        }
        while self.settled_order.len() > SETTLED_MAX {
            if let Some(oldest) = self.settled_order.pop_front() {
                self.settled.remove(&oldest);
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

    /// Everything that waits may have been committed out of this node's sight.
    pub(crate) fn doubt(&mut self, now: NowMs) {
        self.doubtful.append(&mut self.waiting);
        self.doubtful_since = now;
        self.named = 0;
        while self.doubtful.len() > DOUBTFUL_MAX {
            if let Some((_, digest)) = self.doubtful.pop_first() {
                self.held.remove(&digest);
            }
        }
    }

    /// Oldest batches to propose, up to `max`; those in doubt once `patience_ms` went by.
    /// The caller places what it proposes.
    pub(crate) fn choose(&mut self, max: usize, now: NowMs, patience_ms: u64) -> Vec<Digest> {
        let mut chosen = self.oldest(max, u64::MAX);
        if chosen.is_empty()
            && !self.doubtful.is_empty()
            && now.saturating_sub(self.doubtful_since) >= patience_ms
        {
            while chosen.len() < max
                && let Some((_, digest)) = self.doubtful.pop_first()
            {
                if self.offered.insert(digest) {
                    chosen.push(digest);
                }
            }
        }
        chosen
    }

    /// Batches in doubt, each once: another leader may know better, or propose them.
    pub(crate) fn name_doubtful(&mut self, max: usize, now: NowMs, patience_ms: u64) -> Vec<Digest> {
        if now.saturating_sub(self.doubtful_since) < patience_ms {
            return Vec::new();
        }
        let chosen: Vec<(u64, Digest)> =
            self.doubtful.range(self.named..).take(max).map(|(number, digest)| (*number, *digest)).collect();
        self.named = chosen.last().map_or(self.named, |(number, _)| number + 1);
        chosen.into_iter().map(|(_, digest)| digest).collect()
    }

    /// Whether there is doubt that a leader, or a follower, can still do something about.
    pub(crate) fn has_doubt(&self, leads: bool) -> bool {
        self.doubtful.range(if leads { 0 } else { self.named }..).next().is_some()
    }

    /// How many batches wait for an entry.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

/// Most batches in doubt: at 100 bytes each, 6.5 MB.
const DOUBTFUL_MAX: usize = 65_536;
/// Most settled batches that are remembered, likewise.
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
        assert_eq!(pool.choose(8, 0, 0), [digest(1), digest(2)]);
        pool.place(&[digest(1), digest(3)], CommitIndex(7));
        pool.place(&[digest(1)], CommitIndex(9));
        pool.hold(digest(3));
        assert_eq!(pool.choose(8, 0, 0), [digest(2)]);
        pool.unplace(&[digest(1)], CommitIndex(9));
        assert!(pool.is_known(&digest(1)));
        pool.unplace(&[digest(1), digest(3)], CommitIndex(7));
        assert_eq!(pool.choose(8, 0, 0), [digest(1), digest(2), digest(3)]);
        pool.place(&[digest(2)], CommitIndex(7));
        pool.forget(&[digest(2)], CommitIndex(7));
        assert!(!pool.holds(&digest(2)) && pool.is_known(&digest(2)) && pool.waiting() == 2);
        pool.hold(digest(2));
        assert!(pool.holds(&digest(2)) && pool.waiting() == 2);
    }

    #[test]
    fn what_is_in_doubt_is_offered_once_and_late() {
        let mut pool = Pool::default();
        pool.hold(digest(1));
        pool.doubt(10);
        assert_eq!((pool.waiting(), pool.doubtful.len()), (0, 1));
        assert!(pool.choose(8, 12, 5).is_empty() && pool.name_doubtful(8, 12, 5).is_empty());
        assert_eq!(pool.name_doubtful(8, 15, 5), [digest(1)]);
        assert!(pool.name_doubtful(8, 15, 5).is_empty() && pool.has_doubt(true) && !pool.has_doubt(false));
        assert_eq!(pool.choose(8, 15, 5), [digest(1)]);
        assert!(pool.choose(8, 15, 5).is_empty());
    }
}
