//! The written form of a signer guard, for moving a node between machines.
//!
//! Modelled on EIP-3076: what a key has signed, as JSON. Every field is there and none is
//! unknown; certificates and proofs are their canonical encoding in hex, with what they are about
//! in plain sight beside them. A checksum covers all of it: a file that was damaged or edited
//! is refused. `docs/OPERATING.md` has the table of its fields.

use std::collections::BTreeMap;

use moult_core::guard::GuardState;
use moult_core::io::PhaseProof;
use moult_core::stop::{Stop, StopCause};
use moult_types::codec::hash_of;
use moult_types::phase::Claim;
use moult_types::{
    ChainId, CommitIndex, Digest, EpochIdentity, EpochNumber, GlobalIndex, PublicKey, Scope, decode, encode,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the file says it is.
const FORMAT: &str = "moult signer guard";
/// The version that this program reads and writes.
const VERSION: u32 = 1;

/// Why a text is no guard.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum GuardJsonError {
    /// Not JSON, or not of this shape.
    #[error("it is no exported signer guard: {0}")]
    Shape(String),
    /// Another kind of file, or one of another version of the program.
    #[error("it is `{format}` version {version}; this program reads `{FORMAT}` version {VERSION}")]
    OtherFormat {
        /// What it says it is.
        format: String,
        /// The version that it says.
        version: u32,
    },
    /// A field cannot be.
    #[error("its field `{field}` {problem}")]
    Field {
        /// Which.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Some byte is another one than was written.
    #[error("its checksum does not match: it was damaged or edited since it was exported")]
    Checksum,
}

/// A guard on its way between machines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuardExport {
    /// What the key has signed.
    pub state: GuardState,
    /// Number of the last group of the file that it comes from.
    pub sequence: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    metadata: Metadata,
    start_count: u64,
    final_mark: Mark,
    stated: Mark,
    #[serde(deserialize_with = "given")]
    stopped: Option<Stopped>,
    epoch: Epoch,
    signed: Vec<SignedSlot>,
    checksum: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    format: String,
    version: u32,
    chain: ChainId,
    key: PublicKey,
    sequence: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    index: u64,
    hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Epoch {
    number: u64,
    phase: u32,
    identity: EpochIdentity,
    #[serde(deserialize_with = "given")]
    opened: Option<String>,
    prepared: Mark,
    #[serde(deserialize_with = "given")]
    committed: Option<Committed>,
    #[serde(deserialize_with = "given")]
    aborted: Option<Mark>,
    released: Vec<SlotMark>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stopped {
    cause: Cause,
    reason: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Cause {
    State,
    Chain,
    Key,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Committed {
    index: u64,
    hash: String,
    proof: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotMark {
    kind: u16,
    a: u64,
    b: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedSlot {
    scope: SlotScope,
    kind: u16,
    a: u64,
    b: u64,
    digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum SlotScope {
    Epoch(EpochIdentity),
    Number(u64),
}

/// A field that may be null and must not be missing.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::<T>::deserialize(from)
}

impl GuardExport {
    /// As JSON, with a newline at its end.
    pub fn to_json(&self) -> String {
        let state = &self.state;
        let mark = |(index, hash): (u64, Digest)| Mark { index, hash: hex::encode(hash.0) };
        let file = File {
            metadata: Metadata {
                format: FORMAT.into(),
                version: VERSION,
                chain: state.chain,
                key: state.key,
                sequence: self.sequence,
            },
            start_count: state.start_count,
            final_mark: mark((state.final_mark.0.0, state.final_mark.1)),
            stated: mark((state.stated.0.0, state.stated.1)),
            stopped: state.stopped.as_ref().map(Stopped::of),
            epoch: Epoch {
                number: state.epoch,
                phase: state.phase,
                identity: state.identity,
                opened: state.opened.as_ref().map(|proof| hex::encode(encode(proof))),
                prepared: mark((state.prepared.0.0, state.prepared.1)),
                committed: state.certified.as_ref().map(|claim| Committed {
                    index: claim.certificate.index.0,
                    hash: hex::encode(claim.certificate.hash.0),
                    proof: hex::encode(encode(claim)),
                }),
                aborted: state.aborted.map(|(index, hash)| mark((index.0, hash))),
                released: state.released.iter().map(|(&kind, &(a, b))| SlotMark { kind, a, b }).collect(),
            },
            signed: state
                .slots
                .iter()
                .map(|(&(scope, kind, a, b), digest)| SignedSlot {
                    scope: match scope {
                        Scope::Epoch(identity) => SlotScope::Epoch(identity),
                        Scope::Number(number) => SlotScope::Number(number.0),
                    },
                    kind,
                    a,
                    b,
                    digest: hex::encode(digest.0),
                })
                .collect(),
            checksum: self.checksum(),
        };
        // Maps with text keys, numbers and texts: nothing of it can fail to be written.
        let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads what [`GuardExport::to_json`] wrote.
    ///
    /// # Errors
    /// Whatever differs from that, by field.
    pub fn parse(text: &[u8]) -> Result<Self, GuardJsonError> {
        // First of all which kind of file: another version may have other fields.
        let (format, version) = kind_of(text)?;
        if format != FORMAT || version != VERSION {
            return Err(GuardJsonError::OtherFormat { format, version });
        }
        let file: File = serde_json::from_slice(text).map_err(|e| GuardJsonError::Shape(e.to_string()))?;
        let checksum = file.checksum.clone();
        let export = file.into_export()?;
        if export.checksum() == checksum { Ok(export) } else { Err(GuardJsonError::Checksum) }
    }

    fn checksum(&self) -> String {
        hex::encode(hash_of("moult guard export", &(VERSION, &self.state, self.sequence)).0)
    }
}

fn kind_of(text: &[u8]) -> Result<(String, u32), GuardJsonError> {
    let shape = |problem: &str| GuardJsonError::Shape(problem.into());
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|e| GuardJsonError::Shape(e.to_string()))?;
    let metadata = value.get("metadata").ok_or_else(|| shape("it has no `metadata`"))?;
    let format = metadata.get("format").and_then(|format| format.as_str());
    let version = metadata.get("version").and_then(serde_json::Value::as_u64);
    match (format, version.and_then(|version| u32::try_from(version).ok())) {
        (Some(format), Some(version)) => Ok((format.to_owned(), version)),
        _ => Err(shape("its `metadata` has no `format` and `version`")),
    }
}

impl File {
    fn into_export(self) -> Result<GuardExport, GuardJsonError> {
        let Self { metadata, start_count, final_mark, stated, stopped, epoch, signed, checksum: _ } = self;
        let certified = epoch.committed.map(Committed::into_claim).transpose()?;
        if certified.as_ref().is_some_and(|claim| claim.certificate.identity != epoch.identity) {
            return Err(wrong("epoch.committed.proof", "is about another epoch or phase"));
        }
        let mut released = BTreeMap::new();
        for mark in epoch.released {
            if released.insert(mark.kind, (mark.a, mark.b)).is_some() {
                return Err(wrong("epoch.released", format!("names kind {} twice", mark.kind)));
            }
        }
        let mut slots = BTreeMap::new();
        for slot in signed {
            let scope = match slot.scope {
                SlotScope::Epoch(identity) => Scope::Epoch(identity),
                SlotScope::Number(number) => Scope::Number(EpochNumber(number)),
            };
            let key = (scope, slot.kind, slot.a, slot.b);
            if slots.insert(key, digest("signed.digest", &slot.digest)?).is_some() {
                return Err(wrong("signed", format!("names slot {key:?} twice")));
            }
        }
        let opened = epoch.opened.map(|text| from_hex::<PhaseProof>("epoch.opened", &text)).transpose()?;
        let aborted = epoch.aborted.map(|mark| mark.read("epoch.aborted.hash")).transpose()?;
        let prepared = epoch.prepared.read("epoch.prepared.hash")?;
        let final_mark = final_mark.read("final_mark.hash")?;
        let stated = stated.read("stated.hash")?;
        let state = GuardState {
            chain: metadata.chain,
            key: metadata.key,
            epoch: epoch.number,
            phase: epoch.phase,
            identity: epoch.identity,
            opened,
            start_count,
            prepared: (CommitIndex(prepared.0), prepared.1),
            certified,
            aborted: aborted.map(|(index, hash)| (CommitIndex(index), hash)),
            final_mark: (GlobalIndex(final_mark.0), final_mark.1),
            stated: (GlobalIndex(stated.0), stated.1),
            stopped: stopped.map(Stopped::into_stop),
            released,
            slots,
        };
        Ok(GuardExport { state, sequence: metadata.sequence })
    }
}

impl Mark {
    fn read(&self, field: &str) -> Result<(u64, Digest), GuardJsonError> {
        Ok((self.index, digest(field, &self.hash)?))
    }
}

impl Stopped {
    fn of(stop: &Stop) -> Self {
        let cause = match stop.cause {
            StopCause::State => Cause::State,
            StopCause::Chain => Cause::Chain,
            StopCause::Key => Cause::Key,
        };
        Self { cause, reason: stop.reason.clone() }
    }

    fn into_stop(self) -> Stop {
        let cause = match self.cause {
            Cause::State => StopCause::State,
            Cause::Chain => StopCause::Chain,
            Cause::Key => StopCause::Key,
        };
        Stop { cause, reason: self.reason }
    }
}

impl Committed {
    fn into_claim(self) -> Result<Claim, GuardJsonError> {
        let claim: Claim = from_hex("epoch.committed.proof", &self.proof)?;
        let hash = digest("epoch.committed.hash", &self.hash)?;
        if (claim.certificate.index.0, claim.certificate.hash) != (self.index, hash) {
            return Err(wrong("epoch.committed.proof", "is about another block than `index` and `hash` say"));
        }
        Ok(claim)
    }
}

fn wrong(field: &str, problem: impl Into<String>) -> GuardJsonError {
    GuardJsonError::Field { field: field.into(), problem: problem.into() }
}

fn digest(field: &str, text: &str) -> Result<Digest, GuardJsonError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|e| wrong(field, format!("is no hash in hex: {e}")))?;
    Ok(Digest(bytes))
}

fn from_hex<T: borsh::BorshDeserialize>(field: &str, text: &str) -> Result<T, GuardJsonError> {
    let bytes = hex::decode(text).map_err(|e| wrong(field, format!("is not hex: {e}")))?;
    decode(&bytes).map_err(|e| wrong(field, format!("cannot be decoded: {e}")))
}

#[cfg(test)]
#[path = "guard_json_test.rs"]
mod tests;
