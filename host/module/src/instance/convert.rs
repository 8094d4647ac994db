//! Between the generated types and the plain ones.

use moult_sdk::application::{Info as ApplicationInfo, Receipt};
use moult_sdk::engine::{
    Action, Choice, Commit, DurableRecord, Envelope, Event, Info, InitError, Outcome, Recipients, Recovered,
    Settings,
};
use moult_sdk::{AuthorityIndex, Batch, CommitIndex, Committee, Digest, FaultModel, Slot, Statement};

use crate::bindings::application::exports::moult::application::application as app;
use crate::bindings::engine::exports::moult::engine::engine as wit;
use crate::bindings::engine::moult::types::types;

pub(super) fn list<A, B: From<A>>(items: Vec<A>) -> Vec<B> {
    items.into_iter().map(B::from).collect()
}

pub(super) fn copies<A: Copy, B: From<A>>(items: &[A]) -> Vec<B> {
    items.iter().map(|item| B::from(*item)).collect()
}

impl From<types::Digest> for Digest {
    fn from(digest: types::Digest) -> Self {
        Self::from_words([digest.w0, digest.w1, digest.w2, digest.w3])
    }
}

impl From<Digest> for types::Digest {
    fn from(digest: Digest) -> Self {
        let [w0, w1, w2, w3] = digest.to_words();
        Self { w0, w1, w2, w3 }
    }
}

impl From<types::FaultModel> for FaultModel {
    fn from(model: types::FaultModel) -> Self {
        match model {
            types::FaultModel::Crash => Self::Crash,
            types::FaultModel::Byzantine => Self::Byzantine,
        }
    }
}

impl From<FaultModel> for types::FaultModel {
    fn from(model: FaultModel) -> Self {
        match model {
            FaultModel::Crash => Self::Crash,
            FaultModel::Byzantine => Self::Byzantine,
        }
    }
}

impl From<types::Slot> for Slot {
    fn from(slot: types::Slot) -> Self {
        Self { kind: slot.kind, a: slot.a, b: slot.b }
    }
}

impl From<Slot> for types::Slot {
    fn from(slot: Slot) -> Self {
        Self { kind: slot.kind, a: slot.a, b: slot.b }
    }
}

impl From<types::Statement> for Statement {
    fn from(statement: types::Statement) -> Self {
        let types::Statement { author, slot, digest } = statement;
        Self { author: AuthorityIndex(author), slot: slot.into(), digest: digest.into() }
    }
}

impl From<Statement> for types::Statement {
    fn from(statement: Statement) -> Self {
        let Statement { author, slot, digest } = statement;
        Self { author: author.0, slot: slot.into(), digest: digest.into() }
    }
}

impl From<Batch> for types::Batch {
    fn from(batch: Batch) -> Self {
        Self { digest: batch.digest.into(), author: batch.author.0, bytes: batch.bytes }
    }
}

impl From<&Committee> for types::Committee {
    fn from(committee: &Committee) -> Self {
        Self {
            epoch: committee.epoch,
            fault_model: committee.fault_model.into(),
            stakes: committee.stakes.clone(),
            quorum: committee.quorum,
            validity: committee.validity,
            me: committee.me.map(|me| me.0),
        }
    }
}

impl From<&Settings> for wit::Settings {
    fn from(settings: &Settings) -> Self {
        Self {
            committee: (&settings.committee).into(),
            config: settings.config.clone(),
            seed: settings.seed.into(),
            schedule: settings.schedule.iter().map(|authority| authority.0).collect(),
            max_message_bytes: settings.max_message_bytes,
            max_batches_in_commit: settings.max_batches_in_commit,
        }
    }
}

impl From<&Recovered> for wit::Recovered {
    fn from(recovered: &Recovered) -> Self {
        Self {
            records: recovered.records.iter().map(wit::DurableRecord::from).collect(),
            committed: recovered.committed.0,
            final_: recovered.last_final.0,
            batches: copies(&recovered.batches),
        }
    }
}

impl From<&DurableRecord> for wit::DurableRecord {
    fn from(record: &DurableRecord) -> Self {
        Self { id: record.id, body: record.body.clone(), statements: copies(&record.statements) }
    }
}

impl From<Event> for wit::Event {
    fn from(event: Event) -> Self {
        match event {
            Event::Vote(statement) => Self::Vote(statement.into()),
            Event::Message(message) => Self::Message(wit::Message {
                sender: message.sender.0,
                payload: message.payload,
                statements: copies(&message.statements),
            }),
            Event::Timer(id) => Self::Timer(id),
            Event::Batches(batches) => Self::Batches(copies(&batches)),
            Event::Final { index, batches } => {
                Self::Final(wit::FinalBlocks { index: index.0, batches: list(batches) })
            }
            Event::Shun(authority) => Self::Shun(authority.0),
            Event::Refused(slot) => Self::Refused(slot.into()),
            Event::Peer { peer, up, rtt_us } => Self::Peer(wit::PeerChange { peer: peer.0, up, rtt_us }),
            Event::Draining => Self::Draining,
        }
    }
}

impl From<wit::Info> for Info {
    fn from(info: wit::Info) -> Self {
        Self {
            name: info.name,
            version: info.version,
            fault_models: list(info.fault_models),
            min_authorities: info.min_authorities,
            gauges: info.gauges,
        }
    }
}

impl From<wit::InitError> for InitError {
    fn from(error: wit::InitError) -> Self {
        match error {
            wit::InitError::BadConfig(text) => Self::BadConfig(text),
            wit::InitError::Unsuitable(text) => Self::Unsuitable(text),
            wit::InitError::CorruptRecords(text) => Self::CorruptRecords(text),
        }
    }
}

impl From<wit::Outcome> for Outcome {
    fn from(outcome: wit::Outcome) -> Self {
        Self { durable: list(outcome.durable), release: list(outcome.release) }
    }
}

impl From<wit::DurableRecord> for DurableRecord {
    fn from(record: wit::DurableRecord) -> Self {
        Self { id: record.id, body: record.body, statements: list(record.statements) }
    }
}

impl From<wit::Recipients> for Recipients {
    fn from(recipients: wit::Recipients) -> Self {
        match recipients {
            wit::Recipients::All => Self::All,
            wit::Recipients::One(authority) => Self::One(AuthorityIndex(authority)),
            wit::Recipients::Some(some) => Self::Some(some.into_iter().map(AuthorityIndex).collect()),
        }
    }
}

impl From<wit::Choice> for Choice {
    fn from(choice: wit::Choice) -> Self {
        Self { slot: choice.slot.into(), digest: choice.digest.into() }
    }
}

impl From<wit::Action> for Action {
    fn from(action: wit::Action) -> Self {
        match action {
            wit::Action::Vote(vote) => Self::Vote { to: vote.to.into(), choice: vote.choice.into() },
            wit::Action::Send(envelope) => Self::Send(Envelope {
                to: envelope.to.into(),
                payload: envelope.payload,
                sign: list(envelope.sign),
                attach: list(envelope.attach),
            }),
            wit::Action::SetTimer(wit::TimerSetting { id, after_ms }) => Self::SetTimer { id, after_ms },
            wit::Action::CancelTimer(id) => Self::CancelTimer(id),
            wit::Action::Commit(commit) => Self::Commit(Commit {
                index: CommitIndex(commit.index),
                batches: list(commit.batches),
                round: commit.round,
                leader: commit.leader.map(AuthorityIndex),
            }),
            wit::Action::Fetch(fetch) => Self::Fetch {
                batches: list(fetch.batches),
                likely_holder: fetch.likely_holder.map(AuthorityIndex),
            },
            wit::Action::Truncate(id) => Self::Truncate(id),
            wit::Action::ReleaseSlots(wit::SlotMark { kind, a, b }) => {
                Self::ReleaseSlots(Slot { kind, a, b })
            }
            wit::Action::Accuse(proof) => Self::Accuse(proof),
            wit::Action::Measure(wit::Measure { gauge, value }) => Self::Measure { gauge, value },
        }
    }
}

impl From<app::Receipt> for Receipt {
    fn from(receipt: app::Receipt) -> Self {
        Self { code: receipt.code, output: receipt.output }
    }
}

impl From<app::Info> for ApplicationInfo {
    fn from(info: app::Info) -> Self {
        Self { name: info.name, version: info.version, interfaces: info.interfaces }
    }
}

impl From<&ApplicationInfo> for app::Info {
    fn from(info: &ApplicationInfo) -> Self {
        Self { name: info.name.clone(), version: info.version.clone(), interfaces: info.interfaces.clone() }
    }
}
