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
use axum::http::{Request, Response};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;

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
const METHODS: [&str; 6] = ["Submit", SUBMIT_STREAM, "GetState", "Propose", "CastVote", "StreamBlocks"];
const PREFIX: &str = "/moult.v1.Consensus/";
const SUBMIT_STREAM: &str = "SubmitStream";

/// Answers every call. Cheap to clone.
///
/// A router in front of the few calls there are would box each call's future and bodies several
/// times more; it has the reflection, and what is not there.
#[derive(Clone)]
pub(super) struct Calls {
    app: App,
    service: ConsensusServer<Service>,
    /// The same, for longer messages.
    long: ConsensusServer<Service>,
    others: Router,
}

impl Calls {
    pub(super) fn new(app: &App, stopped: &watch::Receiver<bool>) -> Self {
        let service = ConsensusServer::new(Service { app: app.clone(), stopped: stopped.clone() });
        let long = service.clone().max_decoding_message_size(STREAM_MESSAGE_BYTES_MAX);
        let service = service.max_decoding_message_size(MESSAGE_BYTES_MAX);
        Self { app: app.clone(), service, long, others: others() }
    }

    /// Around every call: token, limits, metrics.
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let app = &self.app;
        let path = request.uri().path();
        let method = METHODS.iter().copied().find(|method| path.strip_prefix(PREFIX) == Some(*method));
        let is_administration = matches!(method, Some("Propose" | "CastVote"));
        let headers = request.headers();
        let admitted = gate::admit(app, app.is_grpc_closed, path, headers)
            .and_then(|()| if is_administration { gate::check_token(app, headers) } else { Ok(()) });
        let response = match (admitted, app.requests.try_acquire()) {
            (Err(refusal), _) => status::of(&refusal).into_http(),
            (Ok(()), Err(_)) => {
                let message = "too many requests are being served: try again";
                status::of(&ApiError::unavailable("overloaded", message)).into_http()
            }
            (Ok(()), Ok(_place)) => self.carry_out(method, request).await,
        };
        let response = status::named(response);
        app.shared.metrics.grpc_request(method.unwrap_or("other"), status::code_of(&response));
        response
    }

    async fn carry_out(&self, method: Option<&str>, request: Request<Incoming>) -> Response<Body> {
        let answered = match method {
            Some(SUBMIT_STREAM) => self.long.clone().call(request).await,
            Some("StreamBlocks") => self.service.clone().call(request).await,
            Some(_) => self.service.clone().call(intake::bounded(&self.app, request)).await,
            None => {
                let answered = self.others.clone().call(request.map(axum::body::Body::new)).await;
                answered.map(|response| response.map(Body::new))
            }
        };
        // None of them fails otherwise than by its answer.
        answered.unwrap_or_else(|never| match never {})
    }
}

/// The reflection, and the answer for what is not there.
fn others() -> Router {
    let mut router = Router::new();
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTION);
    // They fail on a description that is none; a test asks for it.
    if let (Ok(v1), Ok(v1alpha)) = (reflection().build_v1(), reflection().build_v1alpha()) {
        router = router
            .route_service("/grpc.reflection.v1.ServerReflection/{*call}", v1)
            .route_service("/grpc.reflection.v1alpha.ServerReflection/{*call}", v1alpha);
    }
    router.fallback(|| async { Status::unimplemented("").into_http::<Body>().into_response() })
}
