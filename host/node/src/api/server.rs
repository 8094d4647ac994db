//! Listening, connections, and their end: HTTP/1.1 for [`super::routes`], HTTP/2 for gRPC.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::app::App;
use super::{grpc, routes, tls};
use crate::node::NodeError;
use crate::shared::Shared;

/// Handshake, and the head of each request: from the moment a connection is idle.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes; most of it is the path of a compare-and-swap.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// Connections beyond the requests served at once: those that are idle.
const IDLE_CONNECTIONS: usize = 1024;
/// Requests that are being answered get so long at a stop.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the system gave no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

impl Protocol {
    /// Names the address in messages: the key of the configuration.
    fn key(self) -> &'static str {
        match self {
            Self::Http => "api.listen",
            Self::Grpc => "grpc.listen",
        }
    }

    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http => b"http/1.1",
            Self::Grpc => b"h2",
        }
    }
}

/// A listening interface.
pub(crate) struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    listening: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(app: &App, protocol: Protocol, address: SocketAddr) -> Result<Self, NodeError> {
        let shared = app.shared.clone();
        let wrong = |e: std::io::Error| NodeError::Listen {
            what: format!("{} {address}", protocol.key()),
            problem: e.to_string(),
        };
        let tls = tls::acceptor(&shared.config.api, protocol.alpn())?;
        let listener = TcpListener::bind(address).await.map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        let (stop, stopped) = watch::channel(false);
        let (speaks, connections) = match protocol {
            Protocol::Http => {
                let connections = shared.config.limits.requests_max.saturating_add(IDLE_CONNECTIONS);
                (Speaks::Http(routes::router(app)), connections)
            }
            Protocol::Grpc => (Speaks::Grpc(grpc::Calls::new(app, &stopped)), grpc::CONNECTIONS_MAX),
        };
        let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        let listen = Listen { speaks, tls, places, stopped };
        let listening = tokio::spawn(listen.run(listener));
        Ok(Self { shared, address, stop, listening })
    }

    /// Where it listens: for an address with port 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers what is being served and closes; takes at most twice [`STOP_TIMEOUT`].
    pub(crate) async fn stop(self) {
        self.shared.abandon_waiting();
        self.stop.send_replace(true);
        let listening = self.listening.abort_handle();
        if timeout(2 * STOP_TIMEOUT, self.listening).await.is_err() {
            listening.abort();
        }
    }
}

/// What answers.
#[derive(Clone)]
enum Speaks {
    Http(Router),
    Grpc(grpc::Calls),
}

struct Listen {
    speaks: Speaks,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Listen {
    async fn run(mut self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            // The semaphore is never closed.
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(e) => {
                        tracing::warn!(target: "api", error = %e, "no connection can be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = end(&mut self.stopped) => break,
            };
            let connection = serve(self.speaks.clone(), stream, self.tls.clone(), self.stopped.clone());
            connections.spawn(async move {
                connection.await;
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(STOP_TIMEOUT, all).await.is_err() {
            tracing::warn!(target: "api", open = connections.len(), "connections are cut off");
            connections.shutdown().await;
        }
    }
}

async fn serve(speaks: Speaks, stream: TcpStream, tls: Option<TlsAcceptor>, stopped: watch::Receiver<bool>) {
    // Without it answers wait for more to send; a socket that refuses is closing anyway.
    let _ = stream.set_nodelay(true);
    match tls {
        None => speak(speaks, stream, stopped).await,
        Some(acceptor) => match timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => speak(speaks, stream, stopped).await,
            Ok(Err(e)) => tracing::debug!(target: "api", error = %e, "TLS handshake failed"),
            Err(_) => tracing::debug!(target: "api", "TLS handshake took too long"),
        },
    }
}

async fn speak(
    speaks: Speaks,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    stopped: watch::Receiver<bool>,
) {
    match speaks {
        Speaks::Http(router) => answer(stream, router, stopped).await,
        Speaks::Grpc(calls) => grpc::answer(stream, calls, stopped).await,
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    // Errors are the client's: it sent no HTTP, was too slow, or went away.
    tokio::select! {
        done = connection.as_mut() => {
            if let Err(e) = done {
                tracing::debug!(target: "api", error = %e, "a connection ended");
            }
            return;
        }
        () = end(&mut stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Waits for the stop.
pub(super) async fn end(stopped: &mut watch::Receiver<bool>) {
    // An error: the server is gone.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
