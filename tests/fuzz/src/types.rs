//! The canonical encoding of everything that is signed, sent or stored by the host.

use borsh::{BorshDeserialize, BorshSerialize};
use moult_core::governance::Ledger;
use moult_core::guard::GuardState;
use moult_core::io::{EpochStart, GuardUpdate, PhaseProof};
use moult_types::governance::{ReadyNotice, Vote, Withdrawal};
use moult_types::message::{Blocks, Prepared, Status};
use moult_types::phase::{Bundle, Claim, FinalityProof};
use moult_types::{
    Batch, Block, BlockRecord, Certificate, EpochChangeProposal, Genesis, Manifest, Message, Scope, Signed,
    SignedBatch, SignedProposal, SignedReport, Statement, SystemTransaction, Transaction, decode, encode,
};

use crate::memory::peak_bytes;
use crate::sample;

/// What a decoder may hold at once: this, and so many bytes a byte of input. borsh reads a list
/// of bytes in pieces of 1 MiB, whatever length it claims.
const BYTES_FREE: usize = (1 << 20) + (64 << 10);
const BYTES_PER_BYTE: usize = 16;

/// First byte: the type. The rest: its encoding.
pub(crate) fn run(data: &[u8]) {
    if let Some((kind, bytes)) = data.split_first()
        && let Some((_, check, _)) = CHECKS.get(usize::from(*kind))
    {
        check(bytes);
    }
}

/// Name, the check of an encoding, and whether bytes are one.
type Check = (&'static str, fn(&[u8]), fn(&[u8]) -> bool);

macro_rules! checks {
    ($($type:ident),* $(,)?) => {
        &[$((stringify!($type), strict::<$type>, |bytes| decode::<$type>(bytes).is_ok())),*]
    };
}

/// By the first byte. New ones are added at the end, so that corpora stay what they are.
const CHECKS: &[Check] = checks![
    Message,
    SignedBatch,
    Batch,
    Transaction,
    SystemTransaction,
    SignedProposal,
    EpochChangeProposal,
    Vote,
    ReadyNotice,
    Withdrawal,
    Block,
    BlockRecord,
    Certificate,
    Blocks,
    Status,
    Manifest,
    Genesis,
    Signed,
    Statement,
    Scope,
    Ledger,
    GuardState,
    GuardUpdate,
    EpochStart,
    FinalityProof,
    Bundle,
    Claim,
    Prepared,
    PhaseProof,
    SignedReport,
];

/// Whatever decodes is the one encoding of its value; with one byte more or less it is none,
/// and no length that the bytes claim is believed.
pub(crate) fn strict<T: BorshSerialize + BorshDeserialize>(bytes: &[u8]) {
    let (decoded, held) = peak_bytes(|| decode::<T>(bytes));
    assert!(held <= BYTES_FREE + BYTES_PER_BYTE * bytes.len(), "{held} bytes held for {}", bytes.len());
    let Ok(value) = decoded else { return };
    assert_eq!(encode(&value), bytes, "two encodings of one value");
    assert!(decode::<T>(&[bytes, &[0]].concat()).is_err(), "a byte too many is not seen");
    if let Some((_, shorter)) = bytes.split_last() {
        assert!(decode::<T>(shorter).is_err(), "a missing byte is not seen");
    }
}

/// The formats as they are: for each type its name, how many encodings were looked at, and a hash
/// over real encodings of it and over which of their neighbours (one byte changed, anywhere) are
/// encodings, too. Any change of a field, a bound or of what a decoder lets pass shows.
pub(crate) fn formats() -> Vec<(&'static str, usize, String)> {
    let seeds = seeds();
    let of = |(kind, (name, _, is_encoding)): (usize, &Check)| {
        let (mut hashed, mut looked_at) = (Vec::new(), 0);
        for seed in seeds.iter().filter(|seed| seed.first().map(|first| usize::from(*first)) == Some(kind)) {
            let bytes = &seed[1..];
            hashed.extend((bytes.len() as u64).to_le_bytes());
            hashed.extend(bytes);
            for (at, _) in bytes.iter().enumerate() {
                for bit in [0x01, 0x80] {
                    let mut neighbour = bytes.to_vec();
                    neighbour[at] ^= bit;
                    hashed.push(is_encoding(&neighbour).into());
                    looked_at += 1;
                }
            }
        }
        (*name, looked_at, moult_types::codec::sha256(&hashed).to_string())
    };
    CHECKS.iter().enumerate().map(of).collect()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut add = |kind: u8, bytes: Vec<u8>| seeds.push([vec![kind], bytes].concat());
    sample::messages().iter().for_each(|message| add(0, encode(message)));
    let manifest = sample::manifest();
    // Without the bundle, which is a seed of its own below: an input is small.
    let is_small =
        |transaction: &Transaction| !matches!(transaction, Transaction::System(SystemTransaction::Open(_)));
    let transactions = sample::transactions().into_iter().filter(is_small).collect();
    let batch = sample::batch(1, 2, 3, transactions);
    add(1, encode(&batch));
    add(2, encode(&batch.batch));
    for transaction in sample::transactions() {
        add(3, encode(&transaction));
        if let Transaction::System(system) = &transaction {
            add(4, encode(system));
            match system {
                SystemTransaction::Propose(signed) => {
                    add(5, encode(&**signed));
                    add(6, encode(&signed.proposal));
                }
                SystemTransaction::Vote(vote) => add(7, encode(vote)),
                SystemTransaction::Ready(notice) => add(8, encode(notice)),
                SystemTransaction::Withdraw(withdrawal) => add(9, encode(withdrawal)),
                SystemTransaction::Open(_) => {}
            }
        }
    }
    let blocks = sample::blocks(2);
    add(10, encode(&blocks.blocks[0].block));
    add(11, encode(&blocks.blocks[0]));
    add(12, encode(blocks.proof.certificate()));
    add(24, encode(&blocks.proof));
    add(13, encode(&blocks));
    add(14, encode(&sample::status()));
    add(15, encode(&manifest));
    add(
        16,
        encode(&Genesis { name: "chain".into(), time_ms: 1000, origin: None, manifest: manifest.clone() }),
    );
    let scope = Scope::Epoch(manifest.identity());
    let signed = sample::vote_for(moult_types::Round::Prepare, 1, 1, moult_types::Digest([3; 32]));
    add(17, encode(&signed));
    add(18, encode(&signed.statement));
    add(19, encode(&scope));
    add(19, encode(&Scope::Number(manifest.number)));
    add(20, encode(&sample::ledger()));
    add(21, encode(&sample::guard_state()));
    for update in sample::guard_updates() {
        add(22, encode(&update));
    }
    let start = EpochStart {
        manifest,
        base: moult_types::GlobalIndex(0),
        state_root: None,
        time_ms: 1,
        switched_at_ms: 2,
    };
    add(23, encode(&start));
    add(25, encode(&sample::bundle()));
    add(26, encode(&sample::claim()));
    add(27, encode(&sample::prepared()));
    add(28, encode(&PhaseProof::Aborted(sample::bundle())));
    add(29, encode(&sample::report()));
    seeds
}
