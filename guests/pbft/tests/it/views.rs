//! View changes case by case: what a new leader must carry over, and what nobody may
//! accept.

use std::sync::Arc;

use moult_pbft::codec::{
    Batches, Header, NewView, PRE_PREPARE, PREPARE, Payload, VIEW_CHANGE, ViewChange, proposal_digest, slot,
};
use moult_sdk::engine::Event;
use moult_sdk::{AuthorityIndex, Digest, Statement};

use crate::bench::{
    Bench, certified, change, checkpoint, digest, gauge, new_view, opened, said, sent, votes,
};

type Changes = Vec<(u32, ViewChange, Vec<Statement>)>;

/// Three view-changes to view 2: a claim of view 0 and one of view 1 at sequence number 1,
/// nothing at 2, one at 3.
fn competing() -> Changes {
    let changes = [
        (0, vec![certified(1, 0, 10, &[1, 2])]),
        (1, vec![certified(1, 1, 11, &[0, 3]), certified(3, 0, 12, &[1, 3])]),
        (3, vec![]),
    ];
    let made = |(author, claims)| {
        let (change, statements) = change(author, 2, claims);
        (author, change, statements)
    };
    changes.into_iter().map(made).collect()
}

fn right() -> Vec<Batches> {
    vec![Arc::from([digest(11)]), Arc::from([]), Arc::from([digest(12)])]
}

#[test]
fn a_new_leader_takes_the_claim_of_the_highest_view_and_fills_holes() {
    let mut bench = Bench::new(2);
    let mut last = None;
    for (author, change, statements) in competing() {
        last = opened(&bench.hear(author, &Payload::ViewChange(change), statements)).or(last);
    }
    let (new_view, sign) = last.expect("a quorum of view-changes opens the view");
    assert_eq!(new_view.bodies, right());
    for (seq, body) in (1..).zip(right()) {
        assert!(
            sign.iter().any(|c| c.slot == slot(PRE_PREPARE, 2, seq) && c.digest == proposal_digest(&body))
        );
    }
}

#[test]
fn a_replica_enters_a_view_that_follows_from_its_quorum_and_prepares_what_it_holds() {
    let mut bench = Bench::new(3);
    bench.hold(&[digest(11)]);
    let (payload, statements) = new_view(2, &competing(), right(), 1);
    let outcome = bench.hear(0, &payload, statements);
    assert_eq!(gauge(&outcome, 0), Some(2));
    let prepared: Vec<_> = votes(&outcome).iter().map(|c| (c.slot.kind, c.slot.a, c.slot.b)).collect();
    assert_eq!(prepared, [(PREPARE, 2, 1), (PREPARE, 2, 2)]);
    let prepared: Vec<_> = votes(&bench.hold(&[digest(12)])).iter().map(|c| c.slot.b).collect();
    assert_eq!(prepared, [3]);
}

#[test]
fn a_new_view_that_does_not_follow_is_refused() {
    let other: Batches = Arc::from([digest(10)]);
    let [first, hole, third] = [right()[0].clone(), right()[1].clone(), right()[2].clone()];
    let wrong: Vec<(&str, Vec<Batches>)> = vec![
        ("the claim of a lower view", vec![other.clone(), hole.clone(), third.clone()]),
        ("a prepared proposal left out", vec![hole.clone(), hole.clone(), third.clone()]),
        ("a hole filled", vec![first.clone(), other.clone(), third.clone()]),
        ("the end cut off", vec![first.clone(), hole.clone()]),
        ("something added", vec![first, hole, third, other]),
    ];
    for (what, bodies) in wrong {
        let (payload, statements) = new_view(2, &competing(), bodies, 1);
        assert_eq!(gauge(&Bench::new(3).hear(2, &payload, statements), 0), None, "{what}");
    }
    let (payload, statements) = new_view(2, &competing()[..2], right(), 1);
    assert_eq!(gauge(&Bench::new(3).hear(2, &payload, statements), 0), None, "no quorum of view-changes");
    let (payload, statements) = new_view(2, &competing(), right(), 1);
    for missing in 0..statements.len() {
        let mut fewer = statements.clone();
        let gone = fewer.remove(missing);
        // The certificate that lost need not be proven.
        let lost = gone.slot.kind <= PREPARE && gone.slot.a == 0 && gone.slot.b == 1;
        let entered = gauge(&Bench::new(3).hear(2, &payload, fewer), 0).is_some();
        assert_eq!(entered, lost, "without {gone:?}");
    }
    let Payload::NewView(NewView { changes, bodies, .. }) = payload else { unreachable!() };
    let elsewhere = Payload::NewView(NewView { view: 6, changes, bodies });
    assert_eq!(
        gauge(&Bench::new(3).hear(2, &elsewhere, statements), 0),
        None,
        "view-changes to another view"
    );
}

#[test]
fn a_forged_certificate_is_refused() {
    let forgeries = [
        ("one prepare", certified(1, 0, 10, &[1])),
        ("the leader's own prepare", certified(1, 0, 10, &[0, 1])),
        ("one prepare twice", certified(1, 0, 10, &[1, 1])),
        ("an outsider's prepare", certified(1, 0, 10, &[1, 9])),
        ("a certificate of the new view", certified(1, 2, 10, &[1, 3])),
        ("a sequence number out of reach", certified(257, 0, 10, &[1, 2])),
    ];
    for (what, forgery) in forgeries {
        let mut bench = Bench::new(2);
        let (first, statements) = change(1, 2, vec![forgery]);
        bench.hear(1, &Payload::ViewChange(first), statements);
        let (second, statements) = change(3, 2, vec![]);
        let outcome = bench.hear(3, &Payload::ViewChange(second), statements);
        assert!(gauge(&outcome, 0).is_none() && opened(&outcome).is_none(), "{what}");
        // The same author may still say something true.
        let (third, statements) = change(1, 2, vec![certified(1, 0, 10, &[1, 2])]);
        let outcome = bench.hear(1, &Payload::ViewChange(third), statements);
        assert!(opened(&outcome).is_some(), "{what}");
    }
}

#[test]
fn a_certificate_for_other_batches_is_refused() {
    let (claim, _, certificate) = certified(1, 0, 10, &[1, 2]);
    let (lie, statements) = change(1, 2, vec![(claim, Arc::from([digest(66)]), certificate)]);
    let mut bench = Bench::new(2);
    bench.hear(1, &Payload::ViewChange(lie), statements);
    let (other, statements) = change(3, 2, vec![]);
    assert_eq!(gauge(&bench.hear(3, &Payload::ViewChange(other), statements), 0), None);
}

#[test]
fn a_lying_stable_checkpoint_is_refused() {
    for (authors, stable, believed) in
        [(&[0, 1][..], 100, false), (&[0, 1, 3], 100, true), (&[0, 1, 3], 101, false)]
    {
        let mut bench = Bench::new(2);
        let header = Header { view: 2, stable, stable_digest: digest(9), claims: vec![] };
        let mut statements = checkpoint(stable, digest(9), authors);
        statements.push(said(1, slot(VIEW_CHANGE, 2, 0), header.digest()));
        let outcome = bench.hear(1, &Payload::ViewChange(ViewChange { header, bodies: vec![] }), statements);
        assert_eq!(gauge(&outcome, 2), believed.then_some(100));
        let (other, statements) = change(3, 2, vec![]);
        let outcome = bench.hear(3, &Payload::ViewChange(other), statements);
        assert_eq!(gauge(&outcome, 0).is_some(), believed);
    }
}

#[test]
fn a_replica_follows_validity_stake_but_not_a_single_authority() {
    let mut bench = Bench::new(3);
    let (first, statements) = change(1, 1 << 60, vec![]);
    assert_eq!(gauge(&bench.hear(1, &Payload::ViewChange(first), statements), 0), None);
    let (second, statements) = change(2, 7, vec![]);
    let outcome = bench.hear(2, &Payload::ViewChange(second), statements);
    assert_eq!(gauge(&outcome, 0), Some(7));
    let own =
        sent(&outcome).into_iter().find_map(|(p, sign)| matches!(p, Payload::ViewChange(_)).then_some(sign));
    assert_eq!(own.map(|sign| sign[0].slot), Some(slot(VIEW_CHANGE, 7, 0)));
}

#[test]
fn a_leader_that_gives_up_is_followed_at_once_but_not_wherever_it_likes() {
    let mut bench = Bench::new(3);
    let (far, statements) = change(0, 4, vec![]);
    assert_eq!(gauge(&bench.hear(0, &Payload::ViewChange(far), statements), 0), None);
    let mut bench = Bench::new(3);
    let (next, statements) = change(0, 1, vec![]);
    assert_eq!(gauge(&bench.hear(0, &Payload::ViewChange(next), statements), 0), Some(1));
}

#[test]
fn a_jailed_leader_is_passed_over() {
    let mut bench = Bench::new(3);
    assert_eq!(gauge(&bench.step(vec![Event::Shun(AuthorityIndex(1))]), 0), None);
    assert_eq!(gauge(&bench.step(vec![Event::Shun(AuthorityIndex(0))]), 0), Some(2));
}

#[test]
fn a_view_change_carries_what_is_prepared_and_survives_a_restart() {
    let mut bench = Bench::new(3);
    bench.hold(&[digest(10)]);
    bench.propose(0, 1, &[digest(10)]);
    let about = proposal_digest(&[digest(10)]);
    let outcome = bench.vote(1, slot(PREPARE, 0, 1), about);
    assert_eq!(votes(&outcome).len(), 1, "prepared, so it commits");
    let outcome = bench.time_out();
    let claims = |payload: &Payload| match payload {
        Payload::ViewChange(change) => change.header.claims.clone(),
        _ => vec![],
    };
    let before: Vec<_> = sent(&outcome).iter().flat_map(|(p, _)| claims(p)).collect();
    assert_eq!(before.iter().map(|c| (c.seq, c.view, c.digest)).collect::<Vec<_>>(), [(1, 0, about)]);
    let (_, outcome) = restart(&bench);
    let after: Vec<_> = sent(&outcome).iter().flat_map(|(p, _)| claims(p)).collect();
    assert_eq!(before, after);
}

fn restart(bench: &Bench) -> (moult_pbft::Pbft, moult_sdk::engine::Outcome) {
    use moult_sdk::engine::Engine;
    moult_pbft::Pbft::init(crate::bench::settings(3, ""), Some(bench.disk.clone())).expect("own records")
}

#[test]
fn digests_of_nothing_differ_by_purpose() {
    let empty = Header { view: 0, stable: 0, stable_digest: Digest::ZERO, claims: vec![] };
    assert_ne!(proposal_digest(&[]), empty.digest());
}
