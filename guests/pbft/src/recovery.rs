//! Starting again from what was made durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_sdk::engine::{InitError, Recipients, Recovered};
use moult_sdk::{Digest, Statement};

use crate::checkpoint::Checkpoint;
use crate::codec::{Batches, Header, NewView, PREPARE, Payload, ViewChange, decode, proposal_digest};
use crate::log::{Certificate, Entry};
use crate::records::Record;
use crate::replica::{Replica, Signed};
use crate::rotation::Rotation;
use crate::view_change::{Change, Plan};

/// No chain gets there: what lies beyond is damage, and arithmetic on it would overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// What the records add up to.
#[derive(Default)]
struct Gathered {
    stable: Checkpoint,
    entered: Option<(NewView, Signed)>,
    change: Option<(ViewChange, Signed)>,
    /// By (sequence number, view).
    accepted: BTreeMap<(u64, u64), Batches>,
    /// Of the highest view.
    prepared: BTreeMap<u64, Certificate>,
    executed: BTreeMap<u64, Digest>,
}

fn check_numbers(numbers: impl IntoIterator<Item = u64>) -> Result<(), &'static str> {
    let possible = numbers.into_iter().all(|number| number <= NUMBER_MAX);
    if possible { Ok(()) } else { Err("a record has a number that no chain gets to") }
}

fn check_header(header: &Header) -> Result<(), &'static str> {
    check_numbers([header.view, header.stable])?;
    check_numbers(header.claims.iter().flat_map(|claim| [claim.view, claim.seq]))
}

impl<R: Rotation> Replica<R> {
    /// Rebuilds the state in which this node stopped. It then says where it is, and votes
    /// again as before: same slots, same digests.
    pub(crate) fn recover(&mut self, recovered: &Recovered) -> Result<(), InitError> {
        let gathered = self.gather(recovered).map_err(|why| InitError::CorruptRecords(why.to_owned()))?;
        self.executed = recovered.last_final.0;
        self.last_final = self.executed;
        self.stable = gathered.stable;
        self.base = self.stable.seq;
        if self.executed > self.base.saturating_add(self.config.window) {
            self.base = self.executed;
        }
        self.proposals = gathered.executed.into_iter().filter(|(seq, _)| *seq <= self.executed).collect();
        recovered.batches.iter().for_each(|b| {
            self.pool.hold(b.digest);
        });
        for (seq, certificate) in gathered.prepared.into_iter().filter(|(seq, _)| *seq > self.stable.seq) {
            let authorities = self.committee.stakes.len();
            self.entries.entry(seq).or_insert_with(|| Entry::new(authorities)).prepared = Some(certificate);
        }
        self.resume_view(gathered.entered, gathered.change);
        let view = self.installed;
        for ((seq, _), batches) in gathered.accepted.iter().filter(|((_, v), _)| *v == view) {
            let is_new = self.entries.get(seq).is_none_or(|e| e.accepted.is_none());
            if *seq > self.stable.seq && is_new {
                self.resume_entry(*seq, batches);
            }
        }
        self.next_seq = self.next_seq.max(self.executed + 1).max(self.stable.seq + 1);
        self.settle_places();
        self.prune();
        self.assume_released();
        self.release_slots();
        if self.me.is_some() {
            self.vote_checkpoints();
            self.send_change(Recipients::All);
            self.send_status(Recipients::All);
        }
        Ok(())
    }

    fn gather(&mut self, recovered: &Recovered) -> Result<Gathered, &'static str> {
        let mut g = Gathered::default();
        for record in &recovered.records {
            if record.id <= self.record_id {
                return Err("records are out of order");
            }
            check_numbers([record.id])?;
            self.record_id = record.id;
            let (fact, statements) = Record::open(record, self.me).ok_or("a record does not decode")?;
            check_numbers(fact.numbers())?;
            match fact {
                Record::Accepted { view, seq, batches } => {
                    g.accepted.insert((seq, view), batches);
                }
                Record::Prepared { view, seq, digest } => {
                    let batches = g.accepted.get(&(seq, view)).filter(|b| proposal_digest(b) == digest);
                    let batches = Arc::clone(batches.ok_or("a certificate lacks its proposal")?);
                    let certificate = Certificate { view, digest, batches, statements };
                    if g.prepared.get(&seq).is_none_or(|c| c.view <= view) {
                        g.prepared.insert(seq, certificate);
                    }
                }
                Record::Stable { seq, digest } => {
                    if seq > g.stable.seq {
                        g.stable = Checkpoint { seq, digest, statements };
                    }
                }
                Record::Executed { first, proposals } => {
                    g.executed.extend(
                        proposals.into_iter().enumerate().map(|(i, d)| (first.saturating_add(i as u64), d)),
                    );
                }
                Record::Changing { payload } => match decode(self.committee.epoch, &payload) {
                    Some(Payload::ViewChange(change)) => {
                        check_header(&change.header)?;
                        g.change = Some((change, Signed { payload, statements }))
                    }
                    _ => return Err("a view-change does not decode"),
                },
                Record::Entered { payload } => match decode(self.committee.epoch, &payload) {
                    Some(Payload::NewView(new_view)) => {
                        check_numbers([new_view.view])?;
                        new_view.changes.iter().try_for_each(|(_, header)| check_header(header))?;
                        self.note_proposals(&new_view, &mut g.accepted)?;
                        g.entered = Some((new_view, Signed { payload, statements }));
                    }
                    _ => return Err("a new-view does not decode"),
                },
            }
        }
        g.executed.retain(|seq, _| *seq > g.stable.seq);
        Ok(g)
    }

    fn note_proposals(
        &self,
        new_view: &NewView,
        accepted: &mut BTreeMap<(u64, u64), Batches>,
    ) -> Result<(), &'static str> {
        let plan =
            Plan::new(new_view.changes.iter().map(|(_, h)| h)).ok_or("a new-view contradicts itself")?;
        let mut bodies = new_view.bodies.iter();
        for (seq, digest) in plan.proposals() {
            let body = bodies
                .next()
                .filter(|b| proposal_digest(b) == digest)
                .ok_or("a new-view lacks a proposal")?;
            accepted.insert((seq, new_view.view), Arc::clone(body));
        }
        Ok(())
    }

    fn resume_view(&mut self, entered: Option<(NewView, Signed)>, change: Option<(ViewChange, Signed)>) {
        if let Some((new_view, signed)) = entered {
            self.view = new_view.view;
            self.installed = new_view.view;
            self.entered = Some(signed);
        }
        if let (Some((change, signed)), Some(me)) = (change, self.me)
            && change.header.view > self.installed
        {
            self.view = change.header.view;
            let statements = signed.statements.clone();
            self.changes.insert(me, Change { header: change.header, bodies: change.bodies, statements });
            self.change = Some(signed);
        }
    }

    /// A proposal of the view in which this node stopped, with the prepares it had seen.
    fn resume_entry(&mut self, seq: u64, batches: &Batches) {
        let view = self.installed;
        let authorities = self.committee.stakes.len();
        let entry = self.entries.entry(seq).or_insert_with(|| Entry::new(authorities));
        let certificate = entry.prepared.as_ref().filter(|c| c.view == view);
        let prepares: Vec<Statement> = certificate.map(|c| c.statements.clone()).unwrap_or_default();
        for vote in prepares.iter().filter(|s| s.slot.kind == PREPARE && Some(s.author) != self.me) {
            entry.prepares.insert(vote.author, vote.digest);
        }
        self.take_in(seq, proposal_digest(batches), batches);
    }
}
