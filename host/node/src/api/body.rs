//! Reading bodies: bounded in bytes, in time and all together.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::app::App;
use super::error::ApiError;

/// A client that sends nothing for so long has gone.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A body takes at most so long.
pub(super) const TIME_MAX: Duration = Duration::from_secs(120);
/// Of a body that is too large, so much is still read, so that a client that sends all of it
/// before it looks for an answer finds one; then the connection is cut off.
const DISCARD_BYTES: usize = 8 << 20;
/// And for so long.
const DISCARD_TIME: Duration = Duration::from_secs(5);
/// Unit of the budget of all bodies.
const UNIT: usize = 64 << 10;
/// What all bodies in memory may take together; small ones are bounded by their number.
const BUDGET_BYTES: usize = 256 << 20;

/// The budget of all bodies of a node.
pub(super) fn budget() -> Semaphore {
    Semaphore::new(BUDGET_BYTES / UNIT)
}

/// A body, with its share of the budget as long as it is kept.
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Reads a whole body of at most `max` bytes.
///
/// # Errors
/// 413, 408 where the client is too slow, 400 where it goes away, 503 where too many large
/// bodies are in memory.
pub(super) async fn read(
    app: &App,
    headers: &HeaderMap,
    mut body: Body,
    max: usize,
) -> Result<Whole, ApiError> {
    let too_large = || ApiError::too_large(format!("the body is larger than {max} bytes"));
    let told = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(told) = told.filter(|told| *told > max as u64) {
        // Who asks for leave to send looks for an answer first.
        if told <= DISCARD_BYTES as u64 && !headers.contains_key(header::EXPECT) {
            discard(&mut body).await;
        }
        return Err(too_large());
    }
    let end = Instant::now() + TIME_MAX;
    let (mut first, mut rest) = (Bytes::new(), Vec::new());
    let mut share = None;
    let mut length = 0;
    loop {
        let frame = timeout_at(end.min(Instant::now() + PAUSE_MAX), body.frame());
        let slow = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow", "the body did not arrive in time");
        let Some(frame) = frame.await.map_err(slow)? else { break };
        let frame = frame.map_err(|e| ApiError::bad_request(format!("the body broke off: {e}")))?;
        // What is no data is a trailer, which means nothing here.
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > max {
            discard(&mut body).await;
            return Err(too_large());
        }
        reserve(app, &mut share, length)?;
        match (first.is_empty(), rest.is_empty()) {
            (true, true) => first = data,
            (_, true) => {
                rest.reserve(length);
                rest.extend_from_slice(&first);
                rest.extend_from_slice(&data);
            }
            (_, false) => rest.extend_from_slice(&data),
        }
    }
    let bytes = if rest.is_empty() { first } else { rest.into() };
    Ok(Whole { bytes, _share: share })
}

/// Reads a part of what is not wanted.
async fn discard(body: &mut Body) {
    let mut left = DISCARD_BYTES;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // However it ends, the refusal follows.
    let _ = timeout(DISCARD_TIME, reading).await;
}

/// Takes a share of the budget for what goes beyond the first unit.
pub(super) fn reserve(
    app: &App,
    share: &mut Option<OwnedSemaphorePermit>,
    length: usize,
) -> Result<(), ApiError> {
    let held = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let more = (length / UNIT).saturating_sub(held);
    let Some(more) = u32::try_from(more).ok().filter(|more| *more > 0) else { return Ok(()) };
    let full = |_| ApiError::unavailable("overloaded", "too many large bodies are being read: try again");
    let taken = app.bodies.clone().try_acquire_many_owned(more).map_err(full)?;
    match share {
        Some(share) => share.merge(taken),
        None => *share = Some(taken),
    }
    Ok(())
}

/// Reads a JSON body.
///
/// # Errors
/// As [`read`]; 400 with the position where it is not what the call takes.
pub(super) async fn json<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    max: usize,
) -> Result<T, ApiError> {
    let whole = read(app, headers, body, max).await?;
    parse_json(&whole.bytes)
}

/// # Errors
/// 400 with the position.
pub(super) fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let wrong = |e: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the body is not what this call takes: {e}"))
    };
    // Without this a list would be taken for the object's fields in order.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(wrong(&"expected an object at line 1 column 1"));
    }
    serde_json::from_slice(bytes).map_err(|e| wrong(&e))
}
