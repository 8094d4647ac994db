//! One connection: HTTP/2, and when it is given up.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;
use tonic::body::Body;

use super::super::server::{HEAD_TIMEOUT, STOP_TIMEOUT, end};
use super::Calls;

/// Calls and streams of one connection at once.
const STREAMS_PER_CONNECTION: u32 = 128;
/// What a client may send in one stream before this node has read it.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
/// The same for all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Answers of one stream that wait for a client that does not read.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Largest head of a call.
const HEAD_BYTES_MAX: u32 = 16 << 10;
/// A connection without a call for this time, or for up to twice this time, is closed; before the
/// first one after [`HEAD_TIMEOUT`].
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent client is asked whether it lives so often, and has the same time to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Serves a connection until its end.
pub(in crate::api) async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    calls: Calls,
    mut stopped: watch::Receiver<bool>,
) {
    let open = Arc::new(Open::default());
    let (counted, calls) = (open.clone(), Arc::new(calls));
    let service = service_fn(move |request: Request<Incoming>| {
        let (call, calls) = (Call::new(&counted), calls.clone());
        async move {
            let response = calls.answer(request).await;
            Ok::<_, Infallible>(response.map(|body| Held { body, _call: call }))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Errors are the client's: it sent no HTTP/2, broke a rule of it, or went away.
    tokio::select! {
        done = connection.as_mut() => {
            if let Err(e) = done {
                tracing::debug!(target: "api", error = %e, "a connection ended");
            }
            return;
        }
        () = end(&mut stopped) => {}
        () = open.idle() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(STOP_TIMEOUT, connection).await;
}

/// The calls of a connection. Only counted: to wake the connection upon each of them, so that
/// it may look at its idle time, would cost a turn of HTTP/2 for each.
#[derive(Default)]
struct Open {
    calls: AtomicUsize,
    begun: AtomicUsize,
}

impl Open {
    /// Returns once no call was open or begun for the time that a connection may idle, and
    /// at the latest when it idled twice that long.
    async fn idle(&self) {
        let (mut limit, mut before) = (HEAD_TIMEOUT, 0);
        loop {
            sleep_until(Instant::now() + limit).await;
            let begun = self.begun.load(Ordering::Acquire);
            if self.calls.load(Ordering::Acquire) == 0 && begun == before {
                return;
            }
            (limit, before) = (IDLE_TIMEOUT, begun);
        }
    }
}

/// One of them.
struct Call(Arc<Open>);

impl Call {
    fn new(open: &Arc<Open>) -> Self {
        open.calls.fetch_add(1, Ordering::AcqRel);
        open.begun.fetch_add(1, Ordering::AcqRel);
        Self(open.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer's body: the call lasts as long.
struct Held {
    body: Body,
    _call: Call,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
