//! Links: delay, loss, repetition, reordering, bandwidth and cuts, each direction for itself.

use std::collections::{BTreeMap, BTreeSet};

use moult_types::{Message, encode};

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
    /// The same, for good: until everything is healed.
    severed: BTreeSet<(usize, usize)>,
    /// Links that are down, and known to be.
    down: BTreeSet<(usize, usize)>,
    /// One-way links that are this much slower.
    slow_us: BTreeMap<(usize, usize), u64>,
    /// What a node sends to all others together, in bytes a second.
    bytes_a_second: BTreeMap<usize, u64>,
    /// When a node with little bandwidth has sent what it was given so far.
    busy_until_us: BTreeMap<usize, u64>,
    /// When the latest message of a link arrives.
    latest_us: BTreeMap<(usize, usize), u64>,
}

/// Which random faults of messages there are.
pub(crate) struct Noise {
    pub(crate) lost: bool,
    pub(crate) repeated: bool,
    pub(crate) late: bool,
}

impl Network {
    pub(crate) fn new(rng: &mut Rng, bad: bool, on: &Noise) -> Self {
        let mut network = Self { delay_us: (200, 200 + rng.below(3_000)), ..Self::default() };
        if bad && rng.chance(700) {
            let drawn = [rng.below(60), rng.below(60), rng.below(40)];
            network.lost_per_mille = if on.lost { drawn[0] } else { 0 };
            network.repeated_per_mille = if on.repeated { drawn[1] } else { 0 };
            network.late_per_mille = if on.late { drawn[2] } else { 0 };
            network.delay_us.1 += rng.below(20_000);
        }
        network
    }

    /// When a message arrives: never, once or more often.
    pub(crate) fn send(
        &mut self,
        (from, to): (usize, usize),
        message: &Message,
        now_us: u64,
        rng: &mut Rng,
        report: &mut Report,
    ) -> Vec<u64> {
        let link = (from, to);
        if self.blocked.contains(&link) || self.severed.contains(&link) {
            return Vec::new();
        }
        if rng.chance(self.lost_per_mille) {
            report.fault("message-lost");
            return Vec::new();
        }
        let sent_us = self.sent_at(from, message, now_us, report);
        let mut times = vec![self.arrival(link, sent_us, rng, report)];
        if rng.chance(self.repeated_per_mille) {
            report.fault("message-repeated");
            times.push(self.arrival(link, sent_us, rng, report));
        }
        times
    }

    /// When the last byte has left its sender.
    fn sent_at(&mut self, from: usize, message: &Message, now_us: u64, report: &mut Report) -> u64 {
        let Some(rate) = self.bytes_a_second.get(&from) else { return now_us };
        let bytes = encode(message).len() as u64;
        let free_us = self.busy_until_us.entry(from).or_default();
        if *free_us > now_us {
            report.fault("bandwidth");
        }
        *free_us = now_us.max(*free_us) + bytes * 1_000_000 / rate;
        *free_us
    }

    fn arrival(&mut self, link: (usize, usize), sent_us: u64, rng: &mut Rng, report: &mut Report) -> u64 {
        let mut at_us = sent_us + rng.range(self.delay_us.0, self.delay_us.1);
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

    /// Nothing passes from `from` to `to`.
    pub(crate) fn block(&mut self, from: usize, to: usize) {
        self.blocked.insert((from, to));
    }

    /// Cuts the nodes in `side` off from all others; one way only, if asked.
    pub(crate) fn partition(&mut self, side: &BTreeSet<usize>, nodes: usize, one_way: bool) {
        for a in side {
            for b in (0..nodes).filter(|b| !side.contains(b)) {
                self.block(*a, b);
                if !one_way {
                    self.block(b, *a);
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

    pub(crate) fn narrow(&mut self, from: usize, bytes_a_second: u64) {
        self.bytes_a_second.insert(from, bytes_a_second);
    }

    /// Until everything is healed a node hears nothing, or is not heard, or both.
    pub(crate) fn sever(&mut self, node: usize, nodes: usize, hears: bool, is_heard: bool) {
        for other in (0..nodes).filter(|other| *other != node) {
            if !hears {
                self.severed.insert((other, node));
            }
            if !is_heard {
                self.severed.insert((node, other));
            }
        }
    }

    /// Removes partitions, broken, slow and narrow links.
    pub(crate) fn repair(&mut self) {
        self.blocked.clear();
        self.down.clear();
        self.slow_us.clear();
        self.bytes_a_second.clear();
        self.busy_until_us.clear();
    }

    /// From now on every message arrives, and in bounded time, but from and to who is severed.
    pub(crate) fn calm(&mut self) {
        self.repair();
        (self.lost_per_mille, self.repeated_per_mille, self.late_per_mille) = (0, 0, 0);
    }

    /// Nobody is severed any more.
    pub(crate) fn heal(&mut self) {
        self.severed.clear();
    }
}
