//! The world `moult:engine/consensus-engine`.

use std::cell::RefCell;

use super::types::list;
use crate::engine::{
    Action, Choice, DurableRecord, Engine, Event, Info, InitError, Message, Outcome, Recipients, Recovered,
    Settings,
};
use crate::{AuthorityIndex, CommitIndex};
use bindings::exports::moult::engine::engine as wit;

/// What `wit-bindgen` makes of the contract.
#[allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, reason = "generated code")]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/types", "../../wit/engine"],
        world: "moult:engine/consensus-engine",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_consensus_engine",
    });
}

/// `describe` of the contract.
pub fn describe<E: Engine>() -> wit::Info {
    let Info { name, version, fault_models, min_authorities, gauges } = E::describe();
    wit::Info { name, version, fault_models: list(fault_models), min_authorities, gauges }
}

/// `init` of the contract; the engine takes its place in `instance`.
///
/// # Errors
/// What the engine says.
pub fn init<E: Engine>(
    instance: &RefCell<Option<E>>,
    settings: wit::Settings,
    recovered: Option<wit::Recovered>,
) -> Result<wit::Outcome, wit::InitError> {
    let (engine, outcome) = E::init(settings.into(), recovered.map(Recovered::from))?;
    instance.replace(Some(engine));
    Ok(outcome.into())
}

/// `step` of the contract. Panics (a trap) before `init`, which the host never does.
pub fn step<E: Engine>(instance: &RefCell<Option<E>>, now: u64, events: Vec<wit::Event>) -> wit::Outcome {
    let mut instance = instance.borrow_mut();
    let Some(engine) = instance.as_mut() else { panic!("step before init") };
    engine.step(now, list(events)).into()
}

/// `judge` of the contract.
pub fn judge<E: Engine>(committee: wit::Committee, proof: &[u8]) -> Option<u32> {
    E::judge(&committee.into(), proof).map(|authority| authority.0)
}

impl From<wit::Settings> for Settings {
    fn from(settings: wit::Settings) -> Self {
        Self {
            committee: settings.committee.into(),
            config: settings.config,
            seed: settings.seed.into(),
            schedule: settings.schedule.into_iter().map(AuthorityIndex).collect(),
            max_message_bytes: settings.max_message_bytes,
            max_batches_in_commit: settings.max_batches_in_commit,
        }
    }
}

impl From<wit::Recovered> for Recovered {
    fn from(recovered: wit::Recovered) -> Self {
        Self {
            records: list(recovered.records),
            committed: CommitIndex(recovered.committed),
            last_final: CommitIndex(recovered.final_),
            batches: list(recovered.batches),
        }
    }
}

impl From<InitError> for wit::InitError {
    fn from(error: InitError) -> Self {
        match error {
            InitError::BadConfig(text) => Self::BadConfig(text),
            InitError::Unsuitable(text) => Self::Unsuitable(text),
            InitError::CorruptRecords(text) => Self::CorruptRecords(text),
        }
    }
}

impl From<wit::Event> for Event {
    fn from(event: wit::Event) -> Self {
        match event {
            wit::Event::Vote(statement) => Self::Vote(statement.into()),
            wit::Event::Message(wit::Message { sender, payload, statements }) => Self::Message(Message {
                sender: AuthorityIndex(sender),
                payload,
                statements: list(statements),
            }),
            wit::Event::Timer(id) => Self::Timer(id),
            wit::Event::Batches(batches) => Self::Batches(list(batches)),
            wit::Event::Final(wit::FinalBlocks { index, batches }) => {
                Self::Final { index: CommitIndex(index), batches: list(batches) }
            }
            wit::Event::Shun(authority) => Self::Shun(AuthorityIndex(authority)),
            wit::Event::Refused(slot) => Self::Refused(slot.into()),
            wit::Event::Peer(wit::PeerChange { peer, up, rtt_us }) => {
                Self::Peer { peer: AuthorityIndex(peer), up, rtt_us }
            }
            wit::Event::Draining => Self::Draining,
        }
    }
}

impl From<wit::DurableRecord> for DurableRecord {
    fn from(record: wit::DurableRecord) -> Self {
        Self { id: record.id, body: record.body, statements: list(record.statements) }
    }
}

impl From<DurableRecord> for wit::DurableRecord {
    fn from(record: DurableRecord) -> Self {
        Self { id: record.id, body: record.body, statements: list(record.statements) }
    }
}

impl From<Recipients> for wit::Recipients {
    fn from(recipients: Recipients) -> Self {
        match recipients {
            Recipients::All => Self::All,
            Recipients::One(authority) => Self::One(authority.0),
            Recipients::Some(some) => Self::Some(some.into_iter().map(|authority| authority.0).collect()),
        }
    }
}

impl From<Choice> for wit::Choice {
    fn from(choice: Choice) -> Self {
        Self { slot: choice.slot.into(), digest: choice.digest.into() }
    }
}

impl From<Action> for wit::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Vote { to, choice } => Self::Vote(wit::Vote { to: to.into(), choice: choice.into() }),
            Action::Send(envelope) => Self::Send(wit::Envelope {
                to: envelope.to.into(),
                payload: envelope.payload,
                sign: list(envelope.sign),
                attach: list(envelope.attach),
            }),
            Action::SetTimer { id, after_ms } => Self::SetTimer(wit::TimerSetting { id, after_ms }),
            Action::CancelTimer(id) => Self::CancelTimer(id),
            Action::Commit(commit) => Self::Commit(wit::Commit {
                index: commit.index.0,
                batches: list(commit.batches),
                round: commit.round,
                leader: commit.leader.map(|leader| leader.0),
            }),
            Action::Fetch { batches, likely_holder } => Self::Fetch(wit::Fetch {
                batches: list(batches),
                likely_holder: likely_holder.map(|holder| holder.0),
            }),
            Action::Truncate(id) => Self::Truncate(id),
            Action::ReleaseSlots(slot) => {
                Self::ReleaseSlots(wit::SlotMark { kind: slot.kind, a: slot.a, b: slot.b })
            }
            Action::Accuse(proof) => Self::Accuse(proof),
            Action::Measure { gauge, value } => Self::Measure(wit::Measure { gauge, value }),
        }
    }
}

impl From<Outcome> for wit::Outcome {
    fn from(outcome: Outcome) -> Self {
        Self { durable: list(outcome.durable), release: list(outcome.release) }
    }
}
