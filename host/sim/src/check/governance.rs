//! Decisions have their quorums: what was approved and scheduled is counted again from the
//! blocks, one vote a distinct authority.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moult_core::governance::{Ledger, ProposalState};
use moult_types::governance::Decision;
use moult_types::{
    BlockRecord, EpochNumber, HeldBatch, Manifest, ProposalId, SystemTransaction, Transaction,
};

use super::certificates::is_enough;
use crate::report::Violation;

type Key = (EpochNumber, ProposalId);

#[derive(Default)]
pub(crate) struct Governance {
    /// First decision of each voter.
    votes: BTreeMap<Key, BTreeMap<usize, bool>>,
    ready: BTreeMap<Key, BTreeSet<usize>>,
    settled: BTreeSet<(Key, bool)>,
}

impl Governance {
    /// A block that no node had before.
    pub(crate) fn block(
        &mut self,
        record: &BlockRecord,
        batches: &[Arc<HeldBatch>],
    ) -> Result<(), Violation> {
        for transaction in batches.iter().flat_map(|batch| &batch.batch().transactions) {
            match transaction {
                Transaction::System(SystemTransaction::Vote(vote)) => {
                    let votes = self.votes.entry((record.epoch, vote.proposal)).or_default();
                    votes.entry(vote.author.as_usize()).or_insert(vote.decision == Decision::Approve);
                }
                Transaction::System(SystemTransaction::Ready(notice)) => {
                    let ready = self.ready.entry((record.epoch, notice.proposal)).or_default();
                    ready.insert(notice.author.as_usize());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What a node made of it.
    pub(crate) fn ledger(
        &mut self,
        node: usize,
        manifest: &Manifest,
        ledger: &Ledger,
    ) -> Result<(), Violation> {
        for record in ledger.open.values() {
            let scheduled = matches!(record.state, ProposalState::Scheduled { .. });
            let key = (manifest.number, record.id);
            if record.state == ProposalState::Proposed || !self.settled.insert((key, scheduled)) {
                continue;
            }
            let wrong =
                |what: &str| Violation::new("quorum of votes", format!("node {node}: {what}: {record:?}"));
            let votes = self.votes.get(&key).into_iter().flatten();
            let voters = votes.filter(|(_, approves)| **approves).map(|(voter, _)| *voter).collect();
            if !is_enough(manifest.members.iter().map(|m| m.stake), &voters, manifest.fault_model) {
                return Err(wrong("approved without a quorum"));
            }
            let ready = self.ready.get(&key).cloned().unwrap_or_default();
            let next = &record.proposal.new_committee;
            if scheduled && !is_enough(next.iter().map(|m| m.stake), &ready, record.proposal.fault_model) {
                return Err(wrong("scheduled without a quorum that is ready"));
            }
        }
        Ok(())
    }
}
