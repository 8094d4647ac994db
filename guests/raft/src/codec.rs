//! The messages of the protocol in a fixed layout.
//!
//! Integers are big-endian, lists carry a 32-bit count. Decoding is strict: every byte is
//! used, a flag is 0 or 1, terms of entries rise, and a count is checked against the bytes
//! that are left before anything is reserved for it. So `decode(encode(x)) = x`, and no two
//! byte strings decode to one message. Terms and indices stay below [`NUMBER_MAX`], so that
//! nothing that follows from them overflows.

use moult_sdk::{CommitIndex, Digest};

use crate::types::{Batches, Entry, Position, Term};

/// No term and no index in a message is higher.
pub const NUMBER_MAX: u64 = 1 << 62;
/// Bytes of an append without entries.
pub(crate) const APPEND_BYTES: usize = 47;
/// Bytes of an entry without batches.
pub(crate) const ENTRY_BYTES: usize = 12;
/// Bytes of one batch in a list.
pub(crate) const BATCH_BYTES: usize = 32;
/// Bytes of a list of wanted batches without the batches.
pub(crate) const WANTED_BYTES: usize = 13;

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Entries from the leader, or none: a heartbeat.
    Append(Append),
    /// Up to `index` the sender's log is the leader's, and durable, and its batches are held.
    Accept {
        /// Term of the leader that is answered.
        term: Term,
        /// The last such index.
        index: CommitIndex,
    },
    /// The sender has nothing at (or something else than) the position before the entries,
    /// or it is in a higher term.
    Reject {
        /// Term of the sender.
        term: Term,
        /// The index before the entries refused.
        prev: CommitIndex,
        /// The last place where the logs may still agree.
        hint: Position,
    },
    /// A pre-vote: would you vote for me?
    Poll(Ballot),
    /// The answer to a pre-vote.
    PollReply(Reply),
    /// A candidate asks for a vote.
    Vote {
        /// What it stands with.
        ballot: Ballot,
        /// The leader asked for it, so it may be deposed.
        transfer: bool,
    },
    /// The answer to a candidate.
    VoteReply(Reply),
    /// The leader of this term hands over: stand at once.
    TimeoutNow(Term),
    /// Batches that have waited at the sender and that the leader may not know of.
    Wanted(Batches),
}

/// Entries of a leader's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append {
    /// Term of the leader.
    pub term: Term,
    /// Where its log stands before the entries.
    pub prev: Position,
    /// Last index that it knows to be committed.
    pub commit: CommitIndex,
    /// Whether it wants an answer even if there is nothing new.
    pub reply: bool,
    /// Whether `prev` is where its log begins: it has nothing before.
    pub is_base: bool,
    /// The entries after `prev`, in order; none above `term`.
    pub entries: Vec<Entry>,
}

/// What a candidate stands with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ballot {
    /// The term that it wants to lead.
    pub term: Term,
    /// Where its log ends; below `term`.
    pub last: Position,
}

/// An answer to a candidate: granted in the term asked for, refused in the voter's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// See above.
    pub term: Term,
    /// Whether the vote is given.
    pub granted: bool,
}

/// Whether the payload is of this epoch, without decoding it.
pub fn is_of_epoch(payload: &[u8], epoch: u64) -> bool {
    payload.get(1..9) == Some(&epoch.to_be_bytes()[..])
}

/// Encodes a message of an epoch.
pub fn encode(epoch: u64, payload: &Payload) -> Vec<u8> {
    let (tag, entries) = match payload {
        Payload::Append(append) => (1, append.entries.as_slice()),
        Payload::Accept { .. } => (2, [].as_slice()),
        Payload::Reject { .. } => (3, [].as_slice()),
        Payload::Poll(_) => (4, [].as_slice()),
        Payload::PollReply(_) => (5, [].as_slice()),
        Payload::Vote { .. } => (6, [].as_slice()),
        Payload::VoteReply(_) => (7, [].as_slice()),
        Payload::TimeoutNow(_) => (8, [].as_slice()),
        Payload::Wanted(_) => (9, [].as_slice()),
    };
    let bytes: usize = entries.iter().map(entry_bytes).sum();
    let mut out = Vec::with_capacity(APPEND_BYTES + bytes);
    out.push(tag);
    put_u64(&mut out, epoch);
    match payload {
        Payload::Append(append) => {
            put_u64(&mut out, append.term.0);
            put_position(&mut out, append.prev);
            put_u64(&mut out, append.commit.0);
            out.push(u8::from(append.reply));
            out.push(u8::from(append.is_base));
            put_entries(&mut out, entries.iter());
        }
        Payload::Accept { term, index } => {
            put_u64(&mut out, term.0);
            put_u64(&mut out, index.0);
        }
        Payload::Reject { term, prev, hint } => {
            put_u64(&mut out, term.0);
            put_u64(&mut out, prev.0);
            put_position(&mut out, *hint);
        }
        Payload::Poll(ballot) => put_ballot(&mut out, *ballot),
        Payload::Vote { ballot, transfer } => {
            put_ballot(&mut out, *ballot);
            out.push(u8::from(*transfer));
        }
        Payload::PollReply(reply) | Payload::VoteReply(reply) => {
            put_u64(&mut out, reply.term.0);
            out.push(u8::from(reply.granted));
        }
        Payload::TimeoutNow(term) => put_u64(&mut out, term.0),
        Payload::Wanted(batches) => put_batches(&mut out, batches),
    }
    out
}

/// Decodes a message of an epoch; `None` for anything that [`encode`] does not make of a
/// message that makes sense.
pub fn decode(epoch: u64, bytes: &[u8]) -> Option<Payload> {
    let mut r = Reader::new(bytes);
    let tag = r.u8()?;
    if r.u64()? != epoch {
        return None;
    }
    let payload = match tag {
        1 => Payload::Append(r.append()?),
        2 => Payload::Accept { term: r.term()?, index: r.index()? },
        3 => Payload::Reject { term: r.term()?, prev: r.index()?, hint: r.position()? },
        4 => Payload::Poll(r.ballot()?),
        5 => Payload::PollReply(r.reply()?),
        6 => Payload::Vote { ballot: r.ballot()?, transfer: r.flag()? },
        7 => Payload::VoteReply(r.reply()?),
        8 => Payload::TimeoutNow(r.term()?),
        9 => Payload::Wanted(r.batches()?),
        _ => return None,
    };
    r.done().then_some(payload)
}

/// Bytes of an entry in a message or a record.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_BYTES + BATCH_BYTES * entry.batches.len()
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Lists are bounded far below this by [`crate::Config`] and the host; the count of one
/// that is not would decode as something else, so it is cut to nothing that decodes.
fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

pub(crate) fn put_position(out: &mut Vec<u8>, position: Position) {
    put_u64(out, position.term.0);
    put_u64(out, position.index.0);
}

fn put_batches(out: &mut Vec<u8>, batches: &[Digest]) {
    put_count(out, batches.len());
    batches.iter().for_each(|b| out.extend_from_slice(&b.0));
}

pub(crate) fn put_entries<'a>(out: &mut Vec<u8>, entries: impl ExactSizeIterator<Item = &'a Entry>) {
    put_count(out, entries.len());
    for entry in entries {
        put_u64(out, entry.term.0);
        put_batches(out, &entry.batches);
    }
}

fn put_ballot(out: &mut Vec<u8>, ballot: Ballot) {
    put_u64(out, ballot.term.0);
    put_position(out, ballot.last);
}

/// Takes values off the front of bytes that nobody vouches for.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_at_checked(N)?;
        self.rest = rest;
        head.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.u64().filter(|n| *n <= NUMBER_MAX)
    }

    pub(crate) fn term(&mut self) -> Option<Term> {
        self.number().map(Term)
    }

    pub(crate) fn index(&mut self) -> Option<CommitIndex> {
        self.number().map(CommitIndex)
    }

    pub(crate) fn position(&mut self) -> Option<Position> {
        Some(Position { term: self.term()?, index: self.index()? })
    }

    fn reply(&mut self) -> Option<Reply> {
        Some(Reply { term: self.term()?, granted: self.flag()? })
    }

    fn ballot(&mut self) -> Option<Ballot> {
        let ballot = Ballot { term: self.term()?, last: self.position()? };
        (ballot.last.term < ballot.term).then_some(ballot)
    }

    /// A count of things that take at least `each` bytes.
    fn count(&mut self, each: usize) -> Option<usize> {
        let count = usize::try_from(self.u32()?).ok()?;
        (count.checked_mul(each)? <= self.rest.len()).then_some(count)
    }

    fn batches(&mut self) -> Option<Batches> {
        let count = self.count(BATCH_BYTES)?;
        (0..count).map(|_| self.array().map(Digest)).collect()
    }

    /// Entries whose terms rise from `low`, which is not below 1.
    pub(crate) fn entries(&mut self, low: Term) -> Option<Vec<Entry>> {
        let count = self.count(ENTRY_BYTES)?;
        let mut entries = Vec::with_capacity(count);
        let mut low = low.max(Term(1));
        for _ in 0..count {
            let term = self.term().filter(|term| *term >= low)?;
            low = term;
            entries.push(Entry { term, batches: self.batches()? });
        }
        Some(entries)
    }

    fn append(&mut self) -> Option<Append> {
        let (term, prev, commit) = (self.term()?, self.position()?, self.index()?);
        let (reply, is_base) = (self.flag()?, self.flag()?);
        let entries = self.entries(prev.term)?;
        let highest = entries.last().map_or(prev.term, |entry| entry.term);
        (highest <= term && term >= Term(1)).then_some(Append { term, prev, commit, reply, is_base, entries })
    }

    pub(crate) fn done(&self) -> bool {
        self.rest.is_empty()
    }
}
