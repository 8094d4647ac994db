//! The bytes of the guard's file.
//!
//! The file holds everything twice, in two halves of equal size; each half is
//!
//! ```text
//! 0         4096      8192                             8192 + capacity
//! | slot A  | slot B  | log: snapshot, updates ... zeros |
//! ```
//!
//! A group of updates is appended to both logs, then a commit record goes into slot
//! `sequence % 2` of both halves, and one sync covers the four writes. The record holds the
//! length and the hash of the log up to and with the group, and the values that change with
//! every block (last prepare, marks), so that these do not grow the log. It is smaller than
//! a sector.
//!
//! # Invariants
//! - A group's sync leaves the former record and the log under it untouched: a write that is
//!   torn anywhere leaves the state before the group or, if one half is complete, after it.
//! - A group that was synced stands in two halves. Any damage within one half, down to a
//!   flipped bit, leaves the other; so it never brings back a state older than what was
//!   synced. (In a file with a single copy, a flipped bit in the newest record could not be
//!   told from a torn write.) Damage of the last group in both halves cannot be told from a
//!   torn write; the sequence number kept in the store shows it where the store has
//!   recorded a later one.
//! - Records name their half, and the sequence number names the slot: a misdirected write
//!   does not count.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_core::guard::GuardState;
use moult_core::io::GuardUpdate;
use moult_types::{ChainId, CommitIndex, Digest, GlobalIndex, PublicKey};

/// The newest format this program reads and the one it writes.
pub(crate) const FORMAT: u32 = 1;
/// Slots have a page each, so that the write of one cannot tear the other.
pub(crate) const SLOT_BYTES: usize = 4096;
/// Where the log begins within a half.
pub(crate) const LOG_OFFSET: usize = 2 * SLOT_BYTES;
/// A record is written in one sector.
const RECORD_BYTES_MAX: usize = 512;
const MAGIC: [u8; 8] = *b"moultgrd";
const HASH_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 4 + 4;

/// The content of a slot.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub(crate) struct Record {
    pub(crate) half: u8,
    pub(crate) sequence: u64,
    pub(crate) chain: ChainId,
    pub(crate) key: PublicKey,
    pub(crate) log_capacity: u64,
    pub(crate) snapshot_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) log_hash: [u8; HASH_BYTES],
    pub(crate) start_count: u64,
    pub(crate) prepared: (CommitIndex, Digest),
    pub(crate) final_mark: (GlobalIndex, Digest),
}

/// What an image of the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Image {
    pub(crate) state: GuardState,
    pub(crate) sequence: u64,
    /// The two halves do not say the same: a torn write, or damage that the other half healed.
    pub(crate) halves_differ: bool,
}

/// Why an image cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ImageError {
    Newer(u32),
    Damaged(String),
}

/// Whether an update goes into the log; the others are values of the record.
pub(crate) fn is_logged(update: &GuardUpdate) -> bool {
    match update {
        GuardUpdate::Signed { .. } | GuardUpdate::Released(_) | GuardUpdate::Epoch { .. } => true,
        GuardUpdate::Prepared { .. } | GuardUpdate::Started { .. } | GuardUpdate::FinalMark { .. } => false,
    }
}

impl Record {
    pub(crate) fn slot(&self) -> usize {
        usize::from(self.sequence % 2 == 1)
    }

    /// Magic, format, length, body, hash of all that.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = moult_types::encode(self);
        let mut bytes = Vec::with_capacity(RECORD_BYTES_MAX);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        debug_assert!(bytes.len() <= RECORD_BYTES_MAX, "a record fits in a sector");
        bytes
    }

    /// `Ok(None)`: nothing was ever written here, or the write was torn.
    fn decode(slot: &[u8]) -> Result<Option<Self>, ImageError> {
        let Some((header, rest)) = slot.split_at_checked(HEADER_BYTES) else { return Ok(None) };
        let Some((magic, numbers)) = header.split_at_checked(MAGIC.len()) else { return Ok(None) };
        let (format, len) = match numbers {
            [a, b, c, d, e, f, g, h] => {
                (u32::from_le_bytes([*a, *b, *c, *d]), u32::from_le_bytes([*e, *f, *g, *h]))
            }
            _ => return Ok(None),
        };
        let Some((body, rest)) = rest.split_at_checked(len as usize) else { return Ok(None) };
        let (Some(hash), Some(hashed)) = (rest.get(..HASH_BYTES), slot.get(..HEADER_BYTES + body.len()))
        else {
            return Ok(None);
        };
        if magic != MAGIC || blake3::hash(hashed).as_bytes() != hash {
            return Ok(None);
        }
        if format > FORMAT {
            return Err(ImageError::Newer(format));
        }
        moult_types::decode(body).map(Some).map_err(|e| ImageError::Damaged(e.to_string()))
    }

    /// The state, if the log is the one this record was written over.
    fn replay(&self, log: &[u8]) -> Option<GuardState> {
        let log = log.get(..usize::try_from(self.log_bytes).ok()?)?;
        if *blake3::hash(log).as_bytes() != self.log_hash {
            return None;
        }
        let (snapshot, mut updates) = log.split_at_checked(usize::try_from(self.snapshot_bytes).ok()?)?;
        let mut state: GuardState = moult_types::decode(snapshot).ok()?;
        while !updates.is_empty() {
            state.apply(&GuardUpdate::deserialize(&mut updates).ok()?);
        }
        state.start_count = self.start_count;
        state.prepared = self.prepared;
        state.final_mark = self.final_mark;
        (state.chain == self.chain && state.key == self.key).then_some(state)
    }
}

/// Reads an image: the newest record whose log is whole, from either half.
pub(crate) fn decode_image(bytes: &[u8]) -> Result<Image, ImageError> {
    let half_bytes = bytes.len() / 2;
    let mut found: Vec<(Record, &[u8])> = Vec::with_capacity(4);
    let mut newer = None;
    for half in 0..2_u8 {
        let start = usize::from(half) * half_bytes;
        let Some(image) = bytes.get(start..start + half_bytes) else { continue };
        let log = image.get(LOG_OFFSET..).unwrap_or_default();
        for slot in 0..2_usize {
            let slot_bytes = image.get(slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES).unwrap_or_default();
            match Record::decode(slot_bytes) {
                Ok(Some(record)) if record.half == half && record.slot() == slot => found.push((record, log)),
                Ok(_) => {}
                Err(ImageError::Newer(format)) => newer = Some(format),
                Err(ImageError::Damaged(_)) => {}
            }
        }
    }
    if let Some(format) = newer {
        return Err(ImageError::Newer(format));
    }
    let records = found.len();
    found.sort_by_key(|(record, _)| std::cmp::Reverse(record.sequence));
    for (record, log) in &found {
        let Some(state) = record.replay(log) else { continue };
        let newest = found.iter().map(|(record, _)| record.sequence).max();
        let copies =
            found.iter().filter(|(r, log)| r.sequence == record.sequence && r.replay(log).is_some()).count();
        let halves_differ = copies != 2 || newest != Some(record.sequence);
        return Ok(Image { state, sequence: record.sequence, halves_differ });
    }
    Err(ImageError::Damaged(format!("{records} of its 4 records are readable and none has its whole log")))
}

/// A whole file that holds one state and nothing to replay.
pub(crate) fn encode_image(
    state: &GuardState,
    sequence: u64,
    log_bytes_min: usize,
) -> (Vec<u8>, Record, blake3::Hasher) {
    let snapshot = moult_types::encode(state);
    // Room for three times as much again, so that rewriting is rare whatever is live.
    let capacity = log_bytes_min.max(snapshot.len().saturating_mul(4)).next_multiple_of(SLOT_BYTES);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&snapshot);
    let mut record = Record {
        half: 0,
        sequence,
        chain: state.chain,
        key: state.key,
        log_capacity: capacity as u64,
        snapshot_bytes: snapshot.len() as u64,
        log_bytes: snapshot.len() as u64,
        log_hash: *hasher.finalize().as_bytes(),
        start_count: state.start_count,
        prepared: state.prepared,
        final_mark: state.final_mark,
    };
    let mut bytes = Vec::with_capacity(2 * (LOG_OFFSET + capacity));
    for half in 0..2 {
        record.half = half;
        let start = bytes.len();
        bytes.resize(start + record.slot() * SLOT_BYTES, 0);
        bytes.extend_from_slice(&record.encode());
        bytes.resize(start + LOG_OFFSET, 0);
        bytes.extend_from_slice(&snapshot);
        bytes.resize(start + LOG_OFFSET + capacity, 0);
    }
    record.half = 0;
    (bytes, record, hasher)
}
