//! What calls of an engine cost.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Times of calls, in microseconds of the wall clock, and the fuel that they used.
pub struct Usage {
    times_us: Histogram<u64>,
    fuel: Histogram<u64>,
    busy_us: u64,
    fuel_sum: u64,
    /// Most linear memory that it had, in bytes; 0 where that is not known.
    pub(crate) memory_bytes: u64,
}

/// Longest time that is told apart: an hour.
const TIME_MAX_US: u64 = 3_600_000_000;
/// Most fuel that is told apart.
const FUEL_MAX: u64 = 1 << 40;

impl Default for Usage {
    fn default() -> Self {
        // Two digits, within bounds that the histogram takes.
        let histogram =
            |max| Histogram::new_with_bounds(1, max, 2).unwrap_or_else(|_| unreachable!("good bounds"));
        Self {
            times_us: histogram(TIME_MAX_US),
            fuel: histogram(FUEL_MAX),
            busy_us: 0,
            fuel_sum: 0,
            memory_bytes: 0,
        }
    }
}

impl Usage {
    /// Counts a call.
    pub fn count(&mut self, took_us: u64, fuel: u64) {
        self.times_us.saturating_record(took_us.clamp(1, TIME_MAX_US));
        self.fuel.saturating_record(fuel.clamp(1, FUEL_MAX));
        self.busy_us += took_us;
        self.fuel_sum += fuel;
    }

    /// Time of all calls together, in microseconds.
    pub fn busy_us(&self) -> u64 {
        self.busy_us
    }

    /// The numbers.
    pub fn report(&self) -> UsageReport {
        let of = |histogram: &Histogram<u64>, quantile| {
            if histogram.is_empty() { 0 } else { histogram.value_at_quantile(quantile) }
        };
        UsageReport {
            calls: self.times_us.len(),
            busy_us: self.busy_us,
            call_p50_us: of(&self.times_us, 0.5),
            call_p99_us: of(&self.times_us, 0.99),
            call_max_us: self.times_us.max(),
            fuel: self.fuel_sum,
            fuel_p99: if self.fuel_sum == 0 { 0 } else { of(&self.fuel, 0.99) },
            fuel_max: if self.fuel_sum == 0 { 0 } else { self.fuel.max() },
            memory_bytes: self.memory_bytes,
        }
    }
}

/// What calls of an engine cost. Times and fuel per call are exact to two digits.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct UsageReport {
    /// How many there were.
    pub calls: u64,
    /// Time of all together, microseconds of the wall clock: at least what they took of a core.
    pub busy_us: u64,
    /// Half of them were not slower.
    pub call_p50_us: u64,
    /// 99 of 100 were not slower.
    pub call_p99_us: u64,
    /// The slowest.
    pub call_max_us: u64,
    /// Fuel of all together; 0 where that is not known.
    pub fuel: u64,
    /// 99 of 100 calls used no more.
    pub fuel_p99: u64,
    /// The most of one call.
    pub fuel_max: u64,
    /// Most linear memory, in bytes; 0 where that is not known.
    pub memory_bytes: u64,
}
