//! What a node makes durable, and how it reads it back.
//!
//! Each record is one change of the state, in the order in which the changes were made, so
//! any prefix of what was written is a state in which the node once was. All of them may be
//! read over a state that already has them: what is written anew when older records are
//! dropped changes nothing where those are still there.

use moult_sdk::engine::DurableRecord;
use moult_sdk::{AuthorityIndex, CommitIndex};

use crate::codec::{Reader, entry_bytes, put_entries, put_position, put_u64};
use crate::types::{Entry, Position, Term};

/// Longest list of entries in a record, in bytes; the host takes 1 MiB.
pub(crate) const ENTRIES_BYTES_MAX: usize = (1 << 20) - 64;

/// One durable change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// The term, and the vote in it.
    Vote { term: Term, vote: Option<AuthorityIndex> },
    /// The log begins above this position. An entry of that term at that index stays, with
    /// all above it; otherwise nothing does.
    Base(Position),
    /// Entries from `first` on. Where the log has another term, it is cut first.
    Entries { first: CommitIndex, entries: Vec<Entry> },
}

impl Record {
    /// Reads a record; `None` if none of the functions below wrote it.
    pub(crate) fn open(record: &DurableRecord) -> Option<Self> {
        let mut r = Reader::new(&record.body);
        let change = match r.u8()? {
            1 => Self::Vote {
                term: r.term()?,
                vote: if r.flag()? { Some(AuthorityIndex(r.u32()?)) } else { None },
            },
            2 => Self::Base(r.position()?),
            3 => Self::Entries { first: r.index()?, entries: r.entries(Term(1))? },
            _ => return None,
        };
        (r.done() && record.statements.is_empty()).then_some(change)
    }

    pub(crate) fn vote(term: Term, vote: Option<AuthorityIndex>) -> Vec<u8> {
        let mut body = vec![1];
        put_u64(&mut body, term.0);
        body.push(u8::from(vote.is_some()));
        body.extend(vote.iter().flat_map(|vote| vote.0.to_be_bytes()));
        body
    }

    pub(crate) fn base(base: Position) -> Vec<u8> {
        let mut body = vec![2];
        put_position(&mut body, base);
        body
    }

    pub(crate) fn entries<'a>(
        first: CommitIndex,
        entries: impl ExactSizeIterator<Item = &'a Entry> + Clone,
    ) -> Vec<u8> {
        let mut body = Vec::with_capacity(16 + entries.clone().map(entry_bytes).sum::<usize>());
        body.push(3);
        put_u64(&mut body, first.0);
        put_entries(&mut body, entries);
        body
    }
}

#[cfg(test)]
mod tests {
    use super::Record;
    use crate::types::{Entry, Position, Term};
    use moult_sdk::engine::DurableRecord;
    use moult_sdk::{AuthorityIndex, CommitIndex, Digest};

    #[test]
    fn what_is_written_opens_and_nothing_else_does() {
        let entries = vec![
            Entry { term: Term(2), batches: vec![Digest([3; 32]); 2].into() },
            Entry { term: Term(3), batches: [].into() },
        ];
        let base = Position::new(Term(4), CommitIndex(5));
        for (body, record) in [
            (Record::vote(Term(7), None), Record::Vote { term: Term(7), vote: None }),
            (
                Record::vote(Term(7), Some(AuthorityIndex(2))),
                Record::Vote { term: Term(7), vote: Some(AuthorityIndex(2)) },
            ),
            (Record::base(base), Record::Base(base)),
            (
                Record::entries(CommitIndex(9), entries.iter()),
                Record::Entries { first: CommitIndex(9), entries: entries.clone() },
            ),
        ] {
            let open = |body: &[u8]| {
                Record::open(&DurableRecord { id: 1, body: body.to_vec(), statements: Vec::new() })
            };
            assert_eq!(open(&body), Some(record));
            assert!((0..body.len()).all(|len| open(&body[..len]).is_none()));
            assert_eq!(open(&[body, vec![0]].concat()), None);
        }
    }
}
