use std::fmt;

use quinn::VarInt;
use thiserror::Error;

/// Why the network did not start.
#[derive(Debug, Error)]
pub enum NetError {
    /// The address could not be bound, or the socket could not be set up.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// As configured.
        address: std::net::SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A limit is out of range; nothing was started.
    #[error("limit {name} is {value}: {reason}")]
    Limit {
        /// Field of [`crate::NetLimits`].
        name: &'static str,
        /// Its value.
        value: u64,
        /// What it has to be.
        reason: &'static str,
    },
    /// The TLS library refused the configuration: a mistake in this crate.
    #[error("TLS setup failed: {0}")]
    Tls(String),
    /// Not called from inside a tokio runtime.
    #[error("the network needs a tokio runtime with time and I/O")]
    NoRuntime,
    /// The operating system has no randomness to give.
    #[error("no randomness: {0}")]
    Randomness(String),
}

/// The code with which a connection is closed, as it goes over the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum CloseCode {
    /// The node stops.
    Shutdown = 0,
    /// The key is no longer listed.
    Removed = 1,
    /// Another connection between the same keys took over, or was there first.
    Replaced = 2,
    /// A stream began with an unknown class or version.
    BadStreamHeader = 3,
    /// More streams than classes, or a class twice.
    TooManyStreams = 4,
    /// A frame is longer than its class allows.
    FrameTooLong = 5,
    /// A frame of zero bytes.
    FrameEmpty = 6,
    /// A stream ended inside a frame, or was reset.
    StreamBroken = 7,
    /// A frame or the opening of streams made no progress for too long.
    Stalled = 8,
    /// The layer above reported the peer; it is held off for a while.
    Penalized = 9,
    /// The key is not listed, or held off; noticed after the handshake.
    NotAllowed = 10,
    /// A stream was ended in order; nothing more will come.
    StreamEnded = 11,
    /// The closing node has a defect: its handler panicked.
    Internal = 12,
}

impl CloseCode {
    const ALL: [Self; 13] = [
        Self::Shutdown,
        Self::Removed,
        Self::Replaced,
        Self::BadStreamHeader,
        Self::TooManyStreams,
        Self::FrameTooLong,
        Self::FrameEmpty,
        Self::StreamBroken,
        Self::Stalled,
        Self::Penalized,
        Self::NotAllowed,
        Self::StreamEnded,
        Self::Internal,
    ];

    /// The code of a number from the wire.
    pub fn from_wire(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|c| u64::from(*c as u8) == code)
    }

    /// Whether the peer broke the rules of the transport.
    pub fn is_violation(self) -> bool {
        matches!(
            self,
            Self::BadStreamHeader
                | Self::TooManyStreams
                | Self::FrameTooLong
                | Self::FrameEmpty
                | Self::StreamBroken
                | Self::Stalled
        )
    }
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(u32::from(code as u8))
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shutdown => "shutdown",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::BadStreamHeader => "bad stream header",
            Self::TooManyStreams => "too many streams",
            Self::FrameTooLong => "frame too long",
            Self::FrameEmpty => "frame empty",
            Self::StreamBroken => "stream broken",
            Self::Stalled => "stalled",
            Self::Penalized => "penalized",
            Self::NotAllowed => "not allowed",
            Self::StreamEnded => "stream ended",
            Self::Internal => "internal",
        })
    }
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DownReason {
    /// This node closed it.
    #[error("closed here: {code}: {detail}")]
    Closed {
        /// With this code.
        code: CloseCode,
        /// For a person.
        detail: String,
    },
    /// The peer closed it.
    #[error("closed by the peer: {code:?}: {detail}")]
    ClosedByPeer {
        /// `None` for a code this version does not know.
        code: Option<CloseCode>,
        /// What the peer says, shortened; not to be trusted.
        detail: String,
    },
    /// Nothing came for the idle timeout.
    #[error("timed out")]
    TimedOut,
    /// The peer has forgotten the connection: it was restarted.
    #[error("the peer was restarted")]
    Restarted,
    /// The peer or the path broke the QUIC protocol, or its TLS refused this node.
    #[error("transport failed: {0}")]
    Transport(String),
}

impl DownReason {
    pub(crate) fn from_quinn(error: &quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match error {
            E::ApplicationClosed(close) => Self::ClosedByPeer {
                code: CloseCode::from_wire(close.error_code.into_inner()),
                detail: String::from_utf8_lossy(&close.reason).chars().take(200).collect(),
            },
            E::TimedOut => Self::TimedOut,
            E::Reset => Self::Restarted,
            other => Self::Transport(other.to_string().chars().take(400).collect()),
        }
    }
}
