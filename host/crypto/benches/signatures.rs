//! Signing and checking of statements, the way votes and batches are signed and checked:
//! `cargo bench -p moult-crypto --bench signatures`, about ten seconds. With
//! `RUSTFLAGS="-C target-cpu=native"` the checks use what the machine's own processor has.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use moult_crypto::{KeyPair, Keyring, Signer as _, possession};
use moult_types::{
    AuthorityId, AuthorityIndex, ChainId, Committee, Digest, EpochIdentity, FaultModel, Member, Scope,
    Signature, Slot, Statement,
};

const MEMBERS: u8 = 4;
const CHAIN: ChainId = ChainId([1; 32]);
const SCOPE: Scope = Scope::Epoch(EpochIdentity([2; 32]));

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(200)).sample_size(20);
    let mut criterion = criterion.measurement_time(Duration::from_secs(1)).configure_from_args();
    let keys: Vec<_> = (0..MEMBERS).map(|n| KeyPair::from_seed(&[n + 1; 32])).collect();
    let committee = Committee::new(keys.iter().map(member).collect(), FaultModel::Byzantine);
    let keyring = Keyring::new(CHAIN, &committee.expect("a committee")).expect("good keys");
    for count in [1, 128] {
        let signed: Vec<_> = (0..count).map(|number| signed(&keys, number)).collect();
        let mut group = criterion.benchmark_group(format!("{count} statements"));
        group.throughput(Throughput::Elements(count));
        group.bench_function("sign", |b| {
            b.iter(|| {
                for (statement, _) in &signed {
                    black_box(keys[0].sign_statement(CHAIN, SCOPE, black_box(statement)));
                }
            });
        });
        group.bench_function("verify, strict, one by one", |b| {
            b.iter(|| {
                for (statement, signature) in &signed {
                    keyring.verify(SCOPE, black_box(statement), signature).expect("it holds");
                }
            });
        });
        group.finish();
    }
    criterion.final_summary();
}

/// A statement of one of the members in turn.
fn signed(keys: &[KeyPair], number: u64) -> (Statement, Signature) {
    let author = number as usize % keys.len();
    let statement = Statement {
        author: AuthorityIndex(author as u32),
        slot: Slot { kind: 2, a: 1, b: number },
        digest: Digest([number as u8; 32]),
    };
    (statement, keys[author].sign_statement(CHAIN, SCOPE, &statement))
}

fn member(keys: &KeyPair) -> Member {
    let key = keys.public_key();
    let id = AuthorityId::of(&key);
    Member { id, key, possession: possession(keys, id), stake: 1, address: "127.0.0.1:1".into() }
}
