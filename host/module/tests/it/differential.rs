//! The same module as a component and as native code gives the same answers.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use moult_approve_valid::ApproveValid;
use moult_committee_bounds::CommitteeBounds;
use moult_core::ports::{ApplicationInstance, ApprovalInstance};
use moult_kv::{Command, Kv, Query, Reply};
use moult_kv2::Kv2;
use moult_manual::Manual;
use moult_module::{ModuleHost, NativeApplication, NativeApproval};
use moult_module_allowlist::ModuleAllowlist;
use moult_sdk::approval::{Case, Context, Epoch, Member, ModuleCheck, ModulePin, Proposal, Verdict};
use moult_sdk::{CommitIndex, Digest, FaultModel};
use moult_timelock::Timelock;
use moult_types::World;
use moult_types::state::Overlay;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::common::{BLOCK, application, host, module, prepare};

static HOST: LazyLock<ModuleHost> = LazyLock::new(host);
static KV: LazyLock<Arc<dyn ApplicationInstance>> = LazyLock::new(|| application(&HOST, &module("kv")));
static KV2: LazyLock<Arc<dyn ApplicationInstance>> = LazyLock::new(|| application(&HOST, &module("kv2")));

fn command() -> impl Strategy<Value = Vec<u8>> {
    // Few keys and values, so that they meet.
    let key = || vec(0u8..3, 1..3);
    let value = || vec(0u8..3, 0..2);
    prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Command::Put { key, value }.encode()),
        2 => key().prop_map(|key| Command::Delete { key }.encode()),
        4 => (key(), option::of(value()), option::of(value()))
            .prop_map(|(key, expect, value)| Command::CompareAndSwap { key, expect, value }.encode()),
        1 => vec(any::<u8>(), 0..20),
    ]
}

fn base() -> Overlay {
    let map: BTreeMap<Vec<u8>, Vec<u8>> =
        [(&b"\x01mschema"[..], &[1][..]), (b"\x01k\x00", &[1]), (b"\x01k\x01\x01", &[]), (b"\x02x", &[3])]
            .map(|(key, value): (&[u8], &[u8])| (key.to_vec(), value.to_vec()))
            .into();
    Overlay::new(Arc::new(map), 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn kv(blocks in vec(vec(command(), 0..12), 1..4)) {
        same(&**KV, &NativeApplication::<Kv>::new(), &blocks)?;
    }

    #[test]
    fn kv2(blocks in vec(vec(command(), 0..12), 1..4)) {
        same(&**KV2, &NativeApplication::<Kv2>::new(), &blocks)?;
    }
}

/// Upgrade, some blocks and queries: the same receipts, answers and writes.
fn same(
    wasm: &dyn ApplicationInstance,
    native: &dyn ApplicationInstance,
    blocks: &[Vec<Vec<u8>>],
) -> Result<(), TestCaseError> {
    prop_assert_eq!(wasm.describe(), native.describe());
    let (ours, migrated) = wasm.upgrade(base(), &[], None);
    let (theirs, expected) = native.upgrade(base(), &[], None);
    prop_assert_eq!(migrated, Ok(Ok(())));
    prop_assert_eq!(expected, Ok(Ok(())));
    let mut overlays = [ours, theirs];
    for block in blocks {
        let [ours, theirs] = overlays;
        let (ours, receipts) = wasm.execute(ours, &[], BLOCK, block);
        let (theirs, expected) = native.execute(theirs, &[], BLOCK, block);
        prop_assert_eq!(&receipts, &expected);
        for receipt in receipts.map_err(|fault| TestCaseError::fail(fault.to_string()))? {
            prop_assert!(Reply::from_receipt(&receipt).is_some());
        }
        prop_assert_eq!(ours.writes(), theirs.writes());
        overlays = [ours, theirs];
    }
    let requests = [Query::Get { key: vec![0] }.encode(), Query::Count.encode(), vec![9]];
    for request in requests {
        let [ours, theirs] = overlays.clone();
        prop_assert_eq!(wasm.query(ours, &[], &request), native.query(theirs, &[], &request));
    }
    Ok(())
}

#[test]
fn policies() {
    let policy = |name| {
        let prepared = prepare(&HOST, &module(name), World::Approval).expect("a policy");
        prepared.approval().expect("a policy")
    };
    same_verdicts(&mut *policy("approve-valid"), &mut NativeApproval::<ApproveValid>::new());
    same_verdicts(&mut *policy("manual"), &mut NativeApproval::<Manual>::new());

    let timelock = (policy("timelock"), NativeApproval::<Timelock>::new());
    let allowlist = (policy("module-allowlist"), NativeApproval::<ModuleAllowlist>::new());
    let bounds = (policy("committee-bounds"), NativeApproval::<CommitteeBounds>::new());
    let list = format!("engine={}", Digest([7; 32]));
    same_verdicts_on_cases(timelock, &["min_delay_ms=0", "min_delay_ms=1000", "min_delay_ms=1001", ""]);
    same_verdicts_on_cases(allowlist, &["", &list]);
    same_verdicts_on_cases(bounds, &["", "min_members=5", "max_join_percent=100\nmax_stake_percent=60"]);
}

/// Cases in which each field that a policy may look at differs.
fn cases() -> Vec<Case> {
    let mut cases = vec![Case::unchanged(); 6];
    cases[1].proposal.not_before_ms = Some(5_001);
    cases[2].context.index = cases[2].proposal.deadline;
    cases[3].pin("engine", Digest([7; 32]));
    cases[4].proposal.next.committee.push(Member::numbered(9, 300));
    cases[5].proposal.proposed_ms = 1_000;
    cases
}

fn same_verdicts_on_cases(
    (mut wasm, mut native): (Box<dyn ApprovalInstance>, impl ApprovalInstance),
    configs: &[&str],
) {
    assert_eq!(wasm.describe(), native.describe());
    let mut seen = Vec::new();
    for (case, config) in cases().iter().flat_map(|case| configs.iter().map(move |config| (case, config))) {
        let verdict = wasm.evaluate(config.as_bytes(), &case.proposal, &case.context).expect("a verdict");
        let same = native.evaluate(config.as_bytes(), &case.proposal, &case.context).expect("a verdict");
        assert_eq!(verdict, same, "{config} {case:?}");
        seen.push(verdict);
    }
    assert!(seen.iter().any(|verdict| *verdict != seen[0]), "the cases tell nothing apart");
    let (proposal, context) = (Case::unchanged().proposal, Case::unchanged().context);
    assert!(wasm.evaluate(b"nonsense", &proposal, &context).is_err(), "no vote, never an approval");
}

fn same_verdicts(wasm: &mut dyn ApprovalInstance, native: &mut dyn ApprovalInstance) {
    assert_eq!(wasm.describe(), native.describe());
    let check = |world: &str, problem: Option<&str>| ModuleCheck {
        world: world.into(),
        hash: Digest([1; 32]),
        name: "m".into(),
        version: "1".into(),
        problem: problem.map(String::from),
    };
    let all_checks = [
        vec![],
        vec![check("engine", None)],
        vec![check("engine", None), check("application", None)],
        vec![check("engine", None), check("application", Some("too large"))],
    ];
    let operators = [None, Some(Verdict::Approve), Some(Verdict::Reject("no ä".into())), Some(Verdict::Wait)];
    for checks in &all_checks {
        for operator in &operators {
            let proposal = proposal();
            let context = Context {
                present: epoch(1),
                index: CommitIndex(4),
                block_time_ms: 5,
                checks: checks.clone(),
                operator: operator.clone(),
                shadow: None,
                certifications: Vec::new(),
            };
            let verdict = wasm.evaluate(b"config", &proposal, &context);
            assert_eq!(verdict, native.evaluate(b"config", &proposal, &context));
            assert!(verdict.is_ok());
        }
    }
}

fn proposal() -> Proposal {
    Proposal {
        id: 1,
        hash: Digest([9; 32]),
        proposer: Digest([8; 32]),
        next: epoch(2),
        deadline: CommitIndex(100),
        not_before_ms: Some(12),
        proposed_index: CommitIndex(3),
        proposed_ms: 4,
        readmit_failed: true,
    }
}

fn epoch(number: u64) -> Epoch {
    let pin = |world: &str| ModulePin { world: world.into(), hash: Digest([1; 32]), config: vec![1, 2] };
    let member = |n| Member {
        authority: Digest([n; 32]),
        key: Digest([n + 1; 32]),
        stake: 10,
        address: "127.0.0.1:1".into(),
    };
    Epoch {
        number,
        fault_model: FaultModel::Byzantine,
        committee: (0..4).map(member).collect(),
        modules: vec![pin("engine"), pin("application")],
    }
}
