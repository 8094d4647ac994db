use std::time::Duration;

use crate::class::{Class, PerClass};
use crate::error::NetError;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Every bound of the transport. Sizes in bytes, times in milliseconds.
///
/// # Worst-case memory
/// A peer that does its worst costs at most [`Self::memory_per_peer_bytes_max`]:
///
/// ```text
/// receiving: 3 x stream_window + sum(2 x frame_bytes_max + 64 KiB) + 3 x READ_AHEAD_MAX
/// sending:   3 x stream_window + sum(queue_bytes_max) + 3 x WRITE_BATCH_MAX
/// ```
///
/// with frames held by the handler on top (one a class, because the next one is read only
/// when the handler has returned). Frames in queues are shared between peers where the same
/// [`bytes::Bytes`] goes to several. Whoever is not authenticated costs at most
/// `handshakes_max` handshakes of about 100 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetLimits {
    /// Longest frame; checked when sending and, before anything is allocated, when
    /// receiving. Must be the same on all nodes.
    pub frame_bytes_max: PerClass<usize>,
    /// Frames that wait for one peer.
    pub queue_frames_max: PerClass<usize>,
    /// Bytes that wait for one peer; at least one longest frame.
    pub queue_bytes_max: PerClass<usize>,
    /// Handshakes others may have in progress with this node; more are ignored (the dialler
    /// sends its packet again by itself).
    pub handshakes_max: usize,
    /// Of these, by one IP address.
    pub handshakes_per_ip_max: usize,
    /// From so many handshakes in progress on, an unproven source address is first sent
    /// back (QUIC retry) to prove itself.
    pub handshakes_before_retry: usize,
    /// A handshake with the opening of streams takes at most this.
    pub handshake_timeout_ms: u64,
    /// A connection that heard nothing for this long is dead.
    pub idle_timeout_ms: u64,
    /// A silent connection is pinged so often; well below half the idle timeout.
    pub keep_alive_ms: u64,
    /// What a peer may send in one stream before this node has read it: rate times round
    /// trip, 4 MiB carry 800 Mbit/s at 40 ms. A connection has three times this, so that a
    /// class whose handler blocks cannot use up the share of the others.
    pub stream_window_bytes: usize,
    /// Streams a peer may have open: the three classes and at least one more, so that
    /// whoever opens more is closed by name instead of left waiting.
    pub streams_max: u32,
    /// A frame that has begun must gain `frame_progress_bytes_min` in each such span.
    pub frame_stall_ms: u64,
    /// See `frame_stall_ms`. With 10 s and 4 KiB the slowest peer tolerated sends 400
    /// bytes a second in the class.
    pub frame_progress_bytes_min: usize,
    /// First reconnect delay is random up to this; each further one up to twice as much.
    pub backoff_min_ms: u64,
    /// The delay grows no further than this.
    pub backoff_max_ms: u64,
    /// A connection that lived this long resets the delay.
    pub stable_ms: u64,
    /// How long the larger key waits to be dialled before it dials itself.
    pub dial_fallback_ms: u64,
    /// See the crate's page: a connection younger by this much is no race but a new start.
    pub settle_ms: u64,
    /// First hold-off of [`crate::Network::penalize`]; doubled each time.
    pub penalty_min_ms: u64,
    /// The hold-off grows no further than this.
    pub penalty_max_ms: u64,
    /// Without a penalty for this long the next one is a first one again.
    pub penalty_memory_ms: u64,
    /// A key that goes back to an address it left within this span is at two places.
    pub duplicate_window_ms: u64,
    /// Shutdown waits this long for queues to drain, and again for the goodbye.
    pub flush_timeout_ms: u64,
    /// Largest UDP payload searched for, from 1200; 1452 fits Ethernet with IPv4 and IPv6.
    pub mtu_max: u16,
    /// The same between two nodes of one machine, used from the first packet on: fewer
    /// packets, half the processor time.
    pub mtu_loopback_max: u16,
    /// Send and receive buffer asked of the operating system, which may give less.
    pub socket_buffer_bytes: usize,
    /// Assumed round trip until one is measured; governs the first retransmission.
    pub initial_rtt_ms: u64,
    /// What a new connection sends before the first acknowledgement.
    pub initial_congestion_window_bytes: u64,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            frame_bytes_max: PerClass { consensus: 5 * MIB, batches: 8 * MIB, sync: 16 * MIB },
            queue_frames_max: PerClass { consensus: 8192, batches: 1024, sync: 256 },
            queue_bytes_max: PerClass { consensus: 16 * MIB, batches: 32 * MIB, sync: 32 * MIB },
            handshakes_max: 128,
            handshakes_per_ip_max: 64,
            handshakes_before_retry: 32,
            handshake_timeout_ms: 5_000,
            idle_timeout_ms: 5_000,
            keep_alive_ms: 1_000,
            stream_window_bytes: 4 * MIB,
            streams_max: 8,
            frame_stall_ms: 10_000,
            frame_progress_bytes_min: 4 * KIB,
            backoff_min_ms: 50,
            backoff_max_ms: 5_000,
            stable_ms: 10_000,
            dial_fallback_ms: 1_000,
            settle_ms: 5_000,
            penalty_min_ms: 1_000,
            penalty_max_ms: 60_000,
            penalty_memory_ms: 600_000,
            duplicate_window_ms: 30_000,
            flush_timeout_ms: 1_000,
            mtu_max: 1452,
            mtu_loopback_max: 4096,
            socket_buffer_bytes: 4 * MIB,
            initial_rtt_ms: 100,
            initial_congestion_window_bytes: 128 * KIB as u64,
        }
    }
}

impl NetLimits {
    /// The formula of the type's page.
    pub fn memory_per_peer_bytes_max(&self) -> usize {
        let classes = Class::ALL.len();
        let windows = classes.saturating_mul(self.stream_window_bytes).saturating_mul(2);
        let assembling = self.frame_bytes_max.sum().saturating_mul(2).saturating_add(classes * 64 * KIB);
        let moving = classes * (READ_AHEAD_MAX + WRITE_BATCH_MAX);
        windows.saturating_add(assembling).saturating_add(self.queue_bytes_max.sum()).saturating_add(moving)
    }

    pub(crate) fn check(&self) -> Result<(), NetError> {
        let require = |holds: bool, name, value: u64, reason| {
            if holds { Ok(()) } else { Err(NetError::Limit { name, value, reason }) }
        };
        for class in Class::ALL {
            let frame = *self.frame_bytes_max.of(class);
            let queue = *self.queue_bytes_max.of(class);
            let frames = *self.queue_frames_max.of(class);
            let fits = frame >= 1 && u32::try_from(frame).is_ok();
            require(fits, "frame_bytes_max", frame as u64, "must be 1..=4294967295")?;
            require(queue >= frame, "queue_bytes_max", queue as u64, "must hold the longest frame")?;
            require(frames >= 1, "queue_frames_max", frames as u64, "must be at least 1")?;
        }
        let handshakes = self.handshakes_max as u64;
        require(handshakes >= 1, "handshakes_max", handshakes, "must be at least 1")?;
        let per_ip = self.handshakes_per_ip_max as u64;
        require(per_ip >= 1, "handshakes_per_ip_max", per_ip, "must be at least 1")?;
        let window = self.stream_window_bytes as u64;
        let in_range = (16 * KIB as u64..=1 << 30).contains(&window);
        require(in_range, "stream_window_bytes", window, "must be 16 KiB..=1 GiB")?;
        let streams = u64::from(self.streams_max);
        require((4..=64).contains(&streams), "streams_max", streams, "must be 4..=64")?;
        let idle = self.idle_timeout_ms;
        require((1..=600_000).contains(&idle), "idle_timeout_ms", idle, "must be 1..=600000")?;
        let keep = self.keep_alive_ms;
        require(keep >= 1 && keep <= idle / 2, "keep_alive_ms", keep, "must be 1..=idle_timeout_ms/2")?;
        let handshake = self.handshake_timeout_ms;
        require(handshake >= 1, "handshake_timeout_ms", handshake, "must be at least 1")?;
        require(self.frame_stall_ms >= 1, "frame_stall_ms", self.frame_stall_ms, "must be at least 1")?;
        let backoff = self.backoff_min_ms;
        let ordered = backoff >= 1 && backoff <= self.backoff_max_ms;
        require(ordered, "backoff_min_ms", backoff, "must be 1..=backoff_max_ms")?;
        for (name, mtu) in [("mtu_max", self.mtu_max), ("mtu_loopback_max", self.mtu_loopback_max)] {
            require((1200..=MTU_MAX).contains(&mtu), name, u64::from(mtu), "must be 1200..=6500")?;
        }
        Ok(())
    }

    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    pub(crate) fn flush_timeout(&self) -> Duration {
        Duration::from_millis(self.flush_timeout_ms)
    }
}

/// quinn hands up to ten packets to the kernel in one call, which takes 65 535 bytes; longer
/// ones it would drop in silence.
const MTU_MAX: u16 = 6_500;

/// Bytes one reader takes out of QUIC at a time: chunks times the largest datagram.
pub(crate) const READ_AHEAD_MAX: usize = 16 * 64 * KIB;

/// Bytes one writer takes out of its queue at a time, one frame beyond not counted.
pub(crate) const WRITE_BATCH_MAX: usize = 256 * KIB;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_a_peer_costs_less_than_192_mib() {
        let limits = NetLimits::default();
        limits.check().expect("defaults");
        assert!(limits.memory_per_peer_bytes_max() < 192 * MIB, "{}", limits.memory_per_peer_bytes_max());
    }

    #[test]
    fn a_queue_that_cannot_hold_a_frame_is_refused_by_name() {
        let mut limits = NetLimits::default();
        limits.queue_bytes_max.batches = 1;
        let error = limits.check().expect_err("too small");
        assert_eq!(error.to_string(), "limit queue_bytes_max is 1: must hold the longest frame");
    }
}
