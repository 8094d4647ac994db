//! The vectors of ethereum/bls12-381-tests.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;
use crate::vectors::bytes;

#[derive(Deserialize)]
struct Case<I, O> {
    input: I,
    output: O,
}

/// The cases of one kind, by name.
fn cases<I: DeserializeOwned, O: DeserializeOwned>(kind: &str, count: usize) -> BTreeMap<String, Case<I, O>> {
    let mut all: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("../vectors/bls12_381_tests.json")).expect("vectors");
    let kind: BTreeMap<String, Case<I, O>> =
        serde_json::from_value(all.remove(kind).expect("a kind of vectors")).expect("cases");
    assert_eq!(kind.len(), count);
    kind
}

fn key(text: &str) -> Result<PublicKey, BlsError> {
    let bytes = bytes(text).try_into().map_err(|_| BlsError::BadKey)?;
    PublicKey::from_bytes(&bytes)
}

fn proven(texts: &[String]) -> Result<Vec<ProvenKey>, BlsError> {
    texts.iter().map(|text| key(text).map(ProvenKey::assumed)).collect()
}

fn signature(text: &str) -> Result<Signature, BlsError> {
    let bytes = bytes(text).try_into().map_err(|_| BlsError::BadPoint)?;
    Signature::from_bytes(&bytes)
}

#[test]
fn signing() {
    #[derive(Deserialize)]
    struct Input {
        privkey: String,
        message: String,
    }
    for (name, case) in cases::<Input, Option<String>>("sign", 10) {
        let secret: [u8; 32] = bytes(&case.input.privkey).try_into().expect("32 bytes");
        let signed = SecretKey::from_bytes(&secret).map(|key| key.sign(&bytes(&case.input.message)));
        assert_eq!(signed, case.output.as_deref().map_or(Err(BlsError::BadSecret), signature), "{name}");
    }
}

#[test]
fn verification() {
    #[derive(Deserialize)]
    struct Input {
        pubkey: String,
        message: String,
        signature: String,
    }
    for (name, Case { input, output }) in cases::<Input, bool>("verify", 29) {
        let verdict = || {
            let (key, signature) = (key(&input.pubkey)?, signature(&input.signature)?);
            let message = bytes(&input.message);
            let single = verify(&key, &message, &signature);
            let item = BatchItem { key, message: &message, signature };
            assert_eq!(verify_batch(&[item], BatchSeed([1; 32])), single, "{name}, as a batch");
            single
        };
        assert_eq!(verdict().is_ok(), output, "{name}");
    }
}

#[test]
fn aggregation() {
    for (name, case) in cases::<Vec<String>, Option<String>>("aggregate", 6) {
        let sum = || {
            let all = case.input.iter().map(|text| signature(text)).collect::<Result<Vec<_>, _>>()?;
            Signature::aggregate(&all)
        };
        let expected = match name.as_str() {
            // Infinity is the sum of itself in the draft. Here it is no signature: no honest key
            // ever makes it.
            "aggregate_infinity_signature" => Err(BlsError::BadPoint),
            _ => case.output.as_deref().map_or(Err(BlsError::Empty), signature),
        };
        assert_eq!(sum(), expected, "{name}");
    }
}

#[test]
fn fast_aggregate_verification() {
    #[derive(Deserialize)]
    struct Input {
        pubkeys: Vec<String>,
        message: String,
        signature: String,
    }
    for (name, Case { input, output }) in cases::<Input, bool>("fast_aggregate_verify", 12) {
        let verdict = || {
            verify_fast_aggregate(
                &proven(&input.pubkeys)?,
                &bytes(&input.message),
                &signature(&input.signature)?,
            )
        };
        assert_eq!(verdict().is_ok(), output, "{name}");
    }
}

#[test]
fn aggregate_verification() {
    #[derive(Deserialize)]
    struct Input {
        pubkeys: Vec<String>,
        messages: Vec<String>,
        signature: String,
    }
    for (name, Case { input, output }) in cases::<Input, bool>("aggregate_verify", 5) {
        let messages: Vec<Vec<u8>> = input.messages.iter().map(|text| bytes(text)).collect();
        let verdict = || {
            let keys = proven(&input.pubkeys)?;
            let signed: Vec<_> = keys.into_iter().zip(messages.iter().map(Vec::as_slice)).collect();
            assert_eq!(signed.len(), messages.len());
            verify_aggregate(&signed, &signature(&input.signature)?)
        };
        assert_eq!(verdict().is_ok(), output, "{name}");
    }
}

#[test]
fn batch_verification() {
    #[derive(Deserialize)]
    struct Input {
        pubkeys: Vec<String>,
        messages: Vec<String>,
        signatures: Vec<String>,
    }
    for (name, Case { input, output }) in cases::<Input, bool>("batch_verify", 4) {
        let messages: Vec<Vec<u8>> = input.messages.iter().map(|text| bytes(text)).collect();
        let verdict = || {
            let mut items = Vec::new();
            for (i, message) in messages.iter().enumerate() {
                let (key, signature) = (key(&input.pubkeys[i])?, signature(&input.signatures[i])?);
                items.push(BatchItem { key, message, signature });
            }
            verify_batch(&items, BatchSeed([1; 32]))
        };
        assert_eq!(verdict().is_ok(), output, "{name}");
    }
}

/// Infinity is a well encoded point, and here neither a key nor a signature.
fn is_refused_infinity(name: &str) -> bool {
    name.starts_with("deserialization_succeeds_infinity")
}

#[test]
fn encodings_of_keys() {
    #[derive(Deserialize)]
    struct Input {
        pubkey: String,
    }
    for (name, Case { input, output }) in cases::<Input, bool>("deserialization_G1", 16) {
        let read = key(&input.pubkey);
        assert_eq!(read.is_ok(), output && !is_refused_infinity(&name), "{name}");
        if let Ok(key) = read {
            assert_eq!(key.to_bytes().to_vec(), bytes(&input.pubkey));
        }
    }
}

#[test]
fn encodings_of_signatures() {
    #[derive(Deserialize)]
    struct Input {
        signature: String,
    }
    for (name, Case { input, output }) in cases::<Input, bool>("deserialization_G2", 18) {
        let read = signature(&input.signature);
        assert_eq!(read.is_ok(), output && !is_refused_infinity(&name), "{name}");
        if let Ok(signature) = read {
            assert_eq!(signature.to_bytes().to_vec(), bytes(&input.signature));
        }
        // On the curve and outside of the subgroup: the check that is put off must be made.
        if name == "deserialization_fails_not_in_G2" {
            let point: [u8; 96] = bytes(&input.signature).try_into().expect("96 bytes");
            let point = UncheckedSignature::from_bytes(&point).expect("a point of the curve");
            assert_eq!(point.check(), Err(BlsError::BadPoint));
            let good = SecretKey::from_randomness(&[1; 32], b"").sign(b"m");
            assert_eq!(UncheckedSignature::aggregate(&[good.into(), point]), Err(BlsError::BadPoint));
        }
    }
}
