use std::collections::BTreeMap;

use moult_core::governance::VoteRecord;
use moult_types::{
    AuthorityId, AuthorityIndex, CommitIndex, Digest, EpochChangeProposal, EpochNumber, FaultModel, Finality,
    GlobalIndex, Manifest, Member, ProposalId, PublicKey, Signature,
};

use super::*;

fn members() -> Vec<Member> {
    let member = |n: u8| Member {
        id: AuthorityId([n; 32]),
        key: PublicKey([n; 32]),
        possession: Signature([0; 64]),
        stake: 1,
        address: format!("node{n}:1"),
    };
    (0..4).map(member).collect()
}

fn record(state: ProposalState, approve: u32, reject: &[&str], ready: u32) -> ProposalRecord {
    let vote = |decision| VoteRecord { decision, index: CommitIndex(5), time_ms: 5 };
    let against = reject.iter().map(|reason| vote(Decision::Reject((*reason).to_owned())));
    let votes = (0..approve).map(|_| vote(Decision::Approve)).chain(against);
    ProposalRecord {
        id: ProposalId(7),
        hash: Digest::ZERO,
        proposal: EpochChangeProposal {
            new_epoch: EpochNumber(3),
            new_committee: members(),
            new_epoch_timestamp_ms: 0,
            proposal_commit_index: CommitIndex(0),
            fallbacks: Vec::new(),
            modules: BTreeMap::new(),
            fault_model: FaultModel::Byzantine,
            limits: EpochLimits::default(),
            activation: Activation::AsSoonAsReady,
            deadline: CommitIndex(100),
            proposer: AuthorityId([0; 32]),
            readmit_failed: false,
            reports: Vec::new(),
        },
        author: AuthorityIndex(0),
        state,
        proposed: (CommitIndex(4), 4),
        changed: (CommitIndex(9), 9),
        votes: (0..).map(AuthorityIndex).zip(votes).collect(),
        ready: (0..ready).map(|place| (AuthorityIndex(place), CommitIndex(8))).collect(),
    }
}

#[test]
fn the_sentence_says_where_it_stands() {
    let manifest = Manifest {
        number: EpochNumber(2),
        members: members(),
        fault_model: FaultModel::Byzantine,
        modules: BTreeMap::new(),
        fallbacks: Vec::new(),
        finality: Finality::Certified,
        limits: EpochLimits::default(),
        follows: None,
    };
    let ledger = Ledger::at_start(&manifest, GlobalIndex(0), 0, ProposalId(8));
    let limits = EpochLimits::default();
    use ProposalState as S;
    for (record, sentence) in [
        (record(S::Proposed, 2, &[], 0), "no quorum yet: approved by stake 2 of 3 needed"),
        (
            record(S::Proposed, 1, &["no", "", "no"], 0),
            "no quorum yet: approved by stake 1 of 3 needed, rejected by 3: no; no reason given",
        ),
        (record(S::Approved, 3, &[], 2), "approved; ready: 2 of 3 needed"),
        (
            record(S::Scheduled { barrier: CommitIndex(4711) }, 3, &[], 3),
            "scheduled: epoch 3 begins after block 4711 of this epoch",
        ),
        (record(S::Active, 3, &[], 3), "active: epoch 3 began after block 9"),
        (record(S::Rejected, 0, &["too soon", "too soon", "bad"], 0), "rejected by quorum: too soon; bad"),
        (record(S::Expired, 2, &[], 0), "expired at block 9: no quorum (stake 2 of 3)"),
        (record(S::Expired, 3, &[], 1), "expired at block 9: approved, but not ready or not due in time"),
        (record(S::Withdrawn, 0, &[], 0), "withdrawn by its proposer at block 9"),
        (
            record(S::Superseded, 0, &[], 0),
            "superseded at block 9: another proposal for epoch 3 was approved first",
        ),
        (
            record(S::Cancelled, 3, &[], 3),
            "cancelled: the committee gave up an engine, and the epoch goes on from block 9",
        ),
    ] {
        let committee = manifest.committee().ok();
        let facts = Facts { committee, checks: &[], shadow: None, ledger: &ledger, limits: &limits };
        assert_eq!(body(&record, &facts).explanation, sentence);
        let unknown = Facts { committee: None, checks: &[], shadow: None, ledger: &ledger, limits: &limits };
        assert_eq!(body(&record, &unknown).quorum, 0);
    }
}
