//! The contract of a consensus engine; `wit/engine/engine.wit` is its manual.

use crate::{AuthorityIndex, Batch, CommitIndex, Committee, Digest, FaultModel, NowMs, Slot, Statement};

/// A consensus engine as plain Rust; `export_engine!` makes a component of it.
pub trait Engine: Sized {
    /// What the engine is; always the same answer.
    fn describe() -> Info;

    /// Starts an instance. The outcome is treated as that of a step. `recovered` is `None`
    /// only where this node starts the epoch at its beginning for the first time.
    ///
    /// # Errors
    /// See [`InitError`]; the host reports it and the node is not ready for this engine.
    fn init(settings: Settings, recovered: Option<Recovered>) -> Result<(Self, Outcome), InitError>;

    /// Takes 1 to 1,024 events in order; `now` never goes back.
    fn step(&mut self, now: NowMs, events: Vec<Event>) -> Outcome;

    /// Whether `proof` shows what an `accuse` of this engine claims, and of whom. Pure.
    fn judge(committee: &Committee, proof: &[u8]) -> Option<AuthorityIndex>;
}

/// Fixed for the life of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Settings {
    /// Who takes part.
    pub committee: Committee,
    /// The engine's own configuration, at most 64 KiB.
    pub config: Vec<u8>,
    /// Seed of this epoch, the same on every node.
    pub seed: Digest,
    /// View or round v is led by `schedule[v mod length]`; never empty.
    pub schedule: Vec<AuthorityIndex>,
    /// Longest payload of a message, in and out.
    pub max_message_bytes: u32,
    /// Most batches in one commit.
    pub max_batches_in_commit: u32,
}

/// What this node had in this epoch before it stopped, or what it caught up to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Recovered {
    /// By rising id.
    pub records: Vec<DurableRecord>,
    /// Highest commit held durably; commits up to here may be repeated with equal content.
    pub committed: CommitIndex,
    /// Highest final commit; nothing at or below it is committed again. May be lower than
    /// what an earlier life was told.
    pub last_final: CommitIndex,
    /// Held and not final; not told again.
    pub batches: Vec<Batch>,
}

/// Why an instance cannot start; the text is for a person.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub enum InitError {
    /// The configuration is not one of this engine's.
    BadConfig(String),
    /// The committee cannot run this engine.
    Unsuitable(String),
    /// The records do not fit together.
    CorruptRecords(String),
}

/// What an engine is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Info {
    /// Short name, such as "pbft".
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// Fault models it was made for.
    pub fault_models: Vec<FaultModel>,
    /// Smallest committee.
    pub min_authorities: u32,
    /// Names of the gauges, by position.
    pub gauges: Vec<String>,
}

/// Bytes from a peer with statements that the host has verified.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Message {
    /// Authenticated by the transport.
    pub sender: AuthorityIndex,
    /// Unverified, in the engine's own encoding.
    pub payload: Vec<u8>,
    /// Verified, of this epoch, of the engine's kinds.
    pub statements: Vec<Statement>,
}

/// What a step is given.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub enum Event {
    /// One verified statement: the hot path of votes.
    Vote(Statement),
    /// See [`Message`].
    Message(Message),
    /// A timer ran out.
    Timer(u64),
    /// Batches that this node now holds.
    Batches(Vec<Batch>),
    /// Every commit up to here is final; may be above the engine's own last commit.
    Final {
        /// The highest of them.
        index: CommitIndex,
        /// Batches of all that became final since the last such event: to be proposed no more.
        batches: Vec<Digest>,
    },
    /// Pass over this authority's turns as leader.
    Shun(AuthorityIndex),
    /// The host would not sign this slot.
    Refused(Slot),
    /// A link changed: peer, up or down, round trip in microseconds (0 if unknown).
    Peer {
        /// Which peer.
        peer: AuthorityIndex,
        /// Whether it can be reached.
        up: bool,
        /// Smoothed round trip in microseconds, 0 if unknown.
        rtt_us: u32,
    },
    /// The node stops soon.
    Draining,
}

/// Made durable before anything in the same outcome's `release` leaves the node.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct DurableRecord {
    /// Rises from record to record.
    pub id: u64,
    /// At most 1 MiB.
    pub body: Vec<u8>,
    /// Statements whose signatures are kept with it.
    pub statements: Vec<Statement>,
}

/// Who gets a message; never this node itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub enum Recipients {
    /// The committee.
    All,
    /// One authority.
    One(AuthorityIndex),
    /// Several.
    Some(Vec<AuthorityIndex>),
}

/// A digest to sign for a slot, as this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Choice {
    /// Kind below 0x8000.
    pub slot: Slot,
    /// What is chosen.
    pub digest: Digest,
}

/// A message to peers.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Envelope {
    /// Who gets it.
    pub to: Recipients,
    /// In the engine's own encoding.
    pub payload: Vec<u8>,
    /// To sign as this node and attach.
    pub sign: Vec<Choice>,
    /// Seen before, of any author; the host adds the signatures.
    pub attach: Vec<Statement>,
}

/// One block as ordered.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Commit {
    /// Dense, from 1.
    pub index: CommitIndex,
    /// In order of execution; empty only for a hole.
    pub batches: Vec<Digest>,
    /// For people; may differ between nodes.
    pub round: u64,
    /// For people; may differ between nodes.
    pub leader: Option<AuthorityIndex>,
}

/// What the host does for the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub enum Action {
    /// Sign one choice and send the statement alone.
    Vote {
        /// Who gets it.
        to: Recipients,
        /// What to sign.
        choice: Choice,
    },
    /// See [`Envelope`].
    Send(Envelope),
    /// Fires once after `after_ms` (1 or more); replaces a former setting.
    SetTimer {
        /// The engine's own number.
        id: u64,
        /// From this step.
        after_ms: u64,
    },
    /// Unsets a timer.
    CancelTimer(u64),
    /// See [`Commit`].
    Commit(Commit),
    /// Batches to get from peers.
    Fetch {
        /// Which.
        batches: Vec<Digest>,
        /// Whom to ask first.
        likely_holder: Option<AuthorityIndex>,
    },
    /// Records at or below this id are not needed any more.
    Truncate(u64),
    /// No slot of this kind at or below (a, b) will be asked for again.
    ReleaseSlots(Slot),
    /// Proof of misbehaviour in the engine's own encoding.
    Accuse(Vec<u8>),
    /// Sets a gauge by its position in [`Info::gauges`].
    Measure {
        /// Position.
        gauge: u32,
        /// New value.
        value: u64,
    },
}

/// The whole answer to one call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "host", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Outcome {
    /// Synced first.
    pub durable: Vec<DurableRecord>,
    /// Then done, in order.
    pub release: Vec<Action>,
}
