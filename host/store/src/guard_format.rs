//! The bytes of the guard's file.
//!
//! The file holds everything twice, in two halves of equal size; each half is
//!
//! ```text
//! 0         4096      8192                  8192 + capacity       8192 + 2 x capacity
//! | slot A  | slot B  | region 0            | region 1            |
//!                     | log: snapshot, entries ... old bytes      |
//! ```
//!
//! A group of entries is appended to the log, which lies in one of the regions, and a
//! record goes into slot `sequence % 2`; all of it in both halves, and one sync covers it.
//! The record names the region and holds the length and the hash of the log up to and with
//! the group, and the values that change with every block (last prepare, marks), so that
//! these do not grow the log. It is smaller than a sector. A log that is full begins anew,
//! with the live state, in the other region. An entry is an update of the guard, or what a
//! group writes into the store: the store's own files are not synced with the group, and
//! what they lose in a crash is taken from here.
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
//! - A log holds what was written into the store after the record's `store_sequence`, and
//!   begins anew only when the store is synced up to there.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_core::guard::GuardState;
use moult_core::io::GuardUpdate;
use moult_types::{ChainId, CommitIndex, Digest, GlobalIndex, PublicKey};

/// The format that this program reads and writes.
pub(crate) const FORMAT: u32 = 3;
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
    /// Of one region.
    pub(crate) log_capacity: u64,
    pub(crate) region: u8,
    /// The group up to which the store was synced when this log began.
    pub(crate) store_sequence: u64,
    pub(crate) snapshot_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) log_hash: [u8; HASH_BYTES],
    pub(crate) start_count: u64,
    pub(crate) prepared: (CommitIndex, Digest),
    pub(crate) final_mark: (GlobalIndex, Digest),
}

/// What follows the snapshot in a log.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub(crate) enum Entry {
    /// An update of the guard.
    Guard(GuardUpdate),
    /// What the group of that sequence number wrote into the store.
    Store(StoreWrites),
}

/// What a group wrote into the store.
#[derive(Clone, PartialEq, Eq, Debug, BorshSerialize, BorshDeserialize)]
pub struct StoreWrites {
    /// Sequence number of the group.
    pub sequence: u64,
    /// In the store's own encoding.
    pub writes: Vec<u8>,
}

/// What an image of the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// Everything the guard remembers.
    pub state: GuardState,
    /// Number of the last group.
    pub sequence: u64,
    /// The group up to which the store was synced.
    pub store_sequence: u64,
    /// What was written into the store after this group, by rising number.
    pub store_writes: Vec<StoreWrites>,
    /// The two halves do not say the same: a torn write, or damage that the other half healed.
    pub halves_differ: bool,
}

impl Image {
    /// Of a guard that is made now.
    pub(crate) fn fresh(state: GuardState) -> Self {
        Self { state, sequence: 1, store_sequence: 1, store_writes: Vec::new(), halves_differ: false }
    }
}

/// Why an image cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// Of a format that this program does not know.
    OtherFormat(u32),
    /// No record is left whose log is whole.
    Damaged(String),
}

/// Whether an update goes into the log; the others are values of the record.
pub(crate) fn is_logged(update: &GuardUpdate) -> bool {
    match update {
        GuardUpdate::Signed { .. }
        | GuardUpdate::Committed(_)
        | GuardUpdate::Aborted { .. }
        | GuardUpdate::Phase { .. }
        | GuardUpdate::Released(_)
        | GuardUpdate::Stated { .. }
        | GuardUpdate::Stopped(_)
        | GuardUpdate::Resumed
        | GuardUpdate::Epoch { .. } => true,
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
        if format != FORMAT {
            return Err(ImageError::OtherFormat(format));
        }
        moult_types::decode(body).map(Some).map_err(|e| ImageError::Damaged(e.to_string()))
    }

    /// The state and the store's writes, if the log is the one this record was written over.
    fn replay(&self, half: &[u8]) -> Option<(GuardState, Vec<StoreWrites>)> {
        let start = region_offset(self.region, usize::try_from(self.log_capacity).ok()?)?;
        let end = start.checked_add(usize::try_from(self.log_bytes).ok()?)?;
        let log = half.get(start..end)?;
        if *blake3::hash(log).as_bytes() != self.log_hash {
            return None;
        }
        let (snapshot, mut entries) = log.split_at_checked(usize::try_from(self.snapshot_bytes).ok()?)?;
        let mut state: GuardState = moult_types::decode(snapshot).ok()?;
        let mut store_writes = Vec::new();
        while !entries.is_empty() {
            match Entry::deserialize(&mut entries).ok()? {
                Entry::Guard(update) => state.apply(&update),
                Entry::Store(writes) => store_writes.push(writes),
            }
        }
        state.start_count = self.start_count;
        state.prepared = self.prepared;
        state.final_mark = self.final_mark;
        (state.chain == self.chain && state.key == self.key).then_some((state, store_writes))
    }
}

/// Where a region begins within a half.
pub(crate) fn region_offset(region: u8, capacity: usize) -> Option<usize> {
    capacity.checked_mul(usize::from(region))?.checked_add(LOG_OFFSET)
}

/// Size of a half.
pub(crate) fn half_bytes(capacity: u64) -> u64 {
    LOG_OFFSET as u64 + 2 * capacity
}

/// Reads an image: the newest record whose log is whole, from either half.
///
/// # Errors
/// No record is left with its log, or another version of the program wrote the file.
pub fn decode_image(bytes: &[u8]) -> Result<Image, ImageError> {
    let half_bytes = bytes.len() / 2;
    let mut found: Vec<(Record, &[u8])> = Vec::with_capacity(4);
    let mut other = None;
    for half in 0..2_u8 {
        let start = usize::from(half) * half_bytes;
        let Some(image) = bytes.get(start..start + half_bytes) else { continue };
        for slot in 0..2_usize {
            let slot_bytes = image.get(slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES).unwrap_or_default();
            match Record::decode(slot_bytes) {
                Ok(Some(record)) if record.half == half && record.slot() == slot => {
                    found.push((record, image))
                }
                Ok(_) => {}
                Err(ImageError::OtherFormat(format)) => other = Some(format),
                Err(ImageError::Damaged(_)) => {}
            }
        }
    }
    if let Some(format) = other {
        return Err(ImageError::OtherFormat(format));
    }
    let records = found.len();
    found.sort_by_key(|(record, _)| std::cmp::Reverse(record.sequence));
    for (record, image) in &found {
        let Some((state, store_writes)) = record.replay(image) else { continue };
        let newest = found.iter().map(|(record, _)| record.sequence).max();
        let copies = found
            .iter()
            .filter(|(r, image)| r.sequence == record.sequence && r.replay(image).is_some())
            .count();
        let halves_differ = copies != 2 || newest != Some(record.sequence);
        let (sequence, store_sequence) = (record.sequence, record.store_sequence);
        return Ok(Image { state, sequence, store_sequence, store_writes, halves_differ });
    }
    Err(ImageError::Damaged(format!("{records} of its 4 records are readable and none has its whole log")))
}

/// A whole file that holds what an image says, in region 0.
pub(crate) fn encode_image(image: &Image, log_bytes_min: usize) -> (Vec<u8>, Record, blake3::Hasher) {
    let state = &image.state;
    let mut log = moult_types::encode(state);
    let snapshot_bytes = log.len();
    for writes in &image.store_writes {
        log.extend_from_slice(&moult_types::encode(&Entry::Store(writes.clone())));
    }
    // Room for three times as much again, so that beginning anew is rare whatever is live.
    let capacity = log_bytes_min.max(snapshot_bytes.saturating_mul(4)).max(log.len());
    let capacity = capacity.next_multiple_of(SLOT_BYTES);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&log);
    let mut record = Record {
        half: 0,
        sequence: image.sequence,
        chain: state.chain,
        key: state.key,
        log_capacity: capacity as u64,
        region: 0,
        store_sequence: image.store_sequence,
        snapshot_bytes: snapshot_bytes as u64,
        log_bytes: log.len() as u64,
        log_hash: *hasher.finalize().as_bytes(),
        start_count: state.start_count,
        prepared: state.prepared,
        final_mark: state.final_mark,
    };
    let mut bytes = Vec::with_capacity(2 * (LOG_OFFSET + 2 * capacity));
    for half in 0..2 {
        record.half = half;
        let start = bytes.len();
        bytes.resize(start + record.slot() * SLOT_BYTES, 0);
        bytes.extend_from_slice(&record.encode());
        bytes.resize(start + LOG_OFFSET, 0);
        bytes.extend_from_slice(&log);
        bytes.resize(start + LOG_OFFSET + 2 * capacity, 0);
    }
    record.half = 0;
    (bytes, record, hasher)
}
