//! Refusals as gRPC statuses: the same names and texts as over HTTP.

use axum::http::{Response, StatusCode};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::super::error::ApiError;
use crate::api_types::Applied;
use crate::proto;

/// Metadata of a refusal: its name, for programs.
const NAME: &str = "moult-code";
/// `no` or `unknown`.
const APPLIED: &str = "moult-applied";

/// The code for a status of HTTP.
fn code(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST => Code::InvalidArgument,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::Unimplemented,
        StatusCode::REQUEST_TIMEOUT => Code::Cancelled,
        StatusCode::CONFLICT => Code::FailedPrecondition,
        StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        _ => Code::Internal,
    }
}

pub(super) fn of(e: &ApiError) -> Status {
    let body = e.body();
    let mut metadata = MetadataMap::new();
    // A name that is no header is none of ours.
    if let Ok(name) = body.code.parse() {
        metadata.insert(NAME, name);
    }
    metadata.insert(APPLIED, tonic::metadata::MetadataValue::from_static(applied(body.applied)));
    Status::with_metadata(code(e.status()), format!("{}: {}", body.code, body.message), metadata)
}

fn applied(applied: Applied) -> &'static str {
    match applied {
        Applied::No => "no",
        Applied::Unknown => "unknown",
    }
}

/// For one transaction of a stream.
pub(super) fn error(e: &ApiError) -> proto::Error {
    let body = e.body();
    proto::Error {
        code: body.code.clone(),
        message: body.message.clone(),
        applied_unknown: matches!(body.applied, Applied::Unknown),
    }
}

/// What the library itself found wrong with a message gets one of our names.
pub(super) fn of_message(status: Status) -> Status {
    if status.metadata().contains_key(NAME) {
        return status;
    }
    match status.code() {
        Code::OutOfRange => of(&ApiError::too_large(status.message())),
        Code::Internal | Code::Unknown | Code::InvalidArgument => of(&ApiError::bad_request(format!(
            "the message is not what this call takes: {}",
            status.message()
        ))),
        Code::Unimplemented => {
            let message = "there is no such call; docs/API.md lists them";
            of(&ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message))
        }
        _ => status,
    }
}

/// [`of_message`] for an answer that is nothing but a status.
pub(super) fn named(response: Response<Body>) -> Response<Body> {
    if response.headers().contains_key(NAME) {
        return response;
    }
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => of_message(status).into_http(),
        _ => response,
    }
}

/// The code that an answer begins with; one that comes later is not known yet.
pub(super) fn code_of(response: &Response<Body>) -> i32 {
    Status::from_header_map(response.headers()).map_or(0, |status| status.code() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_name_text_and_whether_it_was_applied() {
        let status = of(&ApiError::unknown("timeout", "not final in time"));
        assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "timeout: not final in time"));
        let value = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
        assert_eq!((value(NAME), value(APPLIED)), (Some("timeout"), Some("unknown")));
        let no = of(&ApiError::too_large("too much"));
        assert_eq!(no.metadata().get(APPLIED).and_then(|value| value.to_str().ok()), Some("no"));
    }

    #[test]
    fn every_status_of_the_manual_has_the_code_that_the_manual_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/API.md");
        let manual = std::fs::read_to_string(path).expect("the manual");
        for status in [400, 401, 403, 404, 405, 408, 409, 413, 500, 503, 504] {
            let code = code(StatusCode::from_u16(status).expect("a status"));
            let line = format!("| {status} | `{}` |", screaming(code));
            assert!(manual.contains(&line), "docs/API.md lacks {line}");
        }
    }

    /// `InvalidArgument` as gRPC writes it.
    fn screaming(code: Code) -> String {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        name
    }
}
