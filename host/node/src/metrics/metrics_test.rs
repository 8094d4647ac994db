use std::collections::BTreeMap;

use moult_core::governance::{ProposalRecord, ProposalState, VoteRecord};
use moult_types::governance::Decision;
use moult_types::{
    Activation, AuthorityId, AuthorityIndex, Block, Digest, EpochChangeProposal, EpochIdentity, EpochLimits,
    EpochNumber, FaultModel, Finality, GlobalIndex, Manifest, ProposalId, PublicKey,
};

use super::*;

fn start(number: u64) -> EpochStart {
    let manifest = Manifest {
        number: EpochNumber(number),
        members: Vec::new(),
        fault_model: FaultModel::Byzantine,
        modules: BTreeMap::new(),
        fallbacks: Vec::new(),
        finality: Finality::Certified,
        limits: EpochLimits::default(),
        follows: None,
    };
    EpochStart { manifest, base: GlobalIndex(0), state_root: None, time_ms: 0, switched_at_ms: 0 }
}

fn block(epoch: u64, batches: usize) -> BlockRecord {
    BlockRecord {
        epoch: EpochNumber(epoch),
        identity: EpochIdentity([0; 32]),
        global: GlobalIndex(1),
        parent: Digest::ZERO,
        hash: Digest::ZERO,
        block: Block {
            index: CommitIndex(1),
            time_ms: 0,
            batches: vec![Digest::ZERO; batches],
            state_root: None,
            resumed: None,
        },
    }
}

fn proposal(id: u64, state: ProposalState, votes: u32) -> Event {
    let vote = VoteRecord { decision: Decision::Approve, index: CommitIndex(1), time_ms: 0 };
    Event::Proposal(Box::new(ProposalRecord {
        id: ProposalId(id),
        hash: Digest::ZERO,
        proposal: EpochChangeProposal {
            new_epoch: EpochNumber(1),
            new_committee: Vec::new(),
            new_epoch_timestamp_ms: 0,
            proposal_commit_index: CommitIndex(0),
            fallbacks: Vec::new(),
            modules: BTreeMap::new(),
            fault_model: FaultModel::Byzantine,
            limits: EpochLimits::default(),
            activation: Activation::AsSoonAsReady,
            deadline: CommitIndex(9),
            proposer: AuthorityId([0; 32]),
            readmit_failed: false,
            reports: Vec::new(),
        },
        author: AuthorityIndex(0),
        state,
        proposed: (CommitIndex(1), 0),
        changed: (CommitIndex(1), 0),
        votes: (0..votes).map(|place| (AuthorityIndex(place), vote.clone())).collect(),
        ready: BTreeMap::new(),
    }))
}

fn ordered(index: u64, leader: u32) -> Event {
    Event::Ordered { index: CommitIndex(index), round: 0, leader: Some(leader), batches: 1 }
}

fn gauge(name: &str, value: u64) -> Event {
    Event::Gauge { name: name.into(), value }
}

/// One of everything that can happen.
fn busy() -> Metrics {
    let metrics = Metrics::default();
    let network = StatsSnapshot { dials_failed: 3, ..StatsSnapshot::default() };
    metrics.epoch_started(&start(0), Some(network));
    metrics.shadow(&ShadowState::Complete);
    metrics.event(&ordered(1, 0));
    metrics.event(&ordered(2, 1));
    metrics.event(&Event::Final { index: CommitIndex(2), global: GlobalIndex(2), time_ms: 0, latency_ms: 4 });
    metrics.event(&Event::Final { index: CommitIndex(3), global: GlobalIndex(3), time_ms: 0, latency_ms: 0 });
    for view in [0, 1, 3] {
        metrics.event(&gauge("view", view));
    }
    metrics.event(&Event::EngineFault { fault: String::new(), peer: None, beyond_recovery: false });
    metrics.event(&gauge("view", 3));
    metrics.event(&Event::EngineMisbehaved(String::new()));
    metrics.event(&Event::PolicyFault { proposal: ProposalId(1), fault: String::new() });
    metrics.event(&Event::ForkDetected { peer: PublicKey([0; 32]), global: GlobalIndex(1) });
    metrics.event(&Event::Sync {
        stake: 3,
        stake_total: 4,
        nodes: 3,
        nodes_total: 4,
        highest: GlobalIndex(9),
    });
    metrics.event(&proposal(1, ProposalState::Proposed, 0));
    metrics.event(&proposal(1, ProposalState::Proposed, 2));
    metrics.event(&proposal(1, ProposalState::Approved, 3));
    metrics.event(&proposal(1, ProposalState::Scheduled { barrier: CommitIndex(5) }, 3));
    metrics.event(&proposal(1, ProposalState::Active, 3));
    metrics.event(&proposal(2, ProposalState::Proposed, 0));
    metrics.event(&proposal(2, ProposalState::Rejected, 3));
    metrics.executed(&block(0, 2), 5);
    metrics.duplicate_identity();
    metrics.bad_message();
    metrics.grpc_request("Submit", 0);
    metrics.request("/v1/kv/{*key}", 200, Duration::from_millis(3));
    metrics.write_failed(&WriteError::Timeout { limit_ms: 1 });
    metrics
}

fn line<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no `{name}` in\n{text}"))
}

#[test]
fn what_happens_is_counted() {
    let text = busy().text(&Snapshot::default());
    for (name, value) in [
        ("epoch_commits_total{epoch=\"0\"}", "1"),
        ("epoch_transactions_total{epoch=\"0\"}", "5"),
        ("epoch_rounds_total{epoch=\"0\"}", "5"),
        ("epoch_network_errors_total{epoch=\"0\"}", "1"),
        ("consensus_latency_seconds_count", "1"),
        ("consensus_round_duration_seconds_count", "1"),
        ("view_changes_total", "3"),
        ("view_change_interval_seconds_count", "1"),
        ("leader_changes_total", "1"),
        ("engine_faults_total", "1"),
        ("engine_gauge{name=\"view\"}", "3"),
        ("fork_detected_total", "1"),
        ("nodes_in_sync", "3"),
        ("total_nodes", "4"),
        ("stake_in_sync", "3"),
        ("epoch_transition_duration_seconds_count", "1"),
        ("epoch_transition_success_total", "1"),
        ("epoch_transition_failure_total{reason=\"rejected\"}", "1"),
        ("epoch_transition_votes_total", "6"),
        ("epoch_transition_quorum_reached_total", "2"),
        ("transactions_total", "5"),
        ("batches_total", "2"),
        ("blocks_total", "1"),
        ("transactions_rejected_total{reason=\"timeout\"}", "1"),
        ("module_cache_hit_ratio", "1.0"),
        ("signing_stopped", "0"),
    ] {
        assert_eq!(line(&text, name), value, "{name}");
    }
    assert!(text.ends_with("# EOF\n"));
}

fn series(metrics: &Metrics, prefix: &str) -> usize {
    metrics.text(&Snapshot::default()).lines().filter(|line| line.starts_with(prefix)).count()
}

/// The number of series does not grow with the epochs or with what a guest says.
#[test]
fn series_are_bounded() {
    let metrics = Metrics::default();
    for number in 0..50 {
        metrics.epoch_started(&start(number), None);
        metrics.executed(&block(number, 1), 1);
        metrics.executed(&block(0, 1), 1);
    }
    assert_eq!(series(&metrics, "epoch_commits_total{"), EPOCHS_KEPT);
    for i in 0..100 {
        metrics.event(&gauge(&format!("g{i}"), i));
    }
    metrics.event(&gauge(&"x".repeat(65), 1));
    assert_eq!(series(&metrics, "engine_gauge{"), ENGINE_GAUGES_MAX);
    metrics.epoch_started(&start(50), None);
    assert_eq!(series(&metrics, "engine_gauge{"), 0);
}

/// Name and type of everything exposed, as it is queried.
fn exposed(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{suffix}"), kind.to_owned())
        })
        .collect()
}

#[test]
fn the_manual_lists_what_is_exposed() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md"))
        .expect("the manual");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let documented: BTreeMap<String, String> = rows
        .map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(documented, exposed(&busy().text(&Snapshot::take_nothing())));
}
