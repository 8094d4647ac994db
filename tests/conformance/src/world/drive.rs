//! What drives a world from outside: faults at will, questions, and the end of a run.

use moult_sdk::engine::Event;

use super::node::Arm;
use super::{Check, Counts, Job, Point, Quality, Violation, World};

impl World<'_> {
    /// Virtual time.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// How often what happened.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Notes that something happened.
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Commits of all nodes so far.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Indices that somebody has committed.
    pub fn height(&self) -> u64 {
        self.agreed.len() as u64
    }

    /// The last value of a node's gauge.
    pub fn gauge(&self, node: u32, number: u32) -> Option<u64> {
        self.nodes[node as usize].measured.get(&number).copied()
    }

    /// Whether nothing is on its way any more, and no timer runs.
    pub fn is_at_rest(&self) -> bool {
        self.queue.values().all(|job| matches!(job, Job::Host { .. } | Job::Sides))
    }

    /// Stops a node at once; its authority's twin too.
    pub fn crash(&mut self, node: u32) {
        for place in self.places(node) {
            if self.nodes[place].is_up() {
                self.count("crashes between steps");
                self.stop(place);
            }
        }
    }

    /// Stops a node, which comes back after a time.
    pub fn crash_for(&mut self, node: u32, back_ms: u64) {
        for place in self.places(node) {
            if self.nodes[place].is_up() {
                self.count("crashes between steps");
                self.bounce(place, back_ms);
            }
        }
    }

    /// Starts a node that is down.
    ///
    /// # Errors
    /// A property was broken.
    pub fn revive(&mut self, node: u32) -> Result<(), Violation> {
        self.places(node).into_iter().try_for_each(|place| self.restart(place))
    }

    /// Lets a node crash at its `nth` outcome with records from now, at a point of it; it
    /// comes back after `back_ms`, or not by itself.
    pub fn crash_later(&mut self, node: u32, nth: u64, point: Point, back_ms: Option<u64>) {
        self.nodes[node as usize].arm = Some(Arm { nth: nth.max(1), point, back_ms });
    }

    /// Lets any node crash at any outcome, so often in ten thousand.
    pub fn crash_often(&mut self, per_ten_thousand: u64) {
        self.crashes = per_ten_thousand;
    }

    /// Lets a node stand still for a time; what comes meanwhile waits.
    pub fn pause(&mut self, node: u32, for_ms: u64) {
        for place in self.places(node) {
            if self.nodes[place].is_up() && !self.nodes[place].paused {
                self.count("pauses");
                self.nodes[place].paused = true;
                self.push(self.now + for_ms, Job::Resume { place });
            }
        }
    }

    /// Gives a node an event from its host.
    ///
    /// # Errors
    /// A property was broken.
    pub fn tell_node(&mut self, node: u32, event: &Event) -> Result<(), Violation> {
        for place in self.places(node) {
            self.step(place, vec![event.clone()])?;
        }
        Ok(())
    }

    fn places(&self, node: u32) -> Vec<usize> {
        (0..self.nodes.len()).filter(|place| self.nodes[*place].authority == node).collect()
    }

    /// Those that neither lie nor are dead.
    pub fn honest(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.setup.stakes.len() as u32)
            .filter(|node| Some(*node) != self.liar() && !self.nodes[*node as usize].dead)
    }

    /// Ends all faults, and runs until everything is committed and final on every honest
    /// node, at most for a time.
    ///
    /// # Errors
    /// A property was broken; liveness, if that does not happen.
    pub fn settle(&mut self, within_ms: u64) -> Result<(), Violation> {
        self.heal();
        self.crashes = 0;
        self.network.quality = Quality::GOOD;
        for place in 0..self.nodes.len() {
            self.nodes[place].arm = None;
            if self.nodes[place].paused {
                self.resume(place)?;
            }
            self.restart(place)?;
        }
        for digest in std::mem::take(&mut self.private) {
            let batch = self.batches[&digest];
            (0..self.nodes.len()).for_each(|place| self.push(self.now + 1, Job::Tell { place, batch }));
        }
        if self.run_until(within_ms, Self::is_settled)? {
            return Ok(());
        }
        let lacks = |node: &u32| format!("node {node} lacks {}", self.lacking(*node));
        let lacks: Vec<String> =
            self.honest().filter(|node| self.lacking(*node) > 0).map(|n| lacks(&n)).collect();
        let text = format!(
            "{within_ms} ms after the last fault not everything is final: {} of {} blocks; of {} batches {}",
            self.last_final,
            self.agreed.len(),
            self.batches.len(),
            lacks.join(", ")
        );
        Err(Violation { check: Check::Liveness, node: None, at_ms: self.now, text })
    }

    pub(crate) fn is_settled(&self) -> bool {
        let height = self.height();
        self.last_final == height
            && self.placed.len() >= self.batches.len()
            && self.honest().all(|node| {
                let node = &self.nodes[node as usize];
                node.is_up() && node.last_final == height
            })
    }

    /// Batches that are not final at a node.
    pub(crate) fn lacking(&self, node: u32) -> u64 {
        let settled = &self.nodes[node as usize].settled;
        self.batches.keys().filter(|batch| !settled.contains(batch)).count() as u64
    }

    /// Takes note of what happens, if that is wanted.
    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        let Some(kept) = self.setup.trace_lines else { return };
        let mut line = format!("{:>7} {}", self.now, line());
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if line.len() > 400 {
            line.truncate((0..=400).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0));
            line.push_str(" ...");
        }
        self.trace.push_back(line);
        if self.trace.len() > kept {
            self.trace.pop_front();
        }
    }

    /// The last lines of what happened, and a hash of everything.
    pub fn trace_tail(&self) -> (Vec<String>, u64) {
        (self.trace.iter().cloned().collect(), self.hash)
    }
}
