//! Starting again from what was made durable, and dropping what is not needed for that.

use moult_sdk::CommitIndex;
use moult_sdk::engine::{Action, InitError, Recovered};

use crate::config::Planted;
use crate::raft::Raft;
use crate::records::Record;
use crate::types::{Entry, Position};

/// Records are written anew once there are so many, and more than entries to write.
const RECORDS_MIN: usize = 64;

impl Raft {
    /// Rebuilds term, vote and log. What is committed is learnt again: an index up to which
    /// the host has blocks says nothing of what stands in this log there.
    pub(crate) fn recover(&mut self, recovered: &Recovered) -> Result<(), InitError> {
        self.replay(recovered).map_err(|why| InitError::CorruptRecords(why.to_owned()))?;
        let base = self.log.base().index;
        self.commit = base;
        // The host's mark may be older than the base: it is written without a sync.
        self.told_final = recovered.last_final;
        self.last_final = recovered.last_final.max(base);
        self.emitted = self.last_final;
        if self.config.has(Planted::CommitFinalAgain) {
            self.emitted = base;
        }
        recovered.batches.iter().for_each(|batch| self.pool.hold(batch.digest));
        let first = base.0 + 1;
        for (index, entry) in (first..).zip(self.log.from(CommitIndex(first))) {
            self.pool.place(&entry.batches, CommitIndex(index));
        }
        self.fetch_lost();
        Ok(())
    }

    fn replay(&mut self, recovered: &Recovered) -> Result<(), &'static str> {
        for record in &recovered.records {
            if record.id <= self.record_id {
                return Err("records are out of order");
            }
            self.record_id = record.id;
            self.records += 1;
            match Record::open(record).ok_or("a record does not decode")? {
                Record::Vote { term, vote } => {
                    if term < self.term {
                        return Err("terms fall from record to record");
                    }
                    (self.term, self.vote) = (term, vote);
                }
                Record::Base(base) => self.replay_base(base)?,
                Record::Entries { first, entries } => self.replay_entries(first, entries)?,
            }
        }
        Ok(())
    }

    fn replay_base(&mut self, base: Position) -> Result<(), &'static str> {
        if base.index < self.log.base().index || base.term > self.term {
            return Err("the base of the log goes back, or is of a term to come");
        }
        if self.log.term_at(base.index) == Some(base.term) {
            self.log.drop_to(base.index);
        } else {
            self.log.reset(base);
        }
        Ok(())
    }

    fn replay_entries(&mut self, first: CommitIndex, entries: Vec<Entry>) -> Result<(), &'static str> {
        if first <= self.log.base().index || first > self.log.last().index.next() {
            return Err("there is a gap between the log and its next entries");
        }
        for (index, entry) in (first.0..).map(CommitIndex).zip(entries) {
            if self.log.term_at(index) == Some(entry.term) {
                continue;
            }
            self.log.cut(index);
            let last = self.log.last();
            if last.index.next() != index || entry.term < last.term || entry.term > self.term {
                return Err("terms fall within the log, or are still to come");
            }
            self.log.push(entry);
        }
        Ok(())
    }

    /// The host keeps what was held when an entry was written; should it not have it any
    /// more, somebody has.
    fn fetch_lost(&mut self) {
        let first = self.last_final.max(self.log.base().index).next();
        let lists = self.log.from(first).flat_map(|entry| entry.batches.iter());
        let mut batches: Vec<_> = lists.filter(|b| !self.pool.holds(b)).copied().collect();
        if !batches.is_empty() {
            batches.sort_unstable();
            batches.dedup();
            self.out.release.push(Action::Fetch { batches, likely_holder: None });
        }
    }

    /// Writes what still matters anew and drops the records before, now and then.
    pub(crate) fn compact(&mut self) {
        let base = self.log.base();
        let above = (self.log.last().index.0 - base.index.0) as usize;
        if self.records < RECORDS_MIN.max(above) {
            return;
        }
        self.save_vote();
        let former = self.record_id;
        self.records = 0;
        self.vote_is_new = true;
        self.save(Record::base(base));
        if !self.config.has(Planted::CompactLosesEntries) {
            self.save_entries(base.index.next());
        }
        self.out.release.push(Action::Truncate(former));
    }
}
