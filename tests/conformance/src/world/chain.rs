//! Commits, finality, and how a node that is behind is carried on.
//!
//! A block is final once quorum stake holds it durably. A node learns that from those that
//! it can talk to; where it lacks the blocks itself it gets them from there after a while,
//! and its engine is told `final(k)` above its own last commit. The liar counts as holding
//! whatever it pleases.

use std::collections::BTreeSet;

use moult_sdk::engine::{Commit, Event};
use moult_sdk::{CommitIndex, Digest, Stake};

use super::check::{Check, Violation};
use super::node::committee;
use super::{Job, World};

impl World<'_> {
    pub(crate) fn commit(&mut self, place: usize, commit: Commit) -> Result<(), Violation> {
        let index = commit.index.0;
        if self.is_liar(place) {
            // Kept for its own restarts; nobody else is held to it.
            let node = &mut self.nodes[place];
            if index == node.committed + 1 {
                node.chain.insert(index, commit.batches);
                node.committed = index;
            }
            return Ok(());
        }
        let node = &self.nodes[place];
        if index <= node.told_final {
            let text = format!("commit {index}, and {} was called final before", node.told_final);
            return Err(self.at(place, Check::BelowFinal, text));
        }
        if index <= node.committed {
            if node.chain.get(&index).is_some_and(|former| *former != commit.batches) {
                let text = format!("commit {index} comes again with other content");
                return Err(self.at(place, Check::Repeat, text));
            }
            return Ok(());
        }
        if index != node.committed + 1 {
            let text = format!("commit {index}, and {} was next", node.committed + 1);
            return Err(self.at(place, Check::Dense, text));
        }
        if let Some(batch) = commit.batches.iter().find(|batch| !node.held.contains(batch)) {
            let text = format!("commit {index} has batch {batch:?}, of which this node was not told");
            return Err(self.at(place, Check::Untold, text));
        }
        self.check_once(place, index, &commit.batches)?;
        let agreed = self.agreed.entry(index).or_insert_with(|| commit.batches.clone());
        if *agreed != commit.batches {
            let text = format!("commit {index} is {:?} here and {agreed:?} elsewhere", commit.batches);
            return Err(self.at(place, Check::Agreement, text));
        }
        if index > self.leader.0
            && let Some(leader) = commit.leader
        {
            self.leader = (index, Some(leader.0));
        }
        self.commits += 1;
        let node = &mut self.nodes[place];
        node.chain.insert(index, commit.batches);
        node.committed = index;
        Ok(())
    }

    /// No batch twice: not in one commit, and not in two. What was committed out of some
    /// engine's sight (it is behind, or its host handed the batch out once more upon a
    /// `fetch`) may be offered again; and a liar may do so at any time.
    fn check_once(&mut self, place: usize, index: u64, batches: &[Digest]) -> Result<(), Violation> {
        let mut seen = BTreeSet::new();
        let lied = self.liar().is_some();
        for batch in batches {
            let first = *self.placed.entry(*batch).or_insert(index);
            let excused = lied || self.repeatable.contains(batch);
            if !seen.insert(*batch) || (first != index && !excused) {
                let text = format!("batch {batch:?} is in commit {first} and again in {index}");
                return Err(self.at(place, Check::Twice, text));
            }
        }
        Ok(())
    }

    /// What the host of a node has to say about finality, if anything.
    pub(crate) fn finality(&mut self, place: usize) -> Option<Event> {
        let (known, now) = (self.known_final(place), self.now);
        let patience = self.setup.catch_up_ms;
        let node = &mut self.nodes[place];
        let former = node.last_final;
        if !node.is_up() || node.last_final >= known {
            node.behind_since = None;
            return None;
        }
        let own = node.committed;
        if own < known && now - *node.behind_since.get_or_insert(now) >= patience {
            node.behind_since = None;
            self.carry_on(place, known);
        } else if own > node.last_final {
            if own >= known {
                node.behind_since = None;
            }
            self.set_final(place, own.min(known));
        } else {
            return None;
        }
        let node = &self.nodes[place];
        let batches = node.chain.range(former + 1..=node.last_final).flat_map(|(_, batches)| batches);
        Some(Event::Final { index: CommitIndex(node.last_final), batches: batches.copied().collect() })
    }

    /// The host gets blocks from its peers.
    fn carry_on(&mut self, place: usize, known: u64) {
        self.count("jumps");
        let from = self.nodes[place].committed + 1;
        for index in from..=known {
            let batches = self.agreed.get(&index).cloned().unwrap_or_default();
            let node = &mut self.nodes[place];
            node.held.extend(batches.iter().copied());
            node.chain.insert(index, batches);
        }
        self.nodes[place].committed = known;
        self.trace(|| format!("node {place} is carried to {known}"));
        self.set_final(place, known);
    }

    /// The mark of what is final is written without a sync: a node may start with an older one.
    pub(crate) fn lose_mark(&mut self, place: usize) {
        if !self.rng.percent(25) {
            return;
        }
        let lost = self.rng.range(0, 5);
        let node = &mut self.nodes[place];
        node.last_final = node.last_final.saturating_sub(lost);
        let settled = node.chain.range(..=node.last_final).flat_map(|(_, batches)| batches.iter().copied());
        node.settled = settled.collect();
    }

    fn set_final(&mut self, place: usize, index: u64) {
        let node = &mut self.nodes[place];
        for (_, batches) in node.chain.range(node.last_final + 1..=index) {
            node.settled.extend(batches.iter().copied());
        }
        node.last_final = index;
        if index > self.last_final {
            self.excuse_laggards(index);
            self.last_final = index;
        }
    }

    /// What is final before an honest node has it, that node may offer again: it will be
    /// carried over it.
    fn excuse_laggards(&mut self, index: u64) {
        let slowest = self.honest().map(|node| self.nodes[node as usize].committed).min().unwrap_or(index);
        for unseen in self.last_final.max(slowest) + 1..=index {
            self.repeatable.extend(self.agreed.get(&unseen).into_iter().flatten().copied());
        }
    }

    /// Highest index that a node can know to be final: by whom it talks to, quorum stake
    /// holds it, or one of them knows.
    fn known_final(&self, place: usize) -> u64 {
        let me = self.nodes[place].authority;
        let mut tops: Vec<(u64, Stake)> = Vec::new();
        let mut known = 0;
        for (authority, stake) in (0..).zip(&self.setup.stakes) {
            let peer = &self.nodes[authority as usize];
            if Some(authority) == self.liar() {
                tops.push((u64::MAX, *stake));
            } else if authority == me || (peer.is_up() && self.linked(me, authority)) {
                tops.push((peer.committed, *stake));
                known = known.max(peer.last_final);
            }
        }
        tops.sort_unstable_by(|a, b| b.cmp(a));
        let quorum = committee(&self.setup.stakes, self.setup.fault_model, me).quorum;
        let mut stake = 0;
        let top = tops.iter().find(|(_, of)| {
            stake += of;
            stake >= quorum
        });
        let highest = self.agreed.last_key_value().map_or(0, |(index, _)| *index);
        known.max(top.map_or(0, |(top, _)| (*top).min(highest)))
    }

    /// Hands in a batch at an authority's node; the hosts then spread it. A private batch
    /// stays there until it is asked for or the run settles.
    pub fn submit(&mut self, author: u32, private: bool) {
        let number = self.batches.len() as u64 + 1;
        let mut digest = [0; 32];
        // Spread, as hashes are: an engine must not get by on order.
        let mut mixed = crate::rng::Rng::new(number ^ self.setup.seed << 20);
        digest[..8].copy_from_slice(&mixed.number().to_be_bytes());
        digest[24..].copy_from_slice(&number.to_be_bytes());
        let digest = Digest(digest);
        let bytes = 100 + (number % 900) as u32;
        let batch = moult_sdk::Batch { digest, author: moult_sdk::AuthorityIndex(author), bytes };
        self.batches.insert(digest, batch);
        if private {
            self.private.insert(digest);
        }
        for place in 0..self.nodes.len() {
            let own = self.nodes[place].authority == author;
            if private && !own {
                continue;
            }
            let late = !own && self.rng.percent(self.network.quality.late_batches);
            if late {
                self.count("batches late");
            }
            let after = if late { self.rng.range(100, 2_500) } else { self.rng.range(1, 20) };
            let at = self.now + if own { 1 } else { after };
            self.push(at, Job::Tell { place, batch });
        }
    }

    /// Whether somebody can hand a batch to a node.
    pub(crate) fn can_get(&self, place: usize, batch: &Digest) -> bool {
        let me = self.nodes[place].authority;
        self.nodes.iter().any(|node| {
            node.held.contains(batch)
                && node.is_up()
                && node.authority != me
                && self.linked(me, node.authority)
        })
    }
}
