//! Links: delay, loss, repetition, reordering and partitions, each link for itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::Report;
use crate::rng::Rng;

/// The links of all nodes.
#[derive(Default)]
pub(crate) struct Network {
    delay_us: (u64, u64),
    lost_per_mille: u64,
    repeated_per_mille: u64,
    late_per_mille: u64,
    /// One-way links that deliver nothing, without either end knowing.
    blocked: BTreeSet<(usize, usize)>,
    /// Links that are down, and known to be.
    down: BTreeSet<(usize, usize)>,
    /// Links of one node that are this much slower.
    slow_us: BTreeMap<(usize, usize), u64>,
    /// When the latest message of a link arrives.
    latest_us: BTreeMap<(usize, usize), u64>,
}

impl Network {
    pub(crate) fn new(rng: &mut Rng, bad: bool) -> Self {
        let mut network = Self { delay_us: (200, 200 + rng.below(3_000)), ..Self::default() };
        if bad && rng.chance(700) {
            network.lost_per_mille = rng.below(60);
            network.repeated_per_mille = rng.below(60);
            network.late_per_mille = rng.below(40);
            network.delay_us.1 += rng.below(20_000);
        }
        network
    }

    /// When a message arrives: never, once or more often.
    pub(crate) fn send(
        &mut self,
        from: usize,
        to: usize,
        now_us: u64,
        rng: &mut Rng,
        report: &mut Report,
    ) -> Vec<u64> {
        let link = (from, to);
        if self.blocked.contains(&link) {
            return Vec::new();
        }
        if rng.chance(self.lost_per_mille) {
            report.fault("message-lost");
            return Vec::new();
        }
        let mut times = vec![self.arrival(link, now_us, rng, report)];
        if rng.chance(self.repeated_per_mille) {
            report.fault("message-repeated");
            times.push(self.arrival(link, now_us, rng, report));
        }
        times
    }

    fn arrival(&mut self, link: (usize, usize), now_us: u64, rng: &mut Rng, report: &mut Report) -> u64 {
        let mut at_us = now_us + rng.range(self.delay_us.0, self.delay_us.1);
        at_us += self.slow_us.get(&link).copied().unwrap_or(0);
        if rng.chance(self.late_per_mille) {
            report.fault("message-late");
            at_us += rng.range(20_000, 1_500_000);
        }
        let latest_us = self.latest_us.entry(link).or_default();
        if at_us < *latest_us {
            report.fault("message-reordered");
        }
        *latest_us = (*latest_us).max(at_us);
        at_us
    }

    /// Whether both ends may know of a link.
    pub(crate) fn is_up(&self, a: usize, b: usize) -> bool {
        !self.down.contains(&(a.min(b), a.max(b)))
    }

    /// Cuts the nodes in `side` off from all others; one way only, if asked.
    pub(crate) fn partition(&mut self, side: &BTreeSet<usize>, nodes: usize, one_way: bool) {
        for a in side {
            for b in (0..nodes).filter(|b| !side.contains(b)) {
                self.blocked.insert((*a, b));
                if !one_way {
                    self.blocked.insert((b, *a));
                }
            }
        }
    }

    pub(crate) fn take_down(&mut self, a: usize, b: usize) {
        self.down.insert((a.min(b), a.max(b)));
    }

    pub(crate) fn slow_down(&mut self, from: usize, to: usize, by_us: u64) {
        self.slow_us.insert((from, to), by_us);
    }

    /// Removes partitions, broken and slow links.
    pub(crate) fn repair(&mut self) {
        self.blocked.clear();
        self.down.clear();
        self.slow_us.clear();
    }

    /// From now on every message arrives, and in bounded time.
    pub(crate) fn calm(&mut self) {
        self.repair();
        (self.lost_per_mille, self.repeated_per_mille, self.late_per_mille) = (0, 0, 0);
    }
}
