//! The demo's verdict.

use std::time::Duration;

use serde::Serialize;

use crate::demo::verify::{Blocks, Reads, Settled};
use crate::demo::workload::Written;
use crate::load::{Summary, Swap};
use crate::output::{duration_us, grouped, say};
use crate::pins::label;

/// The load that the demo promises, in writes a second.
const RATE_MIN: u64 = 1_000;

/// A node that was killed and came back.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Crash {
    pub(crate) node: usize,
    /// It was the leader then.
    pub(crate) led: bool,
    /// From its start to its last block but a few.
    pub(crate) caught_up_ms: u64,
    /// Longest time without an acknowledged write at any node, until it had caught up.
    pub(crate) longest_gap_us: u64,
}

/// Something that must hold, and whether it does.
#[derive(Clone, Debug, Serialize)]
struct Check {
    what: &'static str,
    holds: bool,
    found: String,
}

/// What `--json` prints.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    passed: bool,
    seconds: f64,
    writes_acknowledged: u64,
    writes_lost: u64,
    writes_unknown: u64,
    writes_per_second: f64,
    /// Attempts with a receipt: applied, or refused since the key held something else.
    compare_and_swaps: u64,
    compare_and_swaps_applied: u64,
    retries: u64,
    swap_longest_gap_us: u64,
    forks: u64,
    blocks_compared: u64,
    load: Summary,
    swap: Swap,
    crash: Crash,
    state: Settled,
    reads: Reads,
    blocks: Blocks,
    violations: Vec<String>,
    checks: Vec<Check>,
}

impl Report {
    #[allow(clippy::too_many_arguments, reason = "one argument for each part of the demo")]
    pub(crate) fn new(
        rate: u64,
        took: Duration,
        load: Summary,
        written: &Written,
        swap: Swap,
        crash: Crash,
        state: Settled,
        reads: Reads,
        blocks: Blocks,
    ) -> Self {
        let raised: u64 = written.counters.iter().map(|counter| counter.raised).sum();
        let checks = checks(rate, &load, written, &swap, &state, &reads, &blocks);
        Self {
            passed: checks.iter().all(|check| check.holds),
            seconds: took.as_secs_f64(),
            writes_acknowledged: reads.keys + raised + written.mismatches,
            writes_lost: reads.lost + reads.wrong_counters.len() as u64,
            writes_unknown: written.unknown,
            writes_per_second: load.writes_per_second,
            compare_and_swaps: raised + written.mismatches,
            compare_and_swaps_applied: raised,
            retries: written.retries,
            swap_longest_gap_us: swap.longest_gap_us,
            forks: blocks.forks,
            blocks_compared: blocks.compared,
            load,
            swap,
            crash,
            state,
            reads,
            blocks,
            violations: written.violations.clone(),
            checks,
        }
    }

    /// Whether everything held.
    pub(crate) fn passed(&self) -> bool {
        self.passed
    }

    /// The closing table.
    pub(crate) fn print(&self) {
        let (swap, crash, latency) = (&self.swap, &self.crash, &self.load.latency_us);
        say!();
        say!(
            "writes acknowledged   {} ({} a second; p50 {}, p99 {})",
            grouped(self.writes_acknowledged),
            grouped(self.writes_per_second as u64),
            duration_us(latency.p50),
            duration_us(latency.p99)
        );
        say!(
            "  compare-and-swap    {} on shared keys, {} of them applied; {} attempts repeated under their number",
            grouped(self.compare_and_swaps),
            grouped(self.compare_and_swaps_applied),
            grouped(self.retries)
        );
        say!("writes lost           {}", grouped(self.writes_lost));
        say!(
            "engine swap           {} -> {}, epoch {}, barrier block {}",
            label(swap.from),
            label(swap.to),
            swap.epoch,
            grouped(swap.barrier)
        );
        say!(
            "  longest gap         {} without an acknowledged write around it",
            duration_us(swap.longest_gap_us)
        );
        say!(
            "kill -9 of node {}     back and caught up {} ms after its start; longest gap {}{}",
            crash.node,
            crash.caught_up_ms,
            duration_us(crash.longest_gap_us),
            if crash.led { " (it was the leader)" } else { "" }
        );
        say!("blocks compared       {} on {} nodes", grouped(self.blocks_compared), self.blocks.nodes);
        say!("forks                 {}", grouped(self.forks));
        say!();
        for check in &self.checks {
            say!("{}  {}: {}", if check.holds { "ok    " } else { "FAILED" }, check.what, check.found);
        }
        for violation in self.violations.iter().chain(&self.reads.wrong_counters) {
            say!("        {violation}");
        }
        say!();
        say!(
            "{} in {:.0} s",
            if self.passed { "everything held," } else { "NOT everything held," },
            self.seconds
        );
    }
}

fn checks(
    rate: u64,
    load: &Summary,
    written: &Written,
    swap: &Swap,
    state: &Settled,
    reads: &Reads,
    blocks: &Blocks,
) -> Vec<Check> {
    let check = |what, holds, found: String| Check { what, holds, found };
    let least = rate.min(RATE_MIN);
    let sums: u64 = written.counters.iter().map(|counter| counter.raised).sum();
    vec![
        check(
            "the load was kept up",
            load.writes_per_second >= least as f64 * 0.98,
            format!(
                "{} acknowledged a second, {} wanted",
                grouped(load.writes_per_second as u64),
                grouped(least)
            ),
        ),
        check(
            "every acknowledged key is there",
            reads.lost == 0,
            format!("{} of {} read back", grouped(reads.keys - reads.lost), grouped(reads.keys)),
        ),
        check(
            "shared counters add up",
            reads.wrong_counters.is_empty(),
            format!("{} raises, each exactly once", grouped(sums)),
        ),
        check(
            "no write is in doubt",
            written.unknown == 0,
            format!("{} without an answer", grouped(written.unknown)),
        ),
        check(
            "every answer made sense",
            written.violations.is_empty(),
            format!("{} did not", written.violations.len()),
        ),
        check(
            "the new engine runs everywhere",
            state.engines == [swap.to.to_string()],
            format!("{} in epoch {}", label(swap.to), state.epoch),
        ),
        check(
            "all nodes have one state",
            state.state_roots.len() == 1,
            format!("at block {}", grouped(state.global_exec_index)),
        ),
        check(
            "no block is missing anywhere",
            blocks.missing == 0,
            format!("{} missing", grouped(blocks.missing)),
        ),
        check("no fork", blocks.forks == 0, format!("{} blocks with two hashes", grouped(blocks.forks))),
    ]
}
