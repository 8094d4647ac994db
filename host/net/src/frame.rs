//! The framing as a pure state machine: bytes in, frames out; and what opens a stream.

use bytes::{Buf as _, Bytes};
use thiserror::Error;

use crate::STREAM_VERSION;
use crate::class::Class;
use crate::error::CloseCode;

/// Length of the prefix.
pub(crate) const PREFIX_BYTES: usize = 4;

/// How much is allocated on the word of a length prefix alone.
const FIRST_ALLOCATION_BYTES_MAX: usize = 64 * 1024;

/// What a peer did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    /// Longer than its class allows.
    #[error("frame of {bytes} bytes, {bytes_max} are allowed")]
    TooLong {
        /// As its prefix says.
        bytes: u32,
        /// The limit.
        bytes_max: usize,
    },
    /// There is no frame without content.
    #[error("frame of zero bytes")]
    Empty,
}

impl FrameError {
    pub(crate) fn code(self) -> CloseCode {
        match self {
            Self::TooLong { .. } => CloseCode::FrameTooLong,
            Self::Empty => CloseCode::FrameEmpty,
        }
    }
}

/// The class of a stream that begins with these two bytes.
///
/// # Errors
/// What is wrong with them, for the one who sent them.
pub fn stream_class([class, version]: [u8; 2]) -> Result<Class, String> {
    let class = Class::from_wire(class).ok_or_else(|| format!("unknown class {class}"))?;
    if version != STREAM_VERSION {
        return Err(format!("version {version}, {STREAM_VERSION} is known"));
    }
    Ok(class)
}

/// Cuts a stream into frames.
///
/// Never holds more than twice what it has received plus 64 KiB, whatever a prefix says,
/// and never a reference to a chunk: a small frame does not keep a large datagram alive.
#[derive(Debug)]
pub struct FrameDecoder {
    bytes_max: usize,
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    body: Vec<u8>,
    body_len: usize,
    consumed: u64,
}

impl FrameDecoder {
    /// For frames of at most so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, prefix: [0; 4], prefix_filled: 0, body: Vec::new(), body_len: 0, consumed: 0 }
    }

    /// Takes bytes from the front of `chunk` until a frame is complete or it is empty.
    ///
    /// # Errors
    /// What the peer did wrong; nothing of the stream is to be read any more.
    pub fn feed(&mut self, chunk: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        if self.prefix_filled < PREFIX_BYTES {
            let take = chunk.len().min(PREFIX_BYTES - self.prefix_filled);
            chunk.copy_to_slice(&mut self.prefix[self.prefix_filled..self.prefix_filled + take]);
            self.prefix_filled += take;
            self.consumed += take as u64;
            if self.prefix_filled < PREFIX_BYTES {
                return Ok(None);
            }
            let bytes = u32::from_be_bytes(self.prefix);
            self.body_len = usize::try_from(bytes).unwrap_or(usize::MAX);
            if bytes == 0 {
                return Err(FrameError::Empty);
            }
            if self.body_len > self.bytes_max {
                return Err(FrameError::TooLong { bytes, bytes_max: self.bytes_max });
            }
        }
        let take = chunk.len().min(self.body_len - self.body.len());
        self.make_room(take);
        self.body.extend_from_slice(&chunk[..take]);
        chunk.advance(take);
        self.consumed += take as u64;
        if self.body.len() < self.body_len {
            return Ok(None);
        }
        self.prefix_filled = 0;
        Ok(Some(Bytes::from(std::mem::take(&mut self.body))))
    }

    /// Whether a frame has begun and is not complete.
    pub fn is_inside_frame(&self) -> bool {
        self.prefix_filled > 0
    }

    /// Bytes taken since the beginning.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    fn make_room(&mut self, take: usize) {
        if self.body.capacity() - self.body.len() < take {
            let growth = take.max(self.body.len()).max(FIRST_ALLOCATION_BYTES_MAX);
            self.body.reserve_exact(growth.min(self.body_len - self.body.len()));
        }
    }
}

/// The length prefix of a frame; senders check the length first.
pub(crate) fn prefix_of(frame: &Bytes) -> [u8; PREFIX_BYTES] {
    u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(frames: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in frames {
            let frame = Bytes::copy_from_slice(frame);
            out.extend_from_slice(&prefix_of(&frame));
            out.extend_from_slice(&frame);
        }
        out
    }

    fn decode(bytes: &[u8], chunk_len: usize, bytes_max: usize) -> Result<Vec<Bytes>, FrameError> {
        let mut decoder = FrameDecoder::new(bytes_max);
        let mut frames = Vec::new();
        for chunk in bytes.chunks(chunk_len) {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while !chunk.is_empty() {
                frames.extend(decoder.feed(&mut chunk)?);
            }
        }
        assert!(!decoder.is_inside_frame());
        assert_eq!(decoder.consumed(), bytes.len() as u64);
        Ok(frames)
    }

    #[test]
    fn frames_do_not_depend_on_how_the_stream_is_cut() {
        let long = vec![7; 200_000];
        let frames: [&[u8]; 4] = [b"a", &long, b"bc", &long[..70_000]];
        let bytes = wire(&frames);
        for chunk_len in [1, 3, 4, 5, 1200, 65_536, bytes.len()] {
            assert_eq!(decode(&bytes, chunk_len, 200_000).expect("valid"), frames, "chunks of {chunk_len}");
        }
    }

    #[test]
    fn lengths_of_zero_and_beyond_the_limit_are_refused_from_the_prefix_alone() {
        assert_eq!(decode(&[0, 0, 0, 0], 4, 10), Err(FrameError::Empty));
        assert_eq!(decode(&[0, 0, 0, 11], 1, 10), Err(FrameError::TooLong { bytes: 11, bytes_max: 10 }));
        let huge = FrameError::TooLong { bytes: u32::MAX, bytes_max: 10 };
        assert_eq!(decode(&[255; 4], 4, 10), Err(huge));
    }

    #[test]
    fn a_long_prefix_alone_allocates_64_kib_at_most() {
        let mut decoder = FrameDecoder::new(1 << 24);
        let mut chunk = Bytes::from_static(&[1, 0, 0, 0, 9]);
        assert_eq!(decoder.feed(&mut chunk), Ok(None));
        assert_eq!(decoder.body.capacity(), FIRST_ALLOCATION_BYTES_MAX);
        assert!(decoder.is_inside_frame());
    }
}
