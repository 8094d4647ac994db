//! Client sessions: the last receipts of each client, as part of the replicated state.
//!
//! Keys: `c` client -> (window, last use); `p` client page -> receipts by slot, where the slot
//! is a number modulo the client's window and a page holds 16 of them; `o` client slot -> an
//! output that is too long for its page; `t` last use client -> (). A client is the hash of
//! its id, so that keys have one length, and keeps the window it began with. A number is run
//! if its slot holds a lower one or none, repeated if the slot holds it, and stale if the slot
//! holds a higher one; so no number is ever run twice. A client that was idle too long is
//! forgotten with its receipts.
//!
//! Clients count on, so what one block brings of a client falls into few pages: what a receipt
//! costs is mostly the entry of the map that holds it, whatever its size.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use moult_sdk::Digest;
use moult_sdk::application::{ReadState, State};
use moult_types::codec::hash_of;
use moult_types::state::Overlay;
use moult_types::{ClientId, EpochLimits, GlobalIndex, decode, encode};

use super::{Outcome, Receipt};

/// Slots of a page.
const PAGE_SLOTS: u32 = 16;
/// Longest output that is kept in a page; a page is written anew for each of its receipts.
const INLINE_BYTES_MAX: usize = 64;
/// Idle clients that are forgotten in one block at most.
const FORGET_MAX: u32 = 16;
/// Entries of an idle client, of each kind, that one block removes at most.
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

/// What a slot holds.
#[derive(BorshSerialize, BorshDeserialize)]
struct Held {
    seq: u64,
    /// Without its output where that is kept apart.
    receipt: Receipt,
    is_output_apart: bool,
}

/// Receipts by their place in the page.
type Page = BTreeMap<u8, Held>;

/// A client of this block.
struct Client {
    key: Digest,
    window: u64,
    /// Pages that this block looked at.
    pages: BTreeMap<u32, Page>,
    /// Position of the first transaction with a number.
    in_block: BTreeMap<u64, usize>,
    /// Highest number of this block by slot.
    claimed: BTreeMap<u32, u64>,
}

impl Client {
    fn slot_of(&self, seq: u64) -> u32 {
        slot_of(seq, self.window)
    }

    fn page(&mut self, overlay: &Overlay, page: u32) -> &mut Page {
        let key = self.key;
        self.pages.entry(page).or_insert_with(|| read_page(overlay, key, page))
    }

    fn admit(&mut self, overlay: &Overlay, seq: u64, position: usize) -> Admission {
        if let Some(first) = self.in_block.get(&seq) {
            return Admission::SameBlock(*first);
        }
        let (slot, key) = (self.slot_of(seq), self.key);
        match self.claimed.get(&slot) {
            Some(highest) if *highest > seq => return Admission::Stale,
            Some(_) => {}
            None => {
                if let Some(held) = self.page(overlay, slot / PAGE_SLOTS).get(&place_of(slot))
                    && held.seq >= seq
                {
                    let is_same = held.seq == seq;
                    let receipt = || Admission::Repeated(whole_receipt(overlay, key, slot, held));
                    return if is_same { receipt() } else { Admission::Stale };
                }
            }
        }
        self.in_block.insert(seq, position);
        self.claimed.insert(slot, seq);
        Admission::Fresh(position)
    }

    fn record(&mut self, overlay: &mut Overlay, seq: u64, receipt: &Receipt) {
        let (slot, key) = (self.slot_of(seq), self.key);
        // A higher number of the same block may have taken the slot.
        if self.claimed.get(&slot) != Some(&seq) {
            return;
        }
        let (held, output) = held_apart(seq, receipt);
        let former = self.page(overlay, slot / PAGE_SLOTS).insert(place_of(slot), held);
        match output {
            Some(output) => overlay.put(&output_key(key, slot), output),
            None if former.is_some_and(|former| former.is_output_apart) => {
                overlay.delete(&output_key(key, slot));
            }
            None => {}
        }
    }

    /// Writes the pages in which slots were claimed.
    fn write(&self, overlay: &mut Overlay) {
        let mut pages: Vec<u32> = self.claimed.keys().map(|slot| slot / PAGE_SLOTS).collect();
        pages.dedup();
        for page in pages {
            if let Some(receipts) = self.pages.get(&page) {
                overlay.put(&page_key(self.key, page), &encode(receipts));
            }
        }
    }
}

/// Sessions over the writes of a block.
pub(super) struct Sessions<'a> {
    overlay: Overlay,
    global: GlobalIndex,
    limits: &'a EpochLimits,
    clients: BTreeMap<ClientId, Client>,
}

impl<'a> Sessions<'a> {
    pub(super) fn new(overlay: Overlay, global: GlobalIndex, limits: &'a EpochLimits) -> Self {
        Self { overlay, global, limits, clients: BTreeMap::new() }
    }

    /// What the block changes, its receipts included.
    pub(super) fn into_overlay(mut self) -> Overlay {
        for client in self.clients.values() {
            client.write(&mut self.overlay);
        }
        self.overlay
    }

    /// Judges a number, in the order of the block; `position` is the one a fresh
    /// transaction gets.
    pub(super) fn admit(&mut self, client: &ClientId, seq: u64, position: usize) -> Admission {
        if !self.clients.contains_key(client) {
            let begun = self.begin(client);
            self.clients.insert(client.clone(), begun);
        }
        match self.clients.get_mut(client) {
            Some(client) => client.admit(&self.overlay, seq, position),
            None => Admission::Stale,
        }
    }

    /// Keeps the receipt of a fresh transaction.
    pub(super) fn record(&mut self, client: &ClientId, seq: u64, receipt: &Receipt) {
        if let Some(client) = self.clients.get_mut(client) {
            client.record(&mut self.overlay, seq, receipt);
        }
    }

    /// Forgets clients that were idle for too long, a few a block.
    pub(super) fn forget_idle(&mut self) {
        let Some(before) = self.global.0.checked_sub(self.limits.client_idle_blocks) else { return };
        let end = [b"t".as_slice(), &before.to_be_bytes()].concat();
        for (entry, _) in self.overlay.scan(b"t", Some(&end), FORGET_MAX) {
            let Some(client) = entry.get(9..) else { continue };
            let all_pages = self.forget_all(b"p", client);
            if self.forget_all(b"o", client) && all_pages {
                self.overlay.delete(&[b"c", client].concat());
                self.overlay.delete(&entry);
            }
        }
    }

    /// Removes a client's entries of one kind; whether none is left.
    fn forget_all(&mut self, kind: &[u8], client: &[u8]) -> bool {
        let (start, end) = ([kind, client].concat(), [kind, client, &[0xff; 4]].concat());
        let found = self.overlay.scan(&start, Some(&end), SCAN_MAX);
        found.iter().for_each(|(entry, _)| self.overlay.delete(entry));
        found.len() < SCAN_MAX as usize
    }

    /// Reads what is known of a client, and notes that it is in use.
    fn begin(&mut self, client: &ClientId) -> Client {
        let key = client_key(client);
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
        let (pages, in_block, claimed) = Default::default();
        Client { key, window, pages, in_block, claimed }
    }
}

/// The receipt that is kept for a client's number.
pub(super) fn stored_receipt(overlay: &Overlay, client: &ClientId, seq: u64) -> Option<Receipt> {
    let key = client_key(client);
    let (window, _) = read_client(overlay, key)?;
    let slot = slot_of(seq, window);
    let page = read_page(overlay, key, slot / PAGE_SLOTS);
    let held = page.get(&place_of(slot)).filter(|held| held.seq == seq)?;
    Some(whole_receipt(overlay, key, slot, held))
}

/// What the page keeps of a receipt, and the output if that is kept apart.
fn held_apart(seq: u64, receipt: &Receipt) -> (Held, Option<&[u8]>) {
    match &receipt.outcome {
        Outcome::Executed { code, output } if output.len() > INLINE_BYTES_MAX => {
            let outcome = Outcome::Executed { code: *code, output: Vec::new() };
            let receipt = Receipt { global: receipt.global, outcome };
            (Held { seq, receipt, is_output_apart: true }, Some(output))
        }
        _ => (Held { seq, receipt: receipt.clone(), is_output_apart: false }, None),
    }
}

fn whole_receipt(overlay: &Overlay, key: Digest, slot: u32, held: &Held) -> Receipt {
    let mut receipt = held.receipt.clone();
    if held.is_output_apart
        && let Outcome::Executed { output, .. } = &mut receipt.outcome
    {
        *output = overlay.get(&output_key(key, slot)).unwrap_or_default();
    }
    receipt
}

/// A window is at most 2^20, so a slot fits.
fn slot_of(seq: u64, window: u64) -> u32 {
    u32::try_from(seq % window.max(1)).unwrap_or(u32::MAX)
}

fn place_of(slot: u32) -> u8 {
    (slot % PAGE_SLOTS) as u8
}

fn read_client(overlay: &Overlay, key: Digest) -> Option<(u64, u64)> {
    decode(&overlay.get(&client_record_key(key))?).ok()
}

fn read_page(overlay: &Overlay, key: Digest, page: u32) -> Page {
    overlay.get(&page_key(key, page)).and_then(|bytes| decode(&bytes).ok()).unwrap_or_default()
}

fn client_key(client: &ClientId) -> Digest {
    hash_of("moult client", client)
}

fn client_record_key(key: Digest) -> Vec<u8> {
    [b"c".as_slice(), &key.0].concat()
}

fn page_key(key: Digest, page: u32) -> Vec<u8> {
    [b"p".as_slice(), &key.0, &page.to_be_bytes()].concat()
}

fn output_key(key: Digest, slot: u32) -> Vec<u8> {
    [b"o".as_slice(), &key.0, &slot.to_be_bytes()].concat()
}

fn use_key(used: u64, key: Digest) -> Vec<u8> {
    [b"t".as_slice(), &used.to_be_bytes(), &key.0].concat()
}
