//! What a Byzantine authority does in place of what its engine says.
//!
//! No lie here knows an engine's encoding, so each works against any engine: the harness
//! signs as the liar whatever the lie asks for. A test that knows the encoding brings an
//! [`Attack`] of its own. The liar's engine still must not trap.

use std::fmt;
use std::rc::Rc;

use moult_sdk::AuthorityIndex;
use moult_sdk::engine::{Choice, Envelope, Event, Message};

use super::{Job, World};

/// An attack by one authority.
#[derive(Clone, Debug)]
pub enum Lie {
    /// Sends nothing at all, and hears everything.
    Silent,
    /// Runs two engines under one key; each of the others hears one of them, and which one
    /// changes: two proposals, two votes, two of everything.
    Twins,
    /// Damages half of its payloads; the statements stay.
    Garble,
    /// Votes for another digest towards half of the others.
    Flip,
    /// Sends again, as its own, what it or others sent before.
    Replay,
    /// Comes back from every crash with fewer records than it had, or none, and signs
    /// again what it signed before.
    Amnesia,
    /// One that knows the engine.
    Custom(Rc<dyn Attack>),
}

/// What a liar that knows its engine makes of what it sends.
pub trait Attack: fmt::Debug {
    /// What is voted for towards `to`.
    fn vote(&self, to: u32, choice: Choice) -> Choice;

    /// What is sent to `to`.
    fn send(&self, to: u32, envelope: &mut Envelope);
}

/// How long a twin is heard by the same others.
const SIDES_MS: u64 = 700;
/// Messages kept to be replayed.
const CAPTURED_MAX: usize = 256;

impl World<'_> {
    pub(crate) fn liar(&self) -> Option<u32> {
        self.setup.liar.as_ref().map(|(liar, _)| *liar)
    }

    pub(crate) fn is_liar(&self, place: usize) -> bool {
        self.liar() == Some(self.nodes[place].authority)
    }

    fn lie_of(&self, place: usize) -> Option<Lie> {
        self.setup
            .liar
            .as_ref()
            .filter(|(liar, _)| *liar == self.nodes[place].authority)
            .map(|(_, lie)| lie.clone())
    }

    /// What a liar's vote becomes towards a receiver.
    pub(crate) fn lie_in_vote(&mut self, place: usize, to: u32, choice: Choice) -> Choice {
        match self.lie_of(place) {
            Some(Lie::Flip) if to % 2 == 1 => {
                self.count("votes flipped");
                let mut other = choice;
                other.digest.0[0] ^= 1;
                other
            }
            Some(Lie::Custom(attack)) => attack.vote(to, choice),
            _ => choice,
        }
    }

    /// What a liar's message becomes towards a receiver.
    pub(crate) fn lie_in_message(&mut self, place: usize, to: u32, envelope: &mut Envelope) {
        match self.lie_of(place) {
            Some(Lie::Garble) if self.rng.percent(50) => {
                self.count("payloads garbled");
                let mut payload = std::mem::take(&mut envelope.payload);
                crate::hostile::mutate(&mut self.rng, &mut payload);
                payload.truncate(self.setup.max_message_bytes as usize);
                envelope.payload = payload;
            }
            Some(Lie::Flip) => {
                envelope.sign = envelope.sign.iter().map(|c| self.lie_in_vote(place, to, *c)).collect();
            }
            Some(Lie::Custom(attack)) => attack.send(to, envelope),
            _ => {}
        }
    }

    /// Where a message goes, and what becomes of it on its way out; `None`: nowhere.
    pub(crate) fn twist(&mut self, from: usize, to: u32, event: Event) -> Option<(usize, Event)> {
        if self.capturing {
            self.captured.push(event.clone());
            if self.captured.len() > CAPTURED_MAX {
                self.captured.remove(0);
            }
        }
        match self.lie_of(from) {
            Some(Lie::Silent) => return None,
            Some(Lie::Twins) if !self.hears(to, from) => return None,
            Some(Lie::Replay) if self.rng.percent(30) => self.replay(from, to),
            _ => {}
        }
        let twin = self.liar() == Some(to) && self.nodes.len() > self.setup.stakes.len();
        let other = twin && self.sides >> self.nodes[from].authority & 1 == 1;
        Some((if other { self.setup.stakes.len() } else { to as usize }, event))
    }

    /// Whether an authority hears this twin at the moment.
    fn hears(&mut self, to: u32, twin: usize) -> bool {
        let second = twin >= self.setup.stakes.len();
        let hears = (self.sides >> to & 1 == 1) == second;
        if second && hears {
            self.count("messages of a twin");
        }
        hears
    }

    fn replay(&mut self, from: usize, to: u32) {
        let place = self.rng.index(self.captured.len());
        let Some(event) = self.captured.get(place).cloned() else { return };
        let sender = AuthorityIndex(self.nodes[from].authority);
        let event = match event {
            Event::Message(message) => Event::Message(Message { sender, ..message }),
            other => other,
        };
        self.count("messages replayed");
        let at = self.now + self.rng.range(1, 500);
        self.push(at, Job::Deliver { place: to as usize, event });
    }

    /// Draws anew who hears which twin.
    pub(crate) fn draw_sides(&mut self) {
        self.sides = self.rng.number();
        let at = self.now + SIDES_MS;
        self.push(at, Job::Sides);
    }

    /// A liar with amnesia forgets before it comes back.
    pub(crate) fn forget_of_liar(&mut self, place: usize) {
        if !matches!(self.lie_of(place), Some(Lie::Amnesia)) {
            return;
        }
        self.count("memories lost");
        let all = self.rng.percent(50);
        let keep = self.rng.range(self.nodes[place].disk_floor as u64, self.nodes[place].disk.len() as u64);
        let node = &mut self.nodes[place];
        node.disk.truncate(if all { 0 } else { keep as usize });
        node.disk_floor = node.disk_floor.min(node.disk.len());
        node.released.clear();
    }
}
