//! Refusals, as they are told to clients.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use moult_core::io::Refusal;

use crate::api_types::{Applied, ErrorBody};
use crate::handle::{QueryError, ReadError, WriteError};

/// A refused call.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let applied = if status == StatusCode::GATEWAY_TIMEOUT { Applied::Unknown } else { Applied::No };
        Self {
            status,
            body: ErrorBody { code: code.into(), message: message.into(), applied, present: None },
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", message)
    }

    pub(super) fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    }

    pub(super) fn unavailable(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    pub(super) fn unknown(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, code, message)
    }

    /// Something on this node failed; nothing was changed.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        tracing::error!(target: "api", message, "a call failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// A compare-and-swap found something else.
    pub(super) fn mismatch(present: Option<&[u8]>) -> Self {
        let message = match present {
            Some(bytes) => {
                format!("the key holds another value of {} bytes (`present`, in hex)", bytes.len())
            }
            None => "the key holds nothing".into(),
        };
        let mut error = Self::conflict("mismatch", message);
        error.body.present = Some(present.map_or_else(|| "none".into(), hex::encode));
        error
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn body(&self) -> &ErrorBody {
        &self.body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<WriteError> for ApiError {
    fn from(e: WriteError) -> Self {
        let message = e.to_string();
        match e {
            WriteError::Refused(Refusal::Overloaded) => Self::unavailable("overloaded", message),
            WriteError::Refused(Refusal::Observer) => {
                Self::unavailable("observer", format!("{message}, or signs nothing: write at another node"))
            }
            WriteError::Refused(Refusal::Draining) => Self::unavailable("draining", message),
            WriteError::Refused(Refusal::TooLarge) => Self::too_large(message),
            WriteError::Stopped => Self::unknown("stopped", message),
            WriteError::Timeout { .. } => Self::unknown("timeout", message),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(e: ReadError) -> Self {
        let code = match e {
            ReadError::NoQuorum { .. } => "no-quorum",
            ReadError::Overloaded => "overloaded",
        };
        Self::unavailable(code, e.to_string())
    }
}

impl From<QueryError> for ApiError {
    fn from(e: QueryError) -> Self {
        let message = e.to_string();
        match e {
            QueryError::NotReady => Self::unavailable("not-ready", message),
            QueryError::Refused(_) => Self::new(StatusCode::BAD_REQUEST, "refused", message),
            QueryError::Fault(_) => Self::internal(message),
        }
    }
}
