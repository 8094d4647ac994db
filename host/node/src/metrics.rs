//! Prometheus metrics; `docs/METRICS.md` is the table.

use std::time::Duration;

use moult_core::Event;
use moult_core::io::EpochStart;
use moult_types::BlockRecord;

use crate::handle::WriteError;
use crate::shared::Shared;

/// Everything that `/metrics` shows.
#[derive(Default)]
pub(crate) struct Metrics {}

impl Metrics {
    pub(crate) fn event(&self, _event: &Event) {}
    pub(crate) fn epoch_started(&self, _start: &EpochStart) {}
    pub(crate) fn executed(&self, _record: &BlockRecord, _transactions: usize) {}
    pub(crate) fn duplicate_identity(&self) {}
    pub(crate) fn bad_message(&self) {}
    pub(crate) fn request(&self, _endpoint: &'static str, _status: u16, _took: Duration) {}
    pub(crate) fn rejected(&self, _reason: &'static str) {}
    pub(crate) fn write_failed(&self, _e: &WriteError) {}
    pub(crate) fn render(&self, _shared: &Shared) -> String {
        String::new()
    }
}
