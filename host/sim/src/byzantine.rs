//! What a Byzantine node does to its messages, beyond running twice with one key.

use moult_types::phase::FinalityProof;
use moult_types::{Certificate, CommitIndex, Digest, GlobalIndex, Message};

use crate::rng::Rng;

/// Damages a message.
pub(crate) fn forge(message: &Message, rng: &mut Rng) -> Message {
    let mut message = message.clone();
    let flip = |bytes: &mut [u8], rng: &mut Rng| {
        let at = rng.below(bytes.len() as u64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << rng.below(8);
        }
    };
    match &mut message {
        Message::Engine { payload, statements, .. } => {
            if let Some(payload) = payload.as_mut().filter(|_| rng.chance(500)) {
                flip(payload, rng);
            }
            if let Some(signed) = statements.first_mut().filter(|_| rng.chance(500)) {
                flip(&mut signed.statement.digest.0, rng);
            }
        }
        Message::Votes { votes, certificate, .. } => match certificate {
            Some(certificate) if rng.chance(500) => certificate.index.0 += rng.range(1, 3),
            _ => {
                if let Some(vote) = votes.first_mut() {
                    vote.statement.slot.a += rng.range(1, 3);
                }
            }
        },
        Message::Status(status) => {
            status.last_final = GlobalIndex(status.last_final.0 + rng.range(1, 50));
            status.hash = Digest([7; 32]);
        }
        Message::Batches(batches) => {
            if let Some(signed) = batches.first_mut() {
                signed.batch.time_ms += 1;
            }
        }
        Message::Blocks(blocks) => match rng.below(4) {
            0 => {
                certificate_of(&mut blocks.proof).votes.pop();
            }
            1 => {
                let certificate = certificate_of(&mut blocks.proof);
                if let Some(vote) = certificate.votes.first().copied() {
                    certificate.votes.push(vote);
                }
            }
            2 => {
                blocks.blocks.pop();
            }
            _ => {
                if let Some(record) = blocks.blocks.last_mut() {
                    record.block.batches.pop();
                }
            }
        },
        Message::Abort { abort, claim, .. } => match claim {
            Some(_) if rng.chance(300) => *claim = None,
            _ => abort.claim.0.0 += rng.range(1, 3),
        },
        Message::Opening { bundle, .. } => {
            if let Some(aborted) = bundle.aborted.first_mut() {
                match rng.below(3) {
                    0 => drop(aborted.aborts.pop()),
                    1 => aborted.claim = None,
                    _ => bundle.aborted.clear(),
                }
            }
        }
        Message::Waiting { batch, .. } => flip(&mut batch.0, rng),
        Message::ReadReply { index, .. } => *index = CommitIndex(rng.below(index.0 + 40)),
        _ => {}
    }
    message
}

fn certificate_of(proof: &mut FinalityProof) -> &mut Certificate {
    match proof {
        FinalityProof::Committed(certificate) => certificate,
        FinalityProof::Resumed { resumption, .. } => &mut resumption.certificate,
    }
}
