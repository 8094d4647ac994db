//! All blocks that engines may order, and what follows from the chain of each.
//!
//! Blocks are numbered, and sets of them are the bits of a [`Set`]. A number is as good as the hash `h_i` (K1).

use crate::mistakes::Planted;

/// A set of blocks, one a bit.
pub type Set = u64;

/// A block's number. [`NONE`] is no block, or the point at which a phase began.
pub type Id = u8;

/// No block; as a bit of a [`Set`] the point at which a phase began.
pub const NONE: Id = 63;

/// The set that holds one block.
#[must_use]
pub const fn bit(id: Id) -> Set {
    1 << id
}

/// The members of a set, in rising order.
pub fn members(mut set: Set) -> impl Iterator<Item = Id> {
    std::iter::from_fn(move || {
        let id = u8::try_from(set.trailing_zeros()).ok().filter(|_| set != 0)?;
        set &= set - 1;
        Some(id)
    })
}

/// How large the world is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Blocks in a chain of each phase of the first epoch; 0 if there is no such phase.
    pub lengths: [u8; 3],
    /// What may be in the first block of the first phase.
    pub first: &'static [Body],
    /// What may be in later blocks, and in those after a resume block.
    pub later: &'static [Body],
    /// The barrier lies so many blocks above the block that decides the change.
    pub distance: u8,
    /// Blocks in a chain of the second epoch.
    pub second_epoch: u8,
}

/// What a block holds, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// Transactions.
    Plain(u8),
    /// The transaction that schedules the barrier. Two that differ make two different epochs of it.
    Decide(u8),
    /// A valid bundle of the phase before, with this resume point (K9, K10).
    Resume(Id),
}

/// The identity of a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Phase {
    /// The epoch, 0 or 1.
    pub number: u8,
    /// Fallbacks are above 0.
    pub phase: u8,
    /// The barrier block that the manifest names (K12); [`NONE`] in the first epoch.
    pub origin: Id,
}

impl Phase {
    /// Phases are entered in this order only (K17).
    #[must_use]
    pub fn position(self) -> u8 {
        self.number * 8 + self.phase
    }
}

/// A block and what follows from its chain.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its phase, as an index of [`World::phases`].
    pub phase: u8,
    /// From 1.
    pub index: u8,
    /// What it holds.
    pub body: Body,
    /// This block and all below it in its phase.
    pub chain: Set,
    /// What is executed once it is final, from the genesis on (K11).
    pub executed: Vec<Id>,
    /// Whether it counts: in a fallback from the resume block on.
    pub active: bool,
    /// The index of the barrier that its chain knows of (K14).
    pub barrier: Option<u8>,
    /// Whether its phase closes the epoch (K12).
    pub closes: bool,
    /// The barrier block that the next epoch's identity names, if this block ends its epoch.
    pub successor: Id,
    /// The resume point of this phase's chain, once it has its resume block.
    pub resumes: Option<Id>,
    /// Blocks that differ from those on this chain in name only, and are signed first: no state is left out by that
    /// which does not come with the names exchanged.
    pub after: Set,
}

/// All phases and blocks.
#[derive(Clone, Debug)]
pub struct World {
    /// In the order of their positions.
    pub phases: Vec<Phase>,
    /// By number.
    pub blocks: Vec<Block>,
    /// The blocks of each phase.
    pub of_phase: Vec<Set>,
    size: Size,
    planted: Planted,
}

impl World {
    /// Lists everything.
    ///
    /// # Panics
    /// If there are more blocks than a [`Set`] can hold.
    #[must_use]
    pub fn new(size: Size, planted: Planted) -> Self {
        let mut world = Self { phases: Vec::new(), blocks: Vec::new(), of_phase: Vec::new(), size, planted };
        for phase in (0..3).filter(|phase| size.lengths[usize::from(*phase)] > 0) {
            world.add_phase(Phase { number: 0, phase, origin: NONE });
        }
        let mut origins: Vec<Id> = world.blocks.iter().map(|block| block.successor).collect();
        origins.sort_unstable();
        origins.dedup();
        for origin in origins.into_iter().filter(|origin| *origin != NONE && size.second_epoch > 0) {
            world.add_phase(Phase { number: 1, phase: 0, origin });
        }
        world
    }

    /// A block by its number; not for [`NONE`].
    #[must_use]
    pub fn block(&self, id: Id) -> &Block {
        &self.blocks[usize::from(id)]
    }

    /// The index of a block, 0 for [`NONE`].
    #[must_use]
    pub fn index(&self, id: Id) -> u8 {
        if id == NONE { 0 } else { self.block(id).index }
    }

    /// The fallback that follows a phase, if this world has it.
    #[must_use]
    pub fn fallback(&self, phase: u8) -> Option<u8> {
        let next = usize::from(phase) + 1;
        let follows = self.phases.get(next).is_some_and(|phase| phase.phase > 0);
        follows.then_some(phase + 1)
    }

    /// The phase that follows a barrier block.
    #[must_use]
    pub fn epoch_after(&self, barrier: Id) -> Option<u8> {
        let found = self.phases.iter().position(|phase| phase.number == 1 && phase.origin == barrier);
        found.and_then(|phase| u8::try_from(phase).ok())
    }

    /// What was executed at a point of a phase of the first epoch.
    #[must_use]
    pub fn executed(&self, id: Id) -> &[Id] {
        if id == NONE { &[] } else { &self.block(id).executed }
    }

    fn add_phase(&mut self, phase: Phase) {
        let number = u8::try_from(self.phases.len()).unwrap_or(u8::MAX);
        self.phases.push(phase);
        self.of_phase.push(0);
        let root = Block {
            phase: number,
            index: 0,
            body: Body::Plain(0),
            chain: 0,
            executed: self.executed(phase.origin).to_vec(),
            active: phase.phase == 0,
            barrier: None,
            closes: false,
            successor: NONE,
            resumes: None,
            after: 0,
        };
        self.grow(&root);
    }

    /// Adds all blocks that may lie above one.
    fn grow(&mut self, below: &Block) {
        let phase = self.phases[usize::from(below.phase)];
        let length = if phase.number == 1 {
            self.size.second_epoch
        } else {
            self.size.lengths[usize::from(phase.phase)]
        };
        let past = below.barrier.is_some_and(|barrier| below.index >= barrier);
        let allowed = match self.planted {
            Planted::PreparePastBarrier => !below.closes,
            Planted::ClosingGoesOn => below.closes,
            _ => false,
        };
        if below.index >= length || past && !allowed {
            return;
        }
        let mut siblings = 0;
        for body in self.bodies(below, phase) {
            let block = self.above(below, body, siblings);
            let id = u8::try_from(self.blocks.len()).ok().filter(|id| *id < NONE).expect("a smaller world");
            let block = self.numbered(block, id);
            if !matches!(body, Body::Resume(_)) {
                siblings |= bit(id);
            }
            self.of_phase[usize::from(block.phase)] |= bit(id);
            self.blocks.push(block.clone());
            self.grow(&block);
        }
    }

    fn bodies(&self, below: &Block, phase: Phase) -> Vec<Body> {
        if !below.active {
            // One void block at most.
            let void = (below.index == 0).then_some(Body::Plain(0));
            let points = (0..self.blocks.len()).filter_map(|id| u8::try_from(id).ok());
            let earlier =
                points.filter(|id| self.phases[usize::from(self.block(*id).phase)].phase < phase.phase);
            let counted = earlier.filter(|id| self.block(*id).active);
            return void.into_iter().chain(counted.chain([NONE]).map(Body::Resume)).collect();
        }
        let first = phase.phase == 0 && phase.number == 0 && below.index == 0;
        if first { self.size.first.to_vec() } else { self.size.later.to_vec() }
    }

    /// A block above another, but for its own number.
    fn above(&self, below: &Block, body: Body, siblings: Set) -> Block {
        let index = below.index + 1;
        let mut block = Block { index, body, ..below.clone() };
        // A decision is not of equal rank with other blocks, but with another decision.
        let rank =
            |id: &Id| matches!(self.block(*id).body, Body::Decide(_)) == matches!(body, Body::Decide(_));
        block.after |= members(siblings).filter(rank).map(bit).fold(0, |set, bit| set | bit);
        match body {
            Body::Plain(_) => {}
            Body::Decide(_) => block.barrier = Some(index + self.size.distance),
            Body::Resume(point) => {
                let successor = if point == NONE { NONE } else { self.block(point).successor };
                block.active = true;
                block.resumes = Some(point);
                block.closes = successor != NONE;
                // A point past a barrier counts as one for the barrier (K12).
                block.executed =
                    self.executed(if block.closes { self.ends_at(point) } else { point }).to_vec();
                block.barrier = block.closes.then_some(index);
                block.successor = successor;
            }
        }
        block
    }

    /// The block at the barrier on the chain to a point.
    fn ends_at(&self, point: Id) -> Id {
        let at_barrier = |id: &Id| Some(self.block(*id).index) == self.block(*id).barrier;
        members(self.block(point).chain).find(at_barrier).unwrap_or(point)
    }

    fn numbered(&self, mut block: Block, id: Id) -> Block {
        block.chain |= bit(id);
        if block.active && !matches!(block.body, Body::Resume(_)) {
            block.executed.push(id);
        }
        let renamed = self.planted == Planted::SuccessorOfFallback && block.closes;
        if block.barrier == Some(block.index) && (!block.closes || renamed) {
            block.successor = id;
        }
        block
    }
}
