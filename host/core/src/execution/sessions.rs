//! Client sessions: the last receipts of each client, as part of the replicated state.
//!
//! Keys: `c` client -> (window, last use); `r` client slot -> (seq, receipt), where the slot
//! is seq modulo the client's window; `t` last use client -> (). A client is the hash of its
//! id, so that keys have one length, and keeps the window it began with. A number is run if
//! its slot holds a lower one or none, repeated if the slot holds it, and stale if the slot
//! holds a higher one; so no number is ever run twice. A client that was idle too long is
//! forgotten with its receipts.

use std::collections::BTreeMap;

use moult_sdk::Digest;
use moult_sdk::application::{ReadState, State};
use moult_types::codec::hash_of;
use moult_types::state::Overlay;
use moult_types::{ClientId, EpochLimits, GlobalIndex, decode, encode};

use super::Receipt;

/// Idle clients that are forgotten in one block at most.
const FORGET_MAX: u32 = 16;
/// Receipts of an idle client that one block removes at most.
const SCAN_MAX: u32 = 1024;

/// What a transaction's number says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// To be run, at this position among the block's.
    Fresh(usize),
    /// The same number stands at that position of this block.
    SameBlock(usize),
    /// Run in an earlier block.
    Repeated(Receipt),
    /// Too far back to tell.
    Stale,
}

/// Sessions over the writes of a block.
pub(super) struct Sessions<'a> {
    overlay: Overlay,
    global: GlobalIndex,
    limits: &'a EpochLimits,
    /// Numbers of this block: position of the first transaction with it.
    in_block: BTreeMap<(Digest, u64), usize>,
    /// Highest number of this block by slot.
    claimed: BTreeMap<(Digest, u32), u64>,
    /// Windows of the clients of this block.
    windows: BTreeMap<Digest, u64>,
}

impl<'a> Sessions<'a> {
    pub(super) fn new(overlay: Overlay, global: GlobalIndex, limits: &'a EpochLimits) -> Self {
        let (in_block, claimed, windows) = Default::default();
        Self { overlay, global, limits, in_block, claimed, windows }
    }

    pub(super) fn into_overlay(self) -> Overlay {
        self.overlay
    }

    /// Judges a number, in the order of the block; `position` is the one a fresh
    /// transaction gets.
    pub(super) fn admit(&mut self, client: &ClientId, seq: u64, position: usize) -> Admission {
        let key = client_key(client);
        if let Some(first) = self.in_block.get(&(key, seq)) {
            return Admission::SameBlock(*first);
        }
        let slot = slot_of(seq, self.window(key));
        let claimed = self.claimed.get(&(key, slot)).copied();
        if claimed.is_some_and(|highest| highest > seq) {
            return Admission::Stale;
        }
        if claimed.is_none()
            && let Some((held, receipt)) = read_slot(&self.overlay, key, slot)
            && held >= seq
        {
            return if held == seq { Admission::Repeated(receipt) } else { Admission::Stale };
        }
        self.in_block.insert((key, seq), position);
        self.claimed.insert((key, slot), seq);
        Admission::Fresh(position)
    }

    /// Keeps the receipt of a fresh transaction.
    pub(super) fn record(&mut self, client: &ClientId, seq: u64, receipt: &Receipt) {
        let key = client_key(client);
        let slot = slot_of(seq, self.window(key));
        // A higher number of the same block may have taken the slot.
        if self.claimed.get(&(key, slot)) == Some(&seq) {
            self.overlay.put(&slot_key(key, slot), &encode(&(seq, receipt)));
        }
    }

    /// Forgets clients that were idle for too long, a few a block.
    pub(super) fn forget_idle(&mut self) {
        let Some(before) = self.global.0.checked_sub(self.limits.client_idle_blocks) else { return };
        let end = [b"t".as_slice(), &before.to_be_bytes()].concat();
        for (entry, _) in self.overlay.scan(b"t", Some(&end), FORGET_MAX) {
            let Some(client) = entry.get(9..) else { continue };
            let (start, end) = ([b"r", client].concat(), [b"r", client, &[0xff; 4]].concat());
            let receipts = self.overlay.scan(&start, Some(&end), SCAN_MAX);
            let all = receipts.len() < SCAN_MAX as usize;
            for (receipt, _) in receipts {
                self.overlay.delete(&receipt);
            }
            if all {
                self.overlay.delete(&[b"c", client].concat());
                self.overlay.delete(&entry);
            }
        }
    }

    /// The client's window; notes that it is in use.
    fn window(&mut self, key: Digest) -> u64 {
        if let Some(window) = self.windows.get(&key) {
            return *window;
        }
        let stored = read_client(&self.overlay, key);
        let window = stored.map_or(self.limits.client_window, |(window, _)| window).max(1);
        // The last use moves seldom, so that a busy client costs no write for it.
        let is_due = |used: u64| used.saturating_add(self.limits.client_idle_blocks / 16) < self.global.0;
        if stored.is_none_or(|(_, used)| is_due(used)) {
            if let Some((_, used)) = stored {
                self.overlay.delete(&use_key(used, key));
            }
            self.overlay.put(&use_key(self.global.0, key), &[]);
            self.overlay.put(&client_record_key(key), &encode(&(window, self.global.0)));
        }
        self.windows.insert(key, window);
        window
    }
}

/// The receipt that is kept for a client's number.
pub(super) fn stored_receipt(overlay: &Overlay, client: &ClientId, seq: u64) -> Option<Receipt> {
    let key = client_key(client);
    let (window, _) = read_client(overlay, key)?;
    let (held, receipt) = read_slot(overlay, key, slot_of(seq, window))?;
    (held == seq).then_some(receipt)
}

/// A window is at most 2^20, so a slot fits.
fn slot_of(seq: u64, window: u64) -> u32 {
    u32::try_from(seq % window.max(1)).unwrap_or(u32::MAX)
}

fn read_client(overlay: &Overlay, key: Digest) -> Option<(u64, u64)> {
    decode(&overlay.get(&client_record_key(key))?).ok()
}

fn read_slot(overlay: &Overlay, key: Digest, slot: u32) -> Option<(u64, Receipt)> {
    decode(&overlay.get(&slot_key(key, slot))?).ok()
}

fn client_key(client: &ClientId) -> Digest {
    hash_of("moult client", client)
}

fn client_record_key(key: Digest) -> Vec<u8> {
    [b"c".as_slice(), &key.0].concat()
}

fn slot_key(key: Digest, slot: u32) -> Vec<u8> {
    [b"r".as_slice(), &key.0, &slot.to_be_bytes()].concat()
}

fn use_key(used: u64, key: Digest) -> Vec<u8> {
    [b"t".as_slice(), &used.to_be_bytes(), &key.0].concat()
}
