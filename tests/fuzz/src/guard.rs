//! The signer guard's file as a crash or a bad disk leaves it: never an older state than what
//! was synced, as long as one half is whole, and never one that did not exist.

use std::sync::OnceLock;

use moult_core::guard::GuardState;
use moult_core::io::GuardUpdate;
use moult_crypto::Signer;
use moult_store::GuardFile;
use moult_store::guard_image::decode_image;
use moult_types::{CommitIndex, Digest, GlobalIndex, Scope, Slot};

use crate::input::Input;
use crate::memory::peak_bytes;
use crate::sample;

const SECTOR_BYTES: usize = 512;
const EDITS_MAX: usize = 32;

/// The file after each group, with the state that it holds.
struct Written {
    bytes: Vec<u8>,
    state: GuardState,
}

/// First byte: an image as bytes, a torn write, damage of one half, or damage anywhere.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => {
            // Nobody can make up a whole image by accident: it is refused, whatever it claims.
            let bytes = input.rest();
            let (image, held) = peak_bytes(|| decode_image(bytes));
            assert!(image.is_err());
            assert!(held <= (4 << 10) + bytes.len(), "{held} bytes held for {}", bytes.len());
        }
        1 => torn(&mut input),
        2 => one_half(&mut input),
        _ => anywhere(&mut input),
    }
}

/// Some sectors of a group's write are on the disk and some are not, in either half.
fn torn(input: &mut Input<'_>) {
    let files = written();
    let group = input.below(files.len() - 1);
    let (before, after) = (&files[group], &files[group + 1]);
    let mut bytes = before.bytes.clone();
    let changed = bytes.chunks_mut(SECTOR_BYTES).zip(after.bytes.chunks(SECTOR_BYTES));
    for (sector, new) in changed.filter(|(sector, new)| sector != new) {
        match input.byte() % 4 {
            0 => sector.copy_from_slice(new),
            // A sector that is written in part.
            1 => {
                let cut = usize::from(input.u16()) % SECTOR_BYTES;
                sector[..cut].copy_from_slice(&new[..cut]);
            }
            _ => {}
        }
    }
    let state = decode_image(&bytes).expect("one of two states").state;
    assert!(state == before.state || state == after.state, "a torn write brings back another state");
}

/// Whatever happens to one half, the other one tells.
fn one_half(input: &mut Input<'_>) {
    let files = written();
    let at = input.below(files.len());
    let mut bytes = files[at].bytes.clone();
    let half = bytes.len() / 2;
    let start = if input.flag() { half } else { 0 };
    damage(&mut bytes[start..start + half], input, at);
    let image = decode_image(&bytes).expect("the other half is whole");
    assert_eq!(image.state, files[at].state);
    assert!(image.halves_differ || bytes == files[at].bytes || same_logs(&bytes, &files[at].bytes));
}

/// Damage that no record or log covers is not seen, and does no harm.
fn same_logs(damaged: &[u8], good: &[u8]) -> bool {
    let (damaged, good) = (decode_image(damaged), decode_image(good));
    damaged == good
}

/// Damage in both halves: a state that was there once, or a refusal.
fn anywhere(input: &mut Input<'_>) {
    let files = written();
    let at = input.below(files.len());
    let mut bytes = files[at].bytes.clone();
    damage(&mut bytes, input, at);
    if let Ok(image) = decode_image(&bytes) {
        assert!(files[..=at].iter().any(|file| file.state == image.state), "a state that never was");
    }
}

/// Flipped bits, zeroed and swapped sectors, and sectors of older files.
fn damage(bytes: &mut [u8], input: &mut Input<'_>, at: usize) {
    let sectors = bytes.len() / SECTOR_BYTES;
    for _ in 0..EDITS_MAX {
        if input.is_empty() {
            return;
        }
        let kind = input.byte() % 4;
        // Most sectors are empty: the slots and the beginnings of the logs are what matters.
        let sector = match input.byte() {
            near @ 0..0xc0 => [0, 8, 16, 17, 24][usize::from(near) % 5],
            _ => usize::from(input.byte()) % sectors,
        };
        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        match kind {
            0 => bytes[range][usize::from(input.u16()) % SECTOR_BYTES] ^= 1 << (input.byte() % 8),
            1 => bytes[range].fill(0),
            2 => {
                let other = usize::from(input.byte()) % sectors * SECTOR_BYTES;
                bytes.copy_within(range, other);
            }
            _ => {
                let older = &written()[input.below(at + 1)].bytes;
                if let Some(old) = older.get(range.clone()) {
                    bytes[range].copy_from_slice(old);
                }
            }
        }
    }
}

/// Written by the program itself, group after group, with one log that begins anew.
fn written() -> &'static [Written] {
    static FILES: OnceLock<Vec<Written>> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("guard");
        let fresh = GuardState::new(sample::CHAIN, sample::keys(0).public_key(), sample::identity());
        let mut file = GuardFile::create_with_log(&path, fresh, 1 << 12).expect("a new file");
        let mut files = Vec::new();
        for group in 0..8_u8 {
            let bytes = std::fs::read(&path).expect("the file");
            files.push(Written { bytes, state: file.state().clone() });
            file.append(&updates(group)).expect("appended");
            if group == 4 {
                file.begin_anew().expect("written");
            } else {
                file.commit(vec![group; 100 * usize::from(group % 3)]).expect("written");
            }
        }
        files
    })
}

fn updates(group: u8) -> Vec<GuardUpdate> {
    let digest = Digest([group; 32]);
    let slot = Slot { kind: 2, a: 0, b: group.into() };
    let scope = Scope::Epoch(sample::identity());
    let mut updates = vec![
        GuardUpdate::Prepared { index: CommitIndex(u64::from(group) + 1), hash: digest },
        GuardUpdate::FinalMark { global: GlobalIndex(group.into()), hash: digest },
    ];
    if group % 2 == 1 {
        updates.push(GuardUpdate::Signed { scope, slot, digest });
    }
    if group == 6 {
        updates.push(GuardUpdate::Released(Slot { kind: 2, a: 0, b: 3 }));
    }
    updates
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], [&[0], b"moultgrd".as_slice()].concat()];
    for at in 0..8 {
        seeds.push(vec![1, at]);
        seeds.push(vec![1, at, 0, 0, 2, 0, 2, 2]);
        seeds.push(vec![1, at, 1, 40, 1, 2, 1, 200, 0]);
        seeds.push(vec![2, at, 0, 0, 0, 20, 0, 3, 0, 2, 100, 0, 1]);
        seeds.push(vec![2, at, 1, 1, 0, 1, 1, 3, 0, 1]);
        seeds.push(vec![3, at, 3, 0, 1, 3, 1, 2, 2, 0, 64]);
    }
    seeds
}
