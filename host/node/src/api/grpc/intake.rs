//! What a call's message may take of time and memory while it is read.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use super::super::app::App;
use super::super::body;
use super::super::error::ApiError;
use super::status;

/// Bounds the message of a call that is no stream as HTTP bounds a body.
pub(super) fn bounded(app: &App, request: Request<Incoming>) -> Request<Bounded> {
    request.map(|inner| {
        let now = Instant::now();
        Bounded { inner, app: app.clone(), length: 0, share: None, end: now + body::TIME_MAX, pause: None }
    })
}

pub(super) struct Bounded {
    inner: Incoming,
    app: App,
    length: usize,
    /// Of the budget of all bodies, as long as the call is read.
    share: Option<OwnedSemaphorePermit>,
    end: Instant,
    /// Set where something has to be waited for: most messages are there with their call.
    pause: Option<Pin<Box<Sleep>>>,
}

impl hyper::body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.length += frame.data_ref().map_or(0, Bytes::len);
                if let Err(e) = body::reserve(&this.app, &mut this.share, this.length) {
                    return Poll::Ready(Some(Err(status::of(&e))));
                }
                this.pause = None;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                let e = ApiError::bad_request(format!("the message broke off: {e}"));
                Poll::Ready(Some(Err(status::of(&e))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let end = this.end;
                let until = || Box::pin(sleep_until(end.min(Instant::now() + body::PAUSE_MAX)));
                let pause = this.pause.get_or_insert_with(until);
                pause.as_mut().poll(context).map(|()| {
                    let text = "the message did not arrive in time";
                    Some(Err(status::of(&ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow", text))))
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
