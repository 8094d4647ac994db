//! The engine: what it is fed, what it asks for, and what happens when it fails.
//!
//! An engine gets verified statements only, signs slots of its own kinds only, and its
//! commits are an order that the kernel still has to certify. A fault ends the instance;
//! it is rebuilt from its records, and the events of the faulting step are fed again one by
//! one, so that a peer's message that did it is found and dropped. A fault on anything
//! else, or a third rebuild without progress, means it is beyond recovery in this epoch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use moult_sdk::engine::{
    Action, Commit, Envelope, Event as EngineEvent, Outcome, Recipients, Recovered, Settings,
};
use moult_sdk::{AuthorityIndex, CommitIndex, Committee, Digest, Slot, Statement};
use moult_types::{EpochIdentity, HeldBatch, Message, PublicKey, Signed, SlotKind};

use super::Replica;
use super::batching::sdk_batch;
use super::signatures::Signatures;
use crate::io::{Effect, EngineRecord, Event, GuardUpdate, Persist, Target};
use crate::ports::{EngineInstance, Fault};

/// Most engine calls within one step of the replica; the rest waits for the next.
pub(super) const ROUNDS_MAX: usize = 64;
/// Most events of one engine call.
const EVENTS_MAX: usize = 1024;
/// Most events that wait for an engine that does not run; votes and messages beyond are
/// lost, as on a link.
const WAITING_MAX: usize = 65_536;
/// Rebuilds without a final block between them before an engine is given up.
const REBUILDS_MAX: u32 = 3;
/// Longest stretch that the engine may order ahead of what is final, in blocks.
const AHEAD_MAX: u64 = 65_536;
/// Most requests of one answer that are refused (slots that may not be signed, statements that
/// were never seen, questions beyond the limit): four an event of a full step.
const OFFENCES_MAX: u32 = 4_096;
/// Most bytes of records that an engine keeps; they are read back at every start.
const RECORD_BYTES_MAX: usize = 256 << 20;
/// Most batches that are asked for on an engine's word.
const MISSING_MAX: usize = 65_536;

/// The running engine and what belongs to it.
#[derive(Default)]
pub(super) struct Ordering {
    engine: Option<Box<dyn EngineInstance>>,
    gauges: Vec<String>,
    started_ms: u64,
    timers: BTreeMap<u64, u64>,
    /// What the next call is given.
    pub(super) events: Vec<EngineEvent>,
    /// Events of a step that faulted, fed one by one after the rebuild.
    replay: VecDeque<EngineEvent>,
    rebuilds: u32,
    /// How the engine failed for the last time, where it is beyond recovery.
    beyond_recovery: Option<String>,
    signatures: Signatures,
    /// Commits of the engine that lie above the chain held here: payloads are missing.
    pub(super) ordered: BTreeMap<CommitIndex, Commit>,
    /// The engine's last commit (or what it was told is there).
    pub(super) committed: CommitIndex,
    /// Batches that the engine was told of again since the last housekeeping.
    pub(super) told_again: BTreeSet<Digest>,
    /// Batches that are final and were asked for again: the engine may order them once more.
    pub(super) repeated: BTreeMap<Digest, Arc<HeldBatch>>,
    /// Batches that are ordered or asked for and not held, with the time of the next asking.
    pub(super) missing: BTreeMap<Digest, u64>,
    /// The same by that time, and whom to ask (`None`: everybody), with some that came since.
    pub(super) asks: BTreeMap<(u64, Digest), Option<AuthorityIndex>>,
    /// Requests of the answer under way that were refused.
    offences: u32,
    /// Requests refused in a row since the engine was told of anything but refusals.
    refused_in_a_row: u32,
    last_record: u64,
    /// Sizes of the records that are not truncated, and their sum.
    record_bytes: BTreeMap<u64, usize>,
    record_bytes_sum: usize,
}

impl Ordering {
    pub(super) fn is_running(&self) -> bool {
        self.engine.is_some()
    }

    /// How the engine failed, where it is beyond recovery.
    pub(super) fn beyond_recovery(&self) -> Option<&str> {
        self.beyond_recovery.as_deref()
    }

    /// Takes the records that an instance starts with. They were let in once; the next one
    /// is held against them.
    fn begin_records(&mut self, records: &[EngineRecord]) {
        let sizes = records.iter().map(|record| (record.record.id, record.record.body.len()));
        self.record_bytes = sizes.collect();
        self.record_bytes_sum = self.record_bytes.values().sum();
        self.last_record = self.record_bytes.last_key_value().map_or(0, |(id, _)| *id);
    }

    fn note_record(&mut self, id: u64, bytes: usize) -> Result<(), String> {
        if id <= self.last_record {
            return Err(format!("record {id} does not rise above {}", self.last_record));
        }
        self.last_record = id;
        self.record_bytes.insert(id, bytes);
        self.record_bytes_sum += bytes;
        if self.record_bytes_sum > RECORD_BYTES_MAX {
            return Err(format!("more than {RECORD_BYTES_MAX} bytes of records are kept"));
        }
        Ok(())
    }

    fn note_truncated(&mut self, id: u64) {
        let gone = self.record_bytes.extract_if(..=id, |_, _| true);
        self.record_bytes_sum -= gone.map(|(_, bytes)| bytes).sum::<usize>();
    }

    pub(super) fn next_timer_ms(&self) -> Option<u64> {
        self.engine.as_ref()?;
        if !self.events.is_empty() || !self.replay.is_empty() {
            return Some(0);
        }
        self.timers.values().min().copied()
    }

    /// Blocks became final: an engine that gets there is not failing in a row.
    pub(super) fn on_progress(&mut self) {
        if self.replay.is_empty() {
            self.rebuilds = 0;
        }
    }
}

impl Replica {
    /// Asks the shell for an instance of the pinned engine, where this node needs one.
    pub(super) fn want_engine(&mut self) {
        let is_over = self.closing() || self.guard.has_aborted(self.epoch.identity);
        if self.epoch.me.is_none() || self.ordering.beyond_recovery.is_some() || is_over {
            return;
        }
        if let Some(pin) = self.epoch.start.manifest.engine(self.fallback.phase).cloned() {
            self.out.release.push(Effect::StartEngine { identity: self.epoch.identity, pin });
        }
    }

    pub(super) fn start_engine(
        &mut self,
        identity: EpochIdentity,
        mut engine: Box<dyn EngineInstance>,
        records: Vec<EngineRecord>,
    ) {
        let is_over = self.closing() || self.guard.has_aborted(identity);
        if identity != self.epoch.identity || self.ordering.engine.is_some() || is_over {
            return;
        }
        let Some(me) = self.epoch.me else { return };
        self.ordering.begin_records(&records);
        for record in &records {
            self.ordering.signatures.pin(record.record.id, &record.signed);
        }
        let committed = self.voted().top().0;
        let held = self.pending.values().chain(self.ordering.repeated.values());
        let held: Vec<_> = held.filter(|batch| self.is_for_engine(batch)).cloned().collect();
        held.iter().for_each(|batch| self.stall.note_told(batch.digest, self.now.mono_ms));
        let batches = held.iter().map(|batch| sdk_batch(batch)).collect();
        let recovered = Recovered {
            records: records.into_iter().map(|record| record.record).collect(),
            committed,
            last_final: self.voted().last_final(),
            batches,
        };
        let settings = self.engine_settings(me);
        let outcome = engine.describe().and_then(|info| {
            self.ordering.gauges = info.gauges;
            engine.init(&settings, Some(&recovered))
        });
        self.ordering.started_ms = self.now.mono_ms;
        self.ordering.timers.clear();
        self.ordering.committed = committed;
        self.ordering.ordered.clear();
        // What waited was told by `recovered.batches`; messages and votes stay.
        self.ordering.events.retain(|event| matches!(event, EngineEvent::Message(_) | EngineEvent::Vote(_)));
        match outcome {
            Ok(Ok(outcome)) => {
                self.ordering.engine = Some(engine);
                self.carry_out(outcome);
            }
            Ok(Err(refusal)) => self.give_up(format!("the engine refuses to start: {refusal:?}")),
            Err(fault) => self.on_fault(&fault, Vec::new()),
        }
    }

    pub(super) fn stop_engine(&mut self) {
        self.ordering = Ordering::default();
    }

    pub(super) fn on_engine_message(
        &mut self,
        from: PublicKey,
        identity: EpochIdentity,
        payload: Option<Vec<u8>>,
        statements: Vec<Signed>,
    ) {
        let Some(sender) = self.epoch.committee.index_of_key(&from) else { return };
        let waiting = self.ordering.events.len() >= WAITING_MAX;
        if identity != self.epoch.identity || self.closing() || self.epoch.me.is_none() || waiting {
            return;
        }
        for signed in &statements {
            self.mind_statement(identity, &signed.statement);
            self.ordering.signatures.remember(*signed);
        }
        let statements = statements.into_iter().map(|signed| signed.statement);
        match payload {
            None => self.ordering.events.extend(statements.map(EngineEvent::Vote)),
            Some(payload) => {
                let message =
                    moult_sdk::engine::Message { sender, payload, statements: statements.collect() };
                self.ordering.events.push(EngineEvent::Message(message));
            }
        }
    }

    pub(super) fn fire_engine_timers(&mut self) {
        if self.ordering.engine.is_none() {
            return;
        }
        let now_ms = self.now.mono_ms;
        let due: Vec<_> =
            self.ordering.timers.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| *id).collect();
        for id in due {
            self.ordering.timers.remove(&id);
            self.ordering.events.push(EngineEvent::Timer(id));
        }
    }

    /// One call of the engine with what has queued up; whether there was one.
    pub(super) fn run_engine(&mut self) -> bool {
        let ordering = &mut self.ordering;
        let Some(engine) = ordering.engine.as_mut() else { return false };
        let events: Vec<_> = match ordering.replay.pop_front() {
            Some(event) => vec![event],
            None => ordering.events.drain(..ordering.events.len().min(EVENTS_MAX)).collect(),
        };
        if events.is_empty() {
            return false;
        }
        // Only what may have to be fed again is kept: a peer's messages.
        let suspects: Vec<_> = events
            .iter()
            .filter(|e| matches!(e, EngineEvent::Message(_) | EngineEvent::Vote(_)))
            .cloned()
            .collect();
        let single = events.len() == 1;
        if !events.iter().all(|event| matches!(event, EngineEvent::Refused(_))) {
            ordering.refused_in_a_row = 0;
        }
        match engine.step(self.now.mono_ms - ordering.started_ms, events) {
            Ok(outcome) => self.carry_out(outcome),
            Err(fault) if single => self.quarantine(&fault, suspects),
            Err(fault) => self.on_fault(&fault, suspects),
        }
        true
    }

    /// A single event did it: if it is a peer's message, it is dropped for good.
    fn quarantine(&mut self, fault: &Fault, suspects: Vec<EngineEvent>) {
        let Some(EngineEvent::Message(message)) = suspects.first() else {
            return self.on_fault(fault, Vec::new());
        };
        let peer = self.epoch.committee.member(message.sender).map(|member| member.key);
        self.ordering.engine = None;
        self.ordering.rebuilds = 0;
        self.event(Event::EngineFault { fault: fault.to_string(), peer, beyond_recovery: false });
        self.want_engine();
    }

    fn on_fault(&mut self, fault: &Fault, suspects: Vec<EngineEvent>) {
        self.ordering.engine = None;
        self.ordering.rebuilds += 1;
        if self.ordering.rebuilds > REBUILDS_MAX {
            return self.give_up(format!("{fault}; it failed {REBUILDS_MAX} times in a row"));
        }
        self.ordering.replay.extend(suspects);
        self.event(Event::EngineFault { fault: fault.to_string(), peer: None, beyond_recovery: false });
        self.want_engine();
    }

    fn give_up(&mut self, fault: String) {
        self.ordering.engine = None;
        self.ordering.beyond_recovery = Some(fault.clone());
        self.event(Event::EngineFault { fault, peer: None, beyond_recovery: true });
    }

    /// Does what an engine asks for, up to the first request that breaks the contract: that is
    /// the end of the instance.
    fn carry_out(&mut self, outcome: Outcome) {
        self.ordering.offences = 0;
        if let Err(reason) = self.try_carry_out(outcome) {
            self.on_fault(&Fault::Output(reason), Vec::new());
        }
    }

    fn try_carry_out(&mut self, outcome: Outcome) -> Result<(), String> {
        for record in outcome.durable {
            self.ordering.note_record(record.id, record.body.len())?;
            let signatures = &mut self.ordering.signatures;
            let held = |s: &Statement| Some(Signed { statement: *s, signature: signatures.get(s)? });
            let signed: Vec<_> = record.statements.iter().filter_map(held).collect();
            signatures.pin(record.id, &signed);
            let record = EngineRecord { signed, record };
            self.out.durable.push(Persist::Record(record));
        }
        let mut votes: Vec<(Recipients, Signed)> = Vec::new();
        for action in outcome.release {
            if let Action::Vote { to, choice } = action {
                self.target(&to)?;
                votes.extend(self.sign_choice(choice.slot, choice.digest)?.map(|signed| (to, signed)));
                continue;
            }
            self.send_votes(&mut votes)?;
            self.carry_out_action(action)?;
        }
        self.send_votes(&mut votes)
    }

    /// Counts a request that was refused; too many in one answer are an attack.
    fn offence(&mut self, what: String) -> Result<(), String> {
        self.ordering.offences += 1;
        if self.ordering.offences > OFFENCES_MAX {
            return Err(format!("more than {OFFENCES_MAX} requests were refused in one answer: {what}"));
        }
        self.event(Event::EngineMisbehaved(what));
        Ok(())
    }

    fn carry_out_action(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Vote { .. } => {}
            Action::Send(envelope) => self.send_envelope(envelope)?,
            Action::SetTimer { id, after_ms } => {
                // A time past all numbers is a timer that never fires.
                self.ordering.timers.insert(id, self.now.mono_ms.saturating_add(after_ms.max(1)));
                if self.ordering.timers.len() > EVENTS_MAX {
                    return Err(format!("more than {EVENTS_MAX} timers are set"));
                }
            }
            Action::CancelTimer(id) => {
                self.ordering.timers.remove(&id);
            }
            Action::Commit(commit) => self.on_commit(commit)?,
            Action::Fetch { batches, likely_holder } => {
                if self.ordering.missing.len() >= MISSING_MAX {
                    return self.offence(format!("{MISSING_MAX} batches are missing: no more are asked for"));
                }
                self.tell_again(&batches);
                self.miss(batches, likely_holder);
            }
            Action::Truncate(id) => {
                self.ordering.note_truncated(id);
                self.ordering.signatures.unpin(id);
                self.out.durable.push(Persist::TruncateRecords(id));
            }
            Action::ReleaseSlots(mark) if mark.kind >= SlotKind::HOST_FIRST => {
                return Err(format!("slots of kind {:#x} are the host's own", mark.kind));
            }
            Action::ReleaseSlots(mark) => self.release_slots(mark),
            Action::Accuse(proof) => {
                let bytes = proof.len();
                self.offence(format!("an accusation of {bytes} bytes (not judged in this release)"))?;
            }
            Action::Measure { gauge, value } => {
                if let Some(name) = self.ordering.gauges.get(gauge as usize).cloned() {
                    self.event(Event::Gauge { name, value });
                }
            }
        }
        Ok(())
    }

    /// An engine that asks for what is held here has let go of it; it is told again, though
    /// not in a circle.
    fn tell_again(&mut self, batches: &[Digest]) {
        for digest in batches {
            if let Some(batch) = self.payload(digest).cloned()
                && self.ordering.told_again.insert(*digest)
            {
                self.tell_engine(&batch);
            }
        }
    }

    fn send_envelope(&mut self, envelope: Envelope) -> Result<(), String> {
        let limit = self.epoch.start.manifest.limits.engine_message_bytes_max as usize;
        if envelope.payload.len() > limit {
            return Err(format!("a message of {} bytes, the limit is {limit}", envelope.payload.len()));
        }
        let mut statements = Vec::with_capacity(envelope.sign.len() + envelope.attach.len());
        let to = self.target(&envelope.to)?;
        for choice in envelope.sign {
            match self.sign_choice(choice.slot, choice.digest)? {
                Some(signed) => statements.push(signed),
                // Without its own signatures the message means nothing.
                None => return Ok(()),
            }
        }
        let mut unseen = Vec::new();
        for statement in envelope.attach {
            match self.ordering.signatures.get(&statement) {
                Some(signature) => statements.push(Signed { statement, signature }),
                None => unseen.push(statement),
            }
        }
        if let Some(first) = unseen.first() {
            let count = unseen.len();
            self.offence(format!("it attached statements that were never seen: {count}, as {first:?}"))?;
        }
        let payload = Some(envelope.payload);
        self.send(to, Message::Engine { identity: self.epoch.identity, payload, statements });
        Ok(())
    }

    fn sign_choice(&mut self, slot: Slot, digest: Digest) -> Result<Option<Signed>, String> {
        match self.sign_engine(slot, digest) {
            Ok(signed) => {
                self.ordering.signatures.remember(signed);
                Ok(Some(signed))
            }
            Err(refusal) => {
                self.offence(format!("slot {slot:?} was not signed: {refusal}"))?;
                self.ordering.refused_in_a_row += 1;
                if self.ordering.refused_in_a_row > OFFENCES_MAX {
                    return Err(format!(
                        "more than {OFFENCES_MAX} requests were refused in a row: {refusal}"
                    ));
                }
                self.ordering.events.push(EngineEvent::Refused(slot));
                Ok(None)
            }
        }
    }

    /// Votes in a row to the same recipients travel together.
    fn send_votes(&mut self, votes: &mut Vec<(Recipients, Signed)>) -> Result<(), String> {
        let mut votes = std::mem::take(votes).into_iter().peekable();
        while let Some((recipients, signed)) = votes.next() {
            let mut statements = vec![signed];
            while let Some((_, signed)) = votes.next_if(|(other, _)| *other == recipients) {
                statements.push(signed);
            }
            let to = self.target(&recipients)?;
            self.send(to, Message::Engine { identity: self.epoch.identity, payload: None, statements });
        }
        Ok(())
    }

    fn target(&self, recipients: &Recipients) -> Result<Target, String> {
        let size = self.epoch.committee.members().len();
        let checked = |index: AuthorityIndex| {
            if index.as_usize() < size {
                Ok(index)
            } else {
                Err(format!("a message to authority {} of {size}", index.0))
            }
        };
        Ok(match recipients {
            Recipients::All => self.members(),
            Recipients::One(index) => Target::Keys(self.keys_of(std::iter::once(checked(*index)?))),
            Recipients::Some(list) => {
                let list = list.iter().copied().map(checked).collect::<Result<Vec<_>, _>>()?;
                Target::Keys(self.keys_of(list.into_iter()))
            }
        })
    }

    /// A dense sequence: repeated content must be equal, gaps break the contract.
    fn on_commit(&mut self, commit: Commit) -> Result<(), String> {
        let index = commit.index;
        let limit = self.epoch.start.manifest.limits.batches_in_block_max as usize;
        if commit.batches.len() > limit {
            return Err(format!(
                "commit {} of {} batches, the limit is {limit}",
                index.0,
                commit.batches.len()
            ));
        }
        if index <= self.voted().last_final() {
            return Ok(());
        }
        if index <= self.ordering.committed {
            let held = self.voted().block(index).map(|held| &held.record.block.batches);
            let known = held.or_else(|| self.ordering.ordered.get(&index).map(|commit| &commit.batches));
            if known.is_some_and(|known| *known != commit.batches) {
                self.diverge(index);
                return Err(format!("commit {} came again with other content", index.0));
            }
            return Ok(());
        }
        if index != self.ordering.committed.next() {
            return Err(format!("commit {} after commit {}", index.0, self.ordering.committed.0));
        }
        if index.0 > self.voted().last_final().0 + AHEAD_MAX {
            return Err(format!("commit {} is more than {AHEAD_MAX} blocks ahead of what is final", index.0));
        }
        self.ordering.committed = index;
        self.event(Event::Ordered {
            index,
            round: commit.round,
            leader: commit.leader.map(|leader| leader.0),
            batches: commit.batches.len(),
        });
        self.ordering.ordered.insert(index, commit);
        Ok(())
    }

    fn release_slots(&mut self, mark: Slot) {
        // A guard that is ahead of its store is in an epoch whose slots these are not.
        if self.guard.state().identity == self.epoch.identity {
            self.note_guard(GuardUpdate::Released(mark));
        }
        self.ordering.signatures.release(mark);
    }

    fn engine_settings(&self, me: AuthorityIndex) -> Settings {
        let manifest = &self.epoch.start.manifest;
        let committee = &self.epoch.committee;
        let config = manifest.engine(self.fallback.phase).map(|pin| pin.config.clone()).unwrap_or_default();
        Settings {
            committee: Committee {
                epoch: manifest.number.0,
                fault_model: manifest.fault_model,
                stakes: committee.members().iter().map(|m| m.stake).collect(),
                quorum: committee.quorum(),
                validity: committee.validity(),
                me: Some(me),
            },
            config,
            seed: moult_types::codec::hash_of("moult epoch seed", &self.epoch.identity),
            schedule: committee.indices().collect(),
            max_message_bytes: manifest.limits.engine_message_bytes_max,
            max_batches_in_commit: manifest.limits.batches_in_block_max,
        }
    }
}
