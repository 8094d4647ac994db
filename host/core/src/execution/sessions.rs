//! Client sessions: the last receipts of each client, as part of the replicated state.
//!
//! Keys: `r` client seq -> receipt; `c` client -> (highest seq, last use); `t` last use
//! client -> (). A client is the hash of its id, so that keys have one length. A sequence
//! number at or below `highest - window` is stale; a client that was idle too long is
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
/// A longer jump of a client's numbers is cleaned up by a scan.
const STEP_MAX: u64 = 64;
/// Receipts that one scan removes at most; later transactions remove the rest.
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
    in_block: BTreeMap<(Digest, u64), usize>,
    clients: BTreeMap<Digest, (u64, u64)>,
}

impl<'a> Sessions<'a> {
    pub(super) fn new(overlay: Overlay, global: GlobalIndex, limits: &'a EpochLimits) -> Self {
        Self { overlay, global, limits, in_block: BTreeMap::new(), clients: BTreeMap::new() }
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
        let known = self.client(key);
        if known.is_some_and(|(highest, _)| seq.saturating_add(self.limits.client_window) <= highest) {
            return Admission::Stale;
        }
        // A number above the highest one has no receipt: the usual case needs no look-up.
        if known.is_some_and(|(highest, _)| seq <= highest)
            && let Some(receipt) = read_receipt(&self.overlay, key, seq)
        {
            return Admission::Repeated(receipt);
        }
        self.in_block.insert((key, seq), position);
        self.note_use(key, known, seq);
        Admission::Fresh(position)
    }

    pub(super) fn record(&mut self, client: &ClientId, seq: u64, receipt: &Receipt) {
        let key = client_key(client);
        // A later number of the same block may have pushed this one out of the window.
        let highest = self.client(key).map_or(seq, |(highest, _)| highest);
        if seq.saturating_add(self.limits.client_window) > highest {
            self.overlay.put(&receipt_key(key, seq), &encode(receipt));
        }
    }

    /// Forgets clients that were idle for too long, a few a block.
    pub(super) fn forget_idle(&mut self) {
        let Some(before) = self.global.0.checked_sub(self.limits.client_idle_blocks) else { return };
        let end = [b"t".as_slice(), &before.to_be_bytes()].concat();
        for (entry, _) in self.overlay.scan(b"t", Some(&end), FORGET_MAX) {
            let Some(client) = entry.get(9..) else { continue };
            let (start, end) = ([b"r", client, &[0; 8]].concat(), [b"r", client, &[0xff; 8]].concat());
            let receipts = self.overlay.scan(&start, Some(&end), SCAN_MAX);
            let all = receipts.len() < SCAN_MAX as usize;
            for (receipt, _) in receipts {
                self.overlay.delete(&receipt);
            }
            self.overlay.delete(&end);
            if all {
                self.overlay.delete(&[b"c", client].concat());
                self.overlay.delete(&entry);
            }
        }
    }

    fn client(&mut self, key: Digest) -> Option<(u64, u64)> {
        if let Some(known) = self.clients.get(&key) {
            return Some(*known);
        }
        let stored: (u64, u64) = decode(&self.overlay.get(&client_record_key(key))?).ok()?;
        self.clients.insert(key, stored);
        Some(stored)
    }

    fn note_use(&mut self, key: Digest, known: Option<(u64, u64)>, seq: u64) {
        let (highest, used) = known.unwrap_or((seq, 0));
        // The index of last uses moves seldom, so that a busy client costs one write a block.
        let stale_index = used + self.limits.client_idle_blocks / 16 < self.global.0 || known.is_none();
        let now_used = if stale_index { self.global.0 } else { used };
        if stale_index {
            if known.is_some() {
                self.overlay.delete(&use_key(used, key));
            }
            self.overlay.put(&use_key(now_used, key), &[]);
        }
        let new_highest = highest.max(seq);
        self.evict(key, highest, new_highest);
        let client = (new_highest, now_used);
        if known != Some(client) {
            self.overlay.put(&client_record_key(key), &encode(&client));
            self.clients.insert(key, client);
        }
    }

    /// Removes receipts that fall out of the window when the highest number rises.
    fn evict(&mut self, key: Digest, from: u64, to: u64) {
        let window = self.limits.client_window;
        let Some(last) = to.checked_sub(window) else { return };
        let first = from.checked_sub(window).map_or(0, |evicted| evicted + 1);
        if last.saturating_sub(first) < STEP_MAX {
            for seq in first..=last {
                if self.overlay.get(&receipt_key(key, seq)).is_some() {
                    self.overlay.delete(&receipt_key(key, seq));
                }
            }
            return;
        }
        let end = receipt_key(key, last.saturating_add(1));
        for (receipt, _) in self.overlay.scan(&receipt_key(key, 0), Some(&end), SCAN_MAX) {
            self.overlay.delete(&receipt);
        }
    }
}

/// The receipt that is kept for a client's number.
pub(super) fn stored_receipt(overlay: &Overlay, client: &ClientId, seq: u64) -> Option<Receipt> {
    read_receipt(overlay, client_key(client), seq)
}

fn read_receipt(overlay: &Overlay, key: Digest, seq: u64) -> Option<Receipt> {
    decode(&overlay.get(&receipt_key(key, seq))?).ok()
}

fn client_key(client: &ClientId) -> Digest {
    hash_of("moult client", client)
}

fn client_record_key(key: Digest) -> Vec<u8> {
    [b"c".as_slice(), &key.0].concat()
}

fn receipt_key(key: Digest, seq: u64) -> Vec<u8> {
    [b"r".as_slice(), &key.0, &seq.to_be_bytes()].concat()
}

fn use_key(used: u64, key: Digest) -> Vec<u8> {
    [b"t".as_slice(), &used.to_be_bytes(), &key.0].concat()
}
