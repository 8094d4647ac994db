//! View changes: giving a leader up, and opening the next view without losing anything
//! that may have been committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_sdk::engine::{Message, Recipients};
use moult_sdk::{AuthorityIndex, Digest, Stake, Statement};

use crate::checkpoint::{Checkpoint, checkpoint_slot};
use crate::codec::{
    Batches, Claim, Header, NEW_VIEW, NewView, PREPARE, Payload, VIEW_CHANGE, ViewChange, encode,
    new_view_digest, proposal_digest, slot,
};
use crate::log::pre_prepare;
use crate::records::Record;
use crate::replica::{Replica, Signed};
use crate::rotation::Rotation;

/// A view-change that was checked in full.
pub(crate) struct Change {
    pub(crate) header: Header,
    pub(crate) bodies: Vec<Batches>,
    /// The statement on the header, the certificates of all claims and of the checkpoint.
    pub(crate) statements: Vec<Statement>,
}

/// What a quorum of view-changes leads to: the same for whoever computes it.
pub(crate) struct Plan {
    /// Highest stable checkpoint among them.
    pub(crate) stable: (u64, Digest),
    /// For each sequence number above it the claim of the highest view.
    pub(crate) winners: BTreeMap<u64, Claim>,
}

impl Plan {
    /// `None` if two claims that cannot both be true are tied: one is a lie.
    pub(crate) fn new<'a>(headers: impl Iterator<Item = &'a Header> + Clone) -> Option<Self> {
        let stable = headers.clone().map(|h| (h.stable, h.stable_digest)).max()?;
        let mut winners: BTreeMap<u64, Claim> = BTreeMap::new();
        for claim in headers.clone().flat_map(|h| &h.claims).filter(|c| c.seq > stable.0) {
            let winner = winners.entry(claim.seq).or_insert(*claim);
            if claim.view > winner.view {
                *winner = *claim;
            }
        }
        let tied = |claim: &Claim| {
            winners.get(&claim.seq).is_some_and(|w| w.view == claim.view && w.digest != claim.digest)
        };
        let lie = headers.flat_map(|h| &h.claims).any(tied);
        (!lie).then_some(Self { stable, winners })
    }

    /// Every sequence number of the new view's first proposals and what it must hold: a
    /// hole is the empty proposal.
    pub(crate) fn proposals(&self) -> impl Iterator<Item = (u64, Digest)> {
        let last = self.winners.last_key_value().map_or(self.stable.0, |(seq, _)| *seq);
        let hole = proposal_digest(&[]);
        (self.stable.0.saturating_add(1)..=last)
            .map(move |seq| (seq, self.winners.get(&seq).map_or(hole, |w| w.digest)))
    }
}

impl<R: Rotation> Replica<R> {
    /// The next view whose leader is not jailed as far as this node knows.
    pub(crate) fn next_view(&self, view: u64) -> u64 {
        let next = view.saturating_add(1);
        let candidates = (0..self.schedule.len() as u64).map(|i| next.saturating_add(i));
        candidates.into_iter().find(|v| !self.shunned.contains(&self.leader(*v))).unwrap_or(next)
    }

    /// Upon giving the view up: promise to vote in no view below `target`, and say what
    /// is prepared.
    pub(crate) fn start_view_change(&mut self, target: u64) {
        let Some(me) = self.me else { return };
        let top = self.stable.seq.saturating_add(self.config.window);
        let beyond = self.entries.last_key_value().is_some_and(|(seq, e)| *seq > top && e.prepared.is_some());
        if target <= self.view || beyond {
            // Carried past its own checkpoint, this node cannot yet prove what it has; the
            // checkpoint comes with the next message that carries one.
            self.deadline = None;
            return;
        }
        let (mut claims, mut bodies, mut statements) =
            (Vec::new(), Vec::new(), self.stable.statements.clone());
        if !self.config.loses_prepared() {
            for (seq, entry) in self.entries.range(self.stable.seq + 1..) {
                if let Some(cert) = &entry.prepared {
                    claims.push(Claim { seq: *seq, view: cert.view, digest: cert.digest });
                    bodies.push(Arc::clone(&cert.batches));
                    statements.extend_from_slice(&cert.statements);
                }
            }
        }
        let header =
            Header { view: target, stable: self.stable.seq, stable_digest: self.stable.digest, claims };
        statements.push(Statement {
            author: me,
            slot: slot(VIEW_CHANGE, target, 0),
            digest: header.digest(),
        });
        let change = ViewChange { header: header.clone(), bodies: bodies.clone() };
        let payload = encode(self.committee.epoch, &Payload::ViewChange(change));
        self.view = target;
        self.attempts = self.attempts.saturating_add(1);
        self.deadline = None;
        self.changes.insert(me, Change { header, bodies, statements: statements.clone() });
        self.save(&Record::Changing { payload: payload.clone() }, &statements);
        self.change = Some(Signed { payload, statements });
        self.send_change(Recipients::All);
        self.try_new_view();
    }

    pub(crate) fn send_change(&mut self, to: Recipients) {
        if let Some(change) = self.change.take() {
            self.change_sent_at = self.now;
            self.dispatch_bytes(to, change.payload.clone(), &change.statements);
            self.change = Some(change);
        }
    }

    /// The host would not sign the view-change: this node has none for this view, and
    /// waits for the next.
    pub(crate) fn withdraw_change(&mut self, me: AuthorityIndex) {
        self.change = None;
        self.changes.remove(&me);
        self.deadline = Some(self.now.saturating_add(self.timeout_ms()));
    }

    /// Upon a view-change.
    pub(crate) fn on_view_change(&mut self, change: ViewChange, message: Message) {
        let view = change.header.view;
        let digest = change.header.digest();
        let signed = |s: &&Statement| s.slot == slot(VIEW_CHANGE, view, 0) && s.digest == digest;
        let Some(statement) = message.statements.iter().find(signed).copied() else { return };
        let author = statement.author;
        if Some(author) == self.me || !self.committee.authorities().any(|a| a == author) {
            return;
        }
        if view <= self.installed {
            return self.help_with_view(message.sender);
        }
        if self.changes.get(&author).is_some_and(|c| c.header.view >= view) {
            return;
        }
        let mut known = message.statements;
        known.sort_unstable();
        let Some(mut statements) = self.prove(&change, &known) else { return };
        statements.push(statement);
        self.changes.insert(author, Change { header: change.header, bodies: change.bodies, statements });
        self.join(author, view);
        self.try_new_view();
        if self.is_changing() && view < self.view {
            self.help_with_view(message.sender);
        }
    }

    /// The statements that prove a view-change, if they are all there.
    fn prove(&self, change: &ViewChange, known: &[Statement]) -> Option<Vec<Statement>> {
        let header = &change.header;
        let mut statements = self.prove_checkpoint((header.stable, header.stable_digest), known)?;
        let top = header.stable.saturating_add(self.config.window);
        for (claim, body) in header.claims.iter().zip(&change.bodies) {
            if claim.view >= header.view || claim.seq > top || proposal_digest(body) != claim.digest {
                return None;
            }
            statements.extend(self.prove_claim(claim, known)?);
        }
        Some(statements)
    }

    /// The certificate of a claim: the pre-prepare of its view's leader and prepares,
    /// together of quorum stake. `known` is sorted.
    fn prove_claim(&self, claim: &Claim, known: &[Statement]) -> Option<Vec<Statement>> {
        let leader = self.leader(claim.view);
        let pre_prepare = pre_prepare(claim.view, claim.seq, leader, claim.digest);
        known.binary_search(&pre_prepare).ok()?;
        let prepare =
            |author| Statement { author, slot: slot(PREPARE, claim.view, claim.seq), digest: claim.digest };
        let prepares = self.committee.authorities().filter(|a| *a != leader).map(prepare);
        let mut certificate: Vec<_> = prepares.filter(|s| known.binary_search(s).is_ok()).collect();
        certificate.push(pre_prepare);
        (self.stake_of(&certificate) >= self.config.certificate_stake(self.committee.quorum))
            .then_some(certificate)
    }

    fn prove_checkpoint(&self, (seq, digest): (u64, Digest), known: &[Statement]) -> Option<Vec<Statement>> {
        if seq == 0 {
            return Some(Vec::new());
        }
        let vote = |author| Statement { author, slot: checkpoint_slot(seq, digest), digest };
        let certificate: Vec<_> =
            self.committee.authorities().map(vote).filter(|s| known.binary_search(s).is_ok()).collect();
        let is_whole = seq.is_multiple_of(self.config.checkpoint_interval)
            && self.stake_of(&certificate) >= self.committee.quorum;
        is_whole.then_some(certificate)
    }

    pub(crate) fn stake_of(&self, statements: &[Statement]) -> Stake {
        statements.iter().fold(0, |sum: Stake, s| sum.saturating_add(self.committee.stake(s.author)))
    }

    /// Stake of those that have given up all views below `view`.
    pub(crate) fn support(&self, view: u64) -> Stake {
        let authors = self.changes.iter().filter(|(_, c)| c.header.view >= view).map(|(author, _)| author);
        authors.fold(0, |sum: Stake, author| sum.saturating_add(self.committee.stake(*author)))
    }

    /// Upon view-changes of validity stake to higher views: an honest authority is among
    /// them, so go along, to the highest view that so much stake has reached. Upon the
    /// leader's own: nobody is left to lead, so go at once.
    fn join(&mut self, author: AuthorityIndex, view: u64) {
        let mut views: Vec<u64> =
            self.changes.values().map(|c| c.header.view).filter(|v| *v > self.view).collect();
        views.sort_unstable();
        let target = views.into_iter().rev().find(|v| self.support(*v) >= self.committee.validity);
        if let Some(target) = target {
            self.start_view_change(target);
        } else if author == self.leader(self.view)
            && (view == self.view.saturating_add(1) || view == self.next_view(self.view))
        {
            self.start_view_change(view);
        }
    }

    /// As leader of the view that a quorum goes to: open it.
    pub(crate) fn try_new_view(&mut self) {
        let Some(me) = self.me else { return };
        let view = self.view;
        if !self.is_changing() || self.leader(view) != me || !self.changes.contains_key(&me) {
            return;
        }
        let changes = || self.changes.iter().filter(|(_, c)| c.header.view == view);
        let stake =
            changes().fold(0, |sum: Stake, (author, _)| sum.saturating_add(self.committee.stake(*author)));
        if stake < self.committee.quorum {
            return;
        }
        let Some(plan) = Plan::new(changes().map(|(_, c)| &c.header)) else { return };
        let mut known: Vec<Statement> = changes().flat_map(|(_, c)| c.statements.iter().copied()).collect();
        known.sort_unstable();
        known.dedup();
        let mut statements: Vec<Statement> = changes()
            .map(|(author, c)| Statement {
                author: *author,
                slot: slot(VIEW_CHANGE, view, 0),
                digest: c.header.digest(),
            })
            .collect();
        // Cannot fail: every change was proven when it came, by statements in `known`.
        let Some(proofs) = self.prove_plan(&plan, &known) else { return };
        statements.extend(proofs);
        let by_digest: BTreeMap<Digest, &Batches> = changes()
            .flat_map(|(_, c)| c.header.claims.iter().map(|claim| claim.digest).zip(&c.bodies))
            .collect();
        let hole: Batches = Arc::from([]);
        let bodies: Vec<Batches> = plan
            .proposals()
            .map(|(_, digest)| Arc::clone(by_digest.get(&digest).copied().unwrap_or(&hole)))
            .collect();
        let changes = changes().map(|(author, c)| (*author, c.header.clone())).collect();
        let payload = encode(
            self.committee.epoch,
            &Payload::NewView(NewView { view, changes, bodies: bodies.clone() }),
        );
        let digest = new_view_digest(&payload);
        statements.push(Statement { author: me, slot: slot(NEW_VIEW, view, 0), digest });
        statements.extend(plan.proposals().map(|(seq, digest)| pre_prepare(view, seq, me, digest)));
        self.enter(view, &plan, &bodies, Signed { payload, statements });
        self.send_new_view(Recipients::All);
    }

    pub(crate) fn send_new_view(&mut self, to: Recipients) {
        if let Some(entered) = self.entered.take() {
            self.dispatch_bytes(to, entered.payload.clone(), &entered.statements);
            self.entered = Some(entered);
        }
    }

    fn prove_plan(&self, plan: &Plan, known: &[Statement]) -> Option<Vec<Statement>> {
        let mut statements = self.prove_checkpoint(plan.stable, known)?;
        for claim in plan.winners.values() {
            statements.extend(self.prove_claim(claim, known)?);
        }
        Some(statements)
    }

    /// Upon a new-view, from whomever: check that it follows from a quorum of
    /// view-changes, and enter it.
    pub(crate) fn on_new_view(&mut self, new_view: &NewView, message: Message) {
        if new_view.view < self.view || new_view.view <= self.installed {
            return;
        }
        let mut known = message.statements;
        known.sort_unstable();
        if let Some((plan, statements)) = self.check_new_view(new_view, &message.payload, &known) {
            let (view, payload) = (new_view.view, message.payload);
            self.enter(view, &plan, &new_view.bodies, Signed { payload, statements });
        }
    }

    /// What a new-view leads to and the statements that prove it. A claim that loses is
    /// not proven again: it changes nothing.
    pub(crate) fn check_new_view(
        &self,
        new_view: &NewView,
        payload: &[u8],
        known: &[Statement],
    ) -> Option<(Plan, Vec<Statement>)> {
        let view = new_view.view;
        let leader = self.leader(view);
        let opening =
            Statement { author: leader, slot: slot(NEW_VIEW, view, 0), digest: new_view_digest(payload) };
        let mut statements = vec![opening];
        for (author, header) in &new_view.changes {
            let top = header.stable.saturating_add(self.config.window);
            let in_bounds = header.claims.iter().all(|c| c.seq <= top && c.view < view);
            if header.view != view || !in_bounds {
                return None;
            }
            statements.push(Statement {
                author: *author,
                slot: slot(VIEW_CHANGE, view, 0),
                digest: header.digest(),
            });
        }
        let changes = statements.get(1..)?;
        if self.stake_of(changes) < self.committee.quorum {
            return None;
        }
        let plan = Plan::new(new_view.changes.iter().map(|(_, header)| header))?;
        let mut bodies = new_view.bodies.iter();
        for (seq, digest) in plan.proposals() {
            let body = bodies.next()?;
            if proposal_digest(body) != digest {
                return None;
            }
            statements.push(pre_prepare(view, seq, leader, digest));
        }
        if bodies.next().is_some() || !statements.iter().all(|s| known.binary_search(s).is_ok()) {
            return None;
        }
        statements.extend(self.prove_plan(&plan, known)?);
        Some((plan, statements))
    }

    fn enter(&mut self, view: u64, plan: &Plan, bodies: &[Batches], signed: Signed) {
        self.save(&Record::Entered { payload: signed.payload.clone() }, &signed.statements);
        let checkpoint = self.prove_checkpoint(plan.stable, &sorted(&signed.statements));
        self.open(view, signed);
        if let Some(statements) = checkpoint {
            let (seq, digest) = plan.stable;
            self.set_stable(Checkpoint { seq, digest, statements });
        }
        self.next_seq = plan.stable.0.max(self.executed) + 1;
        for ((seq, digest), batches) in plan.proposals().zip(bodies) {
            if seq > self.stable.seq {
                self.take_in(seq, digest, batches);
            }
        }
        self.settle_places();
        self.release_slots();
        self.replay_postponed();
    }

    /// Leaves the former view behind: its proposals and votes count no more, its
    /// certificates stay.
    pub(crate) fn open(&mut self, view: u64, signed: Signed) {
        self.view = view;
        self.installed = view;
        self.entered = Some(signed);
        self.entered_at = self.now;
        self.change = None;
        self.changes.retain(|_, c| c.header.view > view);
        self.deadline = None;
        self.lacking.clear();
        self.entries.values_mut().for_each(crate::log::Entry::reset);
    }

    /// Batches of proposals that the new view does not take up wait again.
    pub(crate) fn settle_places(&mut self) {
        let places = self.entries.iter().filter_map(|(seq, e)| {
            let accepted = e.accepted.as_ref().map(|a| &a.batches);
            let batches = e.committed.as_ref().map(|c| &c.batches).or(accepted)?;
            Some((*seq, &**batches))
        });
        self.pool.replace(places);
    }
}

fn sorted(statements: &[Statement]) -> Vec<Statement> {
    let mut sorted = statements.to_vec();
    sorted.sort_unstable();
    sorted
}
