//! Authenticated QUIC between nodes: who may talk, in which streams, within which limits.
//!
//! The shell around sockets and clocks; nothing here understands a frame. A peer **is** its
//! ed25519 key: a connection exists only between two keys that list each other
//! ([`Network::set_peers`]), both roles checked during the handshake.
//!
//! # Why raw public keys and not self-signed certificates
//! The committee already says which keys count, so a certificate would add nothing but
//! bytes to distrust: names, dates, extensions and a DER parser that runs before anybody is
//! authenticated, and expiry that stops a healthy network on a day nobody remembers. With
//! raw public keys (RFC 7250) the whole "certificate" is 44 bytes of which 12 are constant,
//! compared as bytes; key and identity cannot differ.
//!
//! # The protocol, `moult/2`
//! * TLS 1.3 only, ALPN `moult/2`, mutual authentication by raw ed25519 keys. No resumption,
//!   no 0-RTT, no tokens across connections: a key taken off the list is out at once.
//! * Each side opens three unidirectional streams, one a [`Class`]; the first two bytes are
//!   the class and the version, then frames follow: a big-endian `u32` length and as many
//!   bytes. Streams live as long as the connection.
//! * Anything else (a fourth stream, a class twice, an unknown version, an empty or too
//!   long frame, a frame that does not make progress) closes the connection with a
//!   [`CloseCode`] that names it.
//! * Frames of one class arrive in order while a connection lives. Between connections
//!   frames may be lost; none is delivered twice. The protocol above sends again.
//!
//! # One connection a pair
//! The smaller key dials; the larger one dials too if nothing came for a while. Of two
//! connections the one dialled by the smaller key stays, unless the other is younger by
//! more than [`NetLimits::settle_ms`]: then whoever dialled it has lost the old one, as
//! after a restart. Of two with the same dialler the younger stays. Both ends come to the
//! same choice.

mod accept;
mod class;
mod contest;
mod dial;
mod error;
mod frame;
mod identity;
mod limits;
mod link;
mod network;
mod peers;
mod queue;
mod quic;
mod reader;
mod stats;
mod tls;
mod writer;

/// What reads a peer's bytes before anything is known of them; for fuzzing.
pub mod decoders {
    pub use crate::frame::{FrameDecoder, FrameError, stream_class};
    pub use crate::identity::{key_of_spki, spki_of};
}

pub use class::{Class, PerClass};
pub use error::{CloseCode, DownReason, NetError};
pub use limits::NetLimits;
pub use network::{BoxFuture, Handler, NetConfig, Network, PeerEvent, PeerInfo, SendOutcome};
pub use stats::StatsSnapshot;

/// What both ends must name in the handshake.
pub const ALPN: &[u8] = b"moult/2";

/// Version of the framing, the second byte of each stream.
pub const STREAM_VERSION: u8 = 1;
