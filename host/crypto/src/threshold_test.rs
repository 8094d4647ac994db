use super::*;
use crate::bls::ProvenKey;

const MESSAGE: &[u8] = b"what the group signs";

fn group(threshold: u32, shares: u32) -> Dealing {
    deal(&[9; 32], threshold, shares).expect("a group")
}

fn partials(dealing: &Dealing, which: &[usize]) -> Vec<PartialSignature> {
    which.iter().map(|place| dealing.shares[*place].sign(MESSAGE)).collect()
}

fn index(n: u32) -> ShareIndex {
    ShareIndex(NonZeroU32::new(n).expect("not zero"))
}

#[test]
fn any_threshold_of_shares_makes_the_one_signature_of_the_group() {
    let dealing = group(3, 6);
    let secret = SecretKey::from_randomness(&[9; 32], b"moult threshold coefficient \0\0\0\0");
    assert_eq!(secret.public_key(), *dealing.commitments.group_key());
    let expected = secret.sign(MESSAGE);
    for a in 0..6 {
        for b in 0..a {
            for c in 0..b {
                // In any order.
                for order in [[a, b, c], [c, a, b]] {
                    let combined = combine(&dealing.commitments, MESSAGE, &partials(&dealing, &order));
                    let combined = combined.expect("enough");
                    assert_eq!(combined, Combined { signature: expected, refused: Vec::new() });
                }
            }
        }
    }
    assert_eq!(verify(dealing.commitments.group_key(), MESSAGE, &expected), Ok(()));
    assert!(ProvenKey::new(*dealing.commitments.group_key(), &dealing.possession).is_ok());
}

#[test]
fn groups_of_one_of_all_and_of_many() {
    for (threshold, shares) in [(1, 1), (1, 3), (4, 4), (67, 100)] {
        let dealing = group(threshold, shares);
        let last: Vec<usize> = (0..shares as usize).rev().take(threshold as usize).collect();
        let combined = combine(&dealing.commitments, MESSAGE, &partials(&dealing, &last)).expect("enough");
        assert_eq!(verify(dealing.commitments.group_key(), MESSAGE, &combined.signature), Ok(()));
    }
    for (threshold, shares) in [(0, 3), (4, 3), (0, 0), (1, SHARES_MAX + 1)] {
        let refused = deal(&[9; 32], threshold, shares).map(|_| ());
        assert_eq!(refused, Err(ThresholdError::Group { threshold, shares }));
    }
}

#[test]
fn fewer_than_the_threshold_make_nothing() {
    let dealing = group(3, 6);
    let too_few = combine(&dealing.commitments, MESSAGE, &partials(&dealing, &[0, 1]));
    assert_eq!(too_few, Err(ThresholdError::NotEnough { have: 2, need: 3, refused: Vec::new() }));
    // Nor what two of them come to by themselves.
    let two = interpolate(&partials(&dealing, &[0, 1])).expect("a point");
    assert_eq!(verify(dealing.commitments.group_key(), MESSAGE, &two), Err(BlsError::BadSignature));
    let twice = combine(&dealing.commitments, MESSAGE, &partials(&dealing, &[0, 1, 1]));
    assert_eq!(twice, Err(ThresholdError::Duplicate(index(2))));
}

#[test]
fn wrong_partial_signatures_are_named_and_left_out() {
    let dealing = group(3, 6);
    let mut all = partials(&dealing, &[0, 1, 2, 3, 4]);
    let expected = combine(&dealing.commitments, MESSAGE, &all).expect("enough").signature;
    all[1].signature = dealing.shares[1].secret().sign(b"another").into();
    // The right point of another share.
    all[2].signature = dealing.shares[5].secret().sign(MESSAGE).into();
    let combined = combine(&dealing.commitments, MESSAGE, &all).expect("three are right");
    assert_eq!(combined, Combined { signature: expected, refused: vec![index(2), index(3)] });
    all[4].signature = all[2].signature;
    let refused = vec![index(2), index(3), index(5)];
    let failed = combine(&dealing.commitments, MESSAGE, &all);
    assert_eq!(failed, Err(ThresholdError::NotEnough { have: 2, need: 3, refused }));
    all[0].index = index(7);
    assert_eq!(combine(&dealing.commitments, MESSAGE, &all), Err(ThresholdError::UnknownShare(index(7))));
}

#[test]
fn a_share_that_the_dealer_did_not_commit_to_is_refused() {
    let dealing = group(3, 6);
    for share in &dealing.shares {
        assert_eq!(share.check(&dealing.commitments), Ok(()));
    }
    let secret = dealing.shares[0].secret().clone();
    let moved = KeyShare::new(index(2), secret.clone());
    assert_eq!(moved.check(&dealing.commitments), Err(ThresholdError::BadShare(index(2))));
    let outside = KeyShare::new(index(7), secret);
    assert_eq!(outside.check(&dealing.commitments), Err(ThresholdError::UnknownShare(index(7))));
    // Commitments to another polynomial with the same key.
    let mut coefficients = dealing.commitments.coefficients().to_vec();
    coefficients.swap(1, 2);
    let other = Commitments::new(coefficients, 6).expect("a group");
    assert_eq!(other.group_key(), dealing.commitments.group_key());
    for share in dealing.shares.iter().skip(1) {
        assert_eq!(share.check(&other), Err(ThresholdError::BadShare(share.index())));
    }
    // At 1 the two polynomials meet.
    assert_eq!(dealing.shares[0].check(&other), Ok(()));
}

#[test]
fn commitments_are_taken_as_they_were_sent() {
    let dealing = group(2, 3);
    let sent: Vec<[u8; 48]> = dealing.commitments.coefficients().iter().map(PublicKey::to_bytes).collect();
    let read = sent.iter().map(PublicKey::from_bytes).collect::<Result<Vec<_>, _>>().expect("points");
    assert_eq!(Commitments::new(read, 3).as_ref(), Ok(&dealing.commitments));
    assert!(Commitments::new(Vec::new(), 3).is_err());
}
