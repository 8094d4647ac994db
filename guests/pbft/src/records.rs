//! What a replica makes durable, and how it reads it back.
//!
//! Each record stands for itself and only ever adds to what came before, so any prefix of
//! what was written is a state in which the replica once was. Statements of others go
//! into the record's own list, where the host keeps their signatures; this node's own may
//! not be signed yet at that moment, so they are written into the body and signed again
//! (the same digest for the same slot, which the host allows).

use moult_sdk::engine::DurableRecord;
use moult_sdk::{AuthorityIndex, Digest, Slot, Statement};

use crate::codec::{Batches, Reader, put_batches, put_count, put_u64};

/// One durable fact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// A proposal of a view that this node has entered; with the pre-prepare.
    Accepted { view: u64, seq: u64, batches: Batches },
    /// A certificate for a proposal accepted before; with its statements.
    Prepared { view: u64, seq: u64, digest: Digest },
    /// A stable checkpoint; with its statements.
    Stable { seq: u64, digest: Digest },
    /// The digests of the proposals executed from `first` on.
    Executed { first: u64, proposals: Vec<Digest> },
    /// This node's view-change as sent; with what it attaches.
    Changing { payload: Vec<u8> },
    /// The new-view by which this node entered a view; with what it attaches.
    Entered { payload: Vec<u8> },
}

impl Record {
    /// The views and sequence numbers that it names itself (a payload names its own).
    pub(crate) fn numbers(&self) -> [u64; 2] {
        match self {
            Self::Accepted { view, seq, .. } | Self::Prepared { view, seq, .. } => [*view, *seq],
            Self::Stable { seq, .. } => [*seq, 0],
            Self::Executed { first, .. } => [*first, 0],
            Self::Changing { .. } | Self::Entered { .. } => [0, 0],
        }
    }

    /// Puts the record into the host's form.
    pub(crate) fn seal(
        &self,
        id: u64,
        statements: &[Statement],
        me: Option<AuthorityIndex>,
    ) -> DurableRecord {
        let (own, others): (Vec<Statement>, Vec<Statement>) =
            statements.iter().partition(|s| Some(s.author) == me);
        let mut body = Vec::with_capacity(64);
        put_count(&mut body, own.len());
        for s in &own {
            body.extend_from_slice(&s.slot.kind.to_be_bytes());
            put_u64(&mut body, s.slot.a);
            put_u64(&mut body, s.slot.b);
            body.extend_from_slice(&s.digest.0);
        }
        match self {
            Self::Accepted { view, seq, batches } => {
                body.push(1);
                put_u64(&mut body, *view);
                put_u64(&mut body, *seq);
                put_batches(&mut body, batches);
            }
            Self::Prepared { view, seq, digest } => {
                body.push(2);
                put_u64(&mut body, *view);
                put_u64(&mut body, *seq);
                body.extend_from_slice(&digest.0);
            }
            Self::Stable { seq, digest } => {
                body.push(3);
                put_u64(&mut body, *seq);
                body.extend_from_slice(&digest.0);
            }
            Self::Executed { first, proposals } => {
                body.push(4);
                put_u64(&mut body, *first);
                put_batches(&mut body, proposals);
            }
            Self::Changing { payload } => {
                body.push(5);
                body.extend_from_slice(payload);
            }
            Self::Entered { payload } => {
                body.push(6);
                body.extend_from_slice(payload);
            }
        }
        DurableRecord { id, body, statements: others }
    }

    /// Reads a record and all its statements; `None` if [`Record::seal`] did not write it.
    pub(crate) fn open(record: &DurableRecord, me: Option<AuthorityIndex>) -> Option<(Self, Vec<Statement>)> {
        let mut r = Reader::new(&record.body);
        let mut statements = record.statements.clone();
        for _ in 0..r.count(50)? {
            let slot = Slot { kind: r.u16()?, a: r.u64()?, b: r.u64()? };
            statements.push(Statement { author: me?, slot, digest: r.digest()? });
        }
        let fact = match r.u8()? {
            1 => Self::Accepted { view: r.u64()?, seq: r.u64()?, batches: r.batches()? },
            2 => Self::Prepared { view: r.u64()?, seq: r.u64()?, digest: r.digest()? },
            3 => Self::Stable { seq: r.u64()?, digest: r.digest()? },
            4 => Self::Executed { first: r.u64()?, proposals: r.batches()?.to_vec() },
            5 => Self::Changing { payload: r.rest().to_vec() },
            6 => Self::Entered { payload: r.rest().to_vec() },
            _ => return None,
        };
        r.done().then_some((fact, statements))
    }
}

#[cfg(test)]
mod tests {
    use super::Record;
    use moult_sdk::engine::DurableRecord;
    use moult_sdk::{AuthorityIndex, Digest, Slot, Statement};

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        let me = Some(AuthorityIndex(1));
        let statement = |author| Statement {
            author: AuthorityIndex(author),
            slot: Slot { kind: 2, a: 3, b: 4 },
            digest: Digest([5; 32]),
        };
        for record in [
            Record::Accepted { view: 1, seq: 2, batches: vec![Digest([3; 32])].into() },
            Record::Prepared { view: 1, seq: 2, digest: Digest([3; 32]) },
            Record::Stable { seq: 2, digest: Digest([3; 32]) },
            Record::Executed { first: 2, proposals: vec![Digest([3; 32]); 2] },
            Record::Changing { payload: vec![7; 9] },
            Record::Entered { payload: vec![7; 9] },
        ] {
            let sealed = record.seal(9, &[statement(0), statement(1)], me);
            assert_eq!(sealed.statements, [statement(0)]);
            assert_eq!(Record::open(&sealed, me), Some((record, vec![statement(0), statement(1)])));
            let cut = DurableRecord { body: sealed.body[..20].to_vec(), ..sealed.clone() };
            assert_eq!(Record::open(&cut, me), None);
        }
    }
}
