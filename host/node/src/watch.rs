//! What looks on while the engine works: records of what it is fed, and shadow runs of the
//! engines that are proposed. Neither can hold it up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use moult_core::ports::EngineInstance;
use moult_module::Prepared;
use moult_replay::{RecordLimits, Recorder, ShadowEnd, ShadowLimits, ShadowState, ShadowView, Start};
use moult_sdk::approval::{ShadowRun, ShadowState as Stand};
use moult_sdk::engine::Recovered;
use moult_types::{Digest, EpochChangeProposal, EpochIdentity, ModulePin, World};

use crate::config::{RecordConfig, ShadowConfig};
use crate::modules::blocking;
use crate::shared::Shared;

/// What records, if the configuration says so.
///
/// # Errors
/// The folder cannot be made.
pub(crate) fn recorder(config: &RecordConfig) -> Result<Option<Recorder>, String> {
    let Some(dir) = config.dir.clone() else { return Ok(None) };
    let limits = RecordLimits {
        dir: dir.clone(),
        file_bytes_max: config.file_bytes_max,
        total_bytes_max: config.total_bytes_max,
        queue_bytes_max: config.queue_bytes_max,
        whole_outcomes: config.whole_outcomes,
    };
    Recorder::new(limits).map(Some).map_err(|e| format!("`record.dir`: {}: {e}", dir.display()))
}

/// The engine that is about to start, with all that looks on.
pub(crate) fn watched(
    shared: &Shared,
    engine: Box<dyn EngineInstance>,
    identity: EpochIdentity,
    pin: &ModulePin,
    name: &str,
) -> Box<dyn EngineInstance> {
    let engine = match &shared.recorder {
        Some(recorder) => recorded(shared, recorder, engine, identity, pin, name),
        None => engine,
    };
    Box::new(shared.taps.wrap(engine))
}

fn recorded(
    shared: &Shared,
    recorder: &Recorder,
    engine: Box<dyn EngineInstance>,
    identity: EpochIdentity,
    pin: &ModulePin,
    name: &str,
) -> Box<dyn EngineInstance> {
    let start = Start {
        chain: shared.chain,
        epoch: shared.peek(|view| view.epoch.manifest.number),
        identity,
        engine: pin.clone(),
        name: name.to_owned(),
        limits: (&shared.modules.host().limits().engine).into(),
        started_ms: shared.now().wall_ms,
        program: env!("CARGO_PKG_VERSION").to_owned(),
    };
    match recorder.record(start, engine) {
        Ok(recording) => Box::new(recording),
        Err((error, engine)) => {
            recorder.stats().cut_short.fetch_add(1, Ordering::Relaxed);
            tracing::error!(target: "record", %error, "no record can be begun: the engine runs unrecorded");
            engine
        }
    }
}

/// A shadow run that cannot begin yet is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the engine that a proposal pins in the shadow, if it is another one than runs: as soon
/// as the live engine does, and while the proposal is open.
pub(crate) async fn begin_shadow(shared: Arc<Shared>, proposal: Arc<EpochChangeProposal>, hash: Digest) {
    let ShadowConfig { enabled, cpu_percent, queue_bytes_max, runs_max } = shared.config.shadow;
    let limits = ShadowLimits { cpu_percent, queue_bytes_max, runs_max };
    let Some(pin) = proposal.modules.get(&World::Engine).filter(|_| enabled) else { return };
    if shared.peek(|view| view.epoch.manifest.pin(World::Engine) == Some(pin)) {
        return;
    }
    // What cannot be loaded has been told as a check.
    let Ok(prepared) = shared.modules.get(pin.hash, World::Engine).await else { return };
    let is_open = |view: &crate::View| view.ledger.open.values().any(|record| record.hash == hash);
    while !shared.is_stopping() && shared.peek(is_open) {
        if shared.taps.has_room(limits.runs_max) && begin(&shared, &prepared, pin, hash, limits).await {
            tracing::info!(target: "shadow", proposal = %hash, module = %pin.hash, "a shadow run of the proposed engine begins");
            break;
        }
        tokio::time::sleep(RETRY).await;
    }
    // It may have been decided meanwhile.
    if !shared.peek(is_open) {
        shared.taps.end(hash);
    }
}

/// One attempt; whether it began.
async fn begin(
    shared: &Arc<Shared>,
    prepared: &Prepared,
    pin: &ModulePin,
    hash: Digest,
    limits: ShadowLimits,
) -> bool {
    let index = shared.peek(|view| view.ledger.index);
    let store = shared.store.clone();
    let Ok(Ok(records)) = blocking(move || store.engine_records()).await else { return false };
    let recovered = Recovered {
        records: records.into_iter().map(|record| record.record).collect(),
        committed: index,
        last_final: index,
        batches: Vec::new(),
    };
    let prepared = prepared.clone();
    let make = Box::new(move || {
        let (engine, stats) = prepared.engine_apart().map_err(|e| e.to_string())?;
        Ok((engine, Some(stats)))
    });
    let publish = {
        let shared = shared.clone();
        Box::new(move |view| publish(&shared, hash, view))
    };
    shared.taps.begin(hash, pin.config.clone(), recovered, limits, make, publish)
}

fn publish(shared: &Shared, hash: Digest, view: ShadowView) {
    let report = &view.report;
    let (steps, commits) = (report.steps, &report.commits);
    match (&view.state, &report.end) {
        (ShadowState::Running, _) => {}
        (ShadowState::Complete, _) => {
            tracing::info!(target: "shadow", proposal = %hash, steps, live = commits.live, equal = commits.equal, other = commits.other, missed = commits.missed, slowest_us = report.candidate.call_max_us, fuel_max = report.candidate.fuel_max, "the shadow run is complete");
        }
        (ShadowState::Ended, end) => {
            let (ShadowEnd::Refused(reason) | ShadowEnd::Failed(reason)) =
                end.clone().unwrap_or_else(|| ShadowEnd::Failed(String::new()));
            tracing::warn!(target: "shadow", proposal = %hash, steps, reason, "the proposed engine failed in its shadow run");
        }
        (ShadowState::DroppedOut(reason), _) => {
            tracing::warn!(target: "shadow", proposal = %hash, steps, reason, "the shadow run was given up; the live engine is not touched");
        }
    }
    shared.metrics.shadow(&view.state);
    if let Some(first) = &commits.first_other
        && shared.peek(|seen| seen.shadows.get(&hash).is_none_or(|before| before.report.commits.other == 0))
    {
        tracing::warn!(target: "shadow", proposal = %hash, index = first.index, "the proposed engine orders other batches than the live one");
    }
    shared.view_mut(|seen| seen.note_shadow(hash, view));
}

/// As an approval policy sees it.
pub(crate) fn shadow_run(view: &ShadowView, fuel_limit: u64) -> ShadowRun {
    let report = &view.report;
    let commits = &report.commits;
    ShadowRun {
        state: match (&view.state, &report.end) {
            (ShadowState::Running, _) => Stand::Running,
            (ShadowState::Complete, _) => Stand::Complete,
            (ShadowState::Ended, Some(ShadowEnd::Refused(reason))) => {
                Stand::Failed(format!("it refuses to start: {reason}"))
            }
            (ShadowState::Ended, Some(ShadowEnd::Failed(reason))) => Stand::Failed(reason.clone()),
            (ShadowState::Ended, None) => Stand::Failed("it ended".into()),
            (ShadowState::DroppedOut(reason), _) => Stand::DroppedOut(reason.clone()),
        },
        steps: report.steps,
        events: report.events,
        live_commits: commits.live,
        equal_commits: commits.equal,
        other_commits: commits.other,
        missed_commits: commits.missed,
        slowest_us: report.candidate.call_max_us,
        fuel_max: report.candidate.fuel_max,
        fuel_limit,
        memory_bytes: report.candidate.memory_bytes,
    }
}
