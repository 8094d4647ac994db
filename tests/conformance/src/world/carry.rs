//! What the host of each node does with an outcome.
//!
//! As in the real host: everything durable is synced first; slots are signed once, and not
//! at all once released; an envelope whose own signatures are refused is not sent; what is
//! attached goes along if its signature is held.

use moult_sdk::engine::{Action, Choice, DurableRecord, Envelope, Event, Message, Outcome, Recipients};
use moult_sdk::{AuthorityIndex, Statement};

use super::check::{Bounds, Check, TIMERS_MAX, Violation, check_outcome};
use super::node::Arm;
use super::{Job, Point, World, words};

impl World<'_> {
    /// Gives a node's engine its events and does what it says.
    pub(crate) fn step(&mut self, place: usize, events: Vec<Event>) -> Result<(), Violation> {
        let now = self.now;
        self.trace(|| format!("node {place} <- {}", words::of_events(&events)));
        let node = &mut self.nodes[place];
        let clock = node.clock(now);
        let Some(engine) = &mut node.engine else { return Ok(()) };
        let shadow = node.shadow.as_mut().map(|shadow| shadow.step(clock, events.clone()));
        let final_told = events.iter().filter_map(|event| match event {
            Event::Final { index, .. } => Some(index.0),
            _ => None,
        });
        let final_told = final_told.max();
        let result = engine.step(clock, events);
        if let Some(shadow) = shadow
            && shadow != result
        {
            let text = format!("a second instance answered otherwise:\n  {result:?}\n  {shadow:?}");
            return Err(self.at(place, Check::Determinism, text));
        }
        let outcome = result.map_err(|fault| self.at(place, Check::Fault, fault.0))?;
        self.take(place, outcome)?;
        let node = &mut self.nodes[place];
        node.told_final = node.told_final.max(final_told.unwrap_or(0));
        Ok(())
    }

    /// Carries an outcome out, unless the node crashes at it.
    pub(crate) fn take(&mut self, place: usize, outcome: Outcome) -> Result<(), Violation> {
        if self.setup.trace_lines.is_some() && outcome != Outcome::default() {
            self.trace(|| format!("node {place} -> {}", words::of_outcome(&outcome)));
        }
        if !self.is_liar(place) {
            let bounds = Bounds {
                message_bytes: self.setup.max_message_bytes as usize,
                batches_in_commit: self.setup.max_batches_in_commit as usize,
                gauges: self.nodes[place].gauges,
            };
            check_outcome(&outcome, bounds).map_err(|(check, text)| self.at(place, check, text))?;
        }
        match self.crash_now(place, &outcome) {
            None => {
                self.store(place, outcome.durable)?;
                self.release(place, outcome.release)
            }
            Some((point, back_ms)) => {
                self.crash_at(place, outcome, point)?;
                match back_ms {
                    Some(back_ms) => self.bounce(place, back_ms),
                    None => self.stop(place),
                }
                Ok(())
            }
        }
    }

    fn crash_now(&mut self, place: usize, outcome: &Outcome) -> Option<(Point, Option<u64>)> {
        if let Some(arm) = self.nodes[place].arm
            && !outcome.durable.is_empty()
        {
            let nth = arm.nth - 1;
            self.nodes[place].arm = (nth > 0).then_some(Arm { nth, ..arm });
            if nth == 0 {
                return Some((arm.point, arm.back_ms));
            }
        }
        let crashes = self.crashes > 0 && self.rng.range(0, 9_999) < self.crashes;
        crashes.then(|| (self.rng.pick(&Point::ALL), Some(self.rng.range(1, 3_000))))
    }

    /// Carries out the part of an outcome that survives a crash at `point`.
    fn crash_at(&mut self, place: usize, outcome: Outcome, point: Point) -> Result<(), Violation> {
        self.count(point.fault());
        self.trace(|| format!("node {place} crashes at {point:?}"));
        let Outcome { mut durable, mut release } = outcome;
        match point {
            Point::Before => return Ok(()),
            Point::Guard => {
                self.sign_ahead(place, &release);
                return Ok(());
            }
            Point::Torn => {
                durable.truncate(self.rng.index(durable.len()));
                release.clear();
            }
            Point::Synced => {
                // Blocks go into the same sync as records.
                let keeps_blocks = self.rng.percent(50);
                release.retain(|action| keeps_blocks && matches!(action, Action::Commit(_)));
            }
            Point::Sent => release.truncate(self.rng.range(1, release.len() as u64) as usize),
        }
        self.store(place, durable)?;
        self.release(place, release)
    }

    /// The guard knows of signatures of which nothing else was made durable.
    fn sign_ahead(&mut self, place: usize, release: &[Action]) {
        let choices = release.iter().flat_map(|action| match action {
            Action::Vote { choice, .. } => vec![*choice],
            Action::Send(envelope) => envelope.sign.clone(),
            _ => Vec::new(),
        });
        let node = &mut self.nodes[place];
        for choice in choices {
            let mark = node.released.get(&choice.slot.kind);
            let closed = mark.is_some_and(|mark| (choice.slot.a, choice.slot.b) <= *mark);
            if !closed && !node.guard.contains_key(&choice.slot) {
                node.guard.insert(choice.slot, choice.digest);
                node.orphans.insert(choice.slot);
            }
        }
    }

    fn store(&mut self, place: usize, durable: Vec<DurableRecord>) -> Result<(), Violation> {
        let honest = !self.is_liar(place);
        for mut record in durable {
            let last = self.nodes[place].last_record;
            if record.id <= last && honest {
                return Err(self.at(place, Check::Records, format!("record {} after {last}", record.id)));
            }
            let node = &mut self.nodes[place];
            node.last_record = last.max(record.id);
            record.statements.retain(|statement| node.known.contains(statement));
            node.disk.push(record);
        }
        Ok(())
    }

    fn release(&mut self, place: usize, actions: Vec<Action>) -> Result<(), Violation> {
        for action in actions {
            match action {
                Action::Vote { to, choice } => self.vote(place, &to, choice)?,
                Action::Send(envelope) => self.send_envelope(place, envelope)?,
                Action::SetTimer { id, after_ms } => self.set_timer(place, id, after_ms)?,
                Action::CancelTimer(id) => {
                    self.nodes[place].timers.remove(&id);
                }
                Action::Commit(commit) => self.commit(place, commit)?,
                Action::Fetch { batches, .. } => {
                    for batch in batches {
                        let at = self.now + self.rng.range(2, 40);
                        self.push(at, Job::Answer { place, batch });
                    }
                }
                Action::Truncate(id) => {
                    let node = &mut self.nodes[place];
                    node.disk.retain(|record| record.id > id);
                    node.disk_floor = node.disk.len();
                }
                Action::ReleaseSlots(slot) => {
                    let mark = self.nodes[place].released.entry(slot.kind).or_default();
                    *mark = (*mark).max((slot.a, slot.b));
                }
                Action::Accuse(proof) => self.accuse(place, &proof)?,
                Action::Measure { gauge, value } => {
                    self.nodes[place].measured.insert(gauge, value);
                }
            }
        }
        Ok(())
    }

    fn vote(&mut self, place: usize, to: &Recipients, choice: Choice) -> Result<(), Violation> {
        let recipients = self.recipients(place, to)?;
        if self.is_liar(place) {
            for to in recipients {
                let choice = self.lie_in_vote(place, to, choice);
                if let Some(statement) = self.sign(place, choice)? {
                    self.send(place, to, Event::Vote(statement))?;
                }
            }
        } else if let Some(statement) = self.sign(place, choice)? {
            for to in recipients {
                self.send(place, to, Event::Vote(statement))?;
            }
        }
        Ok(())
    }

    fn send_envelope(&mut self, place: usize, envelope: Envelope) -> Result<(), Violation> {
        let recipients = self.recipients(place, &envelope.to)?;
        if !self.is_liar(place) {
            let Some(event) = self.seal(place, envelope)? else { return Ok(()) };
            for to in recipients {
                self.send(place, to, event.clone())?;
            }
            return Ok(());
        }
        for to in recipients {
            let mut envelope = envelope.clone();
            self.lie_in_message(place, to, &mut envelope);
            if let Some(event) = self.seal(place, envelope)? {
                self.send(place, to, event)?;
            }
        }
        Ok(())
    }

    /// A message with its signatures; `None` where one of its own is refused.
    fn seal(&mut self, place: usize, envelope: Envelope) -> Result<Option<Event>, Violation> {
        let mut statements = Vec::with_capacity(envelope.sign.len() + envelope.attach.len());
        for choice in envelope.sign {
            match self.sign(place, choice)? {
                Some(statement) => statements.push(statement),
                None => return Ok(None),
            }
        }
        let known = &self.nodes[place].known;
        let (held, missing): (Vec<_>, Vec<_>) = envelope.attach.into_iter().partition(|s| known.contains(s));
        statements.extend(held);
        if !missing.is_empty() {
            self.count("attachments not held");
        }
        let sender = AuthorityIndex(self.nodes[place].authority);
        Ok(Some(Event::Message(Message { sender, payload: envelope.payload, statements })))
    }

    fn recipients(&self, place: usize, to: &Recipients) -> Result<Vec<u32>, Violation> {
        let size = self.setup.stakes.len() as u32;
        let me = self.nodes[place].authority;
        let named: Vec<u32> = match to {
            Recipients::All => (0..size).filter(|node| *node != me).collect(),
            Recipients::One(one) => vec![one.0],
            Recipients::Some(some) => some.iter().map(|authority| authority.0).collect(),
        };
        match named.iter().find(|node| **node >= size) {
            Some(outside) if !self.is_liar(place) => {
                Err(self.at(place, Check::Limits, format!("a message to authority {outside} of {size}")))
            }
            Some(_) => Ok(Vec::new()),
            None => Ok(named),
        }
    }

    fn sign(&mut self, place: usize, choice: Choice) -> Result<Option<Statement>, Violation> {
        let author = AuthorityIndex(self.nodes[place].authority);
        let statement = Statement { author, slot: choice.slot, digest: choice.digest };
        if self.is_liar(place) {
            self.nodes[place].known.insert(statement);
            return Ok(Some(statement));
        }
        let node = &mut self.nodes[place];
        let mark = node.released.get(&choice.slot.kind);
        if mark.is_some_and(|mark| (choice.slot.a, choice.slot.b) <= *mark) {
            self.refuse(place, choice);
            return Ok(None);
        }
        let signed = *node.guard.entry(choice.slot).or_insert(choice.digest);
        if signed == choice.digest {
            node.orphans.remove(&choice.slot);
            node.known.insert(statement);
            return Ok(Some(statement));
        }
        if node.orphans.contains(&choice.slot) {
            self.refuse(place, choice);
            return Ok(None);
        }
        let text =
            format!("{:?} was signed for {signed:?}, now {:?} is asked for", choice.slot, choice.digest);
        Err(self.at(place, Check::DoubleSign, text))
    }

    fn refuse(&mut self, place: usize, choice: Choice) {
        self.count("signatures refused");
        let now = self.now + 1;
        self.push(now, Job::Deliver { place, event: Event::Refused(choice.slot) });
    }

    fn set_timer(&mut self, place: usize, id: u64, after_ms: u64) -> Result<(), Violation> {
        let number = self.next_number();
        let late_ms = self.network.quality.late_timers_ms;
        let late = if late_ms > 0 { self.rng.range(0, late_ms) } else { 0 };
        if late > 0 {
            self.count("timers late");
        }
        let node = &mut self.nodes[place];
        node.timers.insert(id, number);
        let (life, set) = (node.life, node.timers.len());
        if set > TIMERS_MAX {
            return Err(self.at(place, Check::Timers, format!("{set} timers are set")));
        }
        // By its own clock, which may be fast or slow, and never early.
        let after = after_ms.saturating_mul(100).div_ceil(node.speed).max(1);
        let at = self.now.saturating_add(after).saturating_add(late);
        self.push(at, Job::Timer { place, life, id, number });
        Ok(())
    }

    /// An accusation convicts only a liar, and by a proof that every node can check.
    fn accuse(&mut self, place: usize, proof: &[u8]) -> Result<(), Violation> {
        if self.is_liar(place) {
            return Ok(());
        }
        self.count("accusations");
        let settings = self.settings(self.nodes[place].authority);
        let mut judge = self.factory.instance().map_err(|fault| self.at(place, Check::Fault, fault.0))?;
        let verdict = judge.judge(&settings.committee, proof);
        match verdict.map_err(|fault| self.at(place, Check::Fault, fault.0))? {
            Some(accused) if Some(accused.0) == self.liar() => Ok(()),
            verdict => Err(self.at(place, Check::Accusation, format!("an accusation of {verdict:?}"))),
        }
    }
}
