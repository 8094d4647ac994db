//! Operators: proposals for epoch changes of every kind, and second thoughts.

use moult_core::governance::{FailedEngines, ProposalRecord, ProposalState};
use moult_core::io::Input;
use moult_types::governance::Decision;
use moult_types::{
    Activation, CommitIndex, Committee, EpochChangeProposal, FaultModel, Manifest, Member, ModuleHash,
    ModulePin, World as Role,
};

use crate::queue::Event;
use crate::setup::{engine_config, engine_that_may_fail, limits, member};
use crate::world::World;

/// So many of 1,000 changes of the engine are to the one that is wrong on purpose, if there is one.
const BROKEN_PER_MILLE: u64 = 750;

impl World {
    pub(crate) fn change(&mut self) {
        if self.is_calm {
            return;
        }
        let mean_us = self.plan.between_changes_ms * 1000;
        let next_us = self.now_us + self.operator.below(2 * mean_us) + 1;
        self.queue.push(next_us, Event::Change);
        let Some(kind) = self.operator.pick(&self.plan.change_kinds) else { return };
        let members = self.proposers();
        let Some(node) = self.operator.pick(&members) else { return };
        match kind {
            "rivals" => {
                let rival = members.iter().copied().find(|rival| *rival != node);
                self.propose(node, "stake");
                if let Some(rival) = rival {
                    self.propose(rival, "engine");
                    self.report.change("rivals");
                }
            }
            "back-to-back" => {
                self.propose(node, "engine");
                for _ in 0..3 {
                    let at_us = self.now_us + self.operator.range(200_000, 1_500_000);
                    self.queue.push(at_us, Event::Afterthought { node, kind: "back-to-back" });
                }
                self.report.change("back-to-back");
            }
            kind => self.propose(node, kind),
        }
    }

    /// Running members of their own present epoch; the most advanced first.
    fn proposers(&self) -> Vec<usize> {
        let epoch = |node: &usize| {
            self.nodes[*node].process.as_ref().map(|p| p.replica.epoch_start().manifest.number)
        };
        let is_member = |node: &usize| {
            let it = &self.nodes[*node];
            !it.byzantine && it.process.as_ref().is_some_and(|p| p.replica.me().is_some())
        };
        let members: Vec<_> = self.running().into_iter().filter(is_member).collect();
        let last = members.iter().filter_map(epoch).max();
        members.into_iter().filter(|node| epoch(node) == last).collect()
    }

    fn propose(&mut self, node: usize, kind: &'static str) {
        let Some(process) = self.nodes[node].process.as_ref() else { return };
        let present = process.replica.epoch_start().manifest.clone();
        let (index, failed) = (process.replica.ledger().index, process.replica.ledger().failed.clone());
        let Some(mut proposal) = self.draft(node, &present, index, kind) else { return };
        match kind {
            "expired" => proposal.deadline = CommitIndex(index.0 + self.operator.range(1, 3)),
            "not-before" => {
                let now_ms = self.nodes[node].clock(self.now_us).wall_ms;
                proposal.activation = Activation::NotBefore(now_ms + self.operator.range(200, 3_000));
            }
            "rejected" => {
                let pin = ModulePin { hash: ModuleHash::of(b"nowhere"), config: Vec::new() };
                proposal.modules.insert(Role::Engine, pin);
            }
            "unavailable" => {
                // Some nodes get it late: approved perhaps, ready perhaps.
                let hash = proposal.modules[&Role::Engine].hash;
                for other in 0..self.nodes.len() {
                    if self.operator.chance(300) && self.nodes[other].modules.remove(&hash) {
                        let at_us = self.now_us + self.operator.range(200_000, 3_000_000);
                        self.queue.push(at_us, Event::ModuleArrives { node: other });
                    }
                }
            }
            "withdrawn" | "vetoed" => {
                for other in self.running() {
                    let at_us = self.now_us + self.operator.range(1_000, 800_000);
                    if kind == "vetoed" || other == node {
                        self.queue.push(at_us, Event::Afterthought { node: other, kind });
                    }
                }
            }
            _ => {}
        }
        if !matches!(kind, "rejected" | "unavailable") {
            self.take_failed(&mut proposal);
        }
        self.mind_failed(&failed, &mut proposal);
        self.log(node, || format!("proposes {kind} for epoch {}", proposal.new_epoch));
        self.report.change(kind);
        self.give(node, Input::Propose(Box::new(proposal)));
    }

    fn draft(
        &mut self,
        node: usize,
        present: &Manifest,
        index: CommitIndex,
        kind: &str,
    ) -> Option<EpochChangeProposal> {
        self.proposals += 1;
        let mut modules = present.modules.clone();
        let mut members = present.members.clone();
        let all_honest = !self.nodes.iter().any(|node| node.byzantine);
        let pin = modules.get_mut(&Role::Engine)?;
        if matches!(kind, "engine" | "back-to-back" | "unavailable") {
            let others = self.modules.engines().iter().filter(|engine| engine.hash != pin.hash);
            let others: Vec<_> =
                others.filter(|engine| all_honest || engine.bears_lies()).map(|engine| engine.hash).collect();
            pin.hash = self.operator.pick(&others).unwrap_or(pin.hash);
            let broken = self.modules.broken().map(|engine| engine.hash);
            if let Some(broken) = broken.filter(|_| self.operator.chance(BROKEN_PER_MILLE)) {
                pin.hash = broken;
            } else if !present.fallbacks.is_empty() && self.operator.chance(250) {
                let drawn = engine_that_may_fail(&mut self.operator, &self.plan, &self.modules);
                let drawn = drawn.filter(|engine| all_honest || engine.bears_lies());
                pin.hash = drawn.map_or(pin.hash, |engine| engine.hash);
            }
        }
        let engine = self.modules.engine_of(pin.hash)?.clone();
        pin.config = engine_config(&mut self.operator, &self.plan, &engine);
        match kind {
            "engine" | "back-to-back" | "unavailable" => {}
            "application" => {
                let application = modules.get_mut(&Role::Application)?;
                let [first, second] = self.modules.application_hashes();
                application.hash = if application.hash == first { second } else { first };
            }
            "join" => members.extend(self.outsiders(&members).into_iter().take(1)),
            "leave" => {
                if members.len() <= 4 {
                    return None;
                }
                let place = self.operator.below(members.len() as u64) as usize;
                members.remove(place);
            }
            "disjoint" => {
                members = self.outsiders(&members);
                if members.len() < 4 {
                    return None;
                }
            }
            "key" => members = self.with_new_keys(members)?,
            "stake" => {
                for member in &mut members {
                    let byzantine = self.nodes.iter().any(|n| n.public == member.key && n.byzantine);
                    member.stake = if byzantine { 1 } else { self.operator.range(1, 4) };
                }
            }
            _ => self.operator.shuffle(&mut members),
        }
        let crash_only = !engine.bears_lies() || all_honest && self.operator.chance(300);
        let fault_model = if crash_only { FaultModel::Crash } else { FaultModel::Byzantine };
        if !self.bears_its_liars(&members, fault_model) {
            return None;
        }
        let clock = self.nodes[node].clock(self.now_us);
        Some(EpochChangeProposal {
            new_epoch: present.number.next(),
            new_committee: members,
            new_epoch_timestamp_ms: clock.wall_ms + self.proposals,
            proposal_commit_index: index,
            modules,
            fallbacks: present.fallbacks.clone(),
            fault_model,
            limits: limits(&mut self.operator, &self.plan, engine.is_sound()),
            activation: Activation::AsSoonAsReady,
            deadline: CommitIndex(index.0 + self.operator.range(20, 400)),
            proposer: self.nodes[node].authority,
            readmit_failed: false,
            reports: Vec::new(),
        })
    }

    /// Now and then an engine is proposed that was given up, as it was.
    fn take_failed(&mut self, proposal: &mut EpochChangeProposal) {
        let known: Vec<_> = self.checks.failed.pins().cloned().collect();
        let places: Vec<_> = (0..known.len()).filter(|_| !proposal.fallbacks.is_empty()).collect();
        let Some(pin) = self.operator.pick(&places).map(|place| known[place].clone()) else { return };
        let Some(engine) = self.modules.engine_of(pin.hash).cloned() else { return };
        if self.operator.chance(300) && (engine.bears_lies() || proposal.fault_model == FaultModel::Crash) {
            if !engine.is_sound() {
                proposal.limits.graduate_after_blocks = None;
            }
            proposal.modules.insert(Role::Engine, pin);
        }
    }

    /// What operators do about engines that were given up: some never heard of it, and the ledger
    /// refuses what they propose; some configure them anew or leave them out; some want them.
    fn mind_failed(&mut self, failed: &FailedEngines, proposal: &mut EpochChangeProposal) {
        if !proposal.engines().any(|pin| failed.of(pin).is_some()) {
            return;
        }
        match self.operator.below(5) {
            0 => self.report.note("proposal of a failed engine"),
            1 | 2 => {
                self.report.note("proposal without failed engines");
                // The last one works whatever the fault model.
                let sound = proposal.fallbacks.last().cloned();
                let engine = proposal.modules.get_mut(&Role::Engine);
                for pin in engine.into_iter().chain(&mut proposal.fallbacks) {
                    if failed.of(pin).is_some() {
                        self.configure_anew(pin);
                    }
                }
                proposal.fallbacks.retain(|pin| failed.of(pin).is_none());
                if let (Some(pin), Some(sound)) = (proposal.modules.get_mut(&Role::Engine), sound)
                    && failed.of(pin).is_some()
                {
                    pin.hash = sound.hash;
                    self.configure_anew(pin);
                }
            }
            _ => {
                self.report.note("proposal to let a failed engine in again");
                proposal.readmit_failed = true;
            }
        }
    }

    fn configure_anew(&mut self, pin: &mut ModulePin) {
        if let Some(engine) = self.modules.engine_of(pin.hash).cloned() {
            pin.config = engine_config(&mut self.operator, &self.plan, &engine);
        }
    }

    /// Whether a committee has a quorum without the liars among its members, and without those who
    /// have lost what they signed.
    fn bears_its_liars(&self, members: &[Member], fault_model: FaultModel) -> bool {
        let Ok(committee) = Committee::new(members.to_vec(), fault_model) else { return false };
        let is_liar =
            |key| self.nodes.iter().any(|node| node.public == key && (node.byzantine || node.disk.is_lost()));
        let honest = committee.indices().filter(|i| committee.member(*i).is_some_and(|m| !is_liar(m.key)));
        committee.is_quorum(&honest.collect())
    }

    /// Nodes whose authority and key are not in a committee, as members.
    fn outsiders(&mut self, members: &[Member]) -> Vec<Member> {
        let mut found: Vec<Member> = Vec::new();
        for (place, it) in self.nodes.iter().enumerate() {
            let taken = members.iter().chain(&found).any(|m| m.id == it.authority || m.key == it.public);
            if !taken {
                found.push(member(&it.keys, it.authority, 1, place));
            }
        }
        self.operator.shuffle(&mut found);
        found
    }

    /// Another key for an authority that has one more node.
    fn with_new_keys(&mut self, mut members: Vec<Member>) -> Option<Vec<Member>> {
        let mut changed = false;
        for slot in &mut members {
            let other =
                self.nodes.iter().enumerate().find(|(_, n)| n.authority == slot.id && n.public != slot.key);
            if let Some((place, it)) = other {
                *slot = member(&it.keys, it.authority, slot.stake, place);
                changed = true;
            }
        }
        changed.then_some(members)
    }

    pub(crate) fn afterthought(&mut self, node: usize, kind: &'static str) {
        if kind == "back-to-back" {
            let members = self.proposers();
            if let (false, Some(node)) = (self.is_calm, self.operator.pick(&members)) {
                self.propose(node, "engine");
            }
            return;
        }
        let Some(process) = self.nodes[node].process.as_ref() else { return };
        let Some(record) = process.replica.ledger().open.values().next_back() else { return };
        let id = record.id;
        match kind {
            "withdrawn" => self.give(node, Input::Withdraw(id)),
            _ => self.give(node, Input::OperatorVote(id, Decision::Reject("not now".into()))),
        }
    }

    pub(crate) fn changes_seen(&mut self, record: &ProposalRecord) {
        let state = match record.state {
            ProposalState::Proposed | ProposalState::Approved | ProposalState::Scheduled { .. } => return,
            ProposalState::Active => "proposal active",
            ProposalState::Rejected => "proposal rejected",
            ProposalState::Expired => "proposal expired",
            ProposalState::Withdrawn => "proposal withdrawn",
            ProposalState::Superseded => "proposal superseded",
            ProposalState::Cancelled => "proposal cancelled",
        };
        self.report.note(state);
    }
}
