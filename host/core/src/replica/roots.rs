//! State roots that nodes state to each other, and the end of a node whose state went wrong.
//!
//! Each authority states the root at every hundredth final block and at the barrier before its
//! epoch. One that has another root than a quorum stated at a block is wrong itself: it signs
//! nothing more, keeps what it has and says so. The chain does not depend on any of this: blocks
//! bind the root at a barrier (K14), and votes are about the order.

use std::collections::{BTreeMap, BTreeSet};

use moult_sdk::{AuthorityIndex, Digest};
use moult_types::state_root::{STATE_ROOT_EVERY_BLOCKS, StateRoot};
use moult_types::{GlobalIndex, Message, PublicKey, Signature};

use super::Replica;
use crate::guard::GuardRefusal;
use crate::io::{Event, Persist, Target};
use crate::stop::StopCause;

/// So many statements of each authority are kept, those of the highest blocks; and as many own
/// roots. Who is further behind than that compares at the next place.
const KEPT_MAX: usize = 8;
/// What was stated last is said again after this time: the message may have been lost.
const RESAY_MS: u64 = 5_000;

/// What was stated in the present epoch.
#[derive(Default)]
pub(super) struct Roots {
    /// This node's, where roots are stated.
    own: BTreeMap<GlobalIndex, Digest>,
    stated: BTreeMap<AuthorityIndex, BTreeMap<GlobalIndex, Digest>>,
    /// What this node stated last, and when it said so.
    last: Option<StateRoot>,
    said_ms: u64,
    /// Something came that was not compared yet.
    is_new: bool,
    /// This node's state is not that of a quorum.
    pub(super) is_forked: bool,
}

impl Roots {
    /// An epoch begins, with the root at the barrier before it: statements are of an epoch.
    pub(super) fn begin(&mut self, base: GlobalIndex, root: Option<Digest>) {
        let is_forked = self.is_forked;
        *self = Self { is_forked, ..Self::default() };
        self.own.extend(root.map(|root| (base, root)));
        self.is_new = true;
    }

    pub(super) fn note_own(&mut self, global: GlobalIndex, root: Digest) {
        if global.0 > 0 && global.0.is_multiple_of(STATE_ROOT_EVERY_BLOCKS) {
            keep(&mut self.own, global, root);
            self.is_new = true;
        }
    }

    /// The roots that stake stated at a block which `is_quorum` takes for one, if it is not
    /// `own`. The first statement of an authority counts.
    fn other_than(
        &self,
        global: GlobalIndex,
        own: Digest,
        is_quorum: impl Fn(&BTreeSet<AuthorityIndex>) -> bool,
    ) -> Option<Digest> {
        let mut by_root: BTreeMap<Digest, BTreeSet<AuthorityIndex>> = BTreeMap::new();
        for (author, stated) in &self.stated {
            if let Some(root) = stated.get(&global) {
                by_root.entry(*root).or_default().insert(*author);
            }
        }
        by_root.into_iter().find(|(root, authors)| *root != own && is_quorum(authors)).map(|(root, _)| root)
    }
}

/// The first root of a block stays; of too many blocks the highest ones.
fn keep(roots: &mut BTreeMap<GlobalIndex, Digest>, global: GlobalIndex, root: Digest) {
    roots.entry(global).or_insert(root);
    if roots.len() > KEPT_MAX {
        roots.pop_first();
    }
}

impl Replica {
    /// A verified statement.
    pub(super) fn on_state_root(&mut self, said: &StateRoot) {
        if said.epoch != self.epoch.start.manifest.number || Some(said.author) == self.epoch.me {
            return;
        }
        keep(self.roots.stated.entry(said.author).or_default(), said.global, said.root);
        self.roots.is_new = true;
    }

    /// States what is due, and compares what was stated.
    pub(super) fn mind_roots(&mut self) {
        if std::mem::take(&mut self.roots.is_new) || self.next_root().is_some() {
            self.compare_roots();
            while let Some((global, root)) = self.next_root() {
                if !self.state_root(global, root) {
                    break;
                }
            }
        }
    }

    /// The next one that this node may state: its block is final. In a graduated epoch a block
    /// is executed before.
    fn next_root(&self) -> Option<(GlobalIndex, Digest)> {
        if self.epoch.me.is_none() || !self.guard.is_enabled() {
            return None;
        }
        let stated = self.roots.last.map(|last| last.global);
        let marked = self.guard.state().stated.0;
        let is_due = |global: GlobalIndex| {
            stated.is_none_or(|stated| global > stated) && global >= marked && global <= self.ledger.global
        };
        let mut own = self.roots.own.iter().map(|(global, root)| (*global, *root));
        own.find(|(global, _)| is_due(*global))
    }

    /// Signs a statement and sends it; whether it could.
    fn state_root(&mut self, global: GlobalIndex, root: Digest) -> bool {
        let Some(author) = self.epoch.me else { return false };
        match self.guard.state_root(global, root) {
            Ok(update) => self.out.durable.extend(update.map(Persist::Guard)),
            // What it computes is not the same each time.
            Err(GuardRefusal::Conflict) => {
                let stated = self.guard.state().stated.1;
                self.stop_forked(global, root, format!("this node itself stated {stated} before"));
                return false;
            }
            Err(_) => return false,
        }
        let epoch = self.epoch.start.manifest.number;
        let mut said = StateRoot { epoch, global, root, author, signature: Signature([0; 64]) };
        said.signature = self.signer.sign_statement(self.chain, said.scope(), &said.statement());
        self.roots.last = Some(said);
        self.say_root(Target::Everyone);
        true
    }

    /// Says again what this node stated last.
    pub(super) fn tell_root(&mut self, peer: PublicKey) {
        self.say_root(Target::Keys(vec![peer]));
    }

    pub(super) fn housekeep_roots(&mut self) {
        if self.roots.said_ms + RESAY_MS <= self.now.mono_ms {
            self.say_root(Target::Everyone);
        }
    }

    fn say_root(&mut self, to: Target) {
        if to == Target::Everyone {
            self.roots.said_ms = self.now.mono_ms;
        }
        if let Some(said) = self.roots.last.filter(|_| self.guard.is_enabled()) {
            self.send(to, Message::StateRoot(said));
        }
    }

    /// A quorum holds an honest authority, so less than that of liars can trigger nothing.
    fn compare_roots(&mut self) {
        #[cfg(feature = "planted")]
        if self.has(super::Planted::RootsUncompared) {
            return;
        }
        if self.roots.is_forked {
            return;
        }
        let committee = &self.epoch.committee;
        let other = self.roots.own.iter().find_map(|(global, own)| {
            let other = self.roots.other_than(*global, *own, |authors| committee.is_quorum(authors));
            other.map(|other| (*global, *own, other))
        });
        if let Some((global, own, other)) = other {
            self.stop_forked(global, own, format!("a quorum stated {other}"));
        }
    }

    /// Signs nothing more. Reads and blocks are served as ever.
    fn stop_forked(&mut self, global: GlobalIndex, own: Digest, other: String) {
        self.roots.is_forked = true;
        let reason = format!("its state root after block {global} is {own}, and {other}");
        self.stop_signing(StopCause::State, &reason);
        self.event(Event::StateForked { global, reason });
    }
}
