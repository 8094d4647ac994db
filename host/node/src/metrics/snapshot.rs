//! States, and counters of others, read when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};

use moult_module::ModuleStats;
use moult_net::{Class, StatsSnapshot};
use moult_replay::{RecordStats, ShadowState};
use moult_store::WriterStats;
use moult_types::World;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::process::Process;
use super::{Label, clamp};
use crate::backup::Report;
use crate::shared::Shared;

/// One look at everything.
#[derive(Default)]
pub(super) struct Snapshot {
    height: u64,
    executed: u64,
    highest_seen: u64,
    epoch: u64,
    signing_stopped: bool,
    peers: usize,
    transactions_waiting: usize,
    batches_in_flight: usize,
    uptime_seconds: f64,
    started_seconds: f64,
    network: StatsSnapshot,
    worlds: [(&'static str, WorldNumbers); 3],
    cache: CacheNumbers,
    log: LogNumbers,
    record: RecordNumbers,
    backups: BackupNumbers,
    shadow_runs: usize,
    shadow_other_commits: u64,
    process: Process,
}

/// Of a module host, for one world.
#[derive(Default, Clone, Copy)]
struct WorldNumbers {
    calls: u64,
    fuel: u64,
    traps: u64,
    budget_stops: u64,
    watchdog_stops: u64,
    bad_outputs: u64,
}

#[derive(Default)]
struct CacheNumbers {
    hits: u64,
    misses: u64,
    rejected: u64,
    compiled: u64,
    compile_seconds: f64,
    refused: u64,
}

/// Of backups.
#[derive(Default)]
struct BackupNumbers {
    made: u64,
    failed: u64,
    skipped: u64,
    running_bytes: u64,
    last_block: u64,
    last_bytes: u64,
    last_seconds: f64,
}

/// Of the recorder.
#[derive(Default)]
struct RecordNumbers {
    calls: u64,
    bytes: u64,
    begun: u64,
    cut_short: u64,
}

/// Of the log writer.
#[derive(Default)]
struct LogNumbers {
    steps: u64,
    groups: u64,
    times_anew: u64,
    syncs: Syncs,
}

/// Every failure of the transport that an operator may have to look at.
pub(super) fn network_errors(stats: &StatsSnapshot) -> u64 {
    let dropped: u64 = Class::ALL.into_iter().map(|class| stats.frames_dropped.of(class)).sum();
    stats.dials_failed + stats.handshakes_failed + stats.violations + dropped
}

impl Snapshot {
    pub(super) fn take(shared: &Shared, network: Option<StatsSnapshot>) -> Self {
        let now = shared.now();
        let uptime_seconds = shared.uptime().as_secs_f64();
        let modules = shared.modules.host().stats();
        let mut snapshot = shared.peek(|view| Self {
            height: view.ledger.global.0,
            executed: view.executed.0.0,
            highest_seen: view.highest_seen.0,
            epoch: view.epoch.manifest.number.0,
            signing_stopped: view.signing_stopped.is_some(),
            shadow_runs: view.shadows.values().filter(|run| run.state == ShadowState::Running).count(),
            shadow_other_commits: view
                .shadows
                .values()
                .map(|run| run.report.commits.other)
                .max()
                .unwrap_or(0),
            batches_in_flight: view.under_way.0,
            transactions_waiting: view.under_way.1,
            ..Self::default()
        });
        snapshot.peers = shared.network.get().map_or(0, |network| network.connected().len());
        snapshot.uptime_seconds = uptime_seconds;
        snapshot.started_seconds = now.wall_ms as f64 / 1e3 - uptime_seconds;
        snapshot.network = network.unwrap_or_default();
        snapshot.worlds = World::ALL.map(|world| (world.name(), WorldNumbers::of(modules, world)));
        snapshot.cache = CacheNumbers::of(modules);
        snapshot.log = shared.log_stats.get().map(|stats| LogNumbers::of(stats)).unwrap_or_default();
        snapshot.record =
            shared.recorder.as_ref().map(|it| RecordNumbers::of(it.stats())).unwrap_or_default();
        snapshot.backups = BackupNumbers::of(shared.backups.report());
        snapshot.process = Process::take();
        snapshot
    }

    /// As [`Snapshot::take`], of nobody.
    #[cfg(test)]
    pub(super) fn take_nothing() -> Self {
        Self { worlds: World::ALL.map(|world| (world.name(), WorldNumbers::default())), ..Self::default() }
    }

    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let r = &mut registry;
        self.add_chain(r);
        self.add_network(r);
        self.add_modules(r);
        self.add_log(r);
        self.add_watch(r);
        self.add_backups(r);
        self.add_process(r);
        registry
    }

    fn add_chain(&self, r: &mut Registry) {
        gauge(r, "block_height", "Last final block, over all epochs", self.height);
        gauge(r, "applied_height", "Last block executed here, over all epochs", self.executed);
        gauge(
            r,
            "applied_lag_blocks",
            "Final blocks that are not executed here",
            self.height.saturating_sub(self.executed),
        );
        gauge(
            r,
            "sync_lag_blocks",
            "Final blocks that a peer told of and that are not here",
            self.highest_seen.saturating_sub(self.height),
        );
        gauge(r, "epoch_number", "Present epoch", self.epoch);
        gauge(
            r,
            "signing_stopped",
            "1: this node signs nothing; /v1/status says why",
            self.signing_stopped.into(),
        );
        gauge(r, "batches_in_flight", "Own batches that are not final", self.batches_in_flight as u64);
        gauge(
            r,
            "transactions_waiting",
            "Transactions that wait for a batch",
            self.transactions_waiting as u64,
        );
    }

    fn add_network(&self, r: &mut Registry) {
        let n = &self.network;
        gauge(r, "peers_connected", "Connected peers", self.peers as u64);
        let class = |pick: &dyn Fn(Class) -> u64| Class::ALL.map(|class| (class.name(), pick(class)));
        by(r, "network_sent_bytes", "Bytes of frames sent", "class", class(&|c| *n.bytes_sent.of(c)));
        by(
            r,
            "network_received_bytes",
            "Bytes of frames received",
            "class",
            class(&|c| *n.bytes_received.of(c)),
        );
        by(r, "network_sent_frames", "Frames sent", "class", class(&|c| *n.frames_sent.of(c)));
        by(r, "network_received_frames", "Frames received", "class", class(&|c| *n.frames_received.of(c)));
        by(
            r,
            "network_dropped_frames",
            "Frames that a full queue did not take",
            "class",
            class(&|c| *n.frames_dropped.of(c)),
        );
        counter(r, "network_connections", "Connections that came up", n.connections_up);
        counter(r, "network_reconnects", "Connections that came up again", n.reconnects);
        counter(r, "network_dials_failed", "Attempts to connect that failed", n.dials_failed);
        counter(r, "network_handshakes_failed", "Handshakes that failed", n.handshakes_failed);
        counter(
            r,
            "network_handshakes_refused",
            "Handshakes refused because of the key",
            n.handshakes_refused,
        );
        counter(
            r,
            "network_violations",
            "Connections closed because the peer broke the transport's rules",
            n.violations,
        );
        counter(r, "network_penalties", "Peers held off because of what they sent", n.penalties);
    }

    fn add_modules(&self, r: &mut Registry) {
        let world = |pick: fn(&WorldNumbers) -> u64| {
            let named = |(name, numbers): &(&'static str, WorldNumbers)| (*name, pick(numbers));
            self.worlds.iter().map(named).collect::<Vec<_>>()
        };
        by(r, "module_calls", "Calls into modules", "world", world(|w| w.calls));
        by(r, "module_fuel", "Fuel that they used", "world", world(|w| w.fuel));
        by(r, "module_traps", "Calls that trapped", "world", world(|w| w.traps));
        by(r, "module_budget_stops", "Calls that used up their budget", "world", world(|w| w.budget_stops));
        by(
            r,
            "module_watchdog_stops",
            "Calls that the watchdog stopped",
            "world",
            world(|w| w.watchdog_stops),
        );
        by(r, "module_bad_outputs", "Answers that broke the contract", "world", world(|w| w.bad_outputs));
        let cache = &self.cache;
        counter(r, "module_cache_hits", "Modules whose machine code was in the cache", cache.hits);
        counter(r, "module_cache_misses", "Modules that were not in the cache", cache.misses);
        counter(r, "module_cache_rejected", "Damaged or foreign files of the cache", cache.rejected);
        let (hits, all) = (cache.hits as f64, (cache.hits + cache.misses) as f64);
        let ratio = if all > 0.0 { hits / all } else { 1.0 };
        r.register(
            "module_cache_hit_ratio",
            "Hits among all look-ups; 1 before the first",
            ConstGauge::new(ratio),
        );
        counter(r, "module_compilations", "Modules that were compiled", cache.compiled);
        r.register(
            "module_compile_seconds",
            "Time that compilation took",
            ConstCounter::new(cache.compile_seconds),
        );
        counter(r, "modules_refused", "Modules that were refused", cache.refused);
    }

    fn add_log(&self, r: &mut Registry) {
        counter(r, "log_steps", "Steps of the replica made durable", self.log.steps);
        counter(r, "log_groups", "Groups of steps written together", self.log.groups);
        counter(r, "log_syncs", "Groups that were synced", self.log.syncs.count);
        counter(r, "log_begun_anew", "Times that the log was full and began anew", self.log.times_anew);
        r.register("log_sync_duration_seconds", "Time of a write with its sync", self.log.syncs);
    }

    fn add_watch(&self, r: &mut Registry) {
        let record = &self.record;
        counter(r, "record_calls", "Calls of the engine that were recorded", record.calls);
        counter(r, "record_bytes", "Bytes of records written", record.bytes);
        counter(r, "records_begun", "Records begun", record.begun);
        counter(r, "records_cut_short", "Records that ended before their engine", record.cut_short);
        gauge(r, "shadow_runs", "Shadow runs of proposed engines under way", self.shadow_runs as u64);
        gauge(
            r,
            "shadow_other_commits",
            "Blocks that a proposed engine ordered otherwise than the live one: the most of one run",
            self.shadow_other_commits,
        );
    }

    fn add_backups(&self, r: &mut Registry) {
        let b = &self.backups;
        counter(r, "backups", "Backups of the store that were made", b.made);
        counter(r, "backups_failed", "Backups that failed", b.failed);
        counter(r, "backups_skipped", "Epoch transitions before which none was made", b.skipped);
        gauge(r, "backup_running_bytes", "Bytes written of the backup under way", b.running_bytes);
        gauge(r, "backup_last_block", "Last final block in the last backup", b.last_block);
        gauge(r, "backup_last_bytes", "Size of the last backup", b.last_bytes);
        r.register("backup_last_seconds", "What the last backup took", ConstGauge::new(b.last_seconds));
    }

    fn add_process(&self, r: &mut Registry) {
        let process = &self.process;
        let gauges = [
            ("process_resident_memory_bytes", "Memory in use", process.resident_bytes),
            ("process_open_fds", "Open files and sockets", process.open_fds),
            ("process_max_fds", "Limit of open files and sockets", process.max_fds),
            ("process_threads", "Threads", process.threads),
        ];
        for (name, help, value) in gauges {
            r.register(name, help, ConstGauge::new(value));
        }
        r.register(
            "process_cpu_seconds",
            "CPU time, user and system",
            ConstCounter::new(process.cpu_seconds),
        );
        r.register(
            "process_start_time_seconds",
            "Start, in seconds since 1970",
            ConstGauge::new(self.started_seconds),
        );
        r.register("process_uptime_seconds", "Time since the start", ConstGauge::new(self.uptime_seconds));
        let build: Family<Label, Gauge> = Family::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        r.register("moult_build_info", "Always 1; the version is the label", build);
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstGauge::new(clamp(value)));
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn by(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl IntoIterator<Item = (&'static str, u64)>,
) {
    let family: Family<Label, Counter> = Family::default();
    for (value_of_label, value) in values {
        family.get_or_create(&[(label, value_of_label)]).inc_by(value);
    }
    registry.register(name, help, family);
}

impl WorldNumbers {
    fn of(stats: &ModuleStats, world: World) -> Self {
        let stats = stats.world(world);
        Self {
            calls: load(&stats.calls),
            fuel: load(&stats.fuel),
            traps: load(&stats.traps),
            budget_stops: load(&stats.budget_stops),
            watchdog_stops: load(&stats.watchdog_stops),
            bad_outputs: load(&stats.bad_outputs),
        }
    }
}

impl CacheNumbers {
    fn of(stats: &ModuleStats) -> Self {
        Self {
            hits: load(&stats.cache_hits),
            misses: load(&stats.cache_misses),
            rejected: load(&stats.cache_rejected),
            compiled: load(&stats.compiled),
            compile_seconds: load(&stats.compile_ms) as f64 / 1e3,
            refused: load(&stats.refused),
        }
    }
}

impl BackupNumbers {
    fn of(report: Report) -> Self {
        let last = report.last.as_ref();
        Self {
            made: report.made,
            failed: report.failed,
            skipped: report.skipped,
            running_bytes: report.running.unwrap_or(0),
            last_block: last.map_or(0, |(backup, _)| backup.header.last_final.0),
            last_bytes: last.map_or(0, |(backup, _)| backup.bytes),
            last_seconds: last.map_or(0.0, |(_, took_ms)| *took_ms as f64 / 1e3),
        }
    }
}

impl RecordNumbers {
    fn of(stats: &RecordStats) -> Self {
        Self {
            calls: load(&stats.calls),
            bytes: load(&stats.bytes),
            begun: load(&stats.begun),
            cut_short: load(&stats.cut_short),
        }
    }
}

impl LogNumbers {
    fn of(stats: &WriterStats) -> Self {
        Self {
            steps: load(&stats.steps),
            groups: load(&stats.groups),
            times_anew: load(&stats.times_anew),
            syncs: Syncs::of(stats),
        }
    }
}

/// The log writer's own histogram: bucket `i` is below 2^i microseconds, the last one is
/// open.
#[derive(Clone, Copy, Debug, Default)]
struct Syncs {
    seconds: f64,
    count: u64,
    buckets: [u64; 24],
}

impl Syncs {
    fn of(stats: &WriterStats) -> Self {
        let buckets = std::array::from_fn(|i| load(&stats.sync_buckets[i]));
        // The count that fits the buckets: they are read one after the other.
        Self { seconds: load(&stats.sync_us) as f64 / 1e6, count: buckets.iter().sum(), buckets }
    }
}

impl EncodeMetric for Syncs {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let last = self.buckets.len() - 1;
        let bound = |i: usize| if i == last { f64::INFINITY } else { (1u64 << i) as f64 / 1e6 };
        let buckets: Vec<_> = self.buckets.iter().enumerate().map(|(i, n)| (bound(i), *n)).collect();
        encoder.encode_histogram::<NoLabelSet>(self.seconds, self.count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
