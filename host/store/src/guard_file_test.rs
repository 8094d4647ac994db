use std::collections::BTreeMap;

use moult_core::io::PhaseProof;
use moult_core::stop::{Stop, StopCause};
use moult_types::phase::{Bundle, Claim};
use moult_types::{
    Certificate, CommitIndex, Digest, EpochIdentity, EpochNumber, GlobalIndex, Round, Scope, Slot,
};
use proptest::prelude::*;

use super::*;
use crate::guard_format::LOG_OFFSET;

const CHAIN: ChainId = ChainId([1; 32]);
const KEY: PublicKey = PublicKey([2; 32]);
/// One page of log, so that rewriting happens too.
const SMALL: usize = SLOT_BYTES;

fn fresh() -> GuardState {
    GuardState::new(CHAIN, KEY, EpochIdentity([3; 32]))
}

fn committed(index: u64, hash: Digest) -> GuardUpdate {
    let (identity, index) = (EpochIdentity([3; 32]), CommitIndex(index));
    let (votes, bodies) = (Vec::new(), vec![hash]);
    let certificate = Certificate { round: Round::Prepare, identity, index, hash, votes, bodies };
    GuardUpdate::Committed(Box::new(Claim { certificate, block: None }))
}

fn update() -> impl Strategy<Value = GuardUpdate> {
    let slot = || (0..3_u16, 0..6_u64, 0..3_u64).prop_map(|(kind, a, b)| Slot { kind, a, b });
    let digest = || any::<u8>().prop_map(|byte| Digest([byte; 32]));
    let identity = || (3..6_u8).prop_map(|byte| EpochIdentity([byte; 32]));
    let scope = prop_oneof![
        identity().prop_map(Scope::Epoch),
        (0..4_u64).prop_map(|n| Scope::Number(EpochNumber(n)))
    ];
    prop_oneof![
        6 => (scope, slot(), digest()).prop_map(|(scope, slot, digest)| GuardUpdate::Signed { scope, slot, digest }),
        3 => (1..9_u64, digest()).prop_map(|(i, hash)| GuardUpdate::Prepared { index: CommitIndex(i), hash }),
        2 => (1..9_u64, digest()).prop_map(|(i, hash)| committed(i, hash)),
        1 => (1..9_u64, digest()).prop_map(|(i, hash)| GuardUpdate::Aborted { index: CommitIndex(i), hash }),
        1 => (1..4_u32, identity()).prop_map(|(phase, identity)| GuardUpdate::Phase {
            phase,
            identity,
            proof: Box::new(PhaseProof::Aborted(Bundle { aborted: Vec::new() })),
        }),
        2 => slot().prop_map(GuardUpdate::Released),
        1 => (0..4_u64, identity()).prop_map(|(number, identity)| GuardUpdate::Epoch { number, identity }),
        1 => (0..9_u64).prop_map(|count| GuardUpdate::Started { count }),
        1 => (0..9_u64, digest()).prop_map(|(g, root)| GuardUpdate::Stated { global: GlobalIndex(g), root }),
        1 => any::<u8>().prop_map(|n| GuardUpdate::Stopped(Stop {
            cause: StopCause::State,
            reason: n.to_string(),
        })),
        1 => Just(GuardUpdate::Resumed),
        1 => (0..9_u64, digest()).prop_map(|(g, hash)| GuardUpdate::FinalMark { global: GlobalIndex(g), hash }),
    ]
}

fn groups() -> impl Strategy<Value = Vec<Vec<GuardUpdate>>> {
    proptest::collection::vec(proptest::collection::vec(update(), 1..12), 1..20)
}

/// As a sink does it, with nothing for the store.
fn write_group(guard: &mut GuardFile) {
    if guard.has_room(0) { guard.commit(Vec::new()) } else { guard.begin_anew() }.expect("synced");
}

/// Writes groups; gives the state before and after the last one, with the bytes on disk.
fn write(dir: &Path, groups: &[Vec<GuardUpdate>]) -> ((GuardState, Vec<u8>), (GuardState, Vec<u8>)) {
    let path = dir.join("guard");
    let mut guard = GuardFile::write_new(&path, Image::fresh(fresh()), SMALL).expect("written");
    let bytes = || std::fs::read(&path).expect("readable");
    let mut model = fresh();
    let mut before = (model.clone(), bytes());
    for (i, group) in groups.iter().enumerate() {
        if i + 1 == groups.len() {
            before = (model.clone(), bytes());
        }
        guard.append(group).expect("appended");
        group.iter().for_each(|update| model.apply(update));
        write_group(&mut guard);
        assert_eq!(guard.state(), &model);
        assert!(!guard.dirty);
    }
    (before, (model, bytes()))
}

/// Where two images of one size differ.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    (0..before.len()).filter(|&i| before[i] != after[i]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_file_holds_what_was_synced(groups in groups()) {
        let dir = tempfile::tempdir().expect("a directory");
        let (_, (model, _)) = write(dir.path(), &groups);
        let (mut guard, state) = GuardFile::open(&dir.path().join("guard"), CHAIN, KEY).expect("opened");
        prop_assert_eq!(&state, &model);
        // Appended and not synced: lost, with the state as it was.
        guard.append(&[GuardUpdate::Started { count: 77 }]).expect("appended");
        let sequence = guard.sequence();
        drop(guard);
        let (guard, state) = GuardFile::open(&dir.path().join("guard"), CHAIN, KEY).expect("opened");
        prop_assert_eq!(state, model);
        prop_assert_eq!(guard.sequence(), sequence);
    }

    #[test]
    fn a_write_torn_anywhere_leaves_the_state_before_or_after(groups in groups(), seed in any::<u64>()) {
        let dir = tempfile::tempdir().expect("a directory");
        let ((state_before, before), (state_after, after)) = write(dir.path(), &groups);
        prop_assume!(before.len() == after.len());
        let ok = |image: &[u8]| {
            let state = decode_image(image).map(|image| image.state);
            state == Ok(state_before.clone()) || state == Ok(state_after.clone())
        };
        // A prefix of the write, byte by byte (in the order of the file).
        let changed = changed(&before, &after);
        let mut image = before.clone();
        for &at in &changed {
            image[at] = after[at];
            prop_assert!(ok(&image), "torn after byte {at}");
        }
        prop_assert_eq!(decode_image(&image).map(|i| i.state), Ok(state_after.clone()));
        // Its reverse, and any subset of sectors.
        for &at in &changed {
            image[at] = before[at];
            prop_assert!(ok(&image), "torn before byte {at}");
        }
        let mut random = seed | 1;
        for _ in 0..64 {
            let mut image = before.clone();
            for sector in (0..after.len()).step_by(512) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                if random % 2 == 0 {
                    let end = (sector + 512).min(after.len());
                    image[sector..end].copy_from_slice(&after[sector..end]);
                }
            }
            prop_assert!(ok(&image));
        }
    }

    #[test]
    fn damage_in_one_half_never_brings_back_an_older_state(
        groups in groups(), flips in proptest::collection::vec(any::<prop::sample::Index>(), 1..40), half in 0..2_usize,
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let (_, (model, bytes)) = write(dir.path(), &groups);
        let half_bytes = bytes.len() / 2;
        let mut image = bytes.clone();
        for flip in flips {
            let bit = flip.index(half_bytes * 8);
            image[half * half_bytes + bit / 8] ^= 1 << (bit % 8);
        }
        prop_assert_eq!(decode_image(&image).map(|i| i.state), Ok(model.clone()));
        // A half that is gone altogether.
        image[half * half_bytes..(half + 1) * half_bytes].fill(0xff);
        prop_assert_eq!(decode_image(&image).map(|i| i.state), Ok(model));
    }

    #[test]
    fn no_image_makes_reading_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600), size in 0..6 * SLOT_BYTES, at in any::<prop::sample::Index>(),
    ) {
        let (mut image, ..) = encode_image(&Image::fresh(fresh()), SMALL);
        image.truncate(size);
        let start = at.index(image.len() + 1);
        for (to, from) in image[start..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        let _ = decode_image(&image);
        let _ = decode_image(&bytes);
    }
}

/// Every single bit of records and logs, one at a time: healed.
#[test]
fn every_single_flipped_bit_is_healed() {
    let dir = tempfile::tempdir().expect("a directory");
    let slot = Slot { kind: 1, a: 2, b: 3 };
    let signed = GuardUpdate::Signed { scope: Scope::Number(EpochNumber(0)), slot, digest: Digest([9; 32]) };
    let (_, (model, bytes)) =
        write(dir.path(), &[vec![signed.clone()], vec![GuardUpdate::Started { count: 2 }, signed]]);
    let written: Vec<usize> = (0..bytes.len()).filter(|&i| bytes[i] != 0).collect();
    for at in written {
        for bit in 0..8 {
            let mut image = bytes.clone();
            image[at] ^= 1 << bit;
            assert_eq!(decode_image(&image).map(|i| i.state), Ok(model.clone()), "byte {at} bit {bit}");
        }
    }
}

/// Damage of the last group in both halves looks like a torn write; damage of both groups
/// or of the snapshots is an error.
#[test]
fn damage_in_both_halves_is_an_error_or_the_former_group() {
    let dir = tempfile::tempdir().expect("a directory");
    let groups = [vec![GuardUpdate::Started { count: 1 }], vec![GuardUpdate::Started { count: 2 }]];
    let ((former, _), (_, bytes)) = write(dir.path(), &groups);
    let half = bytes.len() / 2;
    let mut image = bytes.clone();
    for half in [0, half] {
        image[half + SLOT_BYTES + 100] ^= 1;
    }
    assert_eq!(decode_image(&image).map(|i| i.state), Ok(former));
    for half in [0, half] {
        image[half + 100] ^= 1;
    }
    assert!(matches!(decode_image(&image), Err(ImageError::Damaged(_))));
    let mut image = bytes;
    for half in [0, half] {
        image[half + LOG_OFFSET + 5] ^= 1;
    }
    std::fs::write(dir.path().join("guard"), image).expect("written");
    let opened = GuardFile::open(&dir.path().join("guard"), CHAIN, KEY);
    assert!(matches!(opened, Err(GuardFileError::Corrupt { .. })), "{opened:?}");
}

#[test]
fn a_full_log_begins_anew_with_the_live_state() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("guard");
    let mut guard = GuardFile::write_new(&path, Image::fresh(fresh()), SMALL).expect("written");
    let mut model: BTreeMap<_, _> = BTreeMap::new();
    for a in 0..500 {
        let slot = Slot { kind: 1, a, b: 0 };
        let scope = Scope::Epoch(fresh().identity);
        let mut group = vec![GuardUpdate::Signed { scope, slot, digest: Digest([a as u8; 32]) }];
        model.insert((scope, 1, a, 0), Digest([a as u8; 32]));
        if a % 10 == 9 {
            group.push(GuardUpdate::Released(Slot { kind: 1, a: a - 1, b: u64::MAX }));
            model = model.split_off(&(scope, 1, a, 0));
        }
        guard.append(&group).expect("appended");
        write_group(&mut guard);
    }
    assert_eq!(guard.state().slots, model);
    assert_eq!(guard.sequence(), 501);
    assert_eq!(path.metadata().expect("there").len(), 2 * (LOG_OFFSET + 2 * SMALL) as u64);
    drop(guard);
    let (_, state) = GuardFile::open(&path, CHAIN, KEY).expect("opened");
    assert_eq!(state.slots, model);
}

/// Found by a node that stopped: what has room must fit, to the last byte.
#[test]
fn what_just_has_room_fits() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("guard");
    let mut guard = GuardFile::write_new(&path, Image::fresh(fresh()), SMALL).expect("written");
    let updates = [GuardUpdate::Started { count: 7 }];
    guard.append(&updates).expect("appended");
    let most = (0..SMALL).rev().find(|bytes| guard.has_room(*bytes)).expect("there is some room");
    guard.commit(vec![7; most]).expect("it has room");
    let (guard, _) = GuardFile::open(&path, CHAIN, KEY).expect("opened");
    assert_eq!(guard.store_writes().1.last().map(|group| group.writes.len()), Some(most));
}

#[test]
fn what_groups_write_into_the_store_is_found_until_the_log_begins_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("guard");
    let mut guard = GuardFile::write_new(&path, Image::fresh(fresh()), SMALL).expect("written");
    let found = |path: &Path| {
        let (guard, state) = GuardFile::open(path, CHAIN, KEY).expect("opened");
        let (from, groups) = guard.store_writes();
        (from, groups.iter().map(|g| (g.sequence, g.writes.clone())).collect::<Vec<_>>(), state.start_count)
    };
    guard.commit(b"one".to_vec()).expect("written");
    guard.append(&[GuardUpdate::Started { count: 5 }]).expect("appended");
    guard.commit(Vec::new()).expect("written");
    guard.commit(b"three".to_vec()).expect("written");
    let all = vec![(2, b"one".to_vec()), (4, b"three".to_vec())];
    assert_eq!(found(&path), (1, all.clone(), 5));
    // Opening keeps it, however often.
    assert_eq!(found(&path), (1, all, 5));
    let (mut guard, _) = GuardFile::open(&path, CHAIN, KEY).expect("opened");
    assert!(guard.has_room(3000) && !guard.has_room(LOG_BYTES_MIN));
    guard.append(&[GuardUpdate::Started { count: 6 }]).expect("appended");
    guard.begin_anew().expect("written");
    assert_eq!(guard.store_writes(), (5, [].as_slice()));
    guard.commit(b"six".to_vec()).expect("written");
    assert_eq!(found(&path), (5, vec![(6, b"six".to_vec())], 6));
    // What does not fit is refused, and nothing may follow.
    assert!(guard.commit(vec![0; LOG_BYTES_MIN]).is_err());
    assert!(matches!(guard.commit(Vec::new()), Err(GuardFileError::Poisoned { .. })));
}

#[test]
fn what_is_not_this_nodes_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("guard");
    let open = |chain, key| GuardFile::open(&path, chain, key).map(|_| ());
    assert!(matches!(open(CHAIN, KEY), Err(GuardFileError::Missing { .. })));
    drop(GuardFile::create(&path, fresh()).expect("created"));
    assert!(matches!(GuardFile::create(&path, fresh()), Err(GuardFileError::Exists { .. })));
    let other = ChainId([8; 32]);
    assert!(
        matches!(open(other, KEY), Err(GuardFileError::OtherChain { found: CHAIN, expected, .. }) if expected == other)
    );
    let other = PublicKey([8; 32]);
    assert!(
        matches!(open(CHAIN, other), Err(GuardFileError::OtherKey { found: KEY, expected, .. }) if expected == other)
    );
    assert!(open(CHAIN, KEY).is_ok());

    let mut bytes = std::fs::read(&path).expect("readable");
    // A record of another format, correctly hashed, in the free slot (the number 1 is in B).
    for other in [1_u32, 7] {
        let mut record = bytes[SLOT_BYTES..SLOT_BYTES + 512].to_vec();
        record[8..12].copy_from_slice(&other.to_le_bytes());
        let body = u32::from_le_bytes([record[12], record[13], record[14], record[15]]) as usize;
        let hash = blake3::hash(&record[..16 + body]);
        record[16 + body..48 + body].copy_from_slice(hash.as_bytes());
        bytes[..512].copy_from_slice(&record);
        std::fs::write(&path, &bytes).expect("written");
        assert!(matches!(open(CHAIN, KEY), Err(GuardFileError::OtherFormat { found, .. }) if found == other));
    }
    std::fs::write(&path, b"").expect("written");
    assert!(matches!(open(CHAIN, KEY), Err(GuardFileError::Corrupt { .. })));
}

#[test]
fn after_a_failed_write_everything_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("guard");
    let mut guard = GuardFile::create(&path, fresh()).expect("created");
    let writable = std::mem::replace(&mut guard.file, File::open("/dev/null").expect("read only"));
    guard.append(&[GuardUpdate::Started { count: 1 }]).expect("appended");
    assert!(matches!(guard.commit(Vec::new()), Err(GuardFileError::Io { .. })));
    // The disk works again: nothing is retried all the same.
    guard.file = writable;
    assert!(matches!(guard.commit(Vec::new()), Err(GuardFileError::Poisoned { .. })));
    assert!(matches!(guard.begin_anew(), Err(GuardFileError::Poisoned { .. })));
    assert!(matches!(guard.append(&[]), Err(GuardFileError::Poisoned { .. })));
    drop(guard);
    let (_, state) = GuardFile::open(&path, CHAIN, KEY).expect("opened");
    assert_eq!(state, fresh());
}
