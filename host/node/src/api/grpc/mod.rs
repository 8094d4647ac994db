//! gRPC: another edge of the same handle. `host/node/proto` is the interface.
//!
//! Calls are checked and carried out by what HTTP uses; here are only the form of messages,
//! streams, and HTTP/2. Connections are served like HTTP's, without tonic's own server: one
//! place for TLS, limits and the graceful stop.

mod blocks;
mod connection;
mod convert;
mod intake;
mod service;
mod status;
mod submit;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use super::app::App;
use super::error::ApiError;
use super::{gate, transactions};
use crate::proto::DESCRIPTION;
use crate::proto::consensus_server::ConsensusServer;
use service::Service;

pub(super) use connection::answer;

/// Connections at once; more wait to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Streams of submissions and of blocks at once, over all connections.
pub(super) const STREAMS_MAX: usize = 128;
/// Longest message, but for a stream's: a transaction and what names it.
const MESSAGE_BYTES_MAX: usize = transactions::TRANSACTION_BYTES_MAX + (64 << 10);
/// Longest message of a stream of submissions.
const STREAM_MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Every call, as it is named in metrics.
const METHODS: [&str; 6] = ["Submit", "SubmitStream", "GetState", "Propose", "CastVote", "StreamBlocks"];
const PREFIX: &str = "/moult.v1.Consensus/";
const SUBMIT_STREAM: &str = "/moult.v1.Consensus/SubmitStream";

pub(super) fn router(app: &App, stopped: &watch::Receiver<bool>) -> Router {
    let service = ConsensusServer::new(Service { app: app.clone(), stopped: stopped.clone() });
    let long = service.clone().max_decoding_message_size(STREAM_MESSAGE_BYTES_MAX);
    let mut router = Router::new()
        .route_service(SUBMIT_STREAM, long)
        .route_service("/moult.v1.Consensus/{*call}", service.max_decoding_message_size(MESSAGE_BYTES_MAX));
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTION);
    // They fail on a description that is none; a test asks for it.
    if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
        router = router
            .route_service("/grpc.reflection.v1.ServerReflection/{*call}", v1)
            .route_service("/grpc.reflection.v1alpha.ServerReflection/{*call}", v1alpha);
    }
    router.fallback(unknown).layer(from_fn_with_state(app.clone(), admit)).with_state(())
}

async fn unknown() -> Response {
    Status::unimplemented("").into_http::<Body>().into_response()
}

/// Around every call: token, limits, metrics.
async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let method = METHODS.iter().find(|method| path.strip_prefix(PREFIX) == Some(**method));
    let is_administration = matches!(method, Some(&"Propose" | &"CastVote"));
    let is_stream = matches!(method, None | Some(&"SubmitStream" | &"StreamBlocks"));
    let headers = request.headers();
    let admitted = gate::admit(&app, app.is_grpc_closed, path, headers)
        .and_then(|()| if is_administration { gate::check_token(&app, headers) } else { Ok(()) });
    let response = match (admitted, app.requests.try_acquire()) {
        (Err(refusal), _) => refused(&refusal),
        (Ok(()), Err(_)) => {
            refused(&ApiError::unavailable("overloaded", "too many requests are being served: try again"))
        }
        (Ok(()), Ok(_)) if is_stream => next.run(request).await,
        (Ok(()), Ok(_place)) => next.run(intake::bounded(&app, request)).await,
    };
    let response = status::named(response);
    app.shared.metrics.grpc_request(method.copied().unwrap_or("other"), status::code_of(&response));
    response
}

fn refused(e: &ApiError) -> Response {
    status::of(e).into_http::<Body>().into_response()
}
