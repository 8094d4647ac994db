//! From a queue into a stream.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use quinn::WriteError;

use crate::STREAM_VERSION;
use crate::class::Class;
use crate::error::CloseCode;
use crate::frame::{PREFIX_BYTES, prefix_of};
use crate::limits::WRITE_BATCH_MAX;
use crate::link::Link;
use crate::network::Shared;

/// Frames up to this size are copied behind their prefix, larger ones are passed on.
const COPIED_BYTES_MAX: usize = 4096;

/// Writes one class's frames until the queue is closed and empty, then ends the stream.
pub(crate) async fn run(shared: Arc<Shared>, link: Arc<Link>, class: Class) {
    match write_all(&shared, &link, class).await {
        Ok(()) => link.writers.send_modify(|n| *n = n.saturating_sub(1)),
        Err(WriteError::ConnectionLost(_)) => {}
        // The peer stopped our stream: it takes no part any more.
        Err(error) => link.close(CloseCode::StreamEnded, format!("{} stream: {error}", class.name())),
    }
}

async fn write_all(shared: &Shared, link: &Link, class: Class) -> Result<(), WriteError> {
    let mut stream = link.connection.open_uni().await?;
    // Fails only for a stream that is closed, which the first write reports.
    let _ = stream.set_priority(class.priority());
    stream.write_all(&[class as u8, STREAM_VERSION]).await?;

    let (mut frames, mut chunks) = (Vec::new(), Vec::new());
    while link.queues.of(class).pop(&mut frames, WRITE_BATCH_MAX).await {
        let (count, bytes) = (frames.len() as u64, frames.iter().map(Bytes::len).sum());
        encode(frames.drain(..), &mut chunks);
        stream.write_all_chunks(&mut chunks).await?;
        chunks.clear();
        shared.stats.sent(class, count, bytes);
    }
    // Already ended or stopped: nothing left to say.
    let _ = stream.finish();
    let _ = stream.stopped().await;
    Ok(())
}

/// Prefixes and small frames side by side in one buffer, large frames as they are.
fn encode(frames: impl Iterator<Item = Bytes>, chunks: &mut Vec<Bytes>) {
    let mut buffer = BytesMut::new();
    for frame in frames {
        buffer.reserve(PREFIX_BYTES + if frame.len() <= COPIED_BYTES_MAX { frame.len() } else { 0 });
        buffer.put_slice(&prefix_of(&frame));
        if frame.len() <= COPIED_BYTES_MAX {
            buffer.put_slice(&frame);
        } else {
            chunks.push(buffer.split().freeze());
            chunks.push(frame);
        }
    }
    if !buffer.is_empty() {
        chunks.push(buffer.freeze());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameDecoder;

    #[test]
    fn what_is_encoded_is_decoded() {
        let frames: Vec<_> =
            [1, 4096, 4097, 3, 3, 100_000].map(|len| Bytes::from(vec![len as u8; len])).into();
        let mut chunks = Vec::new();
        encode(frames.clone().into_iter(), &mut chunks);
        let mut stream = Bytes::from(chunks.concat());
        let mut decoder = FrameDecoder::new(100_000);
        let mut decoded = Vec::new();
        while !stream.is_empty() {
            decoded.extend(decoder.feed(&mut stream).expect("valid"));
        }
        assert_eq!(decoded, frames);
    }
}
