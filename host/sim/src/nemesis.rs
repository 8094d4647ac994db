//! Faults: what is broken, when and for how long.
//!
//! Which kinds there are in a run is drawn first; then they come one by one, of a generator of
//! their own, so that leaving a kind out, or all after some point, leaves the others as they were.

use std::collections::BTreeSet;

use crate::disk::Kept;
use crate::plan::Phase;
use crate::queue::Event;
use crate::world::World;

/// Kinds that come one by one, with their weights.
const DRAWN: [(&str, u64); 24] = [
    ("crash", 22),
    ("crash-all", 5),
    ("crash-in-sync", 14),
    ("long-sleep", 4),
    ("pause", 8),
    ("slow-node", 6),
    ("partition", 6),
    ("partition-one-way", 6),
    ("partition-ring", 3),
    ("partition-bridge", 3),
    ("flapping", 4),
    ("link-down", 6),
    ("slow-link", 4),
    ("bandwidth", 4),
    ("slow-disk", 4),
    ("stalled-disk", 4),
    ("write-error", 4),
    ("full-disk", 4),
    ("read-error", 5),
    ("bit-rot", 3),
    ("clock-jump", 4),
    ("clock-stall", 3),
    ("clock-drift", 3),
    ("module-missing", 4),
];

impl World {
    pub(crate) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let mean_us = self.plan.between_faults_ms * 1000;
        let next_us = self.now_us + self.nemesis.below(2 * mean_us) + 1;
        self.queue.push(next_us, Event::Fault);
        let mut place = self.nemesis.below(DRAWN.iter().map(|(_, weight)| weight).sum());
        let kind = DRAWN.iter().find(|(_, weight)| {
            let here = place < *weight;
            place = place.saturating_sub(*weight);
            here
        });
        self.faults_drawn += 1;
        let Some((kind, _)) = kind.filter(|(kind, _)| self.is_on(kind)) else { return };
        if self.plan.faults_max.is_some_and(|max| self.faults_drawn > max) {
            return;
        }
        let running = self.running();
        let Some(node) = self.nemesis.pick(&running) else { return };
        let number = self.faults_drawn;
        self.log(node, || format!("fault {number}: {kind}"));
        self.strike(kind, node);
    }

    fn strike(&mut self, kind: &'static str, node: usize) {
        match kind {
            "crash" => self.crash_one(node),
            "crash-all" => self.crash_all(),
            "crash-in-sync" => {
                let phase = self.nemesis.pick(&Phase::ALL).unwrap_or(Phase::Torn);
                self.crash_in_sync = Some((node, phase));
            }
            "long-sleep" => {
                self.report.fault(kind);
                self.nodes[node].sleeps_until_us = self.now_us + self.nemesis.range(2_000_000, 8_000_000);
                self.crash_one(node);
            }
            "pause" => {
                self.report.fault(kind);
                self.nodes[node].paused_until_us = self.now_us + self.nemesis.range(50_000, 2_000_000);
                let at_us = self.nodes[node].paused_until_us;
                self.queue.push(at_us, Event::Resume { node });
            }
            "slow-node" => {
                self.report.fault(kind);
                self.nodes[node].slow_factor = self.nemesis.range(5, 60);
                let at_us = self.now_us + self.nemesis.range(200_000, 2_000_000);
                self.queue.push(at_us, Event::SpeedUp { node });
            }
            "slow-link" | "bandwidth" => self.strain_links(kind, node),
            "clock-jump" | "clock-stall" | "clock-drift" => self.turn_clock(kind, node),
            "module-missing" => {
                self.report.fault(kind);
                self.nodes[node].modules.pop_last();
                let at_us = self.now_us + self.nemesis.range(200_000, 5_000_000);
                self.queue.push(at_us, Event::ModuleArrives { node });
            }
            "slow-disk" | "stalled-disk" | "write-error" | "full-disk" | "read-error" | "bit-rot" => {
                self.hurt_disk(kind, node);
            }
            _ => self.cut_links(kind),
        }
    }

    fn turn_clock(&mut self, kind: &'static str, node: usize) {
        self.report.fault(kind);
        let now_us = self.now_us;
        let it = &mut self.nodes[node];
        match kind {
            "clock-jump" => {
                let by_ms = self.nemesis.pick(&[60_000, 3_600_000]).unwrap_or(0);
                it.skew_ms += self.nemesis.range(0, 2 * by_ms) as i64 - by_ms as i64;
            }
            "clock-stall" => {
                let until_us = now_us + self.nemesis.range(200_000, 4_000_000);
                it.frozen = Some((until_us, it.clock(now_us).wall_ms));
            }
            // Up to 5 %. The replica sees it from its next step on.
            _ => it.drift_ppm = self.nemesis.range(0, 100_000) as i64 - 50_000,
        }
    }

    fn strain_links(&mut self, kind: &'static str, node: usize) {
        if kind == "bandwidth" {
            // Counted when a message waits for it.
            let bytes_a_second = self.nemesis.range(16_000, 256_000);
            self.network.narrow(node, bytes_a_second);
        } else {
            self.report.fault(kind);
            let peer = self.nemesis.below(self.nodes.len() as u64) as usize;
            let by_us = self.nemesis.range(10_000, 400_000);
            self.network.slow_down(node, peer, by_us);
        }
        let at_us = self.now_us + self.nemesis.range(500_000, 3_000_000);
        self.queue.push(at_us, Event::RepairLinks);
    }

    fn hurt_disk(&mut self, kind: &'static str, node: usize) {
        let now_us = self.now_us;
        let it = &mut self.nodes[node];
        match kind {
            "slow-disk" => {
                self.report.fault(kind);
                it.sync_us.1 = self.nemesis.range(1_000, 60_000);
            }
            "stalled-disk" => {
                self.report.fault(kind);
                it.disk_stalls_until_us = now_us + self.nemesis.range(300_000, 3_000_000);
            }
            // These two are counted when a write meets them.
            "write-error" => it.next_write_fails = true,
            "full-disk" => it.disk_full_until_us = now_us + self.nemesis.range(300_000, 3_000_000),
            "read-error" => {
                self.report.fault(kind);
                it.reads_fail_until_us = now_us + self.nemesis.range(100_000, 2_000_000);
            }
            _ => self.rot(node),
        }
    }

    /// One node's store is damaged in a run, where all that is faulty together is tolerated.
    fn rot(&mut self, node: usize) {
        if self.rotten_node.is_some_and(|other| other != node) || !self.may_be_faulty(node) {
            return;
        }
        let Some(record) = self.nodes[node].disk.pick_record(&mut self.nemesis) else { return };
        self.report.fault("bit-rot");
        self.rotten_node = Some(node);
        self.nodes[node].disk.rot(record);
        self.log(node, || format!("{record:?} is damaged on its disk"));
        // Found at once now and then; else whenever somebody needs it.
        if self.nemesis.chance(700) {
            self.crash_one(node);
        }
    }

    fn kept(&mut self) -> Kept {
        let kept = self.nemesis.pick(&[Kept::Nothing, Kept::Prefix, Kept::Prefix, Kept::Everything]);
        kept.unwrap_or(Kept::Nothing)
    }

    fn crash_one(&mut self, node: usize) {
        let kept = self.kept();
        let back_us = self.now_us + self.nemesis.range(1_000, 1_500_000);
        self.crash_later(node, self.now_us, kept);
        self.queue.push(back_us, Event::Restart { node });
    }

    fn crash_all(&mut self) {
        self.report.fault("crash-all");
        let kept = self.kept();
        for node in 0..self.nodes.len() {
            self.crash_later(node, self.now_us, kept);
            let back_us = self.now_us + self.nemesis.range(1_000, 400_000);
            self.queue.push(back_us, Event::Restart { node });
        }
    }

    fn cut_links(&mut self, kind: &'static str) {
        self.report.fault(kind);
        let count = self.nodes.len();
        let side: BTreeSet<usize> = (0..count).filter(|_| self.nemesis.chance(400)).collect();
        let others: Vec<usize> = (0..count).filter(|b| !side.contains(b)).collect();
        match kind {
            "link-down" => {
                for (a, b) in side.iter().flat_map(|a| others.iter().map(move |b| (a, b))) {
                    self.network.take_down(*a, *b);
                }
            }
            "partition-ring" => {
                // Each sees its two neighbours.
                let mut ring: Vec<usize> = (0..count).collect();
                self.nemesis.shuffle(&mut ring);
                for (at, a) in ring.iter().enumerate() {
                    let far =
                        |other: usize| (other + count - at) % count != 1 && (at + count - other) % count != 1;
                    for b in (0..count).filter(|other| *other != at && far(*other)) {
                        self.network.block(*a, ring[b]);
                    }
                }
            }
            "partition-bridge" => {
                // Two halves, and one node that sees both.
                let bridge = self.nemesis.below(count as u64) as usize;
                for (a, b) in side.iter().flat_map(|a| others.iter().map(move |b| (*a, *b))) {
                    if a != bridge && b != bridge {
                        self.network.block(a, b);
                        self.network.block(b, a);
                    }
                }
            }
            "flapping" => {
                let (mut at_us, times) = (self.now_us, self.nemesis.range(3, 10));
                for _ in 0..times {
                    self.queue.push(at_us, Event::Cut { side: side.clone() });
                    at_us += self.nemesis.range(50_000, 400_000);
                    self.queue.push(at_us, Event::RepairLinks);
                    at_us += self.nemesis.range(50_000, 400_000);
                }
            }
            _ => self.network.partition(&side, count, kind == "partition-one-way"),
        }
        self.log_all(|| format!("links of {side:?} are cut: {kind}"));
        self.refresh_links();
        let at_us = self.now_us + self.nemesis.range(100_000, 2_500_000);
        self.queue.push(at_us, Event::RepairLinks);
    }
}
