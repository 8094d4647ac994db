//! What a Byzantine authority sends in place of what its engine says.

use std::sync::Arc;

use moult_pbft::codec::{
    COMMIT, PRE_PREPARE, PREPARE, Payload, Proposal, VIEW_CHANGE, ViewChange, decode, encode, proposal_digest,
};
use moult_sdk::Digest;
use moult_sdk::engine::{Choice, Envelope};

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The epoch of all runs.
const EPOCH: u64 = 3;

/// An attack, named by what it does.
#[derive(Clone, Debug)]
pub(crate) enum Attack {
    /// Proposes one thing to one half and another to the other, and votes for both.
    Equivocator(Rc<RefCell<BTreeMap<(u64, u64), Digest>>>),
    /// Says in its view-changes that it has prepared nothing.
    Forgetter,
    /// Sends nothing that it should.
    Mute,
}

impl Attack {
    pub(crate) fn equivocator() -> Self {
        Self::Equivocator(Rc::default())
    }

    /// What is voted for towards `to`.
    pub(crate) fn vote(&self, to: u32, choice: Choice) -> Choice {
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

    /// What is sent to `to`.
    pub(crate) fn send(&self, to: u32, envelope: &mut Envelope) {
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
