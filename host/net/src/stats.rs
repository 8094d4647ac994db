use std::sync::atomic::{AtomicU64, Ordering};

use crate::class::{Class, PerClass};

/// What happened since the start. Counters only grow; they are read one by one, so that a
/// snapshot is not one instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatsSnapshot {
    /// Frames handed to QUIC.
    pub frames_sent: PerClass<u64>,
    /// Bytes of these frames, without length prefixes.
    pub bytes_sent: PerClass<u64>,
    /// Frames given to the handler.
    pub frames_received: PerClass<u64>,
    /// Bytes of these frames.
    pub bytes_received: PerClass<u64>,
    /// Frames that gave way or were refused because a queue was full.
    pub frames_dropped: PerClass<u64>,
    /// Connections that came up.
    pub connections_up: u64,
    /// Of these, those that were not the first one with their peer.
    pub reconnects: u64,
    /// Connections up at the moment.
    pub connections_open: u64,
    /// Attempts to dial that failed.
    pub dials_failed: u64,
    /// Handshakes refused because of the key: unlisted, held off, our own or malformed.
    pub handshakes_refused: u64,
    /// Handshakes that failed, for whatever reason, these included.
    pub handshakes_failed: u64,
    /// Attempts ignored because too many handshakes were pending.
    pub handshakes_shed: u64,
    /// Attempts sent back once to prove their address.
    pub retries_sent: u64,
    /// Connections closed because the peer broke the transport's rules.
    pub violations: u64,
    /// Calls of [`crate::Network::penalize`] that hit a listed key.
    pub penalties: u64,
    /// Connections that lost against another one between the same keys.
    pub duplicates: u64,
    /// Alarms raised for one key at two addresses.
    pub duplicate_identities: u64,
}

macro_rules! stats {
    ($($per_class:ident),*; $($plain:ident),*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            $(pub(crate) $per_class: PerClass<AtomicU64>,)*
            $(pub(crate) $plain: AtomicU64,)*
        }

        impl Stats {
            pub(crate) fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot {
                    $($per_class: PerClass::from_fn(|c| self.$per_class.of(c).load(Ordering::Relaxed)),)*
                    $($plain: self.$plain.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

stats!(
    frames_sent, bytes_sent, frames_received, bytes_received, frames_dropped;
    connections_up, reconnects, connections_open, dials_failed, handshakes_refused, handshakes_failed,
    handshakes_shed, retries_sent, violations, penalties, duplicates, duplicate_identities
);

impl Stats {
    pub(crate) fn sent(&self, class: Class, frames: u64, bytes: usize) {
        add(self.frames_sent.of(class), frames);
        add(self.bytes_sent.of(class), bytes as u64);
    }

    pub(crate) fn received(&self, class: Class, bytes: usize) {
        add(self.frames_received.of(class), 1);
        add(self.bytes_received.of(class), bytes as u64);
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub(crate) fn subtract(counter: &AtomicU64, n: u64) {
    counter.fetch_sub(n, Ordering::Relaxed);
}
