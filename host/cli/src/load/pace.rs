//! When the next write is due.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Hands out the times of writes to all connections of a load: as fast as they are answered
/// (closed loop), or at a fixed rate whatever the answers (open loop).
///
/// In an open loop a write that could not be sent when it was due, since every connection
/// was waiting, is sent late, and its latency counts from when it was due: a stall of the
/// cluster is not hidden by writes that were never tried.
pub(crate) struct Pace {
    start: Instant,
    /// Nanoseconds between writes; nothing: as fast as possible.
    interval_ns: Option<u64>,
    next: AtomicU64,
    stopped: AtomicBool,
}

impl Pace {
    /// Starts now; `rate` is in writes a second.
    pub(crate) fn new(rate: Option<u64>) -> Self {
        let interval_ns = rate.map(|rate| 1_000_000_000 / rate.clamp(1, 1_000_000_000));
        Self { start: Instant::now(), interval_ns, next: AtomicU64::new(0), stopped: AtomicBool::new(false) }
    }

    /// Waits until a write is due and tells when it was; nothing after [`Pace::stop`].
    pub(crate) async fn ticket(&self) -> Option<Instant> {
        if self.is_stopped() {
            return None;
        }
        let Some(interval_ns) = self.interval_ns else { return Some(Instant::now()) };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.start + Duration::from_nanos(interval_ns.saturating_mul(number));
        if due > Instant::now() {
            sleep_until(due).await;
        }
        if self.is_stopped() { None } else { Some(due) }
    }

    /// The time of a write that is due already, if there is one.
    pub(crate) fn due_ticket(&self) -> Option<Instant> {
        if self.is_stopped() {
            return None;
        }
        let now = Instant::now();
        let Some(interval_ns) = self.interval_ns else { return Some(now) };
        let due = |number: u64| self.start + Duration::from_nanos(interval_ns.saturating_mul(number));
        let next = |number: u64| (due(number) <= now).then_some(number + 1);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok().map(due)
    }

    /// No further tickets.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether it was stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// Numbers that look random (xorshift); the same seed gives the same ones.
pub(crate) struct Random(u64);

impl Random {
    /// Any seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_open_loop_counts_from_its_start() {
        let start = Instant::now();
        let pace = Pace { start, ..Pace::new(Some(1_000_000)) };
        for number in 0..5 {
            let due = pace.ticket().await.expect("not stopped");
            assert_eq!((due - start).as_micros(), number, "however late it is handed out");
        }
        let ahead = Pace { start: start + Duration::from_secs(3600), ..Pace::new(Some(1)) };
        assert!(ahead.due_ticket().is_none(), "nothing is due yet");
        assert_eq!((pace.due_ticket().expect("due") - start).as_micros(), 5);
        pace.stop();
        assert!(pace.ticket().await.is_none() && pace.due_ticket().is_none());
    }

    #[test]
    fn numbers_differ_and_stay_below_their_bound() {
        let mut random = Random::new(1);
        let numbers: std::collections::BTreeSet<u64> = (0..1000).map(|_| random.below(50)).collect();
        assert_eq!((numbers.len(), numbers.last()), (50, Some(&49)));
    }
}
