//! What a Byzantine authority that knows the protocol sends in place of what its engine says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use moult_conformance::{Attack, Factory, Lie, Seeds, Violation, draw};
use moult_pbft::codec::{
    COMMIT, PRE_PREPARE, PREPARE, Payload, Proposal, VIEW_CHANGE, ViewChange, decode, encode, proposal_digest,
};
use moult_sdk::engine::{Choice, Envelope};
use moult_sdk::{Digest, FaultModel};

use crate::bench::EPOCH;
use crate::runs::ENGINE;

/// An attack, named by what it does.
#[derive(Clone, Debug)]
enum Protocol {
    /// Proposes one thing to one half and another to the other, and votes for both.
    Equivocator(RefCell<BTreeMap<(u64, u64), Digest>>),
    /// Says in its view-changes that it has prepared nothing.
    Forgetter,
    /// Sends nothing that it should.
    Mute,
}
impl Attack for Protocol {
    fn vote(&self, to: u32, choice: Choice) -> Choice {
        let Self::Equivocator(others) = self else { return choice };
        let place = (choice.slot.a, choice.slot.b);
        match others.borrow().get(&place) {
            Some(digest)
                if is_other_half(to) && [PRE_PREPARE, PREPARE, COMMIT].contains(&choice.slot.kind) =>
            {
                Choice { digest: *digest, ..choice }
            }
            _ => choice,
        }
    }

    fn send(&self, to: u32, envelope: &mut Envelope) {
        let payload = decode(EPOCH, &envelope.payload).expect("the engine's own message decodes");
        match (self, payload) {
            (Self::Equivocator(others), Payload::Proposal(proposal)) if is_other_half(to) => {
                if !envelope.sign.iter().any(|c| c.slot.kind == PRE_PREPARE) {
                    return;
                }
                let mut batches = proposal.batches.to_vec();
                if batches.len() > 1 {
                    batches.reverse();
                } else {
                    batches = vec![Digest([proposal.seq as u8; 32])];
                }
                let digest = proposal_digest(&batches);
                others.borrow_mut().insert((proposal.view, proposal.seq), digest);
                let lie = Proposal { batches: Arc::from(batches), ..proposal };
                envelope.payload = encode(EPOCH, &Payload::Proposal(lie));
                envelope.sign = envelope.sign.iter().map(|c| self.vote(to, *c)).collect();
            }
            (Self::Forgetter, Payload::ViewChange(mut change)) => {
                change.header.claims.clear();
                let digest = change.header.digest();
                for choice in envelope.sign.iter_mut().filter(|c| c.slot.kind == VIEW_CHANGE) {
                    choice.digest = digest;
                }
                let lie = ViewChange { header: change.header, bodies: Vec::new() };
                envelope.payload = encode(EPOCH, &Payload::ViewChange(lie));
            }
            (Self::Mute, _) => {
                envelope.sign.clear();
                envelope.attach.clear();
            }
            _ => {}
        }
    }
}

fn is_other_half(node: u32) -> bool {
    node % 2 == 1
}

/// Drawn runs under the attack, by an authority that the committee can bear; those that
/// break a property of safety.
fn broken_by(factory: &dyn Factory, attack: &Protocol, seeds: std::ops::Range<u64>) -> Vec<(u64, Violation)> {
    let plan = Seeds { sizes: vec![4, 5, 7], ..Seeds::new(0, 1) };
    let run = |seed| {
        let mut drawn = draw(&plan, &[FaultModel::Byzantine], &factory.tuning(), seed);
        let stakes = &drawn.setup.stakes;
        let tolerated = (stakes.iter().sum::<u64>() - 1) / 3;
        let liar = stakes.iter().position(|stake| *stake <= tolerated)?;
        drawn.setup.liar = Some((liar as u32, Lie::Custom(Rc::new(attack.clone()))));
        drawn.run(factory).violation.map(|(violation, _)| (seed, violation))
    };
    seeds.filter_map(run).collect()
}

fn attacks() -> [Protocol; 3] {
    [Protocol::Equivocator(RefCell::default()), Protocol::Forgetter, Protocol::Mute]
}

#[test]
fn no_attack_breaks_a_committee() {
    for attack in attacks() {
        let broken = broken_by(ENGINE, &attack, 0..60);
        assert!(broken.is_empty(), "{attack:?}: {broken:?}");
    }
}
