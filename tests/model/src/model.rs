//! Three honest nodes that sign whatever the rules let them sign, in any order.
//!
//! All to the adversary's favour: the network is the set of all signatures, of which any node knows any part at any
//! time; a Byzantine node signs everything; engines order everything; anything may be suspected at any time. A node
//! that stops for good is one that takes no more steps, and one that restarts has its guard (K17), which is all that
//! it has here: what else it knew is chosen anew at each step.
//!
//! States that differ only in the order of the nodes, or in votes that no longer matter because every honest node has
//! left their phase, are one state.

use stateright::{Model, Property};

use crate::blocks::{Id, NONE, Set, Size, World, bit, members};
use crate::mistakes::Planted;

/// Nodes that follow the rules.
pub const HONEST: usize = 3;
const UNCLAIMED: Id = u8::MAX;

/// The committee and the world that it lives in.
#[derive(Debug)]
pub struct Kernel {
    world: World,
    byzantine: usize,
    quorum: usize,
    planted: Planted,
}

/// What an honest node has signed, and where it is: its guard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node {
    /// The phase that it is in.
    pub phase: u8,
    /// Blocks that its prepares count for, or just those that it signed with [`Planted::GuardBySlot`].
    pub prepares: Set,
    /// Likewise for commits.
    pub commits: Set,
    /// The claims of its aborts by phase.
    claims: [Id; 2],
    /// Whether it lost its store.
    lost: bool,
}

/// All signatures there are.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The honest nodes, sorted.
    pub nodes: [Node; HONEST],
    /// Blocks that a prepare certificate proves, in phases that somebody is in still or may enter.
    pub certified: Set,
    /// Blocks that a commit certificate makes final.
    pub finals: Set,
    /// The resume points of all bundles of phases that every honest node has left.
    settled: [Option<Set>; 2],
}

/// One step of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Signs a prepare (K3).
    Prepare {
        /// Which node.
        node: usize,
        /// For which block.
        block: Id,
    },
    /// Signs a commit (K4).
    Commit {
        /// Which node.
        node: usize,
        /// For which block.
        block: Id,
    },
    /// Aborts its phase (K8).
    Abort {
        /// Which node.
        node: usize,
        /// The prepare certificate that it claims.
        claim: Id,
    },
    /// Enters a phase with its proof (K17).
    Enter {
        /// Which node.
        node: usize,
        /// The phase, as an index of the world's.
        phase: u8,
    },
    /// Loses its store.
    LoseStore {
        /// Which node.
        node: usize,
    },
}

impl Kernel {
    /// Four nodes, one of them Byzantine; certificates of three votes.
    #[must_use]
    pub fn byzantine(size: Size, planted: Planted) -> Self {
        Self { world: World::new(size, planted), byzantine: 1, quorum: 3, planted }
    }

    /// Three nodes that crash and do not lie; certificates of two votes.
    #[must_use]
    pub fn crash(size: Size, planted: Planted) -> Self {
        Self { world: World::new(size, planted), byzantine: 0, quorum: 2, planted }
    }

    /// The same with certificates of another number of votes.
    #[must_use]
    pub fn with_quorum(self, quorum: usize) -> Self {
        Self { quorum, ..self }
    }

    /// The blocks that there are.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// All blocks that a set of votes counts for (K5).
    fn covered(&self, votes: Set) -> Set {
        members(votes).fold(0, |set, id| set | self.world.block(id).chain)
    }

    /// The highest block of a set, [`NONE`] of the empty one.
    fn highest(&self, set: Set) -> Id {
        members(set).max_by_key(|id| self.world.block(*id).index).unwrap_or(NONE)
    }

    fn of_phase(&self, phase: u8) -> Set {
        self.world.of_phase[usize::from(phase)]
    }

    fn position(&self, phase: u8) -> u8 {
        self.world.phases[usize::from(phase)].position()
    }

    fn is_open(&self, node: &Node, phase: u8) -> bool {
        if self.planted == Planted::GuardBySlot {
            return self.position(phase) <= self.position(node.phase);
        }
        let aborted = node.claims.get(usize::from(phase)).is_some_and(|claim| *claim != UNCLAIMED);
        node.phase == phase && !aborted
    }

    fn same_slot(&self, votes: Set, block: Id) -> bool {
        let slot = |id: Id| (self.world.block(id).phase, self.world.block(id).index);
        members(votes).any(|id| slot(id) == slot(block))
    }

    fn may_prepare(&self, state: &State, node: &Node, id: Id) -> bool {
        let block = self.world.block(id);
        let earlier = node.prepares & self.of_phase(block.phase);
        let guard = if self.planted == Planted::GuardBySlot {
            !self.same_slot(earlier, id)
        } else {
            earlier & bit(id) == 0 && earlier & !block.chain == 0
        };
        let signed = state.nodes.iter().fold(0, |set, node| set | self.covered(node.prepares));
        let bundle = block.resumes.is_none_or(|point| self.points(state, block.phase) & bit(point) != 0);
        self.is_open(node, block.phase) && guard && block.after & !signed == 0 && bundle
    }

    fn may_commit(&self, node: &Node, id: Id) -> bool {
        let block = self.world.block(id);
        let earlier = node.commits & self.of_phase(block.phase);
        let open = self.is_open(node, block.phase)
            || self.planted == Planted::CommitAfterAbort && node.phase == block.phase;
        let guard = if self.planted == Planted::GuardBySlot {
            !self.same_slot(earlier, id)
        } else {
            block.index > self.world.index(self.highest(earlier))
        };
        open && guard
    }

    /// The claims that an abort of the phase that a node is in may have (K8): any certificate that it may know of, but
    /// not below the one that it keeps with its last commit.
    fn claims(&self, state: &State, node: &Node) -> impl Iterator<Item = Id> {
        let kept = self.world.index(self.highest(node.commits & self.of_phase(node.phase)));
        let forgotten = self.planted == Planted::AbortBelowCommit || node.lost;
        let least = if forgotten { 0 } else { kept };
        let known = members(state.certified & self.of_phase(node.phase) | bit(NONE));
        known.filter(move |id| self.world.index(*id) >= least)
    }

    /// The resume points of all valid bundles that open a fallback (K9, K10); the bit of [`NONE`] is the point at which
    /// the epoch began.
    fn points(&self, state: &State, fallback: u8) -> Set {
        let Some(aborted) = fallback.checked_sub(1) else { return 0 };
        if let Some(settled) = state.settled.get(usize::from(aborted)).copied().flatten() {
            return settled;
        }
        let claimed =
            |node: &Node| node.claims.get(usize::from(aborted)).copied().filter(|claim| *claim != UNCLAIMED);
        let honest: Vec<Id> = state.nodes.iter().filter_map(claimed).collect();
        if honest.len() + self.byzantine < self.quorum {
            return 0;
        }
        let mut claims = honest.iter().fold(0, |set, claim| set | bit(*claim));
        if self.byzantine > 0 {
            let provable = if self.planted == Planted::UnprovenClaims { Set::MAX } else { state.certified };
            claims |= provable & self.of_phase(aborted) | bit(NONE);
        }
        let mut points = 0;
        for claim in members(claims) {
            let below =
                honest.iter().filter(|other| self.world.index(**other) <= self.world.index(claim)).count();
            if below + self.byzantine < self.quorum {
                continue;
            }
            let resumed = if claim == NONE { aborted == 0 } else { self.world.block(claim).active };
            points |= match (resumed, self.planted) {
                (true, _) => bit(claim),
                (false, Planted::NoRecursion) => bit(NONE),
                (false, _) => self.points(state, aborted),
            };
        }
        points
    }

    /// Whether a node may have the proof that opens a phase (K17).
    fn may_enter(&self, state: &State, phase: u8) -> bool {
        let identity = self.world.phases[usize::from(phase)];
        if identity.number == 0 {
            return self.points(state, phase) != 0;
        }
        self.final_blocks(state).any(|id| self.world.block(id).successor == identity.origin)
    }

    /// Final blocks that count: not those before a resume block.
    fn final_blocks(&self, state: &State) -> impl Iterator<Item = Id> {
        members(state.finals).filter(|id| self.world.block(*id).active)
    }

    /// Blocks on a chain for which a quorum has signed.
    fn quorum_on(&self, chain: Set, votes: impl Fn(&Node) -> Set, state: &State) -> Set {
        let covered = state.nodes.map(|node| self.covered(votes(&node)));
        let enough = |id: &Id| {
            covered.iter().filter(|set| **set & bit(*id) != 0).count() + self.byzantine >= self.quorum
        };
        members(chain).filter(enough).fold(0, |set, id| set | bit(id))
    }

    /// The one state for all that behave alike.
    fn reduce(&self, state: &mut State) {
        let lowest = state.nodes.iter().map(|node| self.position(node.phase)).min().unwrap_or(0);
        for phase in (0..self.world.phases.len()).filter_map(|phase| u8::try_from(phase).ok()) {
            let left = self.position(phase) < lowest && self.planted != Planted::GuardBySlot;
            if !left {
                continue;
            }
            let index = usize::from(phase);
            if state.settled.get(index).is_some_and(Option::is_none) && self.world.fallback(phase).is_some() {
                state.settled[index] = Some(self.points(state, phase + 1));
            }
            state.certified &= !self.of_phase(phase);
            for node in &mut state.nodes {
                node.prepares &= !self.of_phase(phase);
                node.commits &= !self.of_phase(phase);
                if let Some(claim) = node.claims.get_mut(index) {
                    *claim = UNCLAIMED;
                }
            }
        }
        state.nodes.sort_unstable();
    }

    // Properties.

    fn agreement(&self, state: &State) -> bool {
        let longest = self.longest(self.final_blocks(state));
        self.final_blocks(state).all(|id| longest.starts_with(&self.world.block(id).executed))
    }

    fn longest(&self, blocks: impl Iterator<Item = Id>) -> &[Id] {
        let executed = blocks.map(|id| self.world.block(id).executed.as_slice());
        executed.max_by_key(|executed| executed.len()).unwrap_or_default()
    }

    /// Whether no two blocks of a set lie beside each other.
    fn on_one_chain(&self, set: Set) -> bool {
        members(set).all(|id| {
            let block = self.world.block(id);
            let beside = set & self.of_phase(block.phase) & !block.chain;
            members(beside).all(|other| self.world.block(other).index > block.index)
        })
    }

    fn final_survives_abort(&self, state: &State) -> bool {
        let mut fallbacks = (1..self.world.phases.len()).filter_map(|phase| u8::try_from(phase).ok());
        fallbacks.all(|fallback| {
            let phase = self.world.phases[usize::from(fallback)];
            if phase.number > 0 {
                return true;
            }
            let told =
                self.longest(self.final_blocks(state).filter(|id| self.world.block(*id).phase < fallback));
            members(self.points(state, fallback)).all(|point| self.world.executed(point).starts_with(told))
        })
    }

    fn one_successor(&self, state: &State) -> bool {
        let successors = self.final_blocks(state).map(|id| self.world.block(id).successor);
        let named = successors.filter(|successor| *successor != NONE).fold(0, |set, id| set | bit(id));
        named.count_ones() <= 1
    }

    fn guard_holds(&self, state: &State) -> bool {
        state.nodes.iter().all(|node| {
            let claims = node.claims.iter().zip(0_u8..).filter(|(claim, _)| **claim != UNCLAIMED);
            let mut covering = claims.map(|(claim, phase)| {
                let committed = self.highest(node.commits & self.of_phase(phase));
                self.world.index(committed) <= self.world.index(*claim)
            });
            self.on_one_chain(self.covered(node.prepares))
                && self.on_one_chain(self.covered(node.commits))
                && covering.all(|covers| covers)
        })
    }

    fn barrier_respected(&self, state: &State) -> bool {
        let signed = state.nodes.iter().fold(0, |set, node| set | node.prepares | node.commits);
        members(signed).all(|id| {
            let block = self.world.block(id);
            block.barrier.is_none_or(|barrier| block.index <= barrier)
        })
    }

    fn is_final(&self, state: &State, wanted: impl Fn(&crate::blocks::Block) -> bool) -> bool {
        self.final_blocks(state).any(|id| wanted(self.world.block(id)))
    }
}

impl Model for Kernel {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let node = Node { phase: 0, prepares: 0, commits: 0, claims: [UNCLAIMED; 2], lost: false };
        vec![State { nodes: [node; HONEST], certified: 0, finals: 0, settled: [None; 2] }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (number, node) in state.nodes.iter().enumerate() {
            // Nodes that are alike take the same steps.
            if number > 0 && state.nodes[number - 1] == *node {
                continue;
            }
            let reachable =
                if self.planted == Planted::GuardBySlot { Set::MAX } else { self.of_phase(node.phase) };
            let all =
                if self.world.blocks.is_empty() { 0 } else { Set::MAX >> (64 - self.world.blocks.len()) };
            for block in members(reachable & all).filter(|id| self.may_prepare(state, node, *id)) {
                actions.push(Action::Prepare { node: number, block });
            }
            for block in members(reachable & state.certified).filter(|id| self.may_commit(node, *id)) {
                actions.push(Action::Commit { node: number, block });
            }
            let unclaimed = node.claims.get(usize::from(node.phase)) == Some(&UNCLAIMED);
            if unclaimed && self.world.fallback(node.phase).is_some() {
                actions.extend(self.claims(state, node).map(|claim| Action::Abort { node: number, claim }));
            }
            let phases = (0..self.world.phases.len()).filter_map(|phase| u8::try_from(phase).ok());
            let higher = phases.filter(|phase| self.position(*phase) > self.position(node.phase));
            let open = higher.filter(|phase| self.may_enter(state, *phase));
            actions.extend(open.map(|phase| Action::Enter { node: number, phase }));
            let losing = self.planted == Planted::CertificateLostWithStore;
            if losing && state.nodes.iter().all(|node| !node.lost) {
                actions.push(Action::LoseStore { node: number });
            }
        }
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        let mut state = last_state.clone();
        // A vote counts for all below it, so that it is kept as what it counts for.
        let kept =
            |id: Id| if self.planted == Planted::GuardBySlot { bit(id) } else { self.world.block(id).chain };
        match action {
            Action::Prepare { node, block } => {
                state.nodes[node].prepares |= kept(block);
                state.certified |=
                    self.quorum_on(self.world.block(block).chain, |node| node.prepares, &state);
            }
            Action::Commit { node, block } => {
                state.nodes[node].commits |= kept(block);
                state.finals |= self.quorum_on(self.world.block(block).chain, |node| node.commits, &state);
            }
            Action::Abort { node, claim } => {
                let node = &mut state.nodes[node];
                node.claims[usize::from(node.phase)] = claim;
            }
            Action::Enter { node, phase } => state.nodes[node].phase = phase,
            Action::LoseStore { node } => state.nodes[node].lost = true,
        }
        self.reduce(&mut state);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("agreement", Self::agreement),
            Property::always("certified means unique", |model: &Self, state: &State| {
                model.on_one_chain(state.certified)
            }),
            Property::always("final survives an abort", Self::final_survives_abort),
            Property::always("one successor", Self::one_successor),
            Property::always("the guard holds", Self::guard_holds),
            Property::always("barrier respected", Self::barrier_respected),
            Property::sometimes("a fallback resumes", |model: &Self, state: &State| {
                model.is_final(state, |block| block.resumes.is_some() && !block.closes)
            }),
            Property::sometimes("a fallback closes the epoch", |model: &Self, state: &State| {
                model.is_final(state, |block| block.closes)
            }),
            Property::sometimes("a second fallback resumes", |model: &Self, state: &State| {
                model.is_final(state, |block| model.world.phases[usize::from(block.phase)].phase == 2)
            }),
            Property::sometimes("the second epoch has a final block", |model: &Self, state: &State| {
                model.is_final(state, |block| model.world.phases[usize::from(block.phase)].number == 1)
            }),
        ]
    }
}
