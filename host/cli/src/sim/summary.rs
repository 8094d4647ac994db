//! What many seeds came to.

use std::collections::BTreeMap;

use moult_sim::{CHANGE_KINDS, FAULT_KINDS, Modules, Plan, Report};
use serde_json::json;

use super::log::Line;
use crate::output::{grouped, say, table};

/// Sums over seeds.
#[derive(Default)]
pub(crate) struct Summary {
    pub(crate) seeds: u64,
    /// Seeds that failed, with the promise that they broke.
    pub(crate) failed: BTreeMap<u64, String>,
    total: Report,
    ms: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, line: &Line) {
        self.seeds += 1;
        self.ms += line.ms;
        if line.result != "ok" {
            self.failed.insert(line.seed, line.result.clone());
        }
        let known = |kinds: &[&'static str], counts: &BTreeMap<String, u64>| -> BTreeMap<&'static str, u64> {
            let of = |kind: &&'static str| Some((*kind, *counts.get(*kind)?));
            kinds.iter().filter_map(of).collect()
        };
        self.total.add(&Report {
            blocks: line.blocks,
            switches: line.switches,
            acknowledged: line.acknowledged,
            reads: line.reads,
            events: line.events,
            virtual_ms: line.virtual_ms,
            faults: known(&FAULT_KINDS, &line.faults),
            changes: known(&CHANGE_KINDS, &line.changes),
            ..Report::default()
        });
    }

    /// Kinds of faults and changes that were on and never happened.
    pub(crate) fn unused(&self, plan: &Plan, modules: &Modules) -> Vec<&'static str> {
        self.total.unused(plan, modules)
    }

    pub(crate) fn to_json(&self, config: &str, unused: &[&str], seconds: f64) -> serde_json::Value {
        json!({
            "config": config,
            "seeds": self.seeds,
            "failed": self.failed,
            "blocks": self.total.blocks,
            "epoch_switches": self.total.switches,
            "acknowledged": self.total.acknowledged,
            "reads": self.total.reads,
            "events": self.total.events,
            "virtual_seconds": self.total.virtual_ms / 1000,
            "faults": self.total.faults,
            "changes": self.total.changes,
            "never_happened": unused,
            "run_ms": self.ms,
            "seconds": seconds,
        })
    }

    pub(crate) fn say(&self, unused: &[&str], seconds: f64) {
        let Report { blocks, switches, acknowledged, reads, events, virtual_ms, faults, changes, .. } =
            &self.total;
        for (title, counts) in [("faults injected", faults), ("epoch changes proposed", changes)] {
            say!("{title}");
            let rows: Vec<_> =
                counts.iter().map(|(kind, count)| vec![format!("  {kind}"), grouped(*count)]).collect();
            table(&rows);
        }
        say!(
            "{} blocks, {} epoch switches, {} transactions acknowledged, {} reads, {} events, {} s of virtual time",
            grouped(*blocks),
            grouped(*switches),
            grouped(*acknowledged),
            grouped(*reads),
            grouped(*events),
            grouped(virtual_ms / 1000)
        );
        if !unused.is_empty() {
            say!("FAILED: never happened: {}", unused.join(", "));
        }
        for (seed, property) in &self.failed {
            say!("FAILED: seed {seed} breaks `{property}`");
        }
        let each_ms = self.ms / self.seeds.max(1);
        let (seeds, failed) = (grouped(self.seeds), self.failed.len());
        say!("{seeds} seeds, {failed} failed, {each_ms} ms each, {seconds:.0} s in this run");
    }
}
