//! What came out: the median round of each load, the ratios, and which targets are met.

use std::fmt::Write as _;

use serde::Serialize;

use crate::load::Measured;
use crate::wire::System;

/// One load of one round.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Phase {
    /// Who was loaded.
    pub system: System,
    /// Puts in flight.
    pub clients: u16,
    /// From 1.
    pub round: u16,
    /// What the clients saw.
    #[serde(flatten)]
    pub measured: Measured,
    /// CPU time of all nodes for each put.
    pub nodes_cpu_us_per_put: f64,
    /// CPU time of the clients for each put.
    pub clients_cpu_us_per_put: f64,
}

/// All rounds of both systems with so many clients.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// Puts in flight.
    pub clients: u16,
    /// Its round with the median throughput.
    pub etcd: Phase,
    /// The same.
    pub moult: Phase,
    /// Of these two rounds.
    pub ratios: Ratios,
    /// Those that there are for so many clients.
    pub targets: Vec<Verdict>,
}

/// Moult's figure divided by etcd's.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Ratios {
    /// Higher is better.
    pub puts_per_second: f64,
    /// Lower is better.
    pub p50: f64,
    /// Lower is better.
    pub p99: f64,
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// At least the limit.
    PutsPerSecond,
    /// At most the limit.
    P50,
    /// At most the limit.
    P99,
}

/// A target and whether it is met.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Verdict {
    /// Of what.
    pub figure: Figure,
    /// Of the ratio.
    pub limit: f64,
    /// Whether the ratio keeps to it.
    pub is_met: bool,
}

/// Clients, figure, limit of the ratio.
const TARGETS: [(u16, Figure, f64); 4] = [
    (1, Figure::P50, 1.5),
    (1, Figure::P99, 2.0),
    (64, Figure::PutsPerSecond, 2.0),
    (256, Figure::PutsPerSecond, 3.0),
];

/// One row for each number of clients, in the order in which they came first.
pub fn rows(phases: &[Phase]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for phase in phases {
        if rows.iter().any(|row| row.clients == phase.clients) {
            continue;
        }
        let median = |system| median(phases, system, phase.clients);
        if let (Some(etcd), Some(moult)) = (median(System::Etcd), median(System::Moult)) {
            rows.push(Row::new(etcd.clone(), moult.clone()));
        }
    }
    rows
}

/// The round with the median throughput; of an even number the lower one in the middle.
fn median(phases: &[Phase], system: System, clients: u16) -> Option<&Phase> {
    let mut rounds: Vec<&Phase> =
        phases.iter().filter(|phase| phase.system == system && phase.clients == clients).collect();
    rounds.sort_by(|a, b| a.measured.puts_per_second.total_cmp(&b.measured.puts_per_second));
    rounds.get(rounds.len().saturating_sub(1) / 2).copied()
}

impl Row {
    fn new(etcd: Phase, moult: Phase) -> Self {
        let (e, m) = (&etcd.measured, &moult.measured);
        let ratios = Ratios {
            puts_per_second: ratio(m.puts_per_second, e.puts_per_second),
            p50: ratio(m.p50_us as f64, e.p50_us as f64),
            p99: ratio(m.p99_us as f64, e.p99_us as f64),
        };
        // A load without puts has no latencies that could keep to a limit.
        let is_loaded = e.puts > 0 && m.puts > 0;
        let targets = TARGETS.iter().filter(|(clients, ..)| *clients == etcd.clients);
        let verdict = |&(_, figure, limit): &(u16, Figure, f64)| Verdict {
            figure,
            limit,
            is_met: is_loaded && ratios.keeps(figure, limit),
        };
        let targets = targets.map(verdict).collect();
        Self { clients: etcd.clients, etcd, moult, ratios, targets }
    }
}

impl Ratios {
    fn of(&self, figure: Figure) -> f64 {
        match figure {
            Figure::PutsPerSecond => self.puts_per_second,
            Figure::P50 => self.p50,
            Figure::P99 => self.p99,
        }
    }

    fn keeps(&self, figure: Figure, limit: f64) -> bool {
        match figure {
            Figure::PutsPerSecond => self.of(figure) >= limit,
            Figure::P50 | Figure::P99 => self.of(figure) <= limit,
        }
    }
}

/// 0 where there is nothing to divide by.
fn ratio(ours: f64, theirs: f64) -> f64 {
    if theirs > 0.0 { ours / theirs } else { 0.0 }
}

/// The table for people.
pub fn table(rows: &[Row], phases: &[Phase]) -> String {
    let mut text = format!(
        "{:>7}  {:6} {:>9}  {:>17}  {:>9} {:>9} {:>9}  {:>8} {:>8}  {:>6}\n",
        "clients", "", "puts/s", "all rounds", "p50", "p99", "max", "CPU/put", "clients'", "failed"
    );
    for row in rows {
        for phase in [&row.etcd, &row.moult] {
            let measured = &phase.measured;
            let _ = writeln!(
                text,
                "{:>7}  {:6} {:>9.0}  {:>17}  {:>9} {:>9} {:>9}  {:>5.0} us {:>5.0} us  {:>6}",
                row.clients,
                phase.system.name(),
                measured.puts_per_second,
                spread(phases, phase),
                ms(measured.p50_us),
                ms(measured.p99_us),
                ms(measured.max_us),
                phase.nodes_cpu_us_per_put,
                phase.clients_cpu_us_per_put,
                failed(phases, phase)
            );
        }
        let Ratios { puts_per_second, p50, p99 } = row.ratios;
        let _ = writeln!(
            text,
            "{:>7}  {:6} {:>8.2}x  {:>17}  {:>8.2}x {:>8.2}x",
            "", "ratio", puts_per_second, "", p50, p99
        );
        for verdict in &row.targets {
            let _ = writeln!(text, "{:>7}  {}", "", verdict.line(&row.ratios));
        }
    }
    let problems = phases.iter().flat_map(|phase| {
        phase.measured.problems.iter().map(move |problem| format!("{}: {problem}\n", phase.system.name()))
    });
    let problems: std::collections::BTreeSet<String> = problems.collect();
    text.extend(problems);
    text
}

impl Verdict {
    /// The target and what became of it.
    fn line(&self, ratios: &Ratios) -> String {
        let (name, relation) = match self.figure {
            Figure::PutsPerSecond => ("puts/s", "at least"),
            Figure::P50 => ("p50", "at most"),
            Figure::P99 => ("p99", "at most"),
        };
        let verdict = if self.is_met { "met" } else { "MISSED" };
        let (limit, ratio) = (self.limit, ratios.of(self.figure));
        format!("target: {name} {relation} {limit}x etcd's: {ratio:.2}x, {verdict}")
    }
}

/// Lowest and highest throughput of all rounds of this load.
fn spread(phases: &[Phase], of: &Phase) -> String {
    let all = alike(phases, of).map(|phase| phase.measured.puts_per_second);
    let (low, high) = all.fold((f64::MAX, 0.0_f64), |(low, high), next| (low.min(next), high.max(next)));
    format!("{low:.0} to {high:.0}")
}

/// In all rounds of this load.
fn failed(phases: &[Phase], of: &Phase) -> u64 {
    alike(phases, of).map(|phase| phase.measured.failed).sum()
}

fn alike<'a>(phases: &'a [Phase], of: &'a Phase) -> impl Iterator<Item = &'a Phase> {
    phases.iter().filter(|phase| phase.system == of.system && phase.clients == of.clients)
}

/// Microseconds as milliseconds.
pub fn ms(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(
        system: System,
        clients: u16,
        round: u16,
        puts_per_second: f64,
        p50_us: u64,
        p99_us: u64,
    ) -> Phase {
        let measured = Measured {
            seconds: 10.0,
            puts: (puts_per_second * 10.0) as u64,
            failed: 0,
            problems: Vec::new(),
            puts_per_second,
            p50_us,
            p90_us: p50_us,
            p99_us,
            max_us: p99_us,
        };
        Phase { system, clients, round, measured, nodes_cpu_us_per_put: 0.0, clients_cpu_us_per_put: 0.0 }
    }

    #[test]
    fn the_median_round_is_shown_whole() {
        let mut phases = Vec::new();
        for (round, rate) in [(1, 900.0), (2, 100.0), (3, 500.0)] {
            phases.push(phase(System::Etcd, 64, round, rate, 7, 8));
            phases.push(phase(System::Moult, 64, round, rate * 2.0, round.into(), 9));
        }
        let rows = rows(&phases);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].etcd.round, rows[0].moult.round), (3, 3));
        assert_eq!((rows[0].moult.measured.p50_us, rows[0].ratios.puts_per_second), (3, 2.0));
        let even = median(&phases[..4], System::Etcd, 64).expect("two rounds");
        assert_eq!(even.round, 2, "the lower of two");
        assert!(table(&rows, &phases).contains("100 to 900"));
    }

    #[test]
    fn targets_are_met_at_their_limits_and_missed_beyond() {
        let met = |clients, ours: (f64, u64, u64), theirs: (f64, u64, u64)| -> Vec<(Figure, bool)> {
            let etcd = phase(System::Etcd, clients, 1, theirs.0, theirs.1, theirs.2);
            let moult = phase(System::Moult, clients, 1, ours.0, ours.1, ours.2);
            Row::new(etcd, moult).targets.iter().map(|verdict| (verdict.figure, verdict.is_met)).collect()
        };
        assert_eq!(met(1, (1.0, 150, 200), (9.0, 100, 100)), [(Figure::P50, true), (Figure::P99, true)]);
        assert_eq!(met(1, (9.0, 151, 201), (1.0, 100, 100)), [(Figure::P50, false), (Figure::P99, false)]);
        assert_eq!(met(64, (200.0, 9, 9), (100.0, 1, 1)), [(Figure::PutsPerSecond, true)]);
        assert_eq!(met(64, (199.0, 1, 1), (100.0, 9, 9)), [(Figure::PutsPerSecond, false)]);
        assert_eq!(met(256, (300.0, 9, 9), (100.0, 1, 1)), [(Figure::PutsPerSecond, true)]);
        assert_eq!(met(256, (299.0, 9, 9), (100.0, 1, 1)), [(Figure::PutsPerSecond, false)]);
        assert_eq!(met(8, (1.0, 1, 1), (1.0, 1, 1)), []);
        // Nothing acknowledged: latencies of 0, and still no target met.
        assert_eq!(met(1, (0.0, 0, 0), (9.0, 100, 100)), [(Figure::P50, false), (Figure::P99, false)]);
        assert_eq!(met(64, (9.0, 1, 1), (0.0, 0, 0)), [(Figure::PutsPerSecond, false)]);
    }

    #[test]
    fn the_table_says_what_was_missed_and_why_puts_failed() {
        let mut moult = phase(System::Moult, 64, 1, 150.0, 2_500, 4_000);
        (moult.measured.failed, moult.measured.problems) = (3, vec!["Unavailable: overloaded".into()]);
        let phases = [phase(System::Etcd, 64, 1, 100.0, 5_000, 8_000), moult];
        let table = table(&rows(&phases), &phases);
        assert!(table.contains("target: puts/s at least 2x etcd's: 1.50x, MISSED"), "{table}");
        assert!(table.contains("2.50 ms") && table.contains("0.50x"), "{table}");
        assert!(table.ends_with("Moult: Unavailable: overloaded\n"), "{table}");
    }
}
