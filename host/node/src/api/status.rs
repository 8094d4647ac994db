//! `/v1/status`, `/healthz`, `/readyz` and `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use moult_crypto::Signer;
use moult_types::ModuleHash;

use super::app::{Api, App};
use super::convert;
use super::error::ApiError;
use crate::api_types::{Peer, Status};
use crate::view::View;

pub(super) async fn status(State(app): State<App>) -> Json<Status> {
    let view = app.handle.view();
    Json(status_of(&app, &view))
}

/// Whether the process should be left alone.
pub(super) async fn healthz(State(app): State<App>) -> Result<&'static str, ApiError> {
    match app.shared.fatal() {
        None => Ok("alive\n"),
        Some(reason) => Err(ApiError::unavailable("fatal", reason)),
    }
}

/// Whether clients should be sent here.
pub(super) async fn readyz(State(app): State<App>) -> Result<&'static str, ApiError> {
    match not_ready(&app) {
        None => Ok("ready\n"),
        Some(reason) => Err(ApiError::unavailable("not-ready", reason)),
    }
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    let text = app.shared.metrics.render(&app.shared);
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn status_of(app: &Api, view: &View) -> Status {
    let (shared, manifest) = (&app.shared, &view.epoch.manifest);
    let peers = shared.network.get().map(|network| network.connected()).unwrap_or_default();
    let place = |key| (0..).zip(&manifest.members).find_map(|(i, m)| (m.key == key).then_some(i));
    Status {
        node: shared.keys.public_key(),
        authority: shared.authority,
        version: env!("CARGO_PKG_VERSION").into(),
        chain: shared.chain.to_string(),
        epoch: manifest.number.0,
        phase: view.phase,
        identity: view.identity.to_string(),
        finality: manifest.finality,
        role: if view.me.is_some() { "authority" } else { "observer" }.into(),
        authority_index: view.me.map(|me| me.0),
        signing_stopped: view.signing_stopped.clone(),
        engine: view.engine.clone(),
        engine_hash: manifest.engine(view.phase).map_or(ModuleHash([0; 32]), |pin| pin.hash),
        modules: convert::pins(manifest),
        commit_index: view.ledger.index.0,
        global_exec_index: view.executed.0.0,
        global_final_index: view.ledger.global.0,
        state_root: view.executed.1.to_string(),
        block_time_ms: view.ledger.time_ms,
        leader: view.leader,
        round: view.round,
        barrier: view.ledger.barrier().map(|barrier| barrier.0),
        peers: peers
            .into_iter()
            .map(|peer| Peer {
                key: peer.key,
                authority_index: place(peer.key),
                address: peer.address.to_string(),
                rtt_us: u64::try_from(peer.rtt.as_micros()).unwrap_or(u64::MAX),
            })
            .collect(),
        highest_seen: view.highest_seen.0.max(view.ledger.global.0),
        failed_engines: view.ledger.failed.iter().map(convert::failed_engine).collect(),
        uptime_ms: u64::try_from(shared.uptime().as_millis()).unwrap_or(u64::MAX),
    }
}

fn not_ready(app: &Api) -> Option<String> {
    let shared = &app.shared;
    if let Some(reason) = shared.fatal() {
        return Some(format!("the node stops: {reason}"));
    }
    if shared.is_stopping() {
        return Some("the node is shutting down".into());
    }
    if shared.running().is_none() {
        return Some("the application is not loaded yet".into());
    }
    let view = app.handle.view();
    if view.me.is_some() && view.engine.is_empty() {
        return Some("the engine is not loaded yet".into());
    }
    if let (Some(reason), true) = (&view.signing_stopped, view.me.is_some()) {
        return Some(format!("this node signs nothing: {reason}"));
    }
    let manifest = &view.epoch.manifest;
    let behind = view.highest_seen.0.saturating_sub(view.executed.0.0);
    if behind > manifest.limits.window_blocks {
        return Some(format!("catching up: {behind} blocks behind"));
    }
    let Ok(committee) = manifest.committee() else { return Some("the epoch has no valid committee".into()) };
    let own = shared.keys.public_key();
    let connected = shared.network.get().map(|network| network.connected()).unwrap_or_default();
    let reached = committee.indices().filter(|index| {
        let key = committee.member(*index).map(|member| member.key);
        key == Some(own) || connected.iter().any(|peer| Some(peer.key) == key)
    });
    let reached = committee.stake_of(&reached.collect());
    let quorum = committee.quorum();
    (reached < quorum).then(|| format!("connected to stake {reached} of {quorum} needed"))
}
