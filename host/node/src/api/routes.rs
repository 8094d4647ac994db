//! Which call goes where.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::app::App;
use super::error::ApiError;
use super::{backup, chain, gate, kv, modules, proposals, status, transactions};

/// Every route, as it is named in metrics.
pub(super) const ROUTES: [&str; 18] = [
    "/v1/kv/{*key}",
    "/v1/tx",
    "/v1/tx/{id}",
    "/v1/query",
    "/v1/status",
    "/v1/blocks",
    "/v1/blocks/{index}",
    "/v1/chain",
    "/v1/epochs",
    "/v1/proposals",
    "/v1/proposals/{id}",
    "/v1/proposals/{id}/vote",
    "/v1/modules",
    "/v1/modules/{hash}",
    "/v1/backup",
    "/healthz",
    "/readyz",
    "/metrics",
];

pub(super) fn router(app: &App) -> Router {
    let handlers = [
        get(kv::get).put(kv::put).delete(kv::delete),
        post(transactions::post),
        get(transactions::get),
        post(transactions::query),
        get(status::status),
        get(chain::blocks),
        get(chain::block),
        get(chain::chain),
        get(chain::epochs),
        get(proposals::list).post(proposals::post),
        get(proposals::get).delete(proposals::delete),
        post(proposals::vote),
        get(modules::list),
        get(modules::get).put(modules::put),
        get(backup::get).post(backup::post),
        get(status::healthz),
        get(status::readyz),
        get(status::metrics),
    ];
    let routes = ROUTES.into_iter().zip(handlers);
    routes
        .fold(Router::new(), |router, (route, handler)| router.route(route, handler))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), gate::gate))
        .with_state(app.clone())
}

async fn unknown() -> ApiError {
    ApiError::not_found("there is no such call; docs/API.md lists them")
}

async fn wrong_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "this call has another method; docs/API.md lists them",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_call() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/API.md");
        let manual = std::fs::read_to_string(path).expect("the manual");
        for route in ROUTES {
            let named = route.replace("{*", "{").replace("{index}", "{global_exec_index}");
            let is_there = [" ", "`", "?"].iter().any(|end| manual.contains(&format!(" {named}{end}")));
            assert!(is_there, "{named} is not in docs/API.md");
        }
    }
}
