//! K19: what proves that an authority broke its word, always within one phase of an epoch.
//!
//! Pure predicates over statements whose signatures were verified. Nothing is done about it
//! here. A prepare and a commit of one author at one index are two slots, and no offence.

use moult_sdk::{Digest, Statement};
use moult_types::block::link;
use moult_types::phase::Abort;
use moult_types::{Round, SlotKind};

/// Two digests for one slot: nobody honest signs that, whatever the slot is for.
pub fn is_equivocation(one: &Statement, two: &Statement) -> bool {
    one.author == two.author && one.slot == two.slot && one.digest != two.digest
}

/// Prepares at i < i' on two chains (K3): `bodies` i+1 to i' lead from `fork` to the higher
/// vote's hash, and `fork` is not what the lower one names.
pub fn is_cross_prepare(low: &Statement, high: &Statement, fork: Digest, bodies: &[Digest]) -> bool {
    let are_prepares = [low, high].into_iter().all(|vote| Round::of(vote) == Some(Round::Prepare));
    let spans =
        high.slot.a.checked_sub(low.slot.a).is_some_and(|span| span > 0 && span == bodies.len() as u64);
    let leads = bodies.iter().fold(fork, |hash, body| link(hash, *body)) == high.digest;
    are_prepares && low.author == high.author && spans && leads && fork != low.digest
}

/// A commit above what its author's abort claims (K4, K8): whoever commits holds the certificate
/// that the abort has to name.
pub fn is_hidden_commit(commit: &Statement, abort: &Abort) -> bool {
    let is_commit = Round::of(commit) == Some(Round::Commit);
    is_commit && commit.author == abort.author && abort.claim.0.0 < commit.slot.a
}

/// A vote or an abort of the kernel's: what the predicates are about.
pub fn concerns(statement: &Statement) -> bool {
    Round::of(statement).is_some() || statement.slot.kind == SlotKind::ABORT
}

#[cfg(test)]
mod tests {
    use moult_sdk::{AuthorityIndex, CommitIndex};
    use moult_types::Signature;
    use moult_types::block::vote_statement;

    use super::*;

    fn vote(round: Round, author: u32, index: u64, digest: Digest) -> Statement {
        vote_statement(round, AuthorityIndex(author), CommitIndex(index), digest)
    }

    #[test]
    fn two_digests_for_a_slot() {
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        let one = vote(Round::Prepare, 1, 3, a);
        assert!(is_equivocation(&one, &vote(Round::Prepare, 1, 3, b)));
        let innocent = [
            vote(Round::Prepare, 1, 3, a),
            vote(Round::Commit, 1, 3, b),
            vote(Round::Prepare, 2, 3, b),
            vote(Round::Prepare, 1, 4, b),
        ];
        assert!(innocent.iter().all(|other| !is_equivocation(&one, other)));
    }

    #[test]
    fn prepares_on_two_chains() {
        let (h2, bodies) = (Digest([2; 32]), [Digest([3; 32]), Digest([4; 32])]);
        let h4 = link(link(h2, bodies[0]), bodies[1]);
        let other = Digest([9; 32]);
        let high = vote(Round::Prepare, 1, 4, h4);
        assert!(is_cross_prepare(&vote(Round::Prepare, 1, 2, other), &high, h2, &bodies));
        // On the same chain, of another author, of the other round, with other bodies, or the
        // wrong way round.
        assert!(!is_cross_prepare(&vote(Round::Prepare, 1, 2, h2), &high, h2, &bodies));
        assert!(!is_cross_prepare(&vote(Round::Prepare, 2, 2, other), &high, h2, &bodies));
        assert!(!is_cross_prepare(&vote(Round::Commit, 1, 2, other), &high, h2, &bodies));
        assert!(!is_cross_prepare(&vote(Round::Prepare, 1, 2, other), &high, h2, &bodies[..1]));
        assert!(!is_cross_prepare(&vote(Round::Prepare, 1, 3, other), &high, h2, &bodies));
        assert!(!is_cross_prepare(&high, &vote(Round::Prepare, 1, 2, other), h2, &bodies));
        assert!(!is_cross_prepare(&vote(Round::Prepare, 1, 4, other), &high, other, &[]));
    }

    #[test]
    fn a_commit_that_an_abort_hides() {
        let abort = |author, index| Abort {
            author: AuthorityIndex(author),
            claim: (CommitIndex(index), Digest([1; 32])),
            signature: Signature([0; 64]),
        };
        let commit = vote(Round::Commit, 1, 5, Digest([5; 32]));
        assert!(is_hidden_commit(&commit, &abort(1, 4)));
        assert!(!is_hidden_commit(&commit, &abort(1, 5)));
        assert!(!is_hidden_commit(&commit, &abort(2, 4)));
        assert!(!is_hidden_commit(&vote(Round::Prepare, 1, 5, Digest([5; 32])), &abort(1, 4)));
        assert!(concerns(&commit) && concerns(&abort(1, 4).statement()));
    }
}
