//! Signatures of the statements that the engine was shown or made, so that it can attach
//! them to messages of its own.

use std::collections::{BTreeMap, VecDeque};

use moult_sdk::{AuthorityIndex, Digest, Slot, Statement};
use moult_types::{Signature, Signed};

/// Most statements that are kept of one author; the lowest slots go first.
const PER_AUTHOR_MAX: usize = 16_384;
/// Most statements of released slots that are kept for messages sent again.
const RELEASED_MAX: usize = 8_192;

/// Signatures by statement. Bounded author by author, so that none can crowd out another.
#[derive(Default)]
pub(super) struct Signatures {
    live: BTreeMap<AuthorityIndex, BTreeMap<(Slot, Digest), Signature>>,
    /// Named by a record that is not truncated: (signature, the last such record).
    pinned: BTreeMap<Statement, (Signature, u64)>,
    released: BTreeMap<Statement, Signature>,
    released_order: VecDeque<Statement>,
}

impl Signatures {
    pub(super) fn remember(&mut self, signed: Signed) {
        let Signed { statement, signature } = signed;
        let of_author = self.live.entry(statement.author).or_default();
        of_author.insert((statement.slot, statement.digest), signature);
        if of_author.len() > PER_AUTHOR_MAX {
            of_author.pop_first();
        }
    }

    pub(super) fn get(&self, statement: &Statement) -> Option<Signature> {
        let live =
            self.live.get(&statement.author).and_then(|of| of.get(&(statement.slot, statement.digest)));
        let pinned = || self.pinned.get(statement).map(|(signature, _)| signature);
        live.or_else(pinned).or_else(|| self.released.get(statement)).copied()
    }

    /// A record names these statements: they are kept as long as it is.
    pub(super) fn pin(&mut self, record: u64, signed: &[Signed]) {
        self.pinned.extend(signed.iter().map(|s| (s.statement, (s.signature, record))));
    }

    /// Records up to this one are gone.
    pub(super) fn unpin(&mut self, record: u64) {
        self.pinned.retain(|_, (_, last)| *last > record);
    }

    /// Slots up to this one are not voted on any more. Their signatures stay for a while:
    /// what was sent with them may have to be sent again.
    pub(super) fn release(&mut self, mark: Slot) {
        let is_released = |slot: &Slot| slot.kind == mark.kind && (slot.a, slot.b) <= (mark.a, mark.b);
        for (author, of_author) in &mut self.live {
            for ((slot, digest), signature) in of_author.extract_if(.., |(slot, _), _| is_released(slot)) {
                let statement = Statement { author: *author, slot, digest };
                if self.released.insert(statement, signature).is_none() {
                    self.released_order.push_back(statement);
                }
            }
        }
        while self.released_order.len() > RELEASED_MAX {
            if let Some(oldest) = self.released_order.pop_front() {
                self.released.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(author: u32, a: u64) -> Signed {
        let slot = Slot { kind: 1, a, b: 0 };
        let statement = Statement { author: AuthorityIndex(author), slot, digest: Digest([a as u8; 32]) };
        Signed { statement, signature: Signature([a as u8; 64]) }
    }

    #[test]
    fn a_record_keeps_what_it_names_and_no_author_crowds_out_another() {
        let mut signatures = Signatures::default();
        let (kept, lost) = (signed(0, 1), signed(0, 2));
        signatures.remember(kept);
        signatures.remember(lost);
        signatures.pin(7, &[kept]);
        signatures.release(Slot { kind: 1, a: 2, b: 0 });
        assert!(signatures.get(&kept.statement).is_some() && signatures.get(&lost.statement).is_some());
        for a in 3..20_000 {
            signatures.remember(signed(1, a));
        }
        signatures.release(Slot { kind: 1, a: 20_000, b: 0 });
        assert!(signatures.get(&lost.statement).is_none());
        assert!(signatures.get(&kept.statement).is_some());
        signatures.unpin(7);
        assert!(signatures.get(&kept.statement).is_none());
        signatures.remember(signed(0, 30_000));
        (0..20_000).for_each(|a| signatures.remember(signed(1, a)));
        assert!(signatures.get(&signed(0, 30_000).statement).is_some());
    }
}
