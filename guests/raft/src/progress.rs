//! What a leader knows of its followers, and what a quorum has.

use moult_sdk::{CommitIndex, NowMs, Stake};

/// How a follower is sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Where the logs part is not known: one append at a time, without entries.
    Probe,
    /// Entries are sent as they come, without waiting for answers.
    Replicate,
}

/// One follower.
///
/// # Invariants
/// - `matched < next`, and the follower's log is the leader's up to `matched`;
/// - between them is what is on its way, at most a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) mode: Mode,
    pub(crate) matched: CommitIndex,
    /// What is sent next.
    pub(crate) next: CommitIndex,
    /// Entries up to here were not sent to it since the logs were last compared.
    pub(crate) start: CommitIndex,
    /// The commit index that it was told.
    pub(crate) told_commit: CommitIndex,
    /// When it was last heard.
    pub(crate) heard_ms: NowMs,
    /// Since when entries are on their way without an answer that confirms any.
    pub(crate) unanswered_ms: Option<NowMs>,
    /// An append is due, with or without entries, and an answer to it.
    pub(crate) is_due: bool,
}

impl Progress {
    /// A follower that is taken to have everything up to `last`, until it says otherwise.
    pub(crate) fn new(last: CommitIndex, now: NowMs) -> Self {
        Self {
            mode: Mode::Replicate,
            matched: CommitIndex(0),
            next: last.next(),
            start: last,
            told_commit: CommitIndex(0),
            heard_ms: now,
            unanswered_ms: None,
            is_due: true,
        }
    }

    /// How many entries are on their way.
    pub(crate) fn in_flight(&self) -> u64 {
        (self.next.0 - 1).saturating_sub(self.matched.0.max(self.start.0))
    }

    /// The follower confirms the log up to `index`.
    pub(crate) fn accept(&mut self, index: CommitIndex, now: NowMs) {
        if index > self.matched {
            self.matched = index;
            self.unanswered_ms = Some(now);
        }
        self.next = self.next.max(index.next());
        self.mode = Mode::Replicate;
        if self.in_flight() == 0 {
            self.unanswered_ms = None;
        }
    }

    /// The follower lacks what comes before `prev + 1`; the logs agree at `agreed` at most.
    /// Whether that is news.
    pub(crate) fn reject(&mut self, prev: CommitIndex, agreed: CommitIndex) -> bool {
        let is_stale = match self.mode {
            Mode::Replicate => prev <= self.matched,
            Mode::Probe => prev.next() != self.next,
        };
        if !is_stale {
            self.probe(agreed);
        }
        !is_stale
    }

    /// Sends one append at a time again, from `agreed` on.
    pub(crate) fn probe(&mut self, agreed: CommitIndex) {
        self.mode = Mode::Probe;
        self.next = agreed.max(self.matched).next();
        self.start = self.start.min(agreed.max(self.matched));
        self.unanswered_ms = None;
    }
}

/// The highest index that `enough` stake has; 0 if none. Sorts `matched`.
pub(crate) fn quorum_index(matched: &mut [(CommitIndex, Stake)], enough: Stake) -> CommitIndex {
    matched.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
    let mut sum: Stake = 0;
    for (index, stake) in matched {
        sum = sum.saturating_add(*stake);
        if sum >= enough {
            return *index;
        }
    }
    CommitIndex(0)
}

#[cfg(test)]
mod tests {
    use super::{Mode, Progress, quorum_index};
    use moult_sdk::CommitIndex;

    #[test]
    fn a_quorum_is_counted_by_stake() {
        let of = |matched: &[(u64, u64)], enough| {
            let mut matched: Vec<_> = matched.iter().map(|(i, s)| (CommitIndex(*i), *s)).collect();
            quorum_index(&mut matched, enough).0
        };
        assert_eq!(of(&[(7, 1), (5, 1), (3, 1)], 2), 5);
        assert_eq!(of(&[(7, 3), (5, 1), (3, 1)], 3), 7);
        assert_eq!(of(&[(7, 1), (5, 1), (3, 3)], 3), 3);
        assert_eq!(of(&[(7, 1)], 1), 7);
        assert_eq!(of(&[(7, 1), (6, 1)], 3), 0);
    }

    #[test]
    fn answers_out_of_order_change_nothing() {
        let mut p = Progress::new(CommitIndex(10), 0);
        p.next = CommitIndex(14);
        p.accept(CommitIndex(12), 5);
        assert_eq!((p.matched.0, p.next.0, p.in_flight()), (12, 14, 1));
        p.accept(CommitIndex(11), 6);
        assert_eq!((p.matched.0, p.next.0), (12, 14));
        assert!(!p.reject(CommitIndex(12), CommitIndex(3)));
        assert!(p.reject(CommitIndex(13), CommitIndex(3)));
        assert_eq!((p.mode, p.next.0), (Mode::Probe, 13));
        assert!(!p.reject(CommitIndex(13), CommitIndex(3)));
    }
}
