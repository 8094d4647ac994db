//! What the host of each node does with an outcome, and the properties it checks.

use std::collections::BTreeSet;

use moult_raft::codec::{Append, Payload};
use moult_raft::{Position, Term};
use moult_sdk::engine::{Action, Commit, DurableRecord, Outcome, Recipients};
use moult_sdk::{CommitIndex, Digest};

use crate::net::{Job, Net, payload_of};

impl Net {
    pub(crate) fn store(&mut self, node: u32, durable: Vec<DurableRecord>) -> Result<(), String> {
        let n = self.node(node);
        for record in durable {
            if record.id <= n.last_record || record.body.len() > 1 << 20 {
                return Err(format!("records: node {node}: {} after {}", record.id, n.last_record));
            }
            n.last_record = record.id;
            n.disk.push(record);
        }
        Ok(())
    }

    pub(crate) fn apply(&mut self, node: u32, outcome: Outcome) -> Result<(), String> {
        self.store(node, outcome.durable)?;
        let mut appended: BTreeSet<u32> = BTreeSet::new();
        for action in outcome.release {
            self.note(node, &action);
            match action {
                Action::Send(envelope) => {
                    let payload = payload_of(&envelope.payload);
                    if envelope.payload.len() > self.options.limits.0 as usize {
                        return Err(format!("limit: a message of {} bytes", envelope.payload.len()));
                    }
                    for to in self.recipients(node, &envelope.to) {
                        if matches!(payload, Payload::Append(_)) && !appended.insert(to) {
                            return Err(format!("appends: two to node {to} in one step of node {node}"));
                        }
                        self.transmit(node, to, envelope.payload.clone());
                    }
                    if let Payload::Append(append) = payload {
                        self.check_append(node, &append)?;
                    }
                }
                Action::SetTimer { id, after_ms } => {
                    if after_ms == 0 {
                        return Err("timers: one of zero".to_owned());
                    }
                    let number = self.rng.next();
                    let (at, life) = (self.now + after_ms, self.node(node).life);
                    self.node(node).timers.insert(id, number);
                    self.push(at, Job::Timer { node, life, id, number });
                }
                Action::CancelTimer(id) => {
                    self.node(node).timers.remove(&id);
                }
                Action::Commit(commit) => self.commit(node, commit)?,
                Action::Fetch { batches, .. } => {
                    for digest in batches {
                        let at = self.now + 2 * self.delay();
                        self.push(at, Job::Fetch { node, digest });
                    }
                }
                Action::Truncate(id) => {
                    self.report.truncations += 1;
                    self.node(node).disk.retain(|r| r.id > id);
                }
                Action::Measure { gauge, value } => {
                    self.node(node).gauges.insert(gauge, value);
                }
                Action::Vote { .. } | Action::Accuse(_) | Action::ReleaseSlots(_) => {
                    return Err(format!("kinds: {action:?}"));
                }
            }
        }
        let gauges = &self.node(node).gauges;
        let (term, role) = (gauges.get(&0).copied(), gauges.get(&1).copied());
        if let (Some(term), Some(2)) = (term, role) {
            self.report.terms = self.report.terms.max(term);
            let leader = *self.leaders.entry(Term(term)).or_insert(node);
            if leader != node {
                return Err(format!("election: nodes {leader} and {node} lead term {term}"));
            }
        }
        Ok(())
    }

    /// Folds an action into the trace of the run.
    fn note(&mut self, node: u32, action: &Action) {
        let text = format!("{} {node} {action:?}", self.now);
        for byte in text.bytes() {
            self.report.trace = (self.report.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Log matching: an index and a term name one entry, and one entry before it.
    fn check_append(&mut self, node: u32, append: &Append) -> Result<(), String> {
        let leader = *self.leaders.entry(append.term).or_insert(node);
        if leader != node {
            return Err(format!("election: nodes {leader} and {node} lead term {}", append.term.0));
        }
        let mut prev = append.prev;
        for entry in &append.entries {
            let index = CommitIndex(prev.index.0 + 1);
            let this = (entry.batches.to_vec(), prev.term);
            let known = self.entries.entry((index.0, entry.term)).or_insert_with(|| this.clone());
            if *known != this {
                return Err(format!("log matching: {index:?} {:?}: {known:?} and {this:?}", entry.term));
            }
            prev = Position { term: entry.term, index };
        }
        Ok(())
    }

    fn recipients(&self, node: u32, to: &Recipients) -> Vec<u32> {
        match to {
            Recipients::All => (0..self.nodes.len() as u32).filter(|n| *n != node).collect(),
            Recipients::One(one) => vec![one.0],
            Recipients::Some(some) => some.iter().map(|a| a.0).collect(),
        }
    }

    fn stake_of(&self, nodes: impl Iterator<Item = u32>) -> u64 {
        nodes.map(|i| self.options.stakes[i as usize]).sum()
    }

    fn holders(&self, batches: &[Digest]) -> u64 {
        let holds = |n: &u32| batches.iter().all(|b| self.nodes[*n as usize].held.contains(b));
        self.stake_of((0..self.nodes.len() as u32).filter(holds))
    }

    fn commit(&mut self, node: u32, commit: Commit) -> Result<(), String> {
        let (index, batches) = (commit.index.0, commit.batches);
        let quorum = crate::net::committee(&self.options.stakes, 0).quorum;
        let n = self.node(node);
        if index <= n.last_final {
            return Err(format!("final: node {node} commits {index} where {} is final", n.last_final));
        }
        if index > n.next_index {
            return Err(format!("dense: node {node} commits {index} where {} was next", n.next_index));
        }
        n.next_index = n.next_index.max(index + 1);
        if n.chain.get(&index).is_some_and(|former| *former != batches) {
            return Err(format!("repeat: node {node} commits {index} again with other content"));
        }
        n.chain.insert(index, batches.clone());
        if self.holders(&batches) < quorum {
            return Err(format!("payload: {index} is committed and no quorum holds it"));
        }
        let agreed = self.agreed.entry(index).or_insert_with(|| batches.clone());
        if *agreed != batches {
            return Err(format!("agreement: node {node} commits {batches:?} at {index}, others {agreed:?}"));
        }
        self.terms.insert(index, commit.round);
        self.committed_by.entry(index).or_default().insert(node);
        self.report.commits += 1;
        while let Some(by) = self.committed_by.get(&(self.last_final + 1)) {
            if self.stake_of(by.iter().copied()) < quorum {
                break;
            }
            self.last_final += 1;
            let term = self.terms.get(&self.last_final).copied().unwrap_or(0);
            self.first_final_ms.entry(term).or_insert(self.now);
        }
        Ok(())
    }
}
