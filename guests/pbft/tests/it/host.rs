//! What the host of each node does with an outcome, and the properties it checks.

use std::collections::BTreeSet;

use moult_sdk::engine::{Action, Choice, DurableRecord, Event, Message, Outcome, Recipients};
use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Statement};

use crate::sim::{Job, Sim, committee};

impl Sim {
    pub(crate) fn store(&mut self, node: u32, durable: Vec<DurableRecord>) -> Result<(), String> {
        let n = self.node(node);
        for mut record in durable {
            if record.id <= n.last_record {
                return Err(format!("node {node}: record {} after {}", record.id, n.last_record));
            }
            n.last_record = record.id;
            record.statements.retain(|s| n.known.contains(s));
            n.disk.push(record);
        }
        Ok(())
    }

    pub(crate) fn apply(&mut self, node: u32, outcome: Outcome) -> Result<(), String> {
        self.store(node, outcome.durable)?;
        let attack = self.options.byzantine.as_ref().filter(|(b, _)| *b == node).map(|(_, a)| a.clone());
        for action in outcome.release {
            match action {
                Action::Vote { to, choice } => {
                    for to in self.recipients(node, &to) {
                        let choice = attack.as_ref().map_or(choice, |a| a.vote(to, choice));
                        if let Some(statement) = self.sign(node, choice, attack.is_some())? {
                            self.send(node, to, Event::Vote(statement));
                        }
                    }
                }
                Action::Send(envelope) => {
                    for to in self.recipients(node, &envelope.to) {
                        let mut envelope = envelope.clone();
                        if let Some(attack) = &attack {
                            attack.send(to, &mut envelope);
                        }
                        let mut statements = Vec::new();
                        for choice in envelope.sign {
                            statements.extend(self.sign(node, choice, attack.is_some())?);
                        }
                        let known = &self.node(node).known;
                        statements.extend(envelope.attach.into_iter().filter(|s| known.contains(s)));
                        let sender = AuthorityIndex(node);
                        self.send(
                            node,
                            to,
                            Event::Message(Message { sender, payload: envelope.payload, statements }),
                        );
                    }
                }
                Action::SetTimer { id, after_ms } => {
                    if after_ms == 0 {
                        return Err("a timer of zero".to_owned());
                    }
                    self.count += 1;
                    let (number, life) = (self.count, self.node(node).life);
                    self.node(node).timers.insert(id, number);
                    self.push(self.now + after_ms, Job::Timer { node, life, id, number });
                }
                Action::CancelTimer(id) => {
                    self.node(node).timers.remove(&id);
                }
                Action::Commit(commit) => self.commit(node, commit.index.0, commit.batches)?,
                Action::Fetch { batches, .. } => {
                    for batch in
                        batches.iter().filter_map(|b| self.batches.get(b).copied()).collect::<Vec<_>>()
                    {
                        let after = self.rng.range(2, 40);
                        self.push(self.now + after, Job::Answer { node, batch });
                    }
                }
                Action::Truncate(id) => self.node(node).disk.retain(|r| r.id > id),
                Action::ReleaseSlots(slot) => {
                    let mark = self.node(node).released.entry(slot.kind).or_default();
                    *mark = (*mark).max((slot.a, slot.b));
                }
                Action::Accuse(_) => return Err("an accusation".to_owned()),
                Action::Measure { gauge, value } => {
                    self.gauges[node as usize].insert(gauge, value);
                    match gauge {
                        0 => self.report.views = self.report.views.max(value),
                        2 => self.report.stable = self.report.stable.max(value),
                        _ => {}
                    }
                }
            }
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

    fn sign(&mut self, node: u32, choice: Choice, is_byzantine: bool) -> Result<Option<Statement>, String> {
        let now = self.now;
        let n = self.node(node);
        let statement = Statement { author: AuthorityIndex(node), slot: choice.slot, digest: choice.digest };
        if is_byzantine {
            n.known.insert(statement);
            return Ok(Some(statement));
        }
        let mark = n.released.get(&choice.slot.kind);
        if mark.is_some_and(|mark| (choice.slot.a, choice.slot.b) <= *mark) {
            self.report.refusals += 1;
            self.push(now, Job::Deliver { to: node, event: Event::Refused(choice.slot) });
            return Ok(None);
        }
        if *n.guard.entry(choice.slot).or_insert(choice.digest) != choice.digest {
            return Err(format!("double sign: node {node} at {:?}", choice.slot));
        }
        n.known.insert(statement);
        Ok(Some(statement))
    }

    pub(crate) fn learn(&mut self, to: u32, event: &Event) {
        let known = &mut self.node(to).known;
        match event {
            Event::Vote(statement) => {
                known.insert(*statement);
            }
            Event::Message(message) => known.extend(message.statements.iter().copied()),
            _ => {}
        }
    }

    fn commit(&mut self, node: u32, index: u64, batches: Vec<Digest>) -> Result<(), String> {
        if self.is_byzantine(node) {
            return Ok(());
        }
        let n = self.node(node);
        if index != n.next_index {
            return Err(format!("dense: node {node} commits {index} where {} was next", n.next_index));
        }
        n.next_index += 1;
        if n.chain.get(&index).is_some_and(|former| *former != batches) {
            return Err(format!("repeat: node {node} commits {index} again with other content"));
        }
        n.chain.insert(index, batches.clone());
        let agreed = self.agreed.entry(index).or_insert_with(|| batches.clone());
        if *agreed != batches {
            return Err(format!("agreement: node {node} commits {batches:?} at {index}, others {agreed:?}"));
        }
        self.committed_by.entry(index).or_default().insert(node);
        self.report.commits += 1;
        let quorum = committee(&self.options.stakes, self.options.fault_model, 0).quorum;
        while let Some(by) = self.committed_by.get(&(self.last_final + 1)) {
            let byzantine = self.options.byzantine.as_ref().map(|(b, _)| *b);
            let all: BTreeSet<u32> = by.iter().copied().chain(byzantine).collect();
            if all.iter().map(|i| self.options.stakes[*i as usize]).sum::<u64>() < quorum {
                break;
            }
            self.last_final += 1;
        }
        Ok(())
    }

    /// What the host of a node has to say about finality.
    pub(crate) fn finality(&mut self, node: u32) -> Option<Event> {
        let (last_final, now, patience) = (self.last_final, self.now, self.options.catch_up_ms);
        let n = &mut self.nodes[node as usize];
        n.engine.as_ref()?;
        if n.last_final >= last_final {
            n.behind_since = None;
            return None;
        }
        let own = n.next_index - 1;
        if own >= last_final {
            n.last_final = last_final;
            n.behind_since = None;
        } else if now - *n.behind_since.get_or_insert(now) >= patience {
            n.behind_since = None;
            for index in n.last_final + 1..=last_final {
                let batches = self.agreed[&index].clone();
                n.held.extend(batches.iter().copied());
                n.chain.insert(index, batches);
            }
            n.last_final = last_final;
            n.next_index = last_final + 1;
            self.report.jumps += 1;
        } else if own > n.last_final {
            n.last_final = own;
        } else {
            return None;
        }
        Some(Event::Final(CommitIndex(self.node(node).last_final)))
    }
}
