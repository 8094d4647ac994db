//! The shell's duties: messages, modules, engines, links, execution, reads.

use std::sync::Arc;

use moult_core::io::{Effect, EpochStart, Event as CoreEvent, Input, Refusal, Target};
use moult_core::verify::Unverified;
use moult_sdk::approval::ModuleCheck;
use moult_types::message::Blocks;
use moult_types::phase::{FinalityProof, Phase};
use moult_types::{
    Digest, EpochChangeProposal, EpochIdentity, EpochNumber, GlobalIndex, HeldBatch, Message, ModulePin,
    PublicKey, World as Role,
};

use crate::disk::Kept;
use crate::modules::Trapping;
use crate::queue::Event;
use crate::report::Violation;
use crate::world::World;

/// Most blocks of one answer, unless the next certificate lies further away.
const BLOCKS_MAX: u64 = 64;
/// A node that lacks the module of its epoch's engine looks for it again after this time.
const RETRY_ENGINE_US: u64 = 500_000;

impl World {
    pub(crate) fn carry_out(&mut self, node: usize, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Send { to, message } => self.send(node, &to, &message)?,
            Effect::Fetch { batches, from } => self.fetch(node, &batches, &from)?,
            Effect::Execute { record, batches } => {
                self.checks.handed_over(node, &self.nodes[node], &record)?;
                self.execute(node, record, batches);
            }
            Effect::ReadAt { ids, global } => self.read_at(node, ids, global)?,
            Effect::StartEngine { identity, pin } => self.start_engine(node, identity, pin),
            Effect::CheckModules { proposal, hash } => self.check_modules(node, &proposal, hash),
            Effect::Evaluate { pin, proposal, context } => {
                let id = moult_types::ProposalId(proposal.id);
                let policy = self.modules.approval();
                let mut policy =
                    policy.ok_or_else(|| Violation::new("the policy runs", "no instance of it"))?;
                let verdict = policy.evaluate(&pin.config, &proposal, &context);
                self.answer(node, (100, 5_000), Input::Verdict { proposal: id, verdict });
            }
            Effect::Peers(peers) => {
                if let Some(process) = self.nodes[node].process.as_mut() {
                    process.announced = peers.into_iter().map(|(key, _)| key).collect();
                }
                self.refresh_links();
            }
            Effect::Verify(context) => {
                if let Some(process) = self.nodes[node].process.as_mut() {
                    process.verify = Some(context);
                }
            }
            Effect::Reverify(messages) => {
                for (from, message) in messages {
                    self.verify(node, from, &Arc::new(message))?;
                }
            }
            Effect::EpochStarted(start) => self.epoch_started(node, &start)?,
            Effect::Event(event) => self.core_event(node, event)?,
            Effect::Refused { transaction, reason } => {
                let for_good = !matches!(reason, Refusal::Overloaded);
                self.clients.refused(&transaction, for_good, &mut self.report);
            }
            Effect::Halt(reason) => return Err(Violation::new("no halt", format!("node {node}: {reason}"))),
            Effect::ForgetModules { .. } => {}
        }
        Ok(())
    }

    /// The nodes behind a target that have a link to `node`.
    fn targets(&self, node: usize, to: &Target) -> Vec<usize> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Vec::new() };
        let wanted = |peer: &usize| match to {
            Target::Everyone => true,
            Target::Keys(keys) => keys.contains(&self.nodes[*peer].public),
        };
        process.linked.iter().filter(|peer| wanted(peer)).copied().collect()
    }

    fn send(&mut self, node: usize, to: &Target, message: &Arc<Message>) -> Result<(), Violation> {
        self.checks.sent(node, &self.nodes, message)?;
        if let Message::Engine { payload, statements, .. } = message.as_ref() {
            self.log(node, || {
                let slots: Vec<_> =
                    statements.iter().map(|s| (s.statement.author.0, s.statement.slot)).collect();
                format!(
                    "engine message {:?} {slots:?}",
                    payload.as_ref().map(|p| (p.len(), p.get(..12).map(<[u8]>::to_vec)))
                )
            });
        }
        for peer in self.targets(node, to) {
            self.post(node, peer, message.clone());
        }
        Ok(())
    }

    pub(crate) fn post(&mut self, from: usize, to: usize, message: Arc<Message>) {
        let message = if self.nodes[from].byzantine { self.twist(from, to, message) } else { Some(message) };
        if let Some(message) = message {
            self.send_as_is(from, to, &message);
        }
    }

    /// Puts a message on its link.
    pub(crate) fn send_as_is(&mut self, from: usize, to: usize, message: &Arc<Message>) {
        let link = (from, to);
        let times = self.network.send(link, message, self.now_us, &mut self.rng, &mut self.report);
        for at_us in times {
            self.queue.push(at_us, Event::Deliver { from, to, message: message.clone() });
        }
    }

    /// A message arrives: questions to the store are answered here, the rest is verified.
    pub(crate) fn deliver(
        &mut self,
        from: usize,
        to: usize,
        message: &Arc<Message>,
    ) -> Result<(), Violation> {
        if self.nodes[to].process.as_ref().is_none_or(|process| !process.linked.contains(&from)) {
            return Ok(());
        }
        match message.as_ref() {
            Message::FetchBatches(digests) => {
                let found = digests.iter().filter_map(|digest| self.stored(to, digest));
                let found: Vec<_> = found.map(|batch| batch.signed.clone()).collect();
                if !found.is_empty() {
                    self.post(to, from, Arc::new(Message::Batches(found)));
                }
                Ok(())
            }
            Message::FetchBlocks { from: first, epoch, phase } => {
                if let Some(blocks) = self.blocks(to, *first, (*epoch, *phase)) {
                    self.post(to, from, Arc::new(Message::Blocks(Box::new(blocks))));
                }
                Ok(())
            }
            _ => {
                let key = self.nodes[from].public;
                self.verify(to, key, message)
            }
        }
    }

    /// A batch from a node's disk, as far as that can be read.
    fn stored(&self, node: usize, digest: &Digest) -> Option<&Arc<HeldBatch>> {
        let it = &self.nodes[node];
        it.disk.batch(digest).filter(|_| it.reads_fail_until_us <= self.now_us)
    }

    fn verify(&mut self, node: usize, from: PublicKey, message: &Arc<Message>) -> Result<(), Violation> {
        let context = self.nodes[node].process.as_ref().and_then(|process| process.verify.clone());
        let Some(context) = context else { return Ok(()) };
        match self.verified.check(&context, message) {
            Ok(message) => self.give(node, Input::Message { from, message }),
            Err(Unverified::Early(message)) => self.give(node, Input::Early { from, message: *message }),
            Err(Unverified::Stale) => self.report.note("stale message"),
            Err(Unverified::Bad(reason)) => {
                if !self.nodes.iter().any(|peer| peer.public == from && peer.byzantine) {
                    return Err(Violation::new(
                        "honest messages verify",
                        format!("node {node} from {from}: {reason}"),
                    ));
                }
                self.report.note("bad message refused");
            }
        }
        Ok(())
    }

    fn fetch(&mut self, node: usize, batches: &[Digest], from: &Target) -> Result<(), Violation> {
        let (mut found, mut wanted) = (Vec::new(), Vec::new());
        for digest in batches {
            match self.stored(node, digest) {
                Some(batch) => found.push(batch.clone()),
                None => wanted.push(*digest),
            }
        }
        if !found.is_empty() {
            self.answer(node, (50, 500), Input::Stored(found));
        }
        let peers = self.targets(node, from);
        self.log(node, || format!("fetches {wanted:?} from {peers:?}"));
        if !wanted.is_empty()
            && let Some(peer) = self.rng.pick(&peers)
        {
            self.post(node, peer, Arc::new(Message::FetchBatches(wanted)));
        }
        Ok(())
    }

    /// Final blocks of one phase from `first` on, up to one with a proof; or that a fallback of
    /// the epoch that the asker knows resumed right there.
    pub(crate) fn blocks(
        &self,
        node: usize,
        first: GlobalIndex,
        (epoch, phase): (EpochNumber, Phase),
    ) -> Option<Blocks> {
        let it = &self.nodes[node];
        let (disk, image) = (&it.disk, &it.disk.now);
        if it.reads_fail_until_us > self.now_us {
            return None;
        }
        for record in image.phases_of(epoch).into_iter().filter(|record| record.phase > phase) {
            let resumes = record.resumed().is_some_and(|resumed| resumed.point.global.next() == first);
            if let Some(resumption) = record.resumption.filter(|_| resumes) {
                let proof = FinalityProof::Resumed { bodies: Vec::new(), resumption: Box::new(resumption) };
                return Some(Blocks { blocks: Vec::new(), batches: Vec::new(), proof });
            }
        }
        if first > image.last_final || first.0 == 0 {
            return None;
        }
        let identity = image.blocks.get(&first)?.identity;
        let in_phase =
            |global: &GlobalIndex| image.blocks.get(global).is_some_and(|b| b.identity == identity);
        let mut certified = image.proofs.range(first..).take_while(|(global, _)| in_phase(global));
        let near = certified.clone().take_while(|(global, _)| global.0 < first.0 + BLOCKS_MAX).last();
        let (last, proof) = near.or_else(|| certified.next())?;
        let globals = (first.0..=last.0).map(GlobalIndex);
        let blocks: Vec<_> =
            globals.map(|global| Some(disk.block(global)?.as_ref().clone())).collect::<Option<_>>()?;
        let mut batches = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for digest in blocks.iter().flat_map(|record| &record.block.batches) {
            if seen.insert(*digest) {
                batches.push(disk.batch(digest)?.signed.clone());
            }
        }
        Some(Blocks { blocks, batches, proof: proof.clone() })
    }

    pub(crate) fn start_engine(&mut self, node: usize, identity: EpochIdentity, pin: ModulePin) {
        if self.nodes[node].reads_fail_until_us > self.now_us {
            // As a node does: without its records no engine may run.
            self.log(node, || "stops: the engine's records cannot be read".into());
            self.crash_later(node, self.now_us, Kept::Prefix);
            let back_us = self.now_us + self.rng.range(100_000, 500_000);
            self.queue.push(back_us, Event::Restart { node });
            return;
        }
        let it = &mut self.nodes[node];
        let life = it.life;
        let Some(process) = it.process.as_mut() else { return };
        process.runs_broken = self.modules.broken().is_some_and(|broken| broken.hash == pin.hash);
        let engine = if it.modules.contains(&pin.hash) { self.modules.engine(&pin) } else { None };
        let Some(mut engine) = engine else {
            process.wanted_engine = Some((identity, pin));
            self.queue.push(self.now_us + RETRY_ENGINE_US, Event::RetryEngine { node, life });
            return;
        };
        if self.traps_left > 0 && self.rng.chance(300) {
            self.traps_left -= 1;
            self.report.fault("engine-trap");
            engine = Box::new(Trapping { engine, steps_left: self.rng.below(200) });
        }
        if let Some(hostile) = self.plan.hostile.as_ref().filter(|hostile| hostile.node == node) {
            engine = (hostile.replace)(engine);
        }
        let records = self.nodes[node].disk.now.records.values().cloned().collect();
        self.answer(node, (200, 20_000), Input::Engine { identity, engine, records });
    }

    pub(crate) fn retry_engine(&mut self, node: usize) {
        let wanted = self.nodes[node].process.as_mut().and_then(|process| process.wanted_engine.take());
        if let Some((identity, pin)) = wanted {
            self.start_engine(node, identity, pin);
        }
    }

    fn check_modules(&mut self, node: usize, proposal: &EpochChangeProposal, hash: Digest) {
        let known = &self.nodes[node].modules;
        let check = |(role, pin): (&Role, &ModulePin)| ModuleCheck {
            world: role.name().to_owned(),
            hash: Digest(pin.hash.0),
            name: role.name().to_owned(),
            version: "1.0.0".into(),
            problem: (!known.contains(&pin.hash)).then(|| "it was not found".to_owned()),
        };
        let fallbacks = proposal.fallbacks.iter().map(|pin| (&Role::Engine, pin));
        let checks = proposal.modules.iter().chain(fallbacks).map(check).collect();
        self.answer(node, (1_000, 200_000), Input::ModulesChecked { proposal: hash, checks });
    }

    fn core_event(&mut self, node: usize, event: CoreEvent) -> Result<(), Violation> {
        match event {
            CoreEvent::ForkDetected { peer, global } => {
                let is_wrong = |other: &crate::node::Node| other.byzantine || other.is_spoilt;
                let is_with_it = self.nodes[node].is_spoilt
                    || self.nodes.iter().any(|other| other.public == peer && is_wrong(other));
                if !is_with_it {
                    return Err(Violation::new(
                        "no fork",
                        format!("node {node} sees one with {peer} at {global}"),
                    ));
                }
                self.report.note("fork seen with a Byzantine peer");
            }
            CoreEvent::StateForked { reason, .. } => {
                if !self.nodes[node].is_spoilt {
                    return Err(Violation::new("no fork", format!("node {node}: {reason}")));
                }
                if let Some(process) = self.nodes[node].process.as_mut() {
                    process.has_forked = true;
                }
                self.report.note("wrong state noticed");
            }
            CoreEvent::EngineFault { fault, beyond_recovery, .. } => {
                self.log(node, || format!("engine fault: {fault}, beyond recovery: {beyond_recovery}"));
                if self.plan.hostile.as_ref().is_some_and(|hostile| hostile.node == node) {
                    self.report.note(format!("hostile engine: {fault}"));
                    return Ok(());
                }
                let is_broken = self.nodes[node].process.as_ref().is_some_and(|it| it.runs_broken);
                if !fault.contains("injected") && !is_broken {
                    return Err(Violation::new("engines run", format!("node {node}: {fault}")));
                }
                self.report.note("engine fault");
            }
            CoreEvent::EngineMisbehaved(what) => {
                self.log(node, || format!("misbehaves: {what}"));
                let what = if what.starts_with("blocks of peer") { "blocks refused" } else { &what };
                let what: String = what.chars().filter(|c| !c.is_ascii_digit()).take(44).collect();
                self.report.note(what);
            }
            CoreEvent::Proposal(record) => {
                self.log(node, || {
                    format!("proposal {} {:?} votes {:?}", record.id, record.state, record.votes.len())
                });
                self.changes_seen(&record);
            }
            CoreEvent::Suspects { reason } => {
                self.log(node, || format!("suspects: {reason}"));
                self.report.note("suspicion");
            }
            CoreEvent::PhaseOpened(record) => {
                self.log(node, || format!("enters phase {}: {:?}", record.phase, record.reason));
                self.report.note(format!("phase {} entered", record.phase));
                if self.modules.broken().is_some_and(|broken| broken.hash == record.failed) {
                    self.broken.given_up.insert(record.number);
                }
            }
            CoreEvent::PhaseResumed { phase, global } => {
                self.log(node, || format!("phase {phase} resumed from {global}"));
                self.checks.failed.synced(node);
                self.report.note("phase resumed");
            }
            CoreEvent::Diverged { index } => {
                self.log(node, || format!("diverged at {index:?}"));
                self.report.note("diverged");
            }
            CoreEvent::KeyElsewhere(reason) => {
                return Err(Violation::new("one place a key", format!("node {node}: {reason}")));
            }
            CoreEvent::SigningStopped(reason) => {
                self.log(node, || format!("signs nothing: {reason}"));
                self.report.note("signing stopped");
            }
            CoreEvent::PolicyFault { .. } => self.report.note("policy fault"),
            CoreEvent::Ordered { index, .. } => self.log(node, || format!("ordered {index:?}")),
            CoreEvent::Final { global, .. } => self.log(node, || format!("final {global}")),
            CoreEvent::Gauge { name, value } => self.log(node, || format!("gauge {name} {value}")),
            CoreEvent::Voted { .. } | CoreEvent::Sync { .. } => {}
        }
        Ok(())
    }

    /// Brings up every link whose two ends run and know each other, and down every other.
    pub(crate) fn refresh_links(&mut self) {
        let count = self.nodes.len();
        for a in 0..count {
            for b in 0..count {
                if a == b || self.nodes[a].process.is_none() {
                    continue;
                }
                let wanted = self.knows(a, b) && self.knows(b, a) && self.network.is_up(a, b);
                let key = self.nodes[b].public;
                let Some(process) = self.nodes[a].process.as_mut() else { continue };
                let changed = if wanted { process.linked.insert(b) } else { process.linked.remove(&b) };
                let linked = process.linked.clone();
                let twin_is_linked =
                    linked.iter().any(|other| *other != b && self.nodes[*other].public == key);
                if changed && !twin_is_linked {
                    let rtt_us = self.rng.range(300, 5_000) as u32;
                    self.give(a, Input::Peer { key, up: wanted, rtt_us });
                }
            }
        }
    }

    fn knows(&self, a: usize, b: usize) -> bool {
        let key = self.nodes[b].public;
        let process = self.nodes[a].process.as_ref();
        key != self.nodes[a].public && process.is_some_and(|process| process.announced.contains(&key))
    }

    fn epoch_started(&mut self, node: usize, start: &EpochStart) -> Result<(), Violation> {
        self.log(node, || format!("epoch {} begins after block {}", start.manifest.number, start.base));
        let engine = start.manifest.modules.get(&Role::Engine).map(|pin| pin.hash);
        if self.modules.broken().is_some_and(|broken| Some(broken.hash) == engine) {
            self.broken.swapped_in.insert(start.manifest.number);
        }
        self.take_up_application(node, start)
    }
}
