//! Signatures of a run: ed25519 in one seed of ten, a keyed hash in the others.
//!
//! Checking ed25519 takes four fifths of a run with native engines. A keyed hash keeps what
//! the protocol needs of it: nobody makes one without the key, and it is of one key, scope and
//! statement. Governance is signed for real in every seed: it is checked key by key.

use std::collections::BTreeMap;
use std::sync::Arc;

use moult_crypto::{KeyPair, Keyring, Signer, Substitute, VerifyError, verify_statement};
use moult_types::codec::hash_of;
use moult_types::statement::signing_bytes;
use moult_types::{ChainId, Committee, PublicKey, Scope, Signature, SlotKind, Statement};

/// How the nodes of one run sign and check.
#[derive(Clone)]
pub(crate) struct Scheme(Option<Substitute>);

/// One node's key in a scheme.
pub(crate) struct SimSigner {
    keys: KeyPair,
    scheme: Scheme,
}

impl Scheme {
    pub(crate) fn new(is_real: bool, nodes: &[KeyPair]) -> Self {
        if is_real {
            return Self(None);
        }
        let secrets: BTreeMap<PublicKey, [u8; 32]> =
            nodes.iter().map(|keys| (keys.public_key(), *keys.seed())).collect();
        Self(Some(Arc::new(move |key, bytes, signature| {
            secrets.get(key).is_some_and(|secret| keyed(secret, bytes) == *signature)
        })))
    }

    /// Whether signatures are those that anybody can check.
    pub(crate) fn is_real(&self) -> bool {
        self.0.is_none()
    }

    /// Accepts whatever is signed: a bug to plant.
    #[cfg(feature = "planted")]
    pub(crate) fn that_checks_nothing() -> Self {
        Self(Some(Arc::new(|_, _, _| true)))
    }

    pub(crate) fn signer(&self, keys: &KeyPair) -> Arc<SimSigner> {
        Arc::new(SimSigner { keys: keys.clone(), scheme: self.clone() })
    }

    /// Whether a signature holds, for who has no keyring at hand.
    pub(crate) fn holds(
        &self,
        key: &PublicKey,
        chain: ChainId,
        scope: Scope,
        statement: &Statement,
        signature: &Signature,
    ) -> bool {
        match &self.0 {
            None => verify_statement(key, chain, scope, statement, signature).is_ok(),
            Some(judge) => judge(key, &signing_bytes(chain, scope, statement), signature),
        }
    }
}

impl Signer for SimSigner {
    fn public_key(&self) -> PublicKey {
        self.keys.public_key()
    }

    fn sign_statement(&self, chain: ChainId, scope: Scope, statement: &Statement) -> Signature {
        if self.scheme.0.is_none() || is_governance(statement.slot.kind) {
            return self.keys.sign_statement(chain, scope, statement);
        }
        keyed(&self.keys.seed(), &signing_bytes(chain, scope, statement))
    }

    #[allow(clippy::disallowed_methods, reason = "nothing that is simulated is worth forging")]
    fn keyring(&self, chain: ChainId, committee: &Committee) -> Result<Keyring, VerifyError> {
        match &self.scheme.0 {
            None => Keyring::new(chain, committee),
            Some(judge) => Ok(Keyring::substituted(chain, committee, judge.clone())),
        }
    }
}

fn is_governance(kind: u16) -> bool {
    matches!(kind, SlotKind::VOTE | SlotKind::READY | SlotKind::PROPOSE | SlotKind::WITHDRAW)
}

fn keyed(secret: &[u8; 32], bytes: &[u8]) -> Signature {
    let half = hash_of("moult simulated signature", &(secret, bytes)).0;
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&half);
    signature[32..].copy_from_slice(&half);
    Signature(signature)
}

#[cfg(test)]
mod tests {
    use moult_types::{AuthorityIndex, Digest, EpochNumber, Slot};

    use super::*;

    #[test]
    fn a_keyed_hash_is_of_one_key_scope_and_statement() {
        let (a, b) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
        let (chain, scope) = (ChainId([1; 32]), Scope::Number(EpochNumber(1)));
        let statement = Statement {
            author: AuthorityIndex(0),
            slot: Slot { kind: 1, a: 2, b: 3 },
            digest: Digest([7; 32]),
        };
        let other = Statement { digest: Digest([8; 32]), ..statement };
        for is_real in [true, false] {
            let scheme = Scheme::new(is_real, &[a.clone(), b.clone()]);
            let made = scheme.signer(&a).sign_statement(chain, scope, &statement);
            let holds = |key: &KeyPair, scope, statement: &Statement| {
                scheme.holds(&key.public_key(), chain, scope, statement, &made)
            };
            assert!(holds(&a, scope, &statement));
            assert!(!holds(&b, scope, &statement));
            assert!(!holds(&a, Scope::Number(EpochNumber(2)), &statement));
            assert!(!holds(&a, scope, &other));
        }
    }
}
