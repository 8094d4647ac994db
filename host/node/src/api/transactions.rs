//! `/v1/tx` and `/v1/query`: any application.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use moult_core::execution::{Outcome, Receipt};
use moult_types::{GlobalIndex, TransactionId};

use super::app::App;
use super::error::ApiError;
use super::{body, parse};
use crate::api_types::ReceiptBody;
use crate::modules::blocking;

/// Largest `batch_bytes_max` that an epoch can have; the epoch's own limit is checked when
/// the transaction is taken in.
pub(super) const TRANSACTION_BYTES_MAX: usize = 4 << 20;
/// Largest request to an application.
pub(super) const QUERY_BYTES_MAX: usize = 1 << 20;

pub(super) async fn post(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    parse::Params::parse(&parts.uri, [])?;
    let client = parse::client_of(&parts.headers)?;
    let max = TRANSACTION_BYTES_MAX.min(app.shared.config.limits.request_bytes_max);
    let body = body::read(&app, &parts.headers, body, max).await?;
    let (id, receipt) = app.write(client, body.bytes.to_vec()).await?;
    Ok(Json(receipt_body(&id, receipt)).into_response())
}

pub(super) async fn get(State(app): State<App>, request: Request) -> Result<Json<ReceiptBody>, ApiError> {
    let uri = request.uri();
    let params = parse::Params::parse(uri, ["consistency"])?;
    let linearizable = parse::is_linearizable(params.get(0))?;
    let id: TransactionId =
        parse::segment(uri, "/v1/tx/", "").parse().map_err(|e| ApiError::bad_request(format!("{e}")))?;
    let mut receipt = app.handle.receipt(&id);
    if receipt.is_none() && linearizable {
        app.handle.catch_up_for_read().await?;
        receipt = app.handle.receipt(&id);
    }
    match receipt {
        Some(receipt) => Ok(Json(receipt_body(&id, receipt))),
        None => Err(ApiError::not_found(
            "no receipt: it is not executed, or its client has gone on beyond the window of receipts",
        )),
    }
}

pub(super) async fn query(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let params = parse::Params::parse(&parts.uri, ["consistency"])?;
    let linearizable = parse::is_linearizable(params.get(0))?;
    let question = body::read(&app, &parts.headers, body, QUERY_BYTES_MAX).await?;
    if linearizable {
        app.handle.catch_up_for_read().await?;
    }
    let (_, answer) = ask(&app, question.bytes).await?;
    let mut response = Response::new(Body::from(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// Asks the application; few questions run at once.
pub(super) async fn ask(app: &App, question: Bytes) -> Result<(GlobalIndex, Vec<u8>), ApiError> {
    let closed = |_| ApiError::unavailable("draining", "this node is shutting down");
    let _place = app.queries.acquire().await.map_err(closed)?;
    let handle = app.handle.clone();
    Ok(blocking(move || handle.query_at(&question)).await.map_err(ApiError::internal)??)
}

fn receipt_body(id: &TransactionId, receipt: Receipt) -> ReceiptBody {
    let (status, code, output) = match receipt.outcome {
        Outcome::Executed { code, output } => ("executed", Some(code), Some(output)),
        Outcome::Trapped => ("trapped", None, None),
        Outcome::Stale => ("stale", None, None),
    };
    ReceiptBody {
        id: id.to_string(),
        index: receipt.global.0,
        status: status.into(),
        code,
        output_hex: output.map(hex::encode),
    }
}
