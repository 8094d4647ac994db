//! `/v1/blocks`, `/v1/chain` and `/v1/epochs`: the final chain.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use moult_core::io::EpochStart;
use moult_store::{Store, StoreError};
use moult_types::phase::{FinalityProof, Phase};
use moult_types::{BlockRecord, EpochNumber, GlobalIndex, encode};

use super::app::App;
use super::error::ApiError;
use super::{convert, parse};
use crate::api_types::{BlockBody, EpochBody};
use crate::modules::blocking;

/// Most blocks of one answer.
const BLOCKS_MAX: u64 = 100;
const BLOCKS_DEFAULT: u64 = 20;
/// Most epochs of one answer.
const EPOCHS_MAX: u64 = 100;

pub(super) async fn block(State(app): State<App>, request: Request) -> Result<Json<BlockBody>, ApiError> {
    parse::Params::parse(request.uri(), [])?;
    let global = parse::number("the block", parse::segment(request.uri(), "/v1/blocks/", ""))?;
    let executed = app.handle.executed().0;
    if global == 0 || global > executed {
        return Err(ApiError::not_found(format!(
            "block {global} is not executed here; blocks are 1 to {executed}"
        )));
    }
    let mut found = blocks_of(&app, global, 1).await?;
    found.pop().map(Json).ok_or_else(|| ApiError::not_found(format!("block {global} is not in the store")))
}

pub(super) async fn blocks(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Vec<BlockBody>>, ApiError> {
    let params = parse::Params::parse(request.uri(), ["from", "limit"])?;
    let limit = params.number(1, "`limit`", BLOCKS_DEFAULT)?.min(BLOCKS_MAX);
    let executed = app.handle.executed().0;
    let latest = (executed + 1).saturating_sub(limit);
    let from = params.number(0, "`from`", latest)?.max(1);
    let limit = limit.min((executed + 1).saturating_sub(from));
    Ok(Json(blocks_of(&app, from, limit).await?))
}

async fn blocks_of(app: &App, from: u64, limit: u64) -> Result<Vec<BlockBody>, ApiError> {
    let store = app.shared.store.clone();
    let work = move || (from..from.saturating_add(limit)).map(|global| block_of(&store, global)).collect();
    let found: Result<Vec<Option<BlockBody>>, StoreError> =
        blocking(work).await.map_err(ApiError::internal)?;
    Ok(found.map_err(|e| ApiError::internal(e.to_string()))?.into_iter().flatten().collect())
}

fn block_of(store: &Store, global: u64) -> Result<Option<BlockBody>, StoreError> {
    Ok(certified(store, global)?.map(|(record, proof)| convert::block(&record, proof.certificate())))
}

/// `None` where the store lacks the block or its proof: it lost its tail, and the
/// block is on its way from peers.
pub(super) fn certified(
    store: &Store,
    global: u64,
) -> Result<Option<(BlockRecord, FinalityProof)>, StoreError> {
    let Some(record) = store.block(GlobalIndex(global))? else { return Ok(None) };
    Ok(store.proof_for(&record)?.map(|proof| (record, proof)))
}

/// What `moult verify-chain` checks: canonical bytes, as peers get them.
pub(super) async fn chain(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let params = parse::Params::parse(request.uri(), ["from", "epoch", "phase"])?;
    let from = params.number(0, "`from`", 1)?;
    let epoch = EpochNumber(params.number(1, "`epoch`", 0)?);
    let phase = Phase::try_from(params.number(2, "`phase`", 0)?)
        .map_err(|_| ApiError::bad_request("`phase` is larger than any"))?;
    let (store, bytes_max) = (app.shared.store.clone(), app.shared.config.limits.serve_bytes_max);
    let found = blocking(move || store.certified_stretch(GlobalIndex(from), (epoch, phase), bytes_max)).await;
    let found = found.map_err(ApiError::internal)?.map_err(|e| ApiError::internal(e.to_string()))?;
    let stretch = found.ok_or_else(|| ApiError::not_found(format!("block {from} is not final here")))?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], encode(&stretch)).into_response())
}

pub(super) async fn epochs(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Vec<EpochBody>>, ApiError> {
    let params = parse::Params::parse(request.uri(), ["from", "limit"])?;
    let from = EpochNumber(params.number(0, "`from`", 0)?);
    let limit = params.number(1, "`limit`", EPOCHS_MAX)?.min(EPOCHS_MAX) as usize;
    let store = app.shared.store.clone();
    let read = move || -> Result<Vec<EpochBody>, StoreError> {
        let epochs = store.epochs(from, limit)?;
        let body = |start: &EpochStart| -> Result<EpochBody, StoreError> {
            Ok(convert::epoch(start, &store.phases(start.manifest.number)?))
        };
        epochs.iter().map(body).collect()
    };
    let found = blocking(read).await.map_err(ApiError::internal)?;
    Ok(Json(found.map_err(|e| ApiError::internal(e.to_string()))?))
}
