//! `/v1/modules`: the modules that this node holds.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use moult_store::StoreError;
use moult_types::{ModuleHash, World};

use super::app::{Api, App};
use super::error::ApiError;
use super::gate::Admin;
use super::{body, parse};
use crate::api_types::ModuleBody;
use crate::modules::blocking;

pub(super) async fn list(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Vec<ModuleBody>>, ApiError> {
    parse::Params::parse(request.uri(), [])?;
    let files = app.shared.store.modules().clone();
    let sizes = move || -> Result<Vec<(ModuleHash, u64)>, StoreError> {
        // A damaged one is as good as none: it is fetched or added anew.
        let size = |hash| (hash, files.get(hash).ok().flatten().map(|bytes| bytes.len() as u64));
        Ok(files.list()?.into_iter().map(size).filter_map(|(hash, size)| Some((hash, size?))).collect())
    };
    let found = blocking(sizes).await.map_err(ApiError::internal)?;
    let found = found.map_err(|e| ApiError::internal(e.to_string()))?;
    let bodies =
        found.into_iter().map(|(hash, bytes)| ModuleBody { hash, bytes, pinned: pinned(&app, hash) });
    Ok(Json(bodies.collect()))
}

pub(super) async fn get(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    parse::Params::parse(request.uri(), [])?;
    let hash = hash_of(request.uri())?;
    let files = app.shared.store.modules().clone();
    match blocking(move || files.get(hash)).await.map_err(ApiError::internal)? {
        Ok(Some(bytes)) => {
            let kind = HeaderValue::from_static("application/wasm");
            Ok(([(header::CONTENT_TYPE, kind)], Body::from(bytes)).into_response())
        }
        Ok(None) => Err(ApiError::not_found(format!("module {hash} is not on this node"))),
        Err(e) => Err(ApiError::internal(format!("{e}. Add the module again"))),
    }
}

pub(super) async fn put(
    _: Admin,
    State(app): State<App>,
    request: Request,
) -> Result<Json<ModuleBody>, ApiError> {
    let (parts, body) = request.into_parts();
    parse::Params::parse(&parts.uri, [])?;
    let hash = hash_of(&parts.uri)?;
    let shared = &app.shared;
    let max = shared.config.limits.request_bytes_max.min(shared.modules.host().limits().module_bytes);
    let body = body::read(&app, &parts.headers, body, max).await?;
    let files = shared.store.modules().clone();
    let bytes = body.bytes.len() as u64;
    let stored = move || {
        let found = ModuleHash::of(&body.bytes);
        if found != hash {
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "hash-mismatch",
                format!("the body has the hash {found}, not {hash}"),
            ));
        }
        files.put(&body.bytes).map_err(|e| ApiError::internal(e.to_string()))
    };
    blocking(stored).await.map_err(ApiError::internal)??;
    tracing::info!(target: "module", module = %hash, bytes, "a module was added");
    Ok(Json(ModuleBody { hash, bytes, pinned: pinned(&app, hash) }))
}

fn hash_of(uri: &Uri) -> Result<ModuleHash, ApiError> {
    let text = parse::segment(uri, "/v1/modules/", "");
    // The colon may come encoded.
    let text = text.replace("%3A", ":").replace("%3a", ":");
    text.parse().map_err(|e| ApiError::bad_request(format!("{e}")))
}

fn pinned(app: &Api, hash: ModuleHash) -> Vec<World> {
    app.shared.peek(|view| {
        let pins = view.epoch.manifest.modules.iter();
        pins.filter(|(_, pin)| pin.hash == hash).map(|(world, _)| *world).collect()
    })
}
