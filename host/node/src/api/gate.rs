//! What every request passes: token, limits, metrics.

use std::time::Instant;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::app::{Api, App};
use super::error::ApiError;

/// Around every handler.
pub(super) async fn gate(State(app): State<App>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let endpoint = endpoint(request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str));
    let response = match admit(&app, app.is_closed, endpoint, request.headers()) {
        Err(refusal) => refusal.into_response(),
        Ok(()) if is_probe(endpoint) => next.run(request).await,
        Ok(()) => match app.requests.try_acquire() {
            Ok(_place) => next.run(request).await,
            Err(_) => ApiError::unavailable("overloaded", "too many requests are being served: try again")
                .into_response(),
        },
    };
    app.shared.metrics.request(endpoint, response.status().as_u16(), began.elapsed());
    response
}

/// Whether a caller may call: `is_closed` where every call needs the token.
pub(super) fn admit(app: &Api, is_closed: bool, endpoint: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    if endpoint == "/healthz" {
        return Ok(());
    }
    if is_closed {
        check_token(app, headers)?;
    } else if headers.contains_key(header::ORIGIN) && check_token(app, headers).is_err() {
        // A page in a browser on this machine could reach the node: only with the token.
        let message = "a call from a web page (header `Origin`) needs the token";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "origin", message));
    }
    if app.shared.is_stopping() && !is_probe(endpoint) {
        return Err(ApiError::unavailable("draining", "this node is shutting down"));
    }
    Ok(())
}

/// Probes are answered also by a node that has no place left.
fn is_probe(endpoint: &str) -> bool {
    matches!(endpoint, "/healthz" | "/readyz" | "/metrics")
}

/// The route as a label; their number is bounded.
fn endpoint(route: &str) -> &'static str {
    let known = super::routes::ROUTES.iter().find(|known| **known == route);
    known.copied().unwrap_or("other")
}

/// The caller has the token.
pub(super) struct Admin;

impl FromRequestParts<App> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        check_token(app, &parts.headers).map(|()| Self)
    }
}

/// # Errors
/// 401.
pub(super) fn check_token(app: &Api, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let (scheme, token) = given.and_then(|given| given.split_at_checked(7)).unwrap_or_default();
    if scheme.eq_ignore_ascii_case(b"bearer ") && app.is_token(token) {
        return Ok(());
    }
    let message = "this call needs the node's token: `Authorization: Bearer <token>` (see `api.token_file`)";
    Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message))
}
