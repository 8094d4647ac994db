//! Aborts hide nothing, and every phase of an epoch has one outcome: all nodes resume it from the
//! same block, and a block that was final before is never left behind.

use std::collections::BTreeMap;

use moult_core::governance::Ledger;
use moult_core::io::PhaseRecord;
use moult_types::phase::{Abort, Resumed};
use moult_types::{AuthorityIndex, Digest, EpochIdentity, Round, Signed};

use crate::report::Violation;

#[derive(Default)]
pub(crate) struct Phases {
    /// The highest commit that each honest authority sent in a phase, and what its abort claims.
    commits: BTreeMap<(EpochIdentity, AuthorityIndex), u64>,
    aborts: BTreeMap<(EpochIdentity, AuthorityIndex), u64>,
    /// By phase: its resume block, and where it resumed from.
    resumed: BTreeMap<EpochIdentity, (Digest, Resumed)>,
}

impl Phases {
    pub(crate) fn voted(
        &mut self,
        node: usize,
        identity: EpochIdentity,
        vote: &Signed,
    ) -> Result<(), Violation> {
        if Round::of(&vote.statement) == Some(Round::Commit) {
            let highest = self.commits.entry((identity, vote.statement.author)).or_default();
            *highest = vote.statement.slot.a.max(*highest);
        }
        self.check(node, identity, vote.statement.author)
    }

    pub(crate) fn aborted(
        &mut self,
        node: usize,
        identity: EpochIdentity,
        abort: &Abort,
    ) -> Result<(), Violation> {
        self.aborts.insert((identity, abort.author), abort.claim.0.0);
        self.check(node, identity, abort.author)
    }

    /// No commit lies above what its author's abort claims, whichever came first.
    fn check(&self, node: usize, identity: EpochIdentity, author: AuthorityIndex) -> Result<(), Violation> {
        match (self.commits.get(&(identity, author)), self.aborts.get(&(identity, author))) {
            (Some(commit), Some(claim)) if commit > claim => Err(Violation::new(
                "no hidden commit",
                format!("node {node}: committed to {commit}, its abort claims {claim} in {identity:?}"),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn resumed(
        &mut self,
        node: usize,
        record: &PhaseRecord,
        ledger: &Ledger,
    ) -> Result<(), Violation> {
        let wrong = |what: &str| {
            Violation::new("one outcome a phase", format!("node {node}, phase {}: {what}", record.phase))
        };
        let (Some(resumption), Some(resumed)) = (&record.resumption, record.resumed()) else {
            return Err(wrong("it has no resumption"));
        };
        if (resumed.point.global, resumed.point.hash) != (ledger.global, ledger.hash) {
            return Err(wrong("it goes on from another block than its point"));
        }
        let outcome = (resumption.block.hash, resumed);
        let known = *self.resumed.entry(record.identity).or_insert(outcome);
        if known != outcome {
            return Err(wrong(&format!("others resumed from {known:?}, this one from {outcome:?}")));
        }
        Ok(())
    }
}
