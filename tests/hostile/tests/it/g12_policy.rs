//! G12: approval policies. One that fails gives no vote; one that approves everything is
//! what the quorum pinned, and its vote counts as one.

use moult_core::ports::{ApprovalInstance, Fault};
use moult_hostile::{guest, guest_with};
use moult_module::ModuleHost;
use moult_sdk::Digest;
use moult_sdk::approval::{Context, Epoch, Proposal, Verdict};
use moult_sdk::{CommitIndex, FaultModel};
use moult_types::World;

use crate::common::*;

fn policy(host: &ModuleHost, guest: &[u8]) -> Box<dyn ApprovalInstance> {
    prepare(host, guest, World::Approval).expect("it comes up").approval().expect("a policy")
}

fn ask(host: &ModuleHost, guest: &[u8]) -> Result<Verdict, Fault> {
    let epoch =
        Epoch { number: 1, fault_model: FaultModel::Byzantine, committee: Vec::new(), modules: Vec::new() };
    let proposal = Proposal {
        id: 1,
        hash: Digest::ZERO,
        proposer: Digest::ZERO,
        next: epoch.clone(),
        deadline: CommitIndex(9),
        not_before_ms: None,
        proposed_index: CommitIndex(2),
        proposed_ms: 4,
        readmit_failed: false,
    };
    let context = Context {
        present: epoch,
        index: CommitIndex(1),
        block_time_ms: 1,
        checks: Vec::new(),
        operator: None,
        shadow: None,
        certifications: Vec::new(),
    };
    let mut policy = policy(host, guest);
    let verdict = timed(|| policy.evaluate(&[], &proposal, &context));
    // Each call has an instance of its own: a fault ends none.
    assert!(policy.describe().is_ok());
    lives(host);
    verdict
}

#[test]
fn a_policy_that_fails_gives_no_vote() {
    let host = host();
    assert_eq!(ask(&host, &guest("loop-in-policy")), Err(Fault::Budget { fuel: FUEL }));
    assert!(matches!(ask(&host, &guest("policy-traps")), Err(Fault::Trap(_))));
    let fault = ask(&host, &guest("policy-tag")).expect_err("there is no such verdict");
    assert!(matches!(&fault, Fault::Output(text) if text.contains("discriminant")), "{fault}");
}

#[test]
fn a_reason_has_a_length() {
    let host = host();
    let reason = |bytes: &str| ask(&host, &guest_with("policy-reason", &[("$BYTES", bytes)]));
    assert!(matches!(reason("512"), Ok(Verdict::Reject(text)) if text.len() == 512));
    let fault = Fault::Output("513 bytes in a reason; the limit is 512".into());
    assert_eq!(reason("513"), Err(fault));
}

#[test]
fn a_policy_that_approves_everything_says_no_more_than_that() {
    assert_eq!(ask(&host(), &guest("policy-approves")), Ok(Verdict::Approve));
}
