//! What is read before and right after the handshake: a peer's raw public key, the two bytes
//! that open a stream, and the frames behind them.

use bytes::Bytes;
use moult_net::Class;
use moult_net::decoders::{FrameDecoder, key_of_spki, spki_of, stream_class};

use crate::input::Input;
use crate::memory::peak_bytes;
use crate::sample;

/// Longest frame of the decoder under test: far above what an input can hold.
const FRAME_BYTES_MAX: usize = 1 << 24;
/// What the decoder may hold on the word of a length alone, with what the test itself takes.
const BYTES_FREE: usize = 80 << 10;

/// First byte: what is read. The rest: the bytes of a key, or how a stream is cut and the stream.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        return key(input.rest());
    }
    let (cut, long) = (1 + input.below(64), input.flag());
    stream(input.rest(), cut, if long { FRAME_BYTES_MAX } else { 1 + cut });
}

fn key(der: &[u8]) {
    match key_of_spki(der) {
        Some(key) => assert_eq!(spki_of(&key), der, "two encodings of one key"),
        None => assert!(der.len() != 44 || !der.starts_with(&spki_of(&sample::member(0).key)[..12])),
    }
}

/// Frames do not depend on how the network cuts the stream, and no length is believed.
fn stream(bytes: &[u8], cut: usize, frame_bytes_max: usize) {
    let Some((header, bytes)) = bytes.split_first_chunk::<2>() else { return };
    let class = stream_class(*header);
    let known = Class::ALL.iter().find(|class| **class as u8 == header[0] && header[1] == 1);
    assert_eq!(class.ok(), known.copied());

    let (whole, held) = peak_bytes(|| frames(bytes, bytes.len().max(1), frame_bytes_max));
    assert!(held <= BYTES_FREE + 24 * bytes.len(), "{held} bytes held for {}", bytes.len());
    assert_eq!(frames(bytes, cut, frame_bytes_max), whole, "in pieces of {cut} bytes");
    // What was taken for frames is the stream itself.
    let mut again = Vec::new();
    for frame in &whole.0 {
        assert!(!frame.is_empty() && frame.len() <= frame_bytes_max);
        again.extend_from_slice(&u32::try_from(frame.len()).expect("bounded").to_be_bytes());
        again.extend_from_slice(frame);
    }
    assert!(bytes.starts_with(&again));
    let left = &bytes[again.len()..];
    match &whole.1 {
        Ok(is_inside) => {
            assert_eq!(*is_inside, !left.is_empty());
            let length = left.first_chunk().map(|prefix| u32::from_be_bytes(*prefix) as usize);
            assert!(length.is_none_or(|length| left.len() - 4 < length && length <= frame_bytes_max));
        }
        Err(_) => {
            let length = u32::from_be_bytes(*left.first_chunk().expect("a whole prefix")) as usize;
            assert!(length == 0 || length > frame_bytes_max);
        }
    }
}

/// All frames, and whether another one has begun or why the stream is refused.
fn frames(bytes: &[u8], cut: usize, frame_bytes_max: usize) -> (Vec<Bytes>, Result<bool, String>) {
    let mut decoder = FrameDecoder::new(frame_bytes_max);
    let mut frames = Vec::new();
    for chunk in bytes.chunks(cut) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        while !chunk.is_empty() {
            match decoder.feed(&mut chunk) {
                Ok(frame) => frames.extend(frame),
                Err(error) => return (frames, Err(error.to_string())),
            }
        }
    }
    assert_eq!(decoder.consumed(), bytes.len() as u64);
    let is_inside = decoder.is_inside_frame();
    (frames, Ok(is_inside))
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![[vec![1], spki_of(&sample::member(0).key)].concat(), vec![1, 0x30, 0x2a]];
    for class in Class::ALL {
        for (cut, long) in [(0, 1), (3, 1), (9, 0)] {
            let mut stream = vec![0, cut, long, class as u8, 1];
            for frame in [b"a".as_slice(), b"four", b"a longer one of twenty"] {
                stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
                stream.extend_from_slice(frame);
            }
            seeds.push(stream.clone());
            stream.extend_from_slice(&[0, 1, 0, 0, 7]);
            seeds.push(stream);
        }
    }
    seeds.push(vec![0, 0, 1, 1, 1, 0, 0, 0, 0]);
    seeds.push(vec![0, 0, 1, 1, 1, 255, 255, 255, 255, 1]);
    seeds.push(vec![0, 0, 1, 4, 1, 0, 0, 0, 1, 1]);
    seeds.push(vec![0, 0, 1, 1, 2, 0, 0, 0, 1, 1]);
    seeds
}
