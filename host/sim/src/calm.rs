//! The second half of a run: nothing new breaks, and everything must come to rest.
//!
//! First a quorum is healed, drawn at random, and the rest stays broken: down, asleep, cut off,
//! deaf or mute. The quorum must decide everything that its clients ask for within a bound.
//! Then the rest is healed too, and must catch up within another.

use std::collections::BTreeSet;

use moult_types::{Committee, GlobalIndex, PublicKey};

use crate::queue::Event;
use crate::report::Violation;
use crate::world::{LOOK_US, World};

impl World {
    /// The faults are over.
    pub(crate) fn calm(&mut self) {
        self.is_calm = true;
        self.healed_us = self.now_us;
        self.crash_in_sync = None;
        self.traps_left = 0;
        self.network.calm();
        let left_out = if self.plan.between_faults_ms > 0 { self.draw_left_out() } else { Vec::new() };
        for node in 0..self.nodes.len() {
            let it = &mut self.nodes[node];
            it.sleeps_until_us = 0;
            it.slow_factor = 1;
            it.disk_stalls_until_us = 0;
            it.disk_full_until_us = 0;
            it.next_write_fails = false;
            it.reads_fail_until_us = 0;
            it.modules = self.modules.hashes().collect();
            self.queue.push(self.now_us + 1, Event::Restart { node });
        }
        if !left_out.is_empty() {
            self.core_until_us = Some(self.now_us + self.plan.calm_ms * 1000);
        }
        for node in left_out {
            self.leave_out(node);
        }
        self.refresh_links();
        self.last_words();
        self.queue.push(self.now_us + LOOK_US, Event::Look);
    }

    /// Everybody is healed.
    pub(crate) fn heal(&mut self) {
        self.log_all(|| "all nodes are healed".into());
        self.network.heal();
        self.healed_us = self.now_us;
        self.goal = None;
        self.rest_until_us = self.now_us + self.plan.calm_ms * 1000;
        for node in 0..self.nodes.len() {
            let it = &mut self.nodes[node];
            if !std::mem::take(&mut it.is_left_out) {
                continue;
            }
            (it.sleeps_until_us, it.paused_until_us) = (0, 0);
            self.queue.push(self.now_us + 1, Event::Restart { node });
            self.queue.push(self.now_us + 2, Event::Resume { node });
        }
        for event in std::mem::take(&mut self.deferred) {
            self.queue.push(self.now_us + 2, event);
        }
        self.refresh_links();
        self.last_words();
    }

    /// Committees that may have to decide something yet: of the epochs that nodes are in, and of
    /// the changes that are open anywhere.
    fn committees(&self) -> Vec<Committee> {
        let replicas = self.nodes.iter().filter_map(|node| Some(&node.process.as_ref()?.replica));
        let mut committees: Vec<Committee> = Vec::new();
        for replica in replicas {
            let present = &replica.epoch_start().manifest;
            let open = replica.ledger().open.values().map(|record| &record.proposal);
            let proposed = open.map(|p| Committee::new(p.new_committee.clone(), p.fault_model).ok());
            for committee in std::iter::once(present.committee().ok()).chain(proposed).flatten() {
                if !committees.contains(&committee) {
                    committees.push(committee);
                }
            }
        }
        // Of nodes that do not run: the chain is in one of these epochs too.
        for image in self.nodes.iter().map(|node| &node.disk.now) {
            let start = image.epochs.last().map(|start| start.manifest.committee().ok());
            let open =
                image.ledger.iter().flat_map(|ledger| ledger.open.values()).map(|record| &record.proposal);
            let proposed = open.map(|p| Committee::new(p.new_committee.clone(), p.fault_model).ok());
            for committee in start.into_iter().chain(proposed).flatten() {
                if !committees.contains(&committee) {
                    committees.push(committee);
                }
            }
        }
        committees
    }

    /// Whether every committee has a quorum without these keys.
    fn has_quorums_without(&self, committees: &[Committee], faulty: &BTreeSet<PublicKey>) -> bool {
        committees.iter().all(|committee| {
            let well = |index: &moult_types::AuthorityIndex| {
                committee.member(*index).is_some_and(|member| !faulty.contains(&member.key))
            };
            committee.is_quorum(&committee.indices().filter(well).collect())
        })
    }

    /// Keys that are as good as broken: of liars, of who runs a hostile engine, and of who signs
    /// nothing for now.
    fn faulty_keys(&self) -> BTreeSet<PublicKey> {
        let hostile = self.plan.hostile.as_ref().map(|hostile| hostile.node);
        let is_faulty = |(place, node): &(usize, &crate::node::Node)| {
            node.byzantine
                || node.is_spoilt
                || hostile == Some(*place)
                || node.disk.is_replaced()
                || node.disk.is_lost()
                || node.disk.is_damaged()
        };
        self.nodes.iter().enumerate().filter(is_faulty).map(|(_, node)| node.public).collect()
    }

    /// Whether a node's faults, with all others of its kind, are what the committees bear.
    pub(crate) fn may_be_faulty(&self, node: usize) -> bool {
        let mut faulty = self.faulty_keys();
        faulty.insert(self.nodes[node].public);
        !self.nodes.iter().any(|it| it.byzantine) && self.has_quorums_without(&self.committees(), &faulty)
    }

    /// Honest nodes that no quorum needs.
    fn draw_left_out(&mut self) -> Vec<usize> {
        let committees = self.committees();
        let mut faulty = self.faulty_keys();
        let mut order: Vec<usize> =
            (0..self.nodes.len()).filter(|node| !self.nodes[*node].byzantine).collect();
        self.nemesis.shuffle(&mut order);
        let mut left_out = Vec::new();
        for node in order {
            let key = self.nodes[node].public;
            if self.nemesis.chance(300) || !faulty.insert(key) {
                continue;
            }
            if self.has_quorums_without(&committees, &faulty) {
                left_out.push(node);
            } else {
                faulty.remove(&key);
            }
        }
        left_out
    }

    fn leave_out(&mut self, node: usize) {
        let count = self.nodes.len();
        let kind = self.nemesis.pick(&["left-down", "left-paused", "left-cut-off", "left-deaf-or-mute"]);
        let Some(kind) = kind.filter(|kind| self.is_on(kind)) else { return };
        self.report.fault(kind);
        self.log(node, || format!("stays broken: {kind}"));
        self.nodes[node].is_left_out = true;
        match kind {
            "left-down" => {
                self.nodes[node].sleeps_until_us = u64::MAX;
                self.crash(node, crate::disk::Kept::Prefix);
            }
            "left-paused" => self.nodes[node].paused_until_us = u64::MAX,
            "left-cut-off" => self.network.sever(node, count, false, false),
            _ => {
                let hears = self.nemesis.chance(500);
                self.network.sever(node, count, hears, !hears);
            }
        }
    }

    /// One more transaction a client, so that there is something to decide.
    fn last_words(&mut self) {
        for place in 0..self.clients.count() {
            self.ask(place);
        }
    }

    /// Whether all transactions are decided and every node has caught up; while some are left
    /// out: those of the others.
    pub(crate) fn is_at_rest(&mut self) -> Result<bool, Violation> {
        let open = self.clients.open(&self.nodes);
        if self.goal.is_none() && open == 0 {
            self.goal = Some(GlobalIndex(self.checks.chain.length()));
            for node in 0..self.nodes.len() {
                self.read_on(node);
            }
        }
        let judged = |node: &crate::node::Node| !node.byzantine && !node.is_left_out;
        let behind: Vec<String> = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| judged(node))
            .filter(|(_, node)| self.goal.is_none_or(|goal| node.disk.now.applied < goal))
            .map(|(i, node)| {
                let process = node.process.as_ref();
                let at = process.map(|p| {
                    (p.replica.epoch_start().manifest.number.0, p.replica.ledger().index.0, p.replica.me())
                });
                let under_way = process.map(|p| p.replica.under_way());
                let disk = &node.disk.now;
                format!(
                    "{i}: applied {} at {at:?}, under way {under_way:?}, pending {}",
                    disk.applied,
                    disk.pending.len()
                )
            })
            .collect();
        let reads = self.checks.reads.waiting(&self.nodes);
        if self.goal.is_some() && behind.is_empty() && reads == 0 {
            return Ok(true);
        }
        let left_out: Vec<_> = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_left_out).collect();
        self.waiting_for = format!(
            "{open} transactions, {reads} reads, nodes {behind:?}, goal {:?}, without {left_out:?}",
            self.goal
        );
        let until_us = self.core_until_us.unwrap_or(self.rest_until_us);
        if self.now_us > until_us {
            return Err(Violation::new("liveness", format!("still waiting for {}", self.waiting_for)));
        }
        Ok(false)
    }
}
