//! What is measured: latencies, and times without an acknowledged write.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

/// Shorter times between two acknowledged writes are not kept.
const GAP_US_MIN: u64 = 1_000;

/// Counts what all connections of a load see.
pub(crate) struct Recorder(Mutex<Inner>);

struct Inner {
    start: Instant,
    latency_us: Histogram<u64>,
    second_us: Histogram<u64>,
    acknowledged: u64,
    refused: u64,
    failed: u64,
    last_ack: Instant,
    gaps: Vec<Gap>,
    problems: Vec<String>,
}

/// A time without an acknowledged write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    from: Instant,
    pub(crate) us: u64,
}

/// A load, measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) seconds: f64,
    pub(crate) acknowledged: u64,
    /// Answered `overloaded`, and certainly not carried out.
    pub(crate) refused: u64,
    /// Errors and timeouts.
    pub(crate) failed: u64,
    pub(crate) writes_per_second: f64,
    pub(crate) latency_us: Latency,
    pub(crate) longest_gap_us: u64,
    /// The first few different ones.
    pub(crate) problems: Vec<String>,
}

/// Percentiles in microseconds, from when a write was due to its acknowledgement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

/// The last second.
pub(crate) struct Second {
    pub(crate) acknowledged: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl Recorder {
    /// Starts now.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Inner::new()))
    }

    /// Forgets what was measured while warming up.
    pub(crate) fn restart(&self) {
        *self.inner() = Inner::new();
    }

    /// A write that was due then is acknowledged now.
    pub(crate) fn acknowledged(&self, due: Instant) {
        self.acknowledged_at(due, Instant::now());
    }

    fn acknowledged_at(&self, due: Instant, now: Instant) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let latency = us(now.saturating_duration_since(due));
        inner.latency_us.saturating_record(latency);
        inner.second_us.saturating_record(latency);
        inner.acknowledged += 1;
        inner.end_gap(now);
    }

    /// The node had no room for it.
    pub(crate) fn refused(&self) {
        self.inner().refused += 1;
    }

    /// It failed, or what became of it is not known.
    pub(crate) fn failed(&self, problem: String) {
        let mut inner = self.inner();
        inner.failed += 1;
        if inner.problems.len() < 5 && !inner.problems.contains(&problem) {
            inner.problems.push(problem);
        }
    }

    /// The longest time without an acknowledged write that touches this span.
    pub(crate) fn longest_gap(&self, from: Instant, to: Instant) -> u64 {
        self.longest_gap_at(from, to, Instant::now())
    }

    fn longest_gap_at(&self, from: Instant, to: Instant, now: Instant) -> u64 {
        let inner = self.inner();
        let end = |gap: &Gap| gap.from + Duration::from_micros(gap.us);
        let inside = inner.gaps.iter().filter(|gap| gap.from <= to && end(gap) >= from).map(|gap| gap.us);
        // One that has not ended counts as well.
        let open = (to >= inner.last_ack).then(|| us(now.saturating_duration_since(inner.last_ack)));
        inside.chain(open).max().unwrap_or(GAP_US_MIN)
    }

    /// The last second; the next one begins.
    pub(crate) fn second(&self) -> Second {
        let mut inner = self.inner();
        let second = Second {
            acknowledged: inner.second_us.len(),
            p50_us: inner.second_us.value_at_quantile(0.5),
            p99_us: inner.second_us.value_at_quantile(0.99),
        };
        inner.second_us.reset();
        second
    }

    /// Everything until now.
    pub(crate) fn summary(&self) -> Summary {
        let end = Instant::now();
        let start = self.inner().start;
        let longest_gap_us = self.longest_gap(start, end);
        let inner = self.inner();
        let seconds = (end - start).as_secs_f64();
        let at = |quantile| inner.latency_us.value_at_quantile(quantile);
        Summary {
            seconds,
            acknowledged: inner.acknowledged,
            refused: inner.refused,
            failed: inner.failed,
            writes_per_second: inner.acknowledged as f64 / seconds.max(1e-9),
            latency_us: Latency {
                mean: inner.latency_us.mean() as u64,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: inner.latency_us.max(),
            },
            longest_gap_us,
            problems: inner.problems.clone(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Counters stay usable whatever happened to another holder.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            latency_us: histogram(),
            second_us: histogram(),
            acknowledged: 0,
            refused: 0,
            failed: 0,
            last_ack: now,
            gaps: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn end_gap(&mut self, now: Instant) {
        let gap = us(now.saturating_duration_since(self.last_ack));
        if gap >= GAP_US_MIN {
            self.gaps.push(Gap { from: self.last_ack, us: gap });
        }
        self.last_ack = now;
    }
}

/// Up to two minutes, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are in order")
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_where_they_are() {
        let recorder = Recorder::new();
        let start = recorder.inner().start;
        let at = |ms| start + Duration::from_millis(ms);
        for ms in [10, 20, 320, 330] {
            recorder.acknowledged_at(at(ms - 5), at(ms));
        }
        let longest = |from, to, now| recorder.longest_gap_at(at(from), at(to), at(now));
        assert_eq!(longest(0, 330, 330), 300_000);
        assert_eq!(longest(0, 15, 330), 10_000);
        assert_eq!(longest(318, 330, 330), 300_000, "its end touches this span");
        assert_eq!(longest(0, 1030, 1030), 700_000, "one that has not ended");
        let summary = recorder.summary();
        assert_eq!((summary.acknowledged, summary.latency_us.p50 / 1000), (4, 5));
        assert_eq!(recorder.second().acknowledged, 4);
        assert_eq!(recorder.second().acknowledged, 0);
        recorder.restart();
        assert_eq!(recorder.summary().acknowledged, 0);
    }
}
