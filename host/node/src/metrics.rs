//! Prometheus metrics; `docs/METRICS.md` is the table.

use moult_core::Event;
use moult_core::io::EpochStart;
use moult_types::BlockRecord;

/// Everything that `/metrics` shows.
#[derive(Default)]
pub(crate) struct Metrics {}

impl Metrics {
    pub(crate) fn event(&self, _event: &Event) {}
    pub(crate) fn epoch_started(&self, _start: &EpochStart) {}
    pub(crate) fn executed(&self, _record: &BlockRecord, _transactions: usize) {}
    pub(crate) fn duplicate_identity(&self) {}
    pub(crate) fn bad_message(&self) {}
}
