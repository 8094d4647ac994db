//! From streams to the handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ReadError, ReadExactError, RecvStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::class::Class;
use crate::error::CloseCode;
use crate::frame::{FrameDecoder, stream_class};
use crate::link::Link;
use crate::network::Shared;

/// Why a stream is not read any further, and the connection with it.
struct Violation(CloseCode, String);

/// The reading half of a connection.
#[derive(Clone)]
pub(crate) struct Readers {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// One bit a class that has its stream.
    claimed: Arc<AtomicU8>,
}

impl Readers {
    pub(crate) fn new(shared: &Arc<Shared>, link: &Arc<Link>) -> Self {
        Self { shared: Arc::clone(shared), link: Arc::clone(link), claimed: Arc::default() }
    }

    /// Reads until the connection is closed, and closes it if the peer breaks a rule. When
    /// this is done, the handler is not called any more.
    pub(crate) async fn run(self, first: Option<RecvStream>) {
        let mut tasks = JoinSet::new();
        if let Err(Violation(code, detail)) = self.accept(&mut tasks, first).await {
            self.link.close(code, detail);
        }
        // Stops a handler that waits, and waits for one that does not.
        tasks.shutdown().await;
    }

    /// Accepts the peer's streams, one a class within the handshake timeout, and no more.
    async fn accept(&self, tasks: &mut JoinSet<()>, first: Option<RecvStream>) -> Result<(), Violation> {
        let mut opened = 0;
        if let Some(stream) = first {
            opened = 1;
            tasks.spawn(self.clone().guard(stream));
        }
        let deadline = Instant::now() + self.shared.limits.handshake_timeout();
        loop {
            let accept = self.link.connection.accept_uni();
            let accepted = if opened < Class::ALL.len() {
                let late = |_| Violation(CloseCode::Stalled, "streams were not opened in time".into());
                timeout_at(deadline, accept).await.map_err(late)?
            } else {
                accept.await
            };
            // An error means that the connection is closed.
            let Ok(stream) = accepted else { return Ok(()) };
            opened += 1;
            if opened > Class::ALL.len() {
                return Err(Violation(CloseCode::TooManyStreams, "more streams than classes".into()));
            }
            tasks.spawn(self.clone().guard(stream));
        }
    }

    async fn guard(self, stream: RecvStream) {
        let _on_panic = CloseOnPanic(Arc::clone(&self.link));
        if let Err(Violation(code, detail)) = self.read(stream).await {
            self.link.close(code, detail);
        }
    }

    async fn read(&self, mut stream: RecvStream) -> Result<(), Violation> {
        let Some(class) = self.read_header(&mut stream).await? else { return Ok(()) };
        let limits = &self.shared.limits;
        let stall = Duration::from_millis(limits.frame_stall_ms);
        let mut decoder = FrameDecoder::new(*limits.frame_bytes_max.of(class));
        let mut chunks: [Bytes; CHUNKS] = Default::default();
        // Where the present span of a frame's progress ends, and what there was at its begin.
        let mut span = (Instant::now() + stall, 0);
        loop {
            let read = stream.read_chunks(&mut chunks);
            let outcome = if decoder.is_inside_frame() {
                let Ok(outcome) = timeout_at(span.0, read).await else {
                    let gained = decoder.consumed() - span.1;
                    if gained < limits.frame_progress_bytes_min as u64 {
                        let detail = format!("{} frame gained {gained} bytes in {stall:?}", class.name());
                        return Err(Violation(CloseCode::Stalled, detail));
                    }
                    span = (Instant::now() + stall, decoder.consumed());
                    continue;
                };
                outcome
            } else {
                read.await
            };
            let count = match outcome {
                Ok(Some(count)) => count,
                Ok(None) => return self.end_of_stream(class, &decoder).await,
                Err(ReadError::ConnectionLost(_)) => return Ok(()),
                Err(e) => {
                    return Err(Violation(CloseCode::StreamBroken, format!("{} stream: {e}", class.name())));
                }
            };
            let was_inside = decoder.is_inside_frame();
            let mut handed_over = false;
            for chunk in &mut chunks[..count] {
                handed_over |= self.hand_over(class, &mut decoder, chunk).await?;
            }
            if handed_over || !was_inside {
                // Whatever time the handler took is not the peer's.
                span = (Instant::now() + stall, decoder.consumed());
            }
        }
    }

    /// Gives the frames that end in `chunk` to the handler, each after the one before.
    async fn hand_over(
        &self,
        class: Class,
        decoder: &mut FrameDecoder,
        chunk: &mut Bytes,
    ) -> Result<bool, Violation> {
        let mut any = false;
        let mut rest = std::mem::take(chunk);
        while !rest.is_empty() {
            let frame = decoder.feed(&mut rest);
            let frame = frame.map_err(|e| Violation(e.code(), format!("{}: {e}", class.name())))?;
            if let Some(frame) = frame {
                any = true;
                self.shared.stats.received(class, frame.len());
                self.shared.handler.on_frame(self.link.key, class, frame).await;
            }
        }
        Ok(any)
    }

    /// The class, or `None` if the connection is gone.
    async fn read_header(&self, stream: &mut RecvStream) -> Result<Option<Class>, Violation> {
        let mut header = [0; 2];
        match timeout(self.shared.limits.handshake_timeout(), stream.read_exact(&mut header)).await {
            Ok(Ok(())) => {}
            Ok(Err(ReadExactError::FinishedEarly(_))) => {
                return Err(Violation(CloseCode::BadStreamHeader, "stream ended in its header".into()));
            }
            Ok(Err(ReadExactError::ReadError(ReadError::ConnectionLost(_)))) => return Ok(None),
            Ok(Err(ReadExactError::ReadError(e))) => {
                return Err(Violation(CloseCode::StreamBroken, e.to_string()));
            }
            Err(_) => return Err(Violation(CloseCode::Stalled, "stream header did not arrive".into())),
        }
        let class = stream_class(header).map_err(|detail| Violation(CloseCode::BadStreamHeader, detail))?;
        let bit = class as u8;
        // Class numbers are 1, 2, 3: shifted they are distinct bits.
        if self.claimed.fetch_or(1 << bit, Ordering::Relaxed) & (1 << bit) != 0 {
            return Err(Violation(CloseCode::TooManyStreams, format!("two streams of {}", class.name())));
        }
        Ok(Some(class))
    }

    /// A stream ends in order only when the peer shuts down, which closes the connection
    /// soon; if it does not, this end does.
    async fn end_of_stream(&self, class: Class, decoder: &FrameDecoder) -> Result<(), Violation> {
        if decoder.is_inside_frame() {
            let detail = format!("{} stream ended inside a frame", class.name());
            return Err(Violation(CloseCode::StreamBroken, detail));
        }
        let grace = self.shared.limits.flush_timeout() * 2;
        let _ = timeout(grace, self.link.connection.closed()).await;
        Err(Violation(CloseCode::StreamEnded, format!("{} stream ended", class.name())))
    }
}

/// A handler that panicked took its reader along; nobody would notice that the class is
/// not read any more.
struct CloseOnPanic(Arc<Link>);

impl Drop for CloseOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close(CloseCode::Internal, "handler panicked");
        }
    }
}

/// Chunks taken out of QUIC at a time.
const CHUNKS: usize = 16;
