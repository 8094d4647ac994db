use std::fmt;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use moult_types::statement::signing_bytes;
use moult_types::{
    AuthorityId, AuthorityIndex, CertificationReport, ChainId, Committee, PublicKey, Scope, Signature,
    SignedReport, Statement,
};
use thiserror::Error;

use crate::keys::{KeyPair, Signer};

/// Why something signed is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum VerifyError {
    /// The key is no point of the curve, or one of small order.
    #[error("the public key {0} is not a valid ed25519 key")]
    BadKey(PublicKey),
    /// The signature does not hold.
    #[error("the signature does not verify")]
    BadSignature,
    /// The author is not in the committee.
    #[error("authority {} is not in the committee", .0.0)]
    UnknownAuthor(AuthorityIndex),
}

/// Decides in place of ed25519 whether a signature holds: (key, signed bytes, signature). For
/// simulators, whose signers make what it accepts; a [`KeyPair`] never brings one.
pub type Substitute = Arc<dyn Fn(&PublicKey, &[u8], &Signature) -> bool + Send + Sync>;

/// The keys of one committee, decompressed once.
#[derive(Clone)]
pub struct Keyring {
    chain: ChainId,
    keys: Keys,
}

#[derive(Clone)]
enum Keys {
    Ed25519(Vec<VerifyingKey>),
    Substituted(Vec<PublicKey>, Substitute),
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, how) = match &self.keys {
            Keys::Ed25519(keys) => (keys.len(), "ed25519"),
            Keys::Substituted(keys, _) => (keys.len(), "substituted"),
        };
        write!(f, "Keyring({count} keys, {how})")
    }
}

impl Keyring {
    /// Decompresses the keys.
    ///
    /// # Errors
    /// A key is not valid.
    pub fn new(chain: ChainId, committee: &Committee) -> Result<Self, VerifyError> {
        let keys = committee.members().iter().map(|m| parse_key(&m.key)).collect::<Result<_, _>>()?;
        Ok(Self { chain, keys: Keys::Ed25519(keys) })
    }

    /// A keyring whose signatures are judged by something else than ed25519.
    pub fn substituted(chain: ChainId, committee: &Committee, judge: Substitute) -> Self {
        let keys = committee.members().iter().map(|member| member.key).collect();
        Self { chain, keys: Keys::Substituted(keys, judge) }
    }

    /// Checks one statement of a member.
    ///
    /// # Errors
    /// The author is unknown or the signature does not hold.
    pub fn verify(
        &self,
        scope: Scope,
        statement: &Statement,
        signature: &Signature,
    ) -> Result<(), VerifyError> {
        let author = statement.author;
        let unknown = VerifyError::UnknownAuthor(author);
        let bytes = signing_bytes(self.chain, scope, statement);
        match &self.keys {
            Keys::Ed25519(keys) => verify_raw(keys.get(author.as_usize()).ok_or(unknown)?, &bytes, signature),
            Keys::Substituted(keys, judge) => {
                let key = keys.get(author.as_usize()).ok_or(unknown)?;
                if judge(key, &bytes, signature) { Ok(()) } else { Err(VerifyError::BadSignature) }
            }
        }
    }
}

/// Checks one statement against one key.
///
/// # Errors
/// The key is invalid or the signature does not hold.
pub fn verify_statement(
    key: &PublicKey,
    chain: ChainId,
    scope: Scope,
    statement: &Statement,
    signature: &Signature,
) -> Result<(), VerifyError> {
    verify_raw(&parse_key(key)?, &signing_bytes(chain, scope, statement), signature)
}

fn parse_key(key: &PublicKey) -> Result<VerifyingKey, VerifyError> {
    let parsed = VerifyingKey::from_bytes(&key.0).map_err(|_| VerifyError::BadKey(*key))?;
    if parsed.is_weak() { Err(VerifyError::BadKey(*key)) } else { Ok(parsed) }
}

/// Checks a signature over bytes whose domain the caller knows.
pub(crate) fn verify_bytes(key: &PublicKey, bytes: &[u8], signature: &Signature) -> Result<(), VerifyError> {
    verify_raw(&parse_key(key)?, bytes, signature)
}

fn verify_raw(key: &VerifyingKey, bytes: &[u8], signature: &Signature) -> Result<(), VerifyError> {
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    key.verify_strict(bytes, &signature).map_err(|_| VerifyError::BadSignature)
}

/// Proof that the holder of `keys` wants it to stand for `authority`.
pub fn possession(keys: &KeyPair, authority: AuthorityId) -> Signature {
    keys.sign_raw(&possession_bytes(&keys.public_key(), authority))
}

/// Checks a proof of possession.
///
/// # Errors
/// The key is invalid or the proof does not hold.
pub fn check_possession(
    key: &PublicKey,
    authority: AuthorityId,
    proof: &Signature,
) -> Result<(), VerifyError> {
    verify_raw(&parse_key(key)?, &possession_bytes(key, authority), proof)
}

/// A report as its certifier signs it.
pub fn sign_report(keys: &KeyPair, report: CertificationReport) -> SignedReport {
    let signature = keys.sign_raw(&report_bytes(&report));
    SignedReport { report, certifier: keys.public_key(), signature }
}

/// Checks that a report was signed by the certifier that it names. Whether that one is to be
/// believed is not asked here.
///
/// # Errors
/// The key is invalid or the signature does not hold.
pub fn check_report(signed: &SignedReport) -> Result<(), VerifyError> {
    verify_raw(&parse_key(&signed.certifier)?, &report_bytes(&signed.report), &signed.signature)
}

fn report_bytes(report: &CertificationReport) -> Vec<u8> {
    [b"moult certification 1\n".as_slice(), &report.signing_bytes()].concat()
}

pub(crate) fn possession_bytes(key: &PublicKey, authority: AuthorityId) -> Vec<u8> {
    [b"moult possession 1\n".as_slice(), &key.0, &authority.0].concat()
}

#[cfg(test)]
mod tests {
    use moult_types::{Digest, EpochIdentity, EpochNumber, FaultModel, Member, Slot};

    use super::*;

    fn statement() -> Statement {
        Statement { author: AuthorityIndex(0), slot: Slot { kind: 1, a: 2, b: 3 }, digest: Digest([7; 32]) }
    }

    #[test]
    fn a_signature_holds_only_for_its_chain_scope_and_statement() {
        let keys = KeyPair::from_seed(&[1; 32]);
        let (chain, scope) = (ChainId([1; 32]), Scope::Number(EpochNumber(4)));
        let signature = keys.sign_statement(chain, scope, &statement());
        let check = |chain, scope, statement: &Statement| {
            verify_statement(&keys.public_key(), chain, scope, statement, &signature)
        };
        assert_eq!(check(chain, scope, &statement()), Ok(()));
        let mut other = statement();
        other.slot.kind = 2;
        for refused in [
            check(ChainId([2; 32]), scope, &statement()),
            check(chain, Scope::Number(EpochNumber(5)), &statement()),
            check(chain, Scope::Epoch(EpochIdentity([0; 32])), &statement()),
            check(chain, scope, &other),
        ] {
            assert_eq!(refused, Err(VerifyError::BadSignature));
        }
    }

    #[test]
    fn keys_of_small_order_and_foreign_possession_are_refused() {
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        let weak = PublicKey(identity_point);
        let signature = Signature([0; 64]);
        let refused = verify_statement(
            &weak,
            ChainId([0; 32]),
            Scope::Number(EpochNumber(0)),
            &statement(),
            &signature,
        );
        assert_eq!(refused, Err(VerifyError::BadKey(weak)));

        let (a, b) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
        let id = AuthorityId::of(&a.public_key());
        let proof = possession(&a, id);
        assert_eq!(check_possession(&a.public_key(), id, &proof), Ok(()));
        assert_eq!(check_possession(&b.public_key(), id, &proof), Err(VerifyError::BadSignature));
    }

    #[test]
    fn a_report_is_its_certifiers_and_nobody_elses() {
        let keys = KeyPair::from_seed(&[1; 32]);
        let report = CertificationReport {
            module: moult_types::ModuleHash([1; 32]),
            world: moult_types::World::Engine,
            name: "e 1.0.0".into(),
            host_version: "1.0.0".into(),
            plan: "short".into(),
            setting: moult_types::TraceHash([2; 32]),
            faults: Vec::new(),
            invariants: Vec::new(),
            first_seed: 0,
            seeds: 9,
            failed_seeds: 0,
            failures: Vec::new(),
            suite_seeds: 0,
            cases: 1,
            failed_cases: 0,
            case_failures: Vec::new(),
            worst_stall_ms: 1,
            commits: 1,
            fuel_per_commit: 1,
            traces: Vec::new(),
        };
        let signed = sign_report(&keys, report);
        assert_eq!(check_report(&signed), Ok(()));
        let mut better = signed.clone();
        better.report.seeds = 90;
        assert_eq!(check_report(&better), Err(VerifyError::BadSignature));
        let other = KeyPair::from_seed(&[2; 32]).public_key();
        let stolen = SignedReport { certifier: other, ..signed };
        assert_eq!(check_report(&stolen), Err(VerifyError::BadSignature));
    }

    /// Whatever stands in for ed25519 comes with a signer that wants it: a key pair does not.
    #[test]
    fn the_keyring_of_a_key_pair_takes_ed25519_alone() {
        let keys = KeyPair::from_seed(&[1; 32]);
        let id = AuthorityId([1; 32]);
        let member = Member {
            id,
            key: keys.public_key(),
            possession: possession(&keys, id),
            stake: 1,
            address: "127.0.0.1:1".into(),
        };
        let committee = Committee::new(vec![member], FaultModel::Byzantine).expect("a committee");
        let (chain, scope) = (ChainId([2; 32]), Scope::Number(EpochNumber(1)));
        let ring = keys.keyring(chain, &committee).expect("valid keys");
        let signature = keys.sign_statement(chain, scope, &statement());
        assert_eq!(ring.verify(scope, &statement(), &signature), Ok(()));
        assert_eq!(ring.verify(scope, &statement(), &Signature([3; 64])), Err(VerifyError::BadSignature));
    }
}

#[cfg(test)]
#[path = "ed25519_vectors_test.rs"]
mod vectors_test;
