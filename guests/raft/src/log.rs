//! The part of the log that is in memory: what lies above the base.

use std::collections::VecDeque;
use std::collections::vec_deque::Iter;

use moult_sdk::CommitIndex;

use crate::types::{Entry, Position, Term};

/// Entries above a base, without gaps.
///
/// # Invariants
/// - entry i of `entries` has the index `base.index + 1 + i`;
/// - terms never fall from entry to entry, nor from the base to the first entry.
#[derive(Default)]
pub(crate) struct Log {
    base: Position,
    entries: VecDeque<Entry>,
}

impl Log {
    /// The last position that is not in memory.
    pub(crate) fn base(&self) -> Position {
        self.base
    }

    /// Where the log ends.
    pub(crate) fn last(&self) -> Position {
        let index = CommitIndex(self.base.index.0 + self.entries.len() as u64);
        Position { term: self.entries.back().map_or(self.base.term, |entry| entry.term), index }
    }

    fn offset(&self, index: CommitIndex) -> Option<usize> {
        usize::try_from(index.0.checked_sub(self.base.index.0)?.checked_sub(1)?).ok()
    }

    pub(crate) fn get(&self, index: CommitIndex) -> Option<&Entry> {
        self.entries.get(self.offset(index)?)
    }

    /// The term at an index, the base included.
    pub(crate) fn term_at(&self, index: CommitIndex) -> Option<Term> {
        if index == self.base.index { Some(self.base.term) } else { self.get(index).map(|entry| entry.term) }
    }

    /// Entries from `first` (above the base) to the end.
    pub(crate) fn from(&self, first: CommitIndex) -> Iter<'_, Entry> {
        let offset = self.offset(first).unwrap_or(0).min(self.entries.len());
        self.entries.range(offset..)
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// Cuts off everything from `first` on, which is above the base; what was there.
    pub(crate) fn cut(&mut self, first: CommitIndex) -> VecDeque<Entry> {
        let offset = self.offset(first).unwrap_or(0).min(self.entries.len());
        self.entries.split_off(offset)
    }

    /// Moves the base up to `index`, which is in the log; what was below.
    pub(crate) fn drop_to(&mut self, index: CommitIndex) -> VecDeque<Entry> {
        let Some(term) = self.term_at(index) else { return VecDeque::new() };
        let count = usize::try_from(index.0 - self.base.index.0).unwrap_or(0);
        let above = self.entries.split_off(count.min(self.entries.len()));
        self.base = Position { term, index };
        std::mem::replace(&mut self.entries, above)
    }

    /// Begins anew above `base`; what was there.
    pub(crate) fn reset(&mut self, base: Position) -> VecDeque<Entry> {
        self.base = base;
        std::mem::take(&mut self.entries)
    }

    /// The last position that is at or below `limit` in index and in term; the base if there
    /// is none.
    pub(crate) fn floor(&self, limit: Position) -> Position {
        let by_term = self.entries.partition_point(|entry| entry.term <= limit.term) as u64;
        let by_index = limit.index.0.saturating_sub(self.base.index.0);
        let index = CommitIndex(self.base.index.0 + by_term.min(by_index));
        Position { term: self.term_at(index).unwrap_or_default(), index }
    }
}

#[cfg(test)]
mod tests {
    use super::Log;
    use crate::types::{Entry, Position, Term};
    use moult_sdk::CommitIndex;

    fn log(base: (u64, u64), terms: &[u64]) -> Log {
        let mut log = Log::default();
        log.reset(position(base.0, base.1));
        terms.iter().for_each(|term| log.push(Entry { term: Term(*term), batches: [].into() }));
        log
    }

    fn position(term: u64, index: u64) -> Position {
        Position::new(Term(term), CommitIndex(index))
    }

    #[test]
    fn indices_count_from_the_base() {
        let mut log = log((2, 10), &[2, 3, 3]);
        let term = |log: &Log, index| log.term_at(CommitIndex(index));
        assert_eq!((log.last(), term(&log, 9), term(&log, 10)), (position(3, 13), None, Some(Term(2))));
        assert_eq!((term(&log, 13), term(&log, 14)), (Some(Term(3)), None));
        assert_eq!(log.from(CommitIndex(12)).len(), 2);
        assert_eq!(log.cut(CommitIndex(13)).len(), 1);
        assert_eq!((log.drop_to(CommitIndex(12)).len(), log.base()), (2, position(3, 12)));
        assert_eq!((log.last(), log.drop_to(CommitIndex(12)).len()), (position(3, 12), 0));
    }

    #[test]
    fn the_floor_is_bounded_by_index_and_by_term() {
        let log = log((1, 10), &[1, 4, 4, 6]);
        assert_eq!(log.floor(position(9, 99)), position(6, 14));
        assert_eq!(log.floor(position(5, 99)), position(4, 13));
        assert_eq!(log.floor(position(5, 12)), position(4, 12));
        assert_eq!(log.floor(position(3, 13)), position(1, 11));
        assert_eq!(log.floor(position(0, 99)), position(1, 10));
        assert_eq!(log.floor(position(9, 3)), position(1, 10));
    }
}
