use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use moult_types::codec::{hash_of, sha256};
use moult_types::statement::signing_bytes;
use moult_types::{AuthorityId, ChainId, PublicKey, Scope, Signature, Statement};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::keys::{KeyPair, Signer};
use crate::verify::{possession_bytes, verify_bytes};

/// Why a key that lies elsewhere gave no signature; what it is about says the text.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0}")]
pub struct SignError(pub String);

/// A device or service that holds an ed25519 key and signs with it, but does not give it away.
pub trait Token: Send + Sync {
    /// The key that verifies what it signs.
    fn public_key(&self) -> PublicKey;

    /// Signs bytes (RFC 8032, neither a context nor a hash before). May take as long as the device
    /// takes.
    ///
    /// # Errors
    /// The device gives no signature, also after what can be done about it was done.
    fn sign(&self, bytes: &[u8]) -> Result<Signature, SignError>;
}

/// A node's key, wherever it lies. Each purpose has a function and a domain of its own.
#[derive(Clone)]
pub enum NodeKey {
    /// In memory.
    Memory(Arc<KeyPair>),
    /// In a token.
    Token(Arc<TokenKey>),
}

/// A key in a token. After the first statement that it cannot sign it signs none any more.
pub struct TokenKey {
    token: Box<dyn Token>,
    public: PublicKey,
    failure: Mutex<Option<SignError>>,
}

impl TokenKey {
    /// The key of a token.
    pub fn new(token: Box<dyn Token>) -> Self {
        Self { public: token.public_key(), token, failure: Mutex::new(None) }
    }

    /// A token is not trusted to sign what it was given: a signature that does not hold would cost
    /// the node its peers.
    fn sign(&self, bytes: &[u8]) -> Result<Signature, SignError> {
        let signature = self.token.sign(bytes)?;
        verify_bytes(&self.public, bytes, &signature)
            .map_err(|e| SignError(format!("the token gave a signature that does not hold: {e}")))?;
        Ok(signature)
    }

    fn failure(&self) -> Option<SignError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Once no statement could be signed the caller has to stop, so none is signed afterwards: a
    /// token that works now and then makes no gaps in what this node says.
    fn sign_or_fail(&self, bytes: &[u8]) -> Signature {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            match self.sign(bytes) {
                Ok(signature) => return signature,
                Err(e) => *failure = Some(e),
            }
        }
        Signature([0; 64])
    }
}

impl NodeKey {
    /// Proof that the holder of this key wants it to stand for `authority`.
    ///
    /// # Errors
    /// The token gives no signature.
    pub fn possession(&self, authority: AuthorityId) -> Result<Signature, SignError> {
        self.sign(&possession_bytes(&self.public_key(), authority))
    }

    /// Signs the transcript of a TLS 1.3 handshake, which begins with 64 spaces and the context
    /// string of TLS: never a statement.
    ///
    /// # Errors
    /// The token gives no signature.
    pub fn sign_handshake(&self, transcript: &[u8]) -> Result<Signature, SignError> {
        self.sign(transcript)
    }

    /// A secret that only the holder of this key knows, for what never leaves the node. Each
    /// purpose has another; the same key gives the same again.
    ///
    /// That of a token is the hash of a signature that is shown to nobody.
    ///
    /// # Errors
    /// The token gives no signature.
    pub fn local_secret(&self, purpose: &'static str) -> Result<Zeroizing<[u8; 32]>, SignError> {
        let secret = match self {
            Self::Memory(keys) => hash_of(purpose, &*keys.seed()).0,
            Self::Token(key) => {
                let bytes = [b"moult local secret 1\n".as_slice(), purpose.as_bytes()].concat();
                sha256(&key.sign(&bytes)?.0).0
            }
        };
        Ok(Zeroizing::new(secret))
    }

    fn sign(&self, bytes: &[u8]) -> Result<Signature, SignError> {
        match self {
            Self::Memory(keys) => Ok(keys.sign_raw(bytes)),
            Self::Token(key) => key.sign(bytes),
        }
    }
}

impl Signer for NodeKey {
    fn public_key(&self) -> PublicKey {
        match self {
            Self::Memory(keys) => keys.public_key(),
            Self::Token(key) => key.public,
        }
    }

    fn sign_statement(&self, chain: ChainId, scope: Scope, statement: &Statement) -> Signature {
        match self {
            Self::Memory(keys) => keys.sign_statement(chain, scope, statement),
            Self::Token(key) => key.sign_or_fail(&signing_bytes(chain, scope, statement)),
        }
    }

    fn failure(&self) -> Option<SignError> {
        match self {
            Self::Memory(_) => None,
            Self::Token(key) => key.failure(),
        }
    }
}

impl From<KeyPair> for NodeKey {
    fn from(keys: KeyPair) -> Self {
        Self::Memory(Arc::new(keys))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Self::Memory(_) => "memory",
            Self::Token(_) => "token",
        };
        write!(f, "NodeKey({:?}, in a {place})", self.public_key())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use moult_types::{AuthorityIndex, Digest, EpochNumber, Slot};

    use super::*;
    use crate::verify::{check_possession, verify_statement};

    /// Signs so often, then answers something else.
    struct Frail {
        keys: KeyPair,
        left: AtomicU32,
        then: Result<Signature, SignError>,
    }

    impl Token for Frail {
        fn public_key(&self) -> PublicKey {
            self.keys.public_key()
        }

        fn sign(&self, bytes: &[u8]) -> Result<Signature, SignError> {
            let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if left.is_ok() { Ok(self.keys.sign_raw(bytes)) } else { self.then.clone() }
        }
    }

    fn frail(left: u32, then: Result<Signature, SignError>) -> NodeKey {
        let token = Frail { keys: KeyPair::from_seed(&[1; 32]), left: left.into(), then };
        NodeKey::Token(Arc::new(TokenKey::new(Box::new(token))))
    }

    fn sign(key: &NodeKey) -> Signature {
        let statement = Statement {
            author: AuthorityIndex(0),
            slot: Slot { kind: 1, a: 2, b: 3 },
            digest: Digest([7; 32]),
        };
        let (chain, scope) = (ChainId([1; 32]), Scope::Number(EpochNumber(4)));
        let signature = key.sign_statement(chain, scope, &statement);
        let holds = verify_statement(&key.public_key(), chain, scope, &statement, &signature).is_ok();
        assert_eq!(holds, key.failure().is_none());
        signature
    }

    #[test]
    fn a_token_signs_what_the_key_in_memory_signs() {
        let (token, memory) = (frail(9, Err(SignError("gone".into()))), KeyPair::from_seed(&[1; 32]).into());
        assert_eq!(sign(&token), sign(&memory));
        let authority = AuthorityId([3; 32]);
        let proof = token.possession(authority).expect("signed");
        assert_eq!(memory.possession(authority), Ok(proof));
        assert_eq!(check_possession(&token.public_key(), authority, &proof), Ok(()));
        let secret = |key: &NodeKey, purpose| *key.local_secret(purpose).expect("signed");
        assert_eq!(secret(&token, "a"), secret(&token, "a"));
        assert_ne!(secret(&token, "a"), secret(&token, "b"));
        assert_ne!(secret(&memory, "a"), secret(&memory, "b"));
    }

    #[test]
    fn a_token_that_fails_once_signs_no_statement_any_more() {
        let mut elsewhere = [0; 64];
        elsewhere[0] = 1;
        for then in [Err(SignError("gone".into())), Ok(Signature(elsewhere))] {
            let key = frail(1, then);
            sign(&key);
            assert_eq!(key.failure(), None);
            assert_eq!(sign(&key), Signature([0; 64]));
            assert!(key.failure().is_some());
            assert!(key.possession(AuthorityId([3; 32])).is_err());
        }
        // One that comes back: not for statements.
        let token =
            Frail { keys: KeyPair::from_seed(&[1; 32]), left: 0.into(), then: Err(SignError("busy".into())) };
        let key = TokenKey::new(Box::new(token));
        key.sign_or_fail(b"x");
        let token = TokenKey { token: Box::new(AlwaysRight), ..key };
        assert_eq!(token.sign_or_fail(b"x"), Signature([0; 64]));
        assert!(token.sign(b"x").is_ok());
    }

    struct AlwaysRight;

    impl Token for AlwaysRight {
        fn public_key(&self) -> PublicKey {
            KeyPair::from_seed(&[1; 32]).public_key()
        }

        fn sign(&self, bytes: &[u8]) -> Result<Signature, SignError> {
            Ok(KeyPair::from_seed(&[1; 32]).sign_raw(bytes))
        }
    }
}
