use std::fmt;

/// A 32-byte hash; four big-endian words in the contracts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// All zeros: stands for "nothing yet".
    pub const ZERO: Self = Self([0; 32]);

    /// The digest as four big-endian words.
    pub fn to_words(self) -> [u64; 4] {
        let (chunks, _) = self.0.as_chunks::<8>();
        [0, 1, 2, 3].map(|i| u64::from_be_bytes(chunks[i]))
    }

    /// The inverse of [`Digest::to_words`].
    pub fn from_words(words: [u64; 4]) -> Self {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str("..")
    }
}

/// Position of an authority in its epoch's committee, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct AuthorityIndex(pub u32);

impl AuthorityIndex {
    /// For indexing a committee's lists.
    pub fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// Voting weight, 1 or more for an authority.
pub type Stake = u64;

/// Index of a commit within its epoch: dense, from 1; 0 is the point where the epoch began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct CommitIndex(pub u64);

impl CommitIndex {
    /// The index after this one. Panics on overflow, which at one commit a nanosecond
    /// takes 584 years.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Milliseconds on this node since the epoch's engine was started here: local, monotonic.
pub type NowMs = u64;

/// What a faulty authority may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(
    feature = "host",
    derive(borsh::BorshSerialize, borsh::BorshDeserialize, serde::Serialize, serde::Deserialize)
)]
#[cfg_attr(feature = "host", serde(rename_all = "kebab-case"))]
pub enum FaultModel {
    /// Stop, and come back with what it had made durable.
    Crash,
    /// Anything.
    Byzantine,
}

/// The committee as an engine needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Committee {
    /// Number of the epoch.
    pub epoch: u64,
    /// What the quorums were made for.
    pub fault_model: FaultModel,
    /// By authority index; never empty.
    pub stakes: Vec<Stake>,
    /// Stake at which any two sets share an honest authority.
    pub quorum: Stake,
    /// Stake that always holds an honest authority.
    pub validity: Stake,
    /// This node's place; `None` for an observer.
    pub me: Option<AuthorityIndex>,
}

impl Committee {
    /// The stake of an authority; 0 for an index outside the committee.
    pub fn stake(&self, authority: AuthorityIndex) -> Stake {
        self.stakes.get(authority.as_usize()).copied().unwrap_or(0)
    }

    /// All indices, rising.
    pub fn authorities(&self) -> impl Iterator<Item = AuthorityIndex> + use<> {
        (0..self.stakes.len() as u32).map(AuthorityIndex)
    }
}

/// One choice of one author. Kinds below 0x8000 are the engine's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Slot {
    /// What sort of choice (the engine's own numbering).
    pub kind: u16,
    /// Major position, say the view.
    pub a: u64,
    /// Minor position, say the sequence number.
    pub b: u64,
}

/// Something an author has signed; the signature stays on the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Statement {
    /// Who signed.
    pub author: AuthorityIndex,
    /// Which choice.
    pub slot: Slot,
    /// What was chosen.
    pub digest: Digest,
}

/// A batch of transactions that this node holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Batch {
    /// Names the batch.
    pub digest: Digest,
    /// Who collected it.
    pub author: AuthorityIndex,
    /// Encoded size.
    pub bytes: u32,
}
