//! The network: who hears whom, how late, how often, and what is lost.
//!
//! Links are directed, so a cut may be one-way. What a node sends is never delivered to
//! itself. A message to a node that is down is lost.

use std::collections::BTreeSet;

use moult_sdk::AuthorityIndex;
use moult_sdk::engine::Event;

use super::check::{Check, Violation};
use super::{Job, World};

/// What all links do to messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quality {
    /// Shortest and longest delay in milliseconds; different delays reorder.
    pub delay_ms: (u64, u64),
    /// Lost, in percent.
    pub loss: u64,
    /// Delivered twice, in percent.
    pub duplicates: u64,
    /// Batches told late (100 to 2,500 ms), in percent.
    pub late_batches: u64,
    /// How late a timer may fire, in milliseconds.
    pub late_timers_ms: u64,
}

impl Quality {
    /// Links without faults.
    pub const GOOD: Self =
        Self { delay_ms: (1, 5), loss: 0, duplicates: 0, late_batches: 0, late_timers_ms: 0 };
}

/// A kind of message, as far as a host can tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Statements alone.
    Votes,
    /// Messages with a payload.
    Messages,
    /// Both.
    All,
}

/// Loses some of what some send to some.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drop {
    /// What.
    pub kind: Kind,
    /// How much of it.
    pub percent: u64,
    /// Senders.
    pub from: BTreeSet<u32>,
    /// Receivers.
    pub to: BTreeSet<u32>,
}

/// The state of the network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) quality: Quality,
    pub(crate) cuts: BTreeSet<(u32, u32)>,
    pub(crate) drops: Vec<Drop>,
    /// Messages in the running second of virtual time, which it is.
    sent: (u64, u64),
}

impl Network {
    pub(crate) fn new(quality: Quality) -> Self {
        Self { quality, cuts: BTreeSet::new(), drops: Vec::new(), sent: (0, 0) }
    }
}

/// Messages a second that a link may carry before it counts as a flood.
const FLOOD: u64 = 2_500;

impl World<'_> {
    /// Puts an event on its way from a node to an authority.
    pub(crate) fn send(&mut self, from: usize, to: u32, event: Event) -> Result<(), Violation> {
        let sender = self.nodes[from].authority;
        if sender == to {
            return Ok(());
        }
        self.note_message(from)?;
        let Some((place, event)) = self.twist(from, to, event) else { return Ok(()) };
        if self.network.cuts.contains(&(sender, to)) {
            self.count("messages cut off");
            return Ok(());
        }
        if self.is_dropped(sender, to, &event) {
            self.count("messages lost");
            return Ok(());
        }
        let quality = self.network.quality;
        let twice = self.rng.percent(quality.duplicates);
        if twice {
            self.count("messages doubled");
        }
        for _ in 0..1 + u32::from(twice) {
            let at = self.now + self.rng.range(quality.delay_ms.0, quality.delay_ms.1).max(1);
            self.push(at, Job::Deliver { place, event: event.clone() });
        }
        Ok(())
    }

    fn note_message(&mut self, from: usize) -> Result<(), Violation> {
        let (second, size) = (self.now / 1_000, self.setup.stakes.len() as u64);
        let (running, count) = &mut self.network.sent;
        if *running != second {
            (*running, *count) = (second, 0);
        }
        *count += 1;
        if *count > FLOOD * size * size {
            let text = format!("{count} messages within a second among {size} nodes");
            return Err(self.at(from, Check::Flood, text));
        }
        Ok(())
    }

    fn is_dropped(&mut self, from: u32, to: u32, event: &Event) -> bool {
        let loss = self.network.quality.loss;
        if loss > 0 && self.rng.percent(loss) {
            return true;
        }
        let kind = if matches!(event, Event::Vote(_)) { Kind::Votes } else { Kind::Messages };
        let matching = |drop: &&Drop| {
            (drop.kind == Kind::All || drop.kind == kind)
                && drop.from.contains(&from)
                && drop.to.contains(&to)
        };
        let percent = self.network.drops.iter().find(matching).map_or(0, |drop| drop.percent);
        percent > 0 && self.rng.percent(percent)
    }

    /// Whether two authorities can talk both ways.
    pub(crate) fn linked(&self, a: u32, b: u32) -> bool {
        !self.network.cuts.contains(&(a, b)) && !self.network.cuts.contains(&(b, a))
    }

    /// Cuts all links from one set to another.
    pub fn cut(&mut self, from: &[u32], to: &[u32]) {
        let links = from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
        self.network.cuts.extend(links);
        self.count("cuts");
        self.trace(|| format!("cut {from:?} -> {to:?}"));
        self.tell_of_links(from, to, false);
    }

    /// Lets nodes hear only those of their own part; who is in none is alone.
    pub fn partition(&mut self, parts: &[Vec<u32>]) {
        self.network.cuts.clear();
        let all = 0..self.setup.stakes.len() as u32;
        let part = |node: u32| parts.iter().position(|part| part.contains(&node));
        for a in all.clone() {
            for b in all.clone().filter(|b| *b != a && (part(a).is_none() || part(a) != part(*b))) {
                self.network.cuts.insert((a, b));
            }
        }
        self.count("partitions");
        self.trace(|| format!("partition {parts:?}"));
        let all: Vec<u32> = all.collect();
        self.tell_of_links(&all, &all, false);
    }

    /// Mends links from one set to another.
    pub fn mend(&mut self, from: &[u32], to: &[u32]) {
        self.network.cuts.retain(|(a, b)| !(from.contains(a) && to.contains(b)));
        self.trace(|| format!("mend {from:?} -> {to:?}"));
        self.tell_of_links(from, to, true);
    }

    /// Mends all links, and loses nothing from now on.
    pub fn heal(&mut self) {
        self.network.cuts.clear();
        self.network.drops.clear();
        self.trace(|| "heal".to_owned());
        let all: Vec<u32> = (0..self.setup.stakes.len() as u32).collect();
        self.tell_of_links(&all, &all, true);
    }

    /// Loses some messages from now on; the first rule that matches counts.
    pub fn lose(&mut self, drop: Drop) {
        self.trace(|| format!("{drop:?}"));
        self.network.drops.insert(0, drop);
    }

    /// Changes what links do.
    pub fn set_quality(&mut self, quality: Quality) {
        self.network.quality = quality;
    }

    /// What links do.
    pub fn quality(&self) -> Quality {
        self.network.quality
    }

    /// Both ends of the links between two sets hear of them, some time later.
    fn tell_of_links(&mut self, from: &[u32], to: &[u32], up: bool) {
        for (a, b) in from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))) {
            if a != b && self.linked(a, b) == up {
                self.tell_of_link(a, b, up);
                self.tell_of_link(b, a, up);
            }
        }
    }

    /// All that are linked to an authority hear that it came or went.
    pub(crate) fn tell_of_peer(&mut self, peer: u32, up: bool) {
        for node in 0..self.setup.stakes.len() as u32 {
            if node != peer && self.linked(node, peer) {
                self.tell_of_link(node, peer, up);
                if up {
                    self.tell_of_link(peer, node, self.nodes[node as usize].is_up());
                }
            }
        }
    }

    /// A hint: it comes late, and now and then not at all.
    fn tell_of_link(&mut self, node: u32, peer: u32, up: bool) {
        if self.rng.percent(20) {
            return;
        }
        let at = self.now + self.rng.range(5, 60);
        let rtt_us = if up { self.rng.range(0, 10_000) as u32 } else { 0 };
        let event = Event::Peer { peer: AuthorityIndex(peer), up, rtt_us };
        self.push(at, Job::Deliver { place: node as usize, event });
    }
}
