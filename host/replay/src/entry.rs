//! What a record holds, entry by entry, in the canonical encoding of `moult-types`.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_core::ports::Fault;
use moult_module::WorldLimits;
use moult_sdk::engine::{Event, InitError, Outcome, Recovered, Settings};
use moult_sdk::{Digest, NowMs};
use moult_types::codec::{encode, hash_of};
use moult_types::{ChainId, EpochIdentity, EpochNumber, ModulePin};

/// One entry. A record is one [`Entry::Start`], one [`Entry::Init`], steps, and an
/// [`Entry::End`] unless the node stopped without one.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum Entry {
    /// Which engine of which epoch.
    Start(Box<Start>),
    /// The call of `init`.
    Init {
        /// As it was given.
        settings: Settings,
        /// As it was given.
        recovered: Option<Recovered>,
        /// How long it took on the node, in microseconds.
        took_us: u64,
        /// What it answered.
        answer: Answer,
    },
    /// A call of `step`.
    Step {
        /// As it was given.
        now: NowMs,
        /// As they were given, in order.
        events: Vec<Event>,
        /// How long it took on the node, in microseconds.
        took_us: u64,
        /// What it answered.
        answer: Answer,
    },
    /// The last entry.
    End(EndReason),
}

/// What a record begins with.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct Start {
    /// The chain.
    pub chain: ChainId,
    /// The epoch.
    pub epoch: EpochNumber,
    /// The epoch, with everything it fixes.
    pub identity: EpochIdentity,
    /// The engine: hash and configuration.
    pub engine: ModulePin,
    /// Name and version that the engine gives itself.
    pub name: String,
    /// What it was allowed.
    pub limits: EngineLimits,
    /// Wall clock of the node, milliseconds since 1970.
    pub started_ms: u64,
    /// Version of the program that wrote the record.
    pub program: String,
}

/// The limits that an engine ran under: the part of them that decides what it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct EngineLimits {
    /// Linear memory, in bytes.
    pub memory_bytes: u64,
    /// Entries of a table.
    pub table_elements: u64,
    /// What it may hand over at once, in bytes.
    pub output_bytes: u64,
    /// Fuel of one call.
    pub fuel: u64,
    /// The watchdog, in milliseconds.
    pub watchdog_ms: u64,
}

impl From<&WorldLimits> for EngineLimits {
    fn from(limits: &WorldLimits) -> Self {
        Self {
            memory_bytes: limits.memory_bytes as u64,
            table_elements: limits.table_elements as u64,
            output_bytes: limits.output_bytes as u64,
            fuel: limits.call.fuel,
            watchdog_ms: limits.call.watchdog_ms,
        }
    }
}

/// What an engine answered to one call.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum Answer {
    /// An outcome, by its hash; see [`outcome_hash`].
    Hash(Digest),
    /// An outcome, whole.
    Outcome(Outcome),
    /// It refused to start.
    Refused(InitError),
    /// It failed, which is its end.
    Fault(FaultRecord),
}

/// A fault of an engine.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum FaultRecord {
    /// It trapped.
    Trap(String),
    /// Its fuel was used up.
    Budget {
        /// The limit.
        fuel: u64,
    },
    /// The watchdog stopped it, or the machine failed: it may be otherwise the next time.
    Watchdog {
        /// The limit.
        limit_ms: u64,
    },
    /// Its answer broke the contract.
    Output(String),
}

impl From<&Fault> for FaultRecord {
    fn from(fault: &Fault) -> Self {
        match fault {
            Fault::Trap(text) => Self::Trap(text.clone()),
            Fault::Budget { fuel } => Self::Budget { fuel: *fuel },
            Fault::Watchdog { limit_ms } => Self::Watchdog { limit_ms: *limit_ms },
            Fault::Output(text) => Self::Output(text.clone()),
        }
    }
}

/// Why a record ends.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub enum EndReason {
    /// The engine was dropped: its epoch ended, it failed, or the node stopped.
    Engine,
    /// The writer was behind: what came then is not recorded.
    QueueFull,
    /// The record reached the most bytes that records may take.
    Full,
}

/// What stands for an outcome where it is not kept whole.
pub(crate) fn outcome_hash(outcome: &Outcome) -> Digest {
    hash_of(OUTCOME, outcome)
}

/// The same of its encoding.
pub(crate) fn encoded_outcome_hash(encoded: &[u8]) -> Digest {
    hash_of(OUTCOME, &Encoded(encoded))
}

/// Bytes that are an encoding already.
struct Encoded<'a>(&'a [u8]);

impl BorshSerialize for Encoded<'_> {
    fn serialize<W: std::io::Write>(&self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(self.0)
    }
}

const OUTCOME: &str = "moult engine outcome";
const INIT: u8 = 1;
const STEP: u8 = 2;
const ANSWER_OUTCOME: u8 = 1;

/// The beginning of an [`Entry::Init`], up to its time.
pub(crate) fn init_head(settings: &Settings, recovered: Option<&Recovered>) -> Vec<u8> {
    let mut head = vec![INIT];
    append(&mut head, settings);
    append(&mut head, &recovered);
    head
}

/// The beginning of an [`Entry::Step`], up to its time: made before the events are given away.
pub(crate) fn step_head(now: NowMs, events: &[Event]) -> Vec<u8> {
    let mut head = vec![STEP];
    append(&mut head, &now);
    append(&mut head, &events);
    head
}

/// The rest of either.
pub(crate) fn with_tail(mut head: Vec<u8>, took_us: u64, answer: &Answer) -> Vec<u8> {
    append(&mut head, &took_us);
    append(&mut head, answer);
    head
}

/// The same with an outcome that is encoded already.
pub(crate) fn with_outcome(mut head: Vec<u8>, took_us: u64, encoded: &[u8]) -> Vec<u8> {
    append(&mut head, &took_us);
    head.push(ANSWER_OUTCOME);
    head.extend_from_slice(encoded);
    head
}

fn append<T: BorshSerialize>(to: &mut Vec<u8>, value: &T) {
    to.extend_from_slice(&encode(value));
}

#[cfg(test)]
mod tests {
    use moult_sdk::engine::{Action, Message};
    use moult_sdk::{AuthorityIndex, Committee, FaultModel};
    use moult_types::decode;

    use super::*;

    #[test]
    fn what_is_put_together_by_parts_is_the_encoding_of_the_whole() {
        let answer = Answer::Fault(FaultRecord::Trap("unreachable".into()));
        let message = Message { sender: AuthorityIndex(1), payload: vec![7; 9], statements: Vec::new() };
        let events = vec![Event::Message(message), Event::Timer(3), Event::Draining];
        let whole = Entry::Step { now: 5, events: events.clone(), took_us: 8, answer: answer.clone() };
        assert_eq!(with_tail(step_head(5, &events), 8, &answer), encode(&whole));
        let outcome = Outcome { durable: Vec::new(), release: vec![Action::CancelTimer(4)] };
        assert_eq!(encoded_outcome_hash(&encode(&outcome)), outcome_hash(&outcome));
        let bytes = with_outcome(step_head(5, &events), 8, &encode(&outcome));
        let whole =
            Entry::Step { now: 5, events: events.clone(), took_us: 8, answer: Answer::Outcome(outcome) };
        assert_eq!(bytes, encode(&whole));

        let committee = Committee {
            epoch: 1,
            fault_model: FaultModel::Crash,
            stakes: vec![1, 2],
            quorum: 2,
            validity: 1,
            me: None,
        };
        let settings = Settings {
            committee,
            config: vec![1],
            seed: Digest([2; 32]),
            schedule: vec![AuthorityIndex(0)],
            max_message_bytes: 1,
            max_batches_in_commit: 2,
        };
        for recovered in [None, Some(Recovered::default())] {
            let answer = Answer::Hash(Digest([9; 32]));
            let bytes = with_tail(init_head(&settings, recovered.as_ref()), 1, &answer);
            let whole = Entry::Init { settings: settings.clone(), recovered, took_us: 1, answer };
            assert_eq!(bytes, encode(&whole));
            assert_eq!(decode::<Entry>(&bytes).expect("its own encoding"), whole);
        }
    }
}
