//! Prometheus metrics; `docs/METRICS.md` is the table.
//!
//! What happens is counted as it happens ([`Metrics`]); what others count, and what is a
//! state rather than an event, is read when somebody asks (`snapshot`).

mod process;
mod snapshot;
mod transitions;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use moult_core::Event;
use moult_core::io::{EpochStart, Refusal};
use moult_net::StatsSnapshot;
use moult_replay::ShadowState;
use moult_types::{BlockRecord, CommitIndex};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

use crate::handle::WriteError;
use crate::shared::Shared;
use snapshot::Snapshot;
use transitions::Transitions;

/// Epochs that have series of their own; older ones are dropped.
const EPOCHS_KEPT: usize = 8;
/// Gauges of an engine that are shown, and their longest name: an engine is a guest.
const ENGINE_GAUGES_MAX: usize = 32;
const ENGINE_GAUGE_NAME_MAX: usize = 64;

/// One label with a name of the program's own.
type Label = [(&'static str, &'static str); 1];
type EpochLabel = [(&'static str, u64); 1];

/// Everything that `/metrics` shows.
pub(crate) struct Metrics {
    registry: Registry,
    transitions: Transitions,
    epochs: Epochs,
    consensus: Consensus,
    cluster: Cluster,
    clients: Clients,
    shadows: Family<Label, Counter>,
    state: Mutex<State>,
}

/// By number of the epoch.
struct Epochs {
    commits: Family<EpochLabel, Counter>,
    transactions: Family<EpochLabel, Counter>,
    rounds: Family<EpochLabel, Counter>,
    network_errors: Family<EpochLabel, Counter>,
}

struct Consensus {
    latency: Histogram,
    round_duration: Histogram,
    view_changes: Counter,
    view_change_interval: Histogram,
    leader_changes: Counter,
    engine_faults: Counter,
    engine_misbehaved: Counter,
    engine_gauge: Family<[(&'static str, String); 1], Gauge>,
    forks: Counter,
    diverged: Counter,
    aborts: Counter,
    blocks: Counter,
    batches: Counter,
    transactions: Counter,
}

struct Cluster {
    nodes: Gauge,
    nodes_total: Gauge,
    stake: Gauge,
    stake_total: Gauge,
    duplicate_identities: Counter,
    bad_messages: Counter,
}

struct Clients {
    rejected: Family<Label, Counter>,
    requests: Family<[(&'static str, String); 2], Counter>,
    request_duration: Family<Label, Histogram, fn() -> Histogram>,
    grpc: Family<[(&'static str, String); 2], Counter>,
}

/// What the next event is compared with.
#[derive(Default)]
struct State {
    /// Names of the engine's gauges that are shown.
    gauges: std::collections::BTreeSet<String>,
    epoch: u64,
    kept: VecDeque<u64>,
    ordered: CommitIndex,
    ordered_at: Option<Instant>,
    leader: Option<u32>,
    view: Option<u64>,
    view_changed_at: Option<Instant>,
    network_errors: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        Self {
            transitions: Transitions::new(r),
            epochs: Epochs::new(r),
            consensus: Consensus::new(r),
            cluster: Cluster::new(r),
            clients: Clients::new(r),
            shadows: add(r, "shadow_runs_ended", "Shadow runs of proposed engines that came to their end"),
            state: Mutex::default(),
            registry,
        }
    }
}

impl Metrics {
    pub(crate) fn event(&self, event: &Event) {
        match event {
            Event::Ordered { index, leader, .. } => self.ordered(*index, *leader),
            Event::Final { index, latency_ms, .. } => {
                // What came from peers was not ordered here: nothing was measured.
                if *index <= self.state().ordered {
                    self.consensus.latency.observe(*latency_ms as f64 / 1e3);
                }
            }
            Event::Gauge { name, value } => self.engine_gauge(name, *value),
            Event::EngineFault { .. } => {
                self.consensus.engine_faults.inc();
                // It begins anew, with a view of its own.
                self.state().view = None;
            }
            Event::EngineMisbehaved(_) => {
                self.consensus.engine_misbehaved.inc();
            }
            Event::Proposal(record) => self.transitions.proposal(record, Instant::now()),
            Event::Voted { .. } => {}
            Event::PolicyFault { .. } => {
                self.transitions.policy_faults.inc();
            }
            Event::ForkDetected { .. } | Event::StateForked { .. } => {
                self.consensus.forks.inc();
            }
            Event::Sync { stake, stake_total, nodes, nodes_total, .. } => {
                self.cluster.nodes.set((*nodes).into());
                self.cluster.nodes_total.set((*nodes_total).into());
                self.cluster.stake.set(clamp(*stake));
                self.cluster.stake_total.set(clamp(*stake_total));
            }
            Event::Diverged { .. } => {
                self.consensus.diverged.inc();
            }
            Event::PhaseOpened(_) => {
                self.consensus.aborts.inc();
                self.state().view = None;
            }
            Event::SigningStopped(_)
            | Event::KeyElsewhere(_)
            | Event::Suspects { .. }
            | Event::PhaseResumed { .. } => {}
        }
    }

    /// An epoch begins; errors of the network up to here are the former one's.
    pub(crate) fn epoch_started(&self, start: &EpochStart, network: Option<StatsSnapshot>) {
        self.note_network(network.as_ref());
        let mut state = self.state();
        let number = start.manifest.number.0;
        *state = State {
            epoch: number,
            kept: std::mem::take(&mut state.kept),
            network_errors: state.network_errors,
            ..State::default()
        };
        self.consensus.engine_gauge.clear();
        if !state.kept.contains(&number) {
            state.kept.push_back(number);
        }
        self.epochs.begin(number);
        while state.kept.len() > EPOCHS_KEPT {
            state.kept.pop_front().into_iter().for_each(|old| self.epochs.drop_epoch(old));
        }
    }

    pub(crate) fn executed(&self, record: &BlockRecord, transactions: usize) {
        let (batches, transactions) = (record.block.batches.len() as u64, transactions as u64);
        self.consensus.blocks.inc();
        self.consensus.batches.inc_by(batches);
        self.consensus.transactions.inc_by(transactions);
        // Blocks of an epoch whose series was dropped, or that are executed again at the
        // start, are in the totals only.
        if self.state().kept.contains(&record.epoch.0) {
            let label = [("epoch", record.epoch.0)];
            self.epochs.commits.get_or_create(&label).inc();
            self.epochs.transactions.get_or_create(&label).inc_by(transactions);
        }
    }

    /// News of a shadow run.
    pub(crate) fn shadow(&self, state: &ShadowState) {
        let result = match state {
            ShadowState::Running => return,
            ShadowState::Complete => "complete",
            ShadowState::Ended => "failed",
            ShadowState::DroppedOut(_) => "dropped-out",
        };
        self.shadows.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn duplicate_identity(&self) {
        self.cluster.duplicate_identities.inc();
    }

    pub(crate) fn bad_message(&self) {
        self.cluster.bad_messages.inc();
        let state = self.state();
        if !state.kept.is_empty() {
            self.epochs.network_errors.get_or_create(&[("epoch", state.epoch)]).inc();
        }
    }

    /// A call of the HTTP interface was answered.
    pub(crate) fn request(&self, endpoint: &'static str, status: u16, took: Duration) {
        self.clients.request_duration.get_or_create(&[("endpoint", endpoint)]).observe(took.as_secs_f64());
        self.clients
            .requests
            .get_or_create(&[("endpoint", endpoint.into()), ("status", status.to_string())])
            .inc();
    }

    /// A call of the gRPC interface was answered, or its stream opened.
    pub(crate) fn grpc_request(&self, method: &'static str, code: i32) {
        self.clients.grpc.get_or_create(&[("method", method.into()), ("code", code.to_string())]).inc();
    }

    /// A transaction of a client has no receipt.
    pub(crate) fn rejected(&self, reason: &'static str) {
        self.clients.rejected.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn write_failed(&self, e: &WriteError) {
        self.rejected(match e {
            WriteError::Refused(Refusal::Overloaded) => "overloaded",
            WriteError::Refused(Refusal::Observer) => "observer",
            WriteError::Refused(Refusal::Draining) => "draining",
            WriteError::Refused(Refusal::TooLarge) => "too-large",
            WriteError::Stopped => "stopped",
            WriteError::Timeout { .. } => "timeout",
        });
    }

    /// The text of `/metrics`.
    pub(crate) fn render(&self, shared: &Shared) -> String {
        let network = shared.network.get().map(moult_net::Network::stats);
        self.note_network(network.as_ref());
        self.text(&Snapshot::take(shared, network))
    }

    fn text(&self, snapshot: &Snapshot) -> String {
        let mut text = String::with_capacity(16 << 10);
        // Writing into a string does not fail.
        let _ = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &snapshot.registry()))
            .and_then(|()| encode_eof(&mut text));
        text
    }

    fn ordered(&self, index: CommitIndex, leader: Option<u32>) {
        let now = Instant::now();
        let mut state = self.state();
        state.ordered = index;
        if let Some(before) = state.ordered_at.replace(now) {
            self.consensus.round_duration.observe(now.duration_since(before).as_secs_f64());
        }
        if state.leader.is_some() && leader.is_some() && state.leader != leader {
            self.consensus.leader_changes.inc();
        }
        state.leader = leader.or(state.leader);
        self.epochs.rounds.get_or_create(&[("epoch", state.epoch)]).inc();
    }

    fn engine_gauge(&self, name: &str, value: u64) {
        let gauges = &self.consensus.engine_gauge;
        let fits = name.len() <= ENGINE_GAUGE_NAME_MAX;
        let label = [("name", name.to_owned())];
        let mut state = self.state();
        if fits && (state.gauges.contains(name) || state.gauges.len() < ENGINE_GAUGES_MAX) {
            state.gauges.insert(name.to_owned());
            gauges.get_or_create(&label).set(clamp(value));
        }
        drop(state);
        if name == "view" {
            self.view(value);
        }
    }

    /// The engine's view; the first one seen is where counting begins.
    fn view(&self, view: u64) {
        let now = Instant::now();
        let mut state = self.state();
        let Some(risen) = state.view.replace(view).and_then(|former| view.checked_sub(former)) else {
            return;
        };
        if risen == 0 {
            return;
        }
        self.consensus.view_changes.inc_by(risen);
        self.epochs.rounds.get_or_create(&[("epoch", state.epoch)]).inc_by(risen);
        if let Some(before) = state.view_changed_at.replace(now) {
            self.consensus.view_change_interval.observe(now.duration_since(before).as_secs_f64());
        }
    }

    /// Adds what the transport counted since the last look to the present epoch.
    fn note_network(&self, stats: Option<&StatsSnapshot>) {
        let Some(stats) = stats else { return };
        let errors = snapshot::network_errors(stats);
        let mut state = self.state();
        if state.kept.is_empty() {
            // No epoch yet; counted for the first one.
            return;
        }
        let new = errors.saturating_sub(state.network_errors);
        state.network_errors = errors;
        self.epochs.network_errors.get_or_create(&[("epoch", state.epoch)]).inc_by(new);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Epochs {
    fn new(r: &mut Registry) -> Self {
        Self {
            commits: add(r, "epoch_commits", "Final blocks of the epoch that were executed here"),
            transactions: add(r, "epoch_transactions", "Transactions of clients in these blocks"),
            rounds: add(r, "epoch_rounds", "Rounds of the engine: ordered blocks and views given up"),
            network_errors: add(
                r,
                "epoch_network_errors",
                "Failed dials and handshakes, broken rules, dropped frames, bad messages",
            ),
        }
    }

    fn all(&self) -> [&Family<EpochLabel, Counter>; 4] {
        [&self.commits, &self.transactions, &self.rounds, &self.network_errors]
    }

    /// A series that is there from the beginning shows its first rise.
    fn begin(&self, number: u64) {
        for family in self.all() {
            drop(family.get_or_create(&[("epoch", number)]));
        }
    }

    fn drop_epoch(&self, number: u64) {
        for family in self.all() {
            family.remove(&[("epoch", number)]);
        }
    }
}

impl Consensus {
    fn new(r: &mut Registry) -> Self {
        let fine = || exponential_buckets(0.0005, 2.0, 16);
        Self {
            latency: histogram(r, "consensus_latency_seconds", "From ordered here to final here", fine()),
            round_duration: histogram(
                r,
                "consensus_round_duration_seconds",
                "Between two blocks ordered here",
                fine(),
            ),
            view_changes: add(r, "view_changes", "Views that the engine left"),
            view_change_interval: histogram(
                r,
                "view_change_interval_seconds",
                "Between two view changes",
                exponential_buckets(0.1, 2.0, 16),
            ),
            leader_changes: add(
                r,
                "leader_changes",
                "Blocks ordered under another leader than the one before",
            ),
            engine_faults: add(r, "engine_faults", "Engines that failed and were rebuilt or given up"),
            engine_misbehaved: add(r, "engine_misbehaved", "Requests of the engine that were refused"),
            engine_gauge: add(r, "engine_gauge", "What the engine measures, by its own names"),
            forks: add(
                r,
                "fork_detected",
                "Times that this node or a peer held another final block or state than others",
            ),
            diverged: add(
                r,
                "diverged",
                "Times that the engine here ordered another chain than was certified",
            ),
            aborts: add(r, "epoch_aborts", "Engines that a quorum gave up"),
            blocks: add(r, "blocks", "Blocks executed here since the start"),
            batches: add(r, "batches", "Batches in these blocks"),
            transactions: add(r, "transactions", "Transactions of clients in these blocks"),
        }
    }
}

impl Cluster {
    fn new(r: &mut Registry) -> Self {
        Self {
            nodes: add(r, "nodes_in_sync", "Authorities at this node's height, itself included"),
            nodes_total: add(r, "total_nodes", "Authorities of the committee"),
            stake: add(r, "stake_in_sync", "Stake at this node's height, its own included"),
            stake_total: add(r, "stake_total", "Stake of the committee"),
            duplicate_identities: add(
                r,
                "duplicate_identities",
                "Times that one key was alive at two addresses",
            ),
            bad_messages: add(r, "bad_messages", "Messages that broke the protocol"),
        }
    }
}

impl Clients {
    fn new(r: &mut Registry) -> Self {
        let request_duration: Family<Label, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 2.0, 16)));
        r.register("http_request_duration_seconds", "Time to answer a call", request_duration.clone());
        Self {
            rejected: add(r, "transactions_rejected", "Transactions that got no receipt"),
            requests: add(r, "http_requests", "Calls that were answered"),
            grpc: add(r, "grpc_requests", "Calls that were answered over gRPC, and streams opened"),
            request_duration,
        }
    }
}

fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn histogram(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: impl IntoIterator<Item = f64>,
) -> Histogram {
    let metric = Histogram::new(buckets);
    registry.register(name, help, metric.clone());
    metric
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "metrics/metrics_test.rs"]
mod tests;
