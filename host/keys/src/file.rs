//! Key files: text of a few lines, read strictly: what is read is what would be written.
//!
//! ```text
//! moult ed25519 secret key 1          moult ed25519 encrypted key 1      moult pkcs11 key 1
//! <seed, hex>                         public <hex>                       public <hex>
//! authority <hex, if not its own>     authority <hex>                    authority <hex>
//!                                     argon2id <memory KiB> <passes>     module <path>
//!                                         <lanes>                        token <label>
//!                                     salt <hex>                         key <label>
//!                                     nonce <hex>
//!                                     sealed <hex>
//! ```
//! Each is one line. What an encrypted file says before `sealed` is sealed with the seed: nobody
//! changes the public key, the authority or the costs in it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moult_crypto::{KeyPair, NodeKey, Signer as _, TokenKey};
use moult_types::{AuthorityId, PublicKey};
use zeroize::Zeroizing;

use crate::pkcs11::{Pkcs11Token, TokenPlace};
use crate::sealed::{Cost, Lock, SEALED_BYTES};
use crate::secret::{KeyError, PASSPHRASE_MIN, Unlock, io, read_secret, write_secret};

const PLAIN: &str = "moult ed25519 secret key 1";
const SEALED: &str = "moult ed25519 encrypted key 1";
const TOKEN: &str = "moult pkcs11 key 1";

/// How a key file keeps its secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Anybody who reads the file has it.
    Plain,
    /// Under a passphrase.
    Encrypted,
    /// In a PKCS#11 token; the file says which.
    Token,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Encrypted => "encrypted",
            Self::Token => "in a PKCS#11 token",
        })
    }
}

/// A key file. Whose key it is is known without its secret.
pub struct KeyFile {
    path: PathBuf,
    public: PublicKey,
    authority: AuthorityId,
    secret: Secret,
}

enum Secret {
    Plain(Arc<KeyPair>),
    Sealed(Lock, [u8; SEALED_BYTES]),
    Token(TokenPlace),
}

impl KeyFile {
    /// Reads a key file.
    ///
    /// # Errors
    /// It cannot be read, others can read it, or it is no key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = read_secret(path)?;
        let not_a_key = |problem: &str| KeyError::NotAKey { path: path.to_owned(), problem: problem.into() };
        let header = text.lines().next().unwrap_or_default();
        let parsed = match header {
            PLAIN => plain_in(&text),
            SEALED => sealed_in(&text),
            TOKEN => token_in(&text),
            _ => return Err(not_a_key(&format!("it starts with none of `{PLAIN}`, `{SEALED}`, `{TOKEN}`"))),
        };
        let (public, authority, secret) =
            parsed.ok_or_else(|| not_a_key("its lines are not as they must be"))?;
        Ok(Self { path: path.to_owned(), public, authority, secret })
    }

    /// A key in the clear, to be written to a path.
    pub fn plain(path: &Path, keys: &KeyPair, authority: AuthorityId) -> Self {
        let secret = Secret::Plain(Arc::new(keys.clone()));
        Self { path: path.to_owned(), public: keys.public_key(), authority, secret }
    }

    /// A key under a passphrase, to be written to a path.
    ///
    /// # Errors
    /// The passphrase is short, or the system has no randomness.
    pub fn encrypted(
        path: &Path,
        keys: &KeyPair,
        authority: AuthorityId,
        passphrase: &str,
        cost: Cost,
    ) -> Result<Self, KeyError> {
        let characters = passphrase.chars().count();
        if characters < PASSPHRASE_MIN {
            return Err(KeyError::ShortPassphrase(characters));
        }
        let mut lock = Lock { cost, salt: Default::default(), nonce: [0; 24] };
        getrandom::fill(&mut lock.salt)
            .and_then(|()| getrandom::fill(&mut lock.nonce))
            .map_err(|e| KeyError::Randomness(e.to_string()))?;
        let public = keys.public_key();
        let about = sealed_about(public, authority, &lock);
        let sealed =
            lock.seal(passphrase, about.as_bytes(), &keys.seed()).ok_or_else(|| KeyError::NotAKey {
                path: path.to_owned(),
                problem: format!("nothing can be sealed at the cost of {cost:?}"),
            })?;
        Ok(Self { path: path.to_owned(), public, authority, secret: Secret::Sealed(lock, sealed) })
    }

    /// Makes a key in a token, and the file that names it, to be written to a path. The secret half
    /// never leaves the token. Without an authority it is that of the key itself.
    ///
    /// # Errors
    /// No PIN is said, or the token refuses.
    pub fn new_in_token(
        path: &Path,
        place: TokenPlace,
        unlock: &Unlock,
        authority: Option<AuthorityId>,
    ) -> Result<Self, KeyError> {
        let pin = unlock.secret()?.ok_or_else(|| KeyError::Locked { path: path.to_owned(), what: "PIN" })?;
        let public = Pkcs11Token::make(&place, pin)?;
        Ok(Self {
            path: path.to_owned(),
            public,
            authority: authority.unwrap_or_else(|| AuthorityId::of(&public)),
            secret: Secret::Token(place),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The place of a key in a token.
    pub fn token_place(&self) -> Option<&TokenPlace> {
        match &self.secret {
            Secret::Token(place) => Some(place),
            Secret::Plain(_) | Secret::Sealed(..) => None,
        }
    }

    /// The key that verifies what this one signs.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// For which authority it was made.
    pub fn authority(&self) -> AuthorityId {
        self.authority
    }

    /// How it keeps its secret.
    pub fn kind(&self) -> Kind {
        match self.secret {
            Secret::Plain(_) => Kind::Plain,
            Secret::Sealed(..) => Kind::Encrypted,
            Secret::Token(_) => Kind::Token,
        }
    }

    /// The key, ready to sign. Takes a tenth of a second for an encrypted one, and what the token
    /// takes for one in a token.
    ///
    /// # Errors
    /// What is needed for it is not said, is wrong, or the token is not there.
    pub fn unlock(&self, unlock: &Unlock) -> Result<NodeKey, KeyError> {
        let secret =
            |what| unlock.secret()?.ok_or_else(|| KeyError::Locked { path: self.path.clone(), what });
        match &self.secret {
            Secret::Plain(keys) => Ok(NodeKey::Memory(keys.clone())),
            Secret::Sealed(lock, sealed) => {
                let about = sealed_about(self.public, self.authority, lock);
                let wrong = || KeyError::WrongPassphrase(self.path.clone());
                let seed = lock.open(&secret("passphrase")?, about.as_bytes(), sealed).ok_or_else(wrong)?;
                let keys = KeyPair::from_seed(&seed);
                // Whoever sealed it said so; still, nothing is signed under another name.
                if keys.public_key() == self.public { Ok(keys.into()) } else { Err(wrong()) }
            }
            Secret::Token(place) => {
                let token = Pkcs11Token::open(place, secret("PIN")?, self.public)?;
                Ok(NodeKey::Token(Arc::new(TokenKey::new(Box::new(token)))))
            }
        }
    }

    /// The key pair of a plain file.
    ///
    /// # Errors
    /// [`KeyError::NotPlain`].
    pub fn key_pair(&self) -> Result<&KeyPair, KeyError> {
        match &self.secret {
            Secret::Plain(keys) => Ok(keys),
            Secret::Sealed(..) | Secret::Token(_) => Err(KeyError::NotPlain(self.path.clone())),
        }
    }

    /// Writes it to its path, readable by its owner only; never over another file.
    ///
    /// # Errors
    /// It exists, or the system refuses.
    pub fn write(&self) -> Result<(), KeyError> {
        write_secret(&self.path, &self.text())
    }

    /// Puts it in the place of the file that is there, at once: after a crash there is either.
    ///
    /// # Errors
    /// The system refuses, or a file that was written beside it for this before is still there.
    pub fn replace(&self) -> Result<(), KeyError> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        let beside = PathBuf::from(name);
        write_secret(&beside, &self.text())?;
        std::fs::rename(&beside, &self.path).map_err(io(&self.path))?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(io(parent))
    }

    fn text(&self) -> Zeroizing<String> {
        let Self { public, authority, .. } = self;
        Zeroizing::new(match &self.secret {
            Secret::Plain(keys) => plain_text(keys, *authority),
            Secret::Sealed(lock, sealed) => {
                format!("{}sealed {}\n", sealed_about(*public, *authority, lock), hex::encode(sealed))
            }
            Secret::Token(TokenPlace { module, token, key }) => format!(
                "{TOKEN}\npublic {public}\nauthority {authority}\nmodule {}\ntoken {token}\nkey {key}\n",
                module.display()
            ),
        })
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFile({}, {:?}, {})", self.path.display(), self.public, self.kind())
    }
}

type Parsed = Option<(PublicKey, AuthorityId, Secret)>;

fn plain_text(keys: &KeyPair, authority: AuthorityId) -> String {
    let mut text = format!("{PLAIN}\n{}\n", *Zeroizing::new(hex::encode(*keys.seed())));
    if authority != AuthorityId::of(&keys.public_key()) {
        text.push_str(&format!("authority {authority}\n"));
    }
    text
}

fn plain_in(text: &str) -> Parsed {
    let mut lines = text.lines().skip(1);
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(lines.next()?.trim(), seed.as_mut_slice()).ok()?;
    let keys = KeyPair::from_seed(&seed);
    let authority = match lines.next() {
        Some(line) => line.strip_prefix("authority ")?.parse().ok()?,
        None => AuthorityId::of(&keys.public_key()),
    };
    // Files of people may end without a line end.
    lines.next().is_none().then(|| (keys.public_key(), authority, Secret::Plain(Arc::new(keys))))
}

fn sealed_about(public: PublicKey, authority: AuthorityId, lock: &Lock) -> String {
    let Cost { memory_kib, passes, lanes } = lock.cost;
    format!(
        "{SEALED}\npublic {public}\nauthority {authority}\nargon2id {memory_kib} {passes} {lanes}\n\
         salt {}\nnonce {}\n",
        hex::encode(lock.salt),
        hex::encode(lock.nonce)
    )
}

fn sealed_in(text: &str) -> Parsed {
    let mut lines = text.lines().skip(1);
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let (public, authority) = (field("public")?.parse().ok()?, field("authority")?.parse().ok()?);
    let costs: Vec<u32> = field("argon2id")?.split(' ').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [memory_kib, passes, lanes] = costs.try_into().ok()?;
    let cost = Cost { memory_kib, passes, lanes };
    let mut lock = Lock { cost, salt: Default::default(), nonce: [0; 24] };
    let mut sealed = [0; SEALED_BYTES];
    hex::decode_to_slice(field("salt")?, &mut lock.salt).ok()?;
    hex::decode_to_slice(field("nonce")?, &mut lock.nonce).ok()?;
    hex::decode_to_slice(field("sealed")?, &mut sealed).ok()?;
    let again = format!("{}sealed {}\n", sealed_about(public, authority, &lock), hex::encode(sealed));
    (again == text && cost.is_in_bounds()).then_some((public, authority, Secret::Sealed(lock, sealed)))
}

fn token_in(text: &str) -> Parsed {
    let mut lines = text.lines().skip(1);
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let (public, authority) = (field("public")?.parse().ok()?, field("authority")?.parse().ok()?);
    let module = PathBuf::from(field("module")?);
    let place = TokenPlace { module, token: field("token")?.to_owned(), key: field("key")?.to_owned() };
    let file = KeyFile { path: PathBuf::new(), public, authority, secret: Secret::Token(place) };
    (*file.text() == text).then_some((public, authority, file.secret))
}

/// Writes a plain key of its own authority.
///
/// # Errors
/// It exists, or the system refuses.
pub fn write_key(path: &Path, keys: &KeyPair) -> Result<(), KeyError> {
    write_key_of(path, keys, AuthorityId::of(&keys.public_key()))
}

/// Writes a plain key, a later one of an authority.
///
/// # Errors
/// It exists, or the system refuses.
pub fn write_key_of(path: &Path, keys: &KeyPair, authority: AuthorityId) -> Result<(), KeyError> {
    KeyFile::plain(path, keys, authority).write()
}

/// Reads a plain key.
///
/// # Errors
/// It cannot be read, others can read it, it is no key, or not a plain one.
pub fn read_key(path: &Path) -> Result<KeyPair, KeyError> {
    KeyFile::read(path)?.key_pair().cloned()
}

#[cfg(test)]
#[path = "file_test.rs"]
mod tests;
