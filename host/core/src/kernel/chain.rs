//! The chain of an epoch above its last final block, and the votes on it (K1, K2, K5).
//!
//! Here live blocks that are held and not final, the votes of both rounds, and the certificates
//! that are made of them. Nothing here signs, sends or asks for anything, and no engine takes
//! part. In a certified epoch only final blocks are executed; in a graduated one blocks are
//! executed as the engine orders them, a window ahead of the last final one at most.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_sdk::{AuthorityIndex, CommitIndex, Digest, Stake};
use moult_types::{
    BlockRecord, Certificate, CertificateVote, Committee, EpochIdentity, HeldBatch, Round, Signature,
};

/// A block above the last final one, with its payloads.
#[derive(Clone, Debug)]
pub struct HeldBlock {
    /// The block.
    pub record: Arc<BlockRecord>,
    /// Its batches in order.
    pub batches: Vec<Arc<HeldBatch>>,
    /// When it was ordered here (monotonic); `None` where it came from a peer or the disk.
    pub ordered_at_ms: Option<u64>,
}

/// An author's votes of one round that are not void: by index, with hash and signature.
type Votes = BTreeMap<CommitIndex, (Digest, Signature)>;

/// Blocks above the last final one and the votes on them.
#[derive(Debug)]
pub struct Finality {
    identity: EpochIdentity,
    window_blocks: u64,
    last_final: CommitIndex,
    last_hash: Digest,
    /// The last block handed to execution: the last final one, or one above it.
    executed: CommitIndex,
    blocks: BTreeMap<CommitIndex, HeldBlock>,
    votes: BTreeMap<(Round, AuthorityIndex), Votes>,
    /// A bug planted for the simulator.
    #[cfg(feature = "planted")]
    pub is_short_of_quorum: bool,
    /// Another one.
    #[cfg(feature = "planted")]
    pub is_counting_heads: bool,
}

impl Finality {
    /// After a final block (or the beginning of the epoch).
    pub fn new(
        identity: EpochIdentity,
        window_blocks: u64,
        last_final: CommitIndex,
        last_hash: Digest,
    ) -> Self {
        Self {
            identity,
            window_blocks,
            last_final,
            last_hash,
            executed: last_final,
            blocks: BTreeMap::new(),
            votes: BTreeMap::new(),
            #[cfg(feature = "planted")]
            is_short_of_quorum: false,
            #[cfg(feature = "planted")]
            is_counting_heads: false,
        }
    }

    /// The last final index.
    pub fn last_final(&self) -> CommitIndex {
        self.last_final
    }

    /// The epoch, in its phase.
    pub fn identity(&self) -> EpochIdentity {
        self.identity
    }

    /// The hash of the last final block; of the epoch itself before the first.
    pub fn last_hash(&self) -> Digest {
        self.last_hash
    }

    /// The last block handed to execution: the last final one, or one above it.
    pub fn executed(&self) -> CommitIndex {
        self.executed
    }

    /// The next block, if it may be executed on the engine's word: at most a window ahead of
    /// the last final one and not past `barrier`. It counts as handed over from now on.
    pub fn execute_ahead(&mut self, barrier: Option<CommitIndex>) -> Option<&HeldBlock> {
        let next = self.executed.next();
        let is_near = next.0 <= self.last_final.0 + self.window_blocks;
        if !is_near || barrier.is_some_and(|barrier| next > barrier) {
            return None;
        }
        let held = self.blocks.get(&next)?;
        self.executed = next;
        Some(held)
    }

    /// The highest block held here with all payloads: (index, hash).
    pub fn top(&self) -> (CommitIndex, Digest) {
        self.blocks
            .last_key_value()
            .map_or((self.last_final, self.last_hash), |(index, held)| (*index, held.record.hash))
    }

    /// The hash of this node's chain at an index from the last final one up.
    pub fn hash_at(&self, index: CommitIndex) -> Option<Digest> {
        if index == self.last_final {
            return Some(self.last_hash);
        }
        self.blocks.get(&index).map(|held| held.record.hash)
    }

    /// A block above the last final one.
    pub fn block(&self, index: CommitIndex) -> Option<&HeldBlock> {
        self.blocks.get(&index)
    }

    /// Appends the next block.
    pub fn push(&mut self, held: HeldBlock) {
        debug_assert_eq!(held.record.block.index, self.top().0.next());
        self.blocks.insert(held.record.block.index, held);
    }

    /// Drops blocks above an index (they were never final here) and returns whether there
    /// were any.
    pub fn drop_above(&mut self, index: CommitIndex) -> bool {
        !self.blocks.split_off(&index.next()).is_empty()
    }

    /// Takes a verified vote (K5). One on a block that is not held yet is kept and counts once
    /// that block is there; at most a window of them an author and round.
    pub fn add_vote(
        &mut self,
        round: Round,
        author: AuthorityIndex,
        index: CommitIndex,
        hash: Digest,
        signature: Signature,
    ) {
        if index <= self.last_final {
            return;
        }
        let votes = self.votes.entry((round, author)).or_default();
        votes.insert(index, (hash, signature));
        while votes.len() as u64 > self.window_blocks {
            votes.pop_first();
        }
    }

    /// The highest block above `above` and the last final one that a quorum's votes of a round
    /// lie on, with its certificate.
    pub fn certifiable(
        &self,
        round: Round,
        above: CommitIndex,
        committee: &Committee,
    ) -> Option<Certificate> {
        let linked = |(_, votes): (_, &Votes)| {
            let mut votes = votes.range(above.next()..).rev();
            votes.find(|(index, (hash, _))| self.block_hash(**index) == Some(*hash)).map(|(index, _)| *index)
        };
        let mut tops: Vec<CommitIndex> = self.votes_of(round).filter_map(linked).collect();
        tops.sort_unstable_by(|a, b| b.cmp(a));
        tops.dedup();
        tops.into_iter().find_map(|index| self.certificate(round, index, committee))
    }

    fn votes_of(&self, round: Round) -> impl Iterator<Item = (AuthorityIndex, &Votes)> {
        let range = (round, AuthorityIndex(0))..=(round, AuthorityIndex(u32::MAX));
        self.votes.range(range).map(|((_, author), votes)| (*author, votes))
    }

    /// For each author its lowest linked vote from `index` on: the fewest bodies. A vote
    /// further up than a window cannot be shown with so few bodies; it counts for a block
    /// that is nearer to it.
    fn certificate(&self, round: Round, index: CommitIndex, committee: &Committee) -> Option<Certificate> {
        let window = index..=CommitIndex(index.0 + self.window_blocks);
        let lowest = |(author, votes): (AuthorityIndex, &Votes)| {
            let mut linked =
                votes.range(window.clone()).filter(|(at, (hash, _))| self.block_hash(**at) == Some(*hash));
            let (at, (_, signature)) = linked.next()?;
            Some(CertificateVote { author, index: *at, signature: *signature })
        };
        let votes: Vec<CertificateVote> = self.votes_of(round).filter_map(lowest).collect();
        let stake: Stake = votes.iter().map(|vote| committee.stake(vote.author)).sum();
        #[cfg(feature = "planted")]
        let stake = if self.is_counting_heads {
            committee.total() * votes.len() as Stake / committee.members().len() as Stake
        } else {
            stake
        };
        if stake < self.quorum(committee) {
            return None;
        }
        let highest = votes.iter().map(|vote| vote.index).max().unwrap_or(index);
        let above = (std::ops::Bound::Excluded(index), std::ops::Bound::Included(highest));
        let bodies = self.blocks.range(above).map(|(_, held)| held.record.block.body()).collect();
        let hash = self.block_hash(index).unwrap_or(self.last_hash);
        Some(Certificate { round, identity: self.identity, index, hash, votes, bodies })
    }

    fn quorum(&self, committee: &Committee) -> Stake {
        #[cfg(feature = "planted")]
        if self.is_short_of_quorum {
            return committee.quorum() - 1;
        }
        committee.quorum()
    }

    /// Everything up to `index` is final: takes the blocks out, in order. Those above
    /// [`Finality::executed`], as it was before, are still to be executed.
    pub fn finalize(&mut self, index: CommitIndex) -> Vec<HeldBlock> {
        let above = self.blocks.split_off(&index.next());
        let done: Vec<_> = std::mem::replace(&mut self.blocks, above).into_values().collect();
        if let Some(last) = done.last() {
            self.last_final = last.record.block.index;
            self.last_hash = last.record.hash;
        }
        self.executed = self.executed.max(self.last_final);
        for votes in self.votes.values_mut() {
            *votes = votes.split_off(&self.last_final.next());
        }
        done
    }

    fn block_hash(&self, index: CommitIndex) -> Option<Digest> {
        self.blocks.get(&index).map(|held| held.record.hash)
    }
}
