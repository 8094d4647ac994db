//! BLS, the VRF, and what certificates of either kind of signature weigh and cost:
//! `cargo bench -p moult-crypto --bench aggregates`, about half a minute. One core is used.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use moult_crypto::bls::threshold::{PartialSignature, combine, deal};
use moult_crypto::bls::{
    BatchItem, BatchSeed, ProvenKey, SecretKey, Signature, UncheckedSignature, verify, verify_batch,
    verify_fast_aggregate,
};
use moult_crypto::vrf::VrfSecretKey;
use moult_crypto::{KeyPair, Keyring, Signer as _, possession};
use moult_types::statement::signing_bytes;
use moult_types::{
    AuthorityId, AuthorityIndex, ChainId, Committee, Digest, EpochIdentity, FaultModel, Member, Scope, Slot,
    Statement,
};
use sha2::{Digest as _, Sha512};

const CHAIN: ChainId = ChainId([1; 32]);
const SCOPE: Scope = Scope::Epoch(EpochIdentity([2; 32]));
const MESSAGE: &[u8] = b"moult bench 1\nwhat a committee signs, as long as a statement is here, so much";

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(100)).sample_size(10);
    let mut criterion = criterion.measurement_time(Duration::from_millis(600)).configure_from_args();
    single(&mut criterion);
    let secrets: Vec<SecretKey> =
        (0..100u8).map(|n| SecretKey::from_randomness(&[n + 1; 32], b"bench")).collect();
    partials(&mut criterion, &secrets);
    for n in [4, 10, 50, 100] {
        certificates(&mut criterion, &secrets[..n]);
    }
    ed25519_batches(&mut criterion);
    criterion.final_summary();
}

fn single(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one");
    let vrf = VrfSecretKey::from_seed(&[1; 32]);
    let (public, (_, proof)) = (vrf.public_key(), vrf.prove(b"input"));
    group.bench_function("vrf prove", |b| b.iter(|| vrf.prove(black_box(b"input"))));
    group.bench_function("vrf verify", |b| {
        b.iter(|| public.verify(black_box(b"input"), &proof).expect("it holds"));
    });
    let secret = SecretKey::from_randomness(&[1; 32], b"bench");
    let (key, signature) = (secret.public_key(), secret.sign(MESSAGE));
    let proof = secret.prove_possession();
    group.bench_function("bls sign", |b| b.iter(|| secret.sign(black_box(MESSAGE))));
    group.bench_function("bls verify", |b| {
        b.iter(|| verify(&key, black_box(MESSAGE), &signature).expect("it holds"));
    });
    group.bench_function("bls proof of possession", |b| {
        b.iter(|| ProvenKey::new(black_box(key), &proof).expect("it holds"));
    });
    let bytes = signature.to_bytes();
    group.bench_function("bls read a signature, unchecked", |b| {
        b.iter(|| UncheckedSignature::from_bytes(black_box(&bytes)).expect("a point"));
    });
    group.bench_function("bls read a signature", |b| {
        b.iter(|| Signature::from_bytes(black_box(&bytes)).expect("a point"));
    });
    group.finish();
}

/// From bytes as they come over the wire to one signature that holds.
fn partials(criterion: &mut Criterion, secrets: &[SecretKey]) {
    let mut group = criterion.benchmark_group("partial signatures of one message");
    let keys: Vec<ProvenKey> = secrets.iter().map(proven).collect();
    let wire: Vec<[u8; 96]> = secrets.iter().map(|secret| secret.sign(MESSAGE).to_bytes()).collect();
    group.throughput(Throughput::Elements(wire.len() as u64));
    group.bench_function("100 read, added up, verified once", |b| {
        b.iter(|| {
            let points: Vec<_> =
                wire.iter().map(|b| UncheckedSignature::from_bytes(b).expect("a point")).collect();
            let sum = UncheckedSignature::aggregate(&points).expect("a sum");
            verify_fast_aggregate(&keys, MESSAGE, &sum).expect("it holds");
        });
    });
    let read: Vec<_> = wire.iter().map(|b| UncheckedSignature::from_bytes(b).expect("a point")).collect();
    group.bench_function("100 that were read, added up, verified once", |b| {
        b.iter(|| {
            let sum = UncheckedSignature::aggregate(&read).expect("a sum");
            verify_fast_aggregate(&keys, MESSAGE, &sum).expect("it holds");
        });
    });
    group.bench_function("100 read and checked each, verified as a batch", |b| {
        b.iter(|| {
            let item = |(key, bytes): (&ProvenKey, &[u8; 96])| BatchItem {
                key: *key.key(),
                message: MESSAGE,
                signature: Signature::from_bytes(bytes).expect("a point"),
            };
            let items: Vec<_> = keys.iter().zip(&wire).map(item).collect();
            verify_batch(&items, BatchSeed([1; 32])).expect("all hold");
        });
    });
    let dealing = deal(&[9; 32], 67, 100).expect("a group");
    let shares: Vec<(PartialSignature, [u8; 96])> = dealing.shares[33..]
        .iter()
        .map(|share| share.sign(MESSAGE))
        .map(|partial| (partial, partial.signature.to_bytes()))
        .collect();
    group.throughput(Throughput::Elements(shares.len() as u64));
    group.bench_function("threshold 67 of 100: read, interpolated, verified once", |b| {
        b.iter(|| {
            let read = |(partial, bytes): &(PartialSignature, [u8; 96])| PartialSignature {
                index: partial.index,
                signature: UncheckedSignature::from_bytes(bytes).expect("a point"),
            };
            let partials: Vec<_> = shares.iter().map(read).collect();
            combine(&dealing.commitments, MESSAGE, &partials).expect("it holds");
        });
    });
    group.finish();
}

/// A quorum's votes for one block: of n members, those that are more than two thirds.
fn certificates(criterion: &mut Criterion, secrets: &[SecretKey]) {
    let n = secrets.len();
    let quorum = 2 * n / 3 + 1;
    let mut group = criterion.benchmark_group(format!("certificate of {quorum} of {n}"));
    let keys: Vec<KeyPair> = (0..n as u8).map(|n| KeyPair::from_seed(&[n + 1; 32])).collect();
    let committee = Committee::new(keys.iter().map(member).collect(), FaultModel::Byzantine);
    let keyring = Keyring::new(CHAIN, &committee.expect("a committee")).expect("good keys");
    let votes: Vec<_> = (0..quorum).map(|author| (author, &keys[author])).map(vote).collect();
    group.bench_function("ed25519, one by one", |b| {
        b.iter(|| {
            for (statement, signature) in &votes {
                keyring.verify(SCOPE, statement, signature).expect("it holds");
            }
        });
    });
    let proven: Vec<ProvenKey> = secrets[..quorum].iter().map(proven).collect();
    let parts: Vec<Signature> = secrets[..quorum].iter().map(|secret| secret.sign(MESSAGE)).collect();
    let wire = Signature::aggregate(&parts).expect("a sum").to_bytes();
    group.bench_function("bls, one aggregate", |b| {
        b.iter(|| {
            let sum = Signature::from_bytes(&wire).expect("a point");
            verify_fast_aggregate(&proven, MESSAGE, &sum).expect("it holds");
        });
    });
    group.finish();
}

/// What a batch of ed25519 would cost, which this crate does not offer: see its tests.
fn ed25519_batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ed25519 batch equation, not offered");
    for count in [16usize, 128] {
        let keys: Vec<KeyPair> = (0..count as u8).map(|n| KeyPair::from_seed(&[n + 1; 32])).collect();
        let signed: Vec<_> = keys.iter().enumerate().map(vote).collect();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} signatures"), |b| {
            b.iter(|| assert!(batch_holds(&keys, &signed)));
        });
    }
    group.finish();
}

fn batch_holds(keys: &[KeyPair], signed: &[(Statement, moult_types::Signature)]) -> bool {
    let (mut scalars, mut points) =
        (vec![Scalar::ZERO], vec![curve25519_dalek::constants::ED25519_BASEPOINT_POINT]);
    for (number, (key, (statement, signature))) in keys.iter().zip(signed).enumerate() {
        let (mut r, mut s) = ([0; 32], [0; 32]);
        r.copy_from_slice(&signature.0[..32]);
        s.copy_from_slice(&signature.0[32..]);
        let public = key.public_key().0;
        let message = signing_bytes(CHAIN, SCOPE, statement);
        let hash = Sha512::new().chain_update(r).chain_update(public).chain_update(message).finalize();
        let k = Scalar::from_bytes_mod_order_wide(&hash.into());
        let weight = Sha512::new().chain_update(hash).chain_update(number.to_le_bytes()).finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&weight[..16]);
        let weight = Scalar::from(u128::from_le_bytes(half));
        scalars[0] -= weight * Scalar::from_bytes_mod_order(s);
        for (scalar, bytes) in [(weight, r), (weight * k, public)] {
            let Some(point) = CompressedEdwardsY(bytes).decompress() else { return false };
            scalars.push(scalar);
            points.push(point);
        }
    }
    EdwardsPoint::vartime_multiscalar_mul(scalars, points).is_identity()
}

fn proven(secret: &SecretKey) -> ProvenKey {
    ProvenKey::new(secret.public_key(), &secret.prove_possession()).expect("it is held")
}

fn vote((author, keys): (usize, &KeyPair)) -> (Statement, moult_types::Signature) {
    let slot = Slot { kind: 0x8001, a: 7, b: 0 };
    let statement = Statement { author: AuthorityIndex(author as u32), slot, digest: Digest([7; 32]) };
    (statement, keys.sign_statement(CHAIN, SCOPE, &statement))
}

fn member(keys: &KeyPair) -> Member {
    let key = keys.public_key();
    let id = AuthorityId::of(&key);
    Member { id, key, possession: possession(keys, id), stake: 1, address: "127.0.0.1:1".into() }
}
