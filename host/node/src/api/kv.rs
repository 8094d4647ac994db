//! `/v1/kv/{key}`: the key-value store.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Body};
use bytes::Bytes;
use moult_core::execution::{Outcome, Receipt};
use moult_kv::{Command, Query, Reply, VALUE_BYTES_MAX, decode_value};
use moult_sdk::application::Receipt as ApplicationReceipt;
use moult_types::TransactionId;

use super::app::App;
use super::error::ApiError;
use super::{body, parse};
use crate::api_types::Written;

pub(super) async fn get(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let uri = request.uri();
    let key = parse::key_of(uri)?;
    let params = parse::Params::parse(uri, ["consistency"])?;
    check_kv(&app)?;
    if parse::is_linearizable(params.get(0))? {
        app.handle.catch_up_for_read().await?;
        // The read may have waited for the first block of an epoch with another application.
        check_kv(&app)?;
    }
    let answer = app.handle.query(&Query::Get { key }.encode())?;
    let value = decode_value(&answer)
        .map_err(|e| ApiError::internal(format!("the application's answer is no value: {e}")))?;
    let value = value.ok_or_else(|| ApiError::not_found("the key holds nothing"))?;
    let mut response = Response::new(Body::from(value));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

pub(super) async fn put(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let change = Change::parse(&app, &parts)?;
    let body = body::read(&app, &parts.headers, body, VALUE_BYTES_MAX).await?;
    change.carry_out(&app, Some(body.bytes)).await
}

pub(super) async fn delete(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let change = Change::parse(&app, &parts)?;
    body::read(&app, &parts.headers, body, 0).await?;
    change.carry_out(&app, None).await
}

/// Whether the pinned application is a key-value store, before anything is sent to it.
pub(super) fn check_kv(app: &App) -> Result<(), ApiError> {
    match app.shared.running() {
        None => Err(ApiError::unavailable("not-ready", "the application is not loaded yet: try again")),
        Some(running) if running.is_kv => Ok(()),
        Some(running) => Err(ApiError::conflict(
            "not-a-key-value-store",
            format!(
                "the application `{}` has no interface `kv/1`: use POST /v1/tx and POST /v1/query",
                running.info.name
            ),
        )),
    }
}

/// A write, but for its value.
struct Change {
    key: Vec<u8>,
    expect: Option<Option<Vec<u8>>>,
    client: Option<(Vec<u8>, u64)>,
}

impl Change {
    fn parse(app: &App, parts: &axum::http::request::Parts) -> Result<Self, ApiError> {
        let key = parse::key_of(&parts.uri)?;
        let expect =
            parse::Params::parse(&parts.uri, ["expect"])?.get(0).map(parse::expect_of).transpose()?;
        let client = parse::client_of(&parts.headers)?;
        check_kv(app)?;
        Ok(Self { key, expect, client })
    }

    async fn carry_out(self, app: &App, value: Option<Bytes>) -> Result<Response, ApiError> {
        let Self { key, expect, client } = self;
        let value = value.map(Vec::from);
        let command = match (expect, value) {
            (None, Some(value)) => Command::Put { key, value },
            (None, None) => Command::Delete { key },
            (Some(expect), value) => Command::CompareAndSwap { key, expect, value },
        };
        let (id, receipt) = app.write(client, command.encode()).await?;
        written(&id, receipt)
    }
}

/// What a receipt means for the client of a key-value store.
fn written(id: &TransactionId, receipt: Receipt) -> Result<Response, ApiError> {
    let Receipt { global, outcome } = receipt;
    let (code, output) = match outcome {
        Outcome::Executed { code, output } => (code, output),
        Outcome::Trapped => {
            return Err(ApiError::conflict(
                "trapped",
                "the application failed on this write; it changed nothing",
            ));
        }
        Outcome::Stale => {
            return Err(ApiError::unknown(
                "stale",
                "this client has used much higher numbers: this attempt was not applied, whether an earlier one was is forgotten. Do not retry with this number",
            ));
        }
    };
    match Reply::from_receipt(&ApplicationReceipt { code, output }) {
        Some(Reply::Applied) => Ok(Json(Written { index: global.0, id: id.to_string() }).into_response()),
        Some(Reply::Mismatch { present }) => Err(ApiError::mismatch(present.as_deref())),
        Some(Reply::TooLarge) => {
            Err(ApiError::too_large("the key or a value is too large for the application"))
        }
        Some(Reply::Malformed) | None => Err(ApiError::new(
            StatusCode::CONFLICT,
            "refused",
            format!("the application answered with code {code}; it is no key-value store any more"),
        )),
    }
}
