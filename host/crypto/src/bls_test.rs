use super::*;

fn secrets(count: u8) -> Vec<SecretKey> {
    (0..count).map(|n| SecretKey::from_randomness(&[n + 1; 32], b"test")).collect()
}

fn proven(secrets: &[SecretKey]) -> Vec<ProvenKey> {
    let prove =
        |key: &SecretKey| ProvenKey::new(key.public_key(), &key.prove_possession()).expect("it is held");
    secrets.iter().map(prove).collect()
}

#[test]
fn keys_signatures_and_proofs_are_read_as_they_were_written() {
    let key = &secrets(1)[0];
    let again = SecretKey::from_bytes(&key.to_bytes()).expect("a key");
    assert_eq!(again.public_key(), key.public_key());
    assert_eq!(PublicKey::from_bytes(&key.public_key().to_bytes()), Ok(key.public_key()));
    let (signature, proof) = (key.sign(b"m"), key.prove_possession());
    assert_eq!(Signature::from_bytes(&signature.to_bytes()), Ok(signature));
    assert_eq!(Possession::from_bytes(&proof.to_bytes()), Ok(proof));
    assert!(!format!("{key:?}").contains(&hex::encode(*key.to_bytes())));
}

#[test]
fn a_proof_of_possession_is_of_one_key_and_no_signature() {
    let keys = secrets(2);
    let (a, b) = (keys[0].public_key(), keys[1].public_key());
    assert_eq!(ProvenKey::new(a, &keys[1].prove_possession()), Err(BlsError::BadPossession));
    // Signing the key's bytes proves nothing: another domain.
    let signed = Possession::from_bytes(&keys[1].sign(&b.to_bytes()).to_bytes()).expect("a point");
    assert_eq!(ProvenKey::new(b, &signed), Err(BlsError::BadPossession));
    assert_eq!(ProvenKey::new(b, &keys[1].prove_possession()).map(|k| *k.key()), Ok(b));
}

#[test]
fn an_aggregate_holds_for_all_of_its_keys_and_no_others() {
    let secrets = secrets(5);
    let keys = proven(&secrets);
    let parts: Vec<Signature> = secrets.iter().map(|key| key.sign(b"m")).collect();
    let sum = Signature::aggregate(&parts).expect("a sum");
    assert_eq!(verify_fast_aggregate(&keys, b"m", &sum), Ok(()));
    let unchecked: Vec<UncheckedSignature> = parts.iter().map(|part| (*part).into()).collect();
    assert_eq!(UncheckedSignature::aggregate(&unchecked), Ok(sum));
    for refused in [
        verify_fast_aggregate(&keys[1..], b"m", &sum),
        verify_fast_aggregate(&[&keys[..], &keys[..1]].concat(), b"m", &sum),
        verify_fast_aggregate(&keys, b"n", &sum),
    ] {
        assert_eq!(refused, Err(BlsError::BadSignature));
    }
    assert_eq!(verify_fast_aggregate(&[], b"m", &sum), Err(BlsError::Empty));
    let each: Vec<(ProvenKey, &[u8])> = keys.iter().map(|key| (*key, b"m".as_slice())).collect();
    assert_eq!(verify_aggregate(&each, &sum), Ok(()));
    assert_eq!(verify_aggregate(&each[1..], &sum), Err(BlsError::BadSignature));
}

/// A key made out of another's so that one secret signs for both: it verifies, and its proof of
/// possession is what nobody can make.
#[test]
fn a_rogue_key_has_no_proof() {
    use blst::min_pk::AggregatePublicKey;
    let (victim, own) = (secrets(2)[0].public_key(), secrets(2)[1].clone());
    let mut rogue = AggregatePublicKey::from_public_key(own.public_key().point());
    rogue.sub_aggregate(&AggregatePublicKey::from_public_key(victim.point()));
    let rogue = PublicKey::checked(rogue.to_public_key()).expect("a point like others");
    let forged = own.sign(b"both of us");
    let assumed = [ProvenKey::assumed(victim), ProvenKey::assumed(rogue)];
    assert_eq!(verify_fast_aggregate(&assumed, b"both of us", &forged), Ok(()));
    assert_eq!(ProvenKey::new(rogue, &own.prove_possession()), Err(BlsError::BadPossession));
}

#[test]
fn keys_that_undo_each_other_are_refused() {
    use blst::min_pk::{AggregatePublicKey, AggregateSignature};
    let key = secrets(1)[0].clone();
    let point = AggregatePublicKey::from_public_key(key.public_key().point());
    let (mut negative, both) = (point, point);
    negative.sub_aggregate(&both);
    negative.sub_aggregate(&both);
    let negative = PublicKey::checked(negative.to_public_key()).expect("a point");
    let keys = [ProvenKey::assumed(key.public_key()), ProvenKey::assumed(negative)];
    assert_eq!(verify_fast_aggregate(&keys, b"m", &key.sign(b"m")), Err(BlsError::BadSignature));
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    assert_eq!(UncheckedSignature::from_bytes(&infinity).map(|_| ()), Err(BlsError::BadPoint));
    let parsed = blst::min_pk::Signature::uncompress(&infinity).expect("blst takes it");
    assert_eq!(AggregateSignature::from_signature(&parsed).to_signature(), parsed);
}

fn batch<'a>(secrets: &[SecretKey], messages: &'a [Vec<u8>]) -> Vec<BatchItem<'a>> {
    let item = |(i, key): (usize, &SecretKey)| {
        let message = &messages[i % messages.len()];
        BatchItem { key: key.public_key(), message, signature: key.sign(message) }
    };
    secrets.iter().enumerate().map(item).collect()
}

#[test]
fn a_batch_holds_if_all_of_it_does() {
    let secrets = secrets(9);
    let messages: Vec<Vec<u8>> = (0..3).map(|n| vec![n; n as usize * 40]).collect();
    let items = batch(&secrets, &messages);
    assert_eq!(verify_batch(&items, BatchSeed([7; 32])), Ok(()));
    assert_eq!(verify_batch(&[], BatchSeed([7; 32])), Err(BlsError::Empty));
    for place in 0..items.len() {
        let mut wrong = items.clone();
        wrong[place].signature = secrets[place].sign(b"another");
        assert_eq!(verify_batch(&wrong, BatchSeed([7; 32])), Err(BlsError::BadSignature), "{place}");
    }
}

/// What one signature lacks another has too much: their sum is right, and each is wrong.
#[test]
fn errors_that_undo_each_other_are_found() {
    let secrets = secrets(2);
    let message = vec![b"m".to_vec()];
    let mut items = batch(&secrets, &message);
    let (first, second) = (items[0].signature, items[1].signature);
    items[0].signature = second;
    items[1].signature = first;
    let swapped = [first, second].map(|s| s.to_bytes());
    assert_ne!(swapped[0], swapped[1]);
    let sum = Signature::aggregate(&[items[0].signature, items[1].signature]).expect("a sum");
    assert_eq!(verify_fast_aggregate(&proven(&secrets), b"m", &sum), Ok(()));
    for seed in 0..20 {
        assert_eq!(verify_batch(&items, BatchSeed([seed; 32])), Err(BlsError::BadSignature));
    }
}
