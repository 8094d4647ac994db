//! Faults: what is broken, when and for how long.

use std::collections::BTreeSet;

use crate::disk::Kept;
use crate::plan::Phase;
use crate::queue::Event;
use crate::world::World;

impl World {
    pub(crate) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let mean_us = self.plan.between_faults_ms * 1000;
        let next_us = self.now_us + self.rng.below(2 * mean_us) + 1;
        self.queue.push(next_us, Event::Fault);
        let running = self.running();
        let Some(node) = self.rng.pick(&running) else { return };
        match self.rng.below(100) {
            0..25 => self.crash_one(node),
            25..30 => self.crash_all(),
            30..45 => {
                let phase = self.rng.pick(&Phase::ALL).unwrap_or(Phase::Torn);
                self.crash_in_sync = Some((node, phase));
            }
            45..49 => {
                self.report.fault("long-sleep");
                self.nodes[node].sleeps_until_us = self.now_us + self.rng.range(2_000_000, 8_000_000);
                self.crash_one(node);
            }
            49..58 => {
                self.report.fault("pause");
                self.nodes[node].paused_until_us = self.now_us + self.rng.range(50_000, 2_000_000);
                let at_us = self.nodes[node].paused_until_us;
                self.queue.push(at_us, Event::Resume { node });
                self.log(node, || format!("is paused until {} ms", at_us / 1000));
            }
            58..75 => self.cut_links(),
            75..82 => {
                self.report.fault("slow-node");
                self.nodes[node].slow_factor = self.rng.range(5, 60);
                self.queue.push(self.now_us + self.rng.range(200_000, 2_000_000), Event::SpeedUp { node });
            }
            82..88 => {
                self.report.fault("slow-disk");
                self.nodes[node].sync_us.1 = self.rng.range(1_000, 60_000);
            }
            88..92 => {
                self.report.fault("clock-jump");
                self.nodes[node].skew_ms += self.rng.range(0, 120_000) as i64 - 60_000;
            }
            92..96 => {
                let peer = self.rng.below(self.nodes.len() as u64) as usize;
                let by_us = self.rng.range(10_000, 400_000);
                self.report.fault("message-late");
                self.network.slow_down(node, peer, by_us);
            }
            _ => {
                self.report.fault("module-missing");
                self.nodes[node].modules.pop_last();
                let at_us = self.now_us + self.rng.range(200_000, 5_000_000);
                self.queue.push(at_us, Event::ModuleArrives { node });
            }
        }
    }

    fn kept(&mut self) -> Kept {
        self.rng.pick(&[Kept::Nothing, Kept::Prefix, Kept::Prefix, Kept::Everything]).unwrap_or(Kept::Nothing)
    }

    fn crash_one(&mut self, node: usize) {
        let kept = self.kept();
        let back_us = self.now_us + self.rng.range(1_000, 1_500_000);
        self.crash_later(node, self.now_us, kept);
        self.queue.push(back_us, Event::Restart { node });
    }

    fn crash_all(&mut self) {
        self.report.fault("crash-all");
        let kept = self.kept();
        for node in 0..self.nodes.len() {
            self.crash_later(node, self.now_us, kept);
            let back_us = self.now_us + self.rng.range(1_000, 400_000);
            self.queue.push(back_us, Event::Restart { node });
        }
    }

    fn cut_links(&mut self) {
        let count = self.nodes.len();
        let mut side = BTreeSet::new();
        for node in 0..count {
            if self.rng.chance(400) {
                side.insert(node);
            }
        }
        match self.rng.below(3) {
            0 => {
                self.report.fault("link-down");
                for a in &side {
                    for b in (0..count).filter(|b| !side.contains(b)) {
                        self.network.take_down(*a, b);
                    }
                }
            }
            one_way => {
                self.report.fault(if one_way == 1 { "partition-one-way" } else { "partition" });
                self.network.partition(&side, count, one_way == 1);
            }
        }
        self.log(usize::MAX, || format!("links of {side:?} are cut"));
        self.refresh_links();
        let at_us = self.now_us + self.rng.range(100_000, 2_500_000);
        self.queue.push(at_us, Event::RepairLinks);
    }
}
