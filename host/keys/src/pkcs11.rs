//! A key in a PKCS#11 token: a smart card, an HSM, or SoftHSM.
//!
//! The module is a library of the token's maker, loaded when a key file names it. One session is
//! held; one that was lost is opened anew once for each signature. The token must know EdDSA
//! (CKM_EDDSA, PKCS#11 3.0).

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use moult_crypto::{SignError, Token};
use moult_types::{PublicKey, Signature};
use zeroize::Zeroizing;

use crate::secret::KeyError;

/// 1.3.101.112, Ed25519 (RFC 8410), in DER; and the curve's name in place of it, which some ask for.
const CURVES: [&[u8]; 2] = [&[0x06, 0x03, 0x2b, 0x65, 0x70], b"\x13\x0cedwards25519"];
/// A point of 32 bytes as an OCTET STRING in DER, as most write it.
const POINT_PREFIX: [u8; 2] = [0x04, 0x20];

/// Which key of which token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenPlace {
    /// The module's library.
    pub module: PathBuf,
    /// The token's label. One token must have it.
    pub token: String,
    /// The key's label (CKA_LABEL). One pair of keys must have it.
    pub key: String,
}

impl TokenPlace {
    fn error(&self, problem: impl fmt::Display) -> KeyError {
        let Self { module, token, key } = self.clone();
        KeyError::Token { module, token, key, problem: problem.to_string() }
    }
}

/// A key in a token.
pub(crate) struct Pkcs11Token {
    place: TokenPlace,
    context: Pkcs11,
    pin: AuthPin,
    public: PublicKey,
    open: Mutex<Option<Open>>,
}

/// A session that is logged in, and the key in it.
struct Open {
    session: Session,
    secret: ObjectHandle,
}

impl Pkcs11Token {
    /// Finds the key, which must be the one whose public half is given.
    pub(crate) fn open(
        place: &TokenPlace,
        pin: Zeroizing<String>,
        public: PublicKey,
    ) -> Result<Self, KeyError> {
        let (context, pin) = (load(place)?, pin_of(&pin));
        let open = Open::new(place, &context, &pin)?;
        let found = open.public_key(place)?;
        if found != public {
            return Err(place.error(format!("the key there is {found}, the key file says {public}")));
        }
        Ok(Self { place: place.clone(), context, pin, public, open: Mutex::new(Some(open)) })
    }

    /// Makes a pair of keys. The secret one is marked as what the token never gives away.
    pub(crate) fn make(place: &TokenPlace, pin: Zeroizing<String>) -> Result<PublicKey, KeyError> {
        let is_plain = |text: &str| !text.is_empty() && !text.contains(['\n', '\r']) && text.trim() == text;
        if !is_plain(&place.token)
            || !is_plain(&place.key)
            || place.module.to_str().is_none_or(|p| !is_plain(p))
        {
            return Err(place.error("labels and paths must be text of one line"));
        }
        let (context, pin) = (load(place)?, pin_of(&pin));
        let session = logged_in(place, &context, &pin, true)?;
        if !find(place, &session, ObjectClass::PRIVATE_KEY)?.is_empty() {
            return Err(place.error("there is such a key already: choose another label"));
        }
        let label = || Attribute::Label(place.key.clone().into_bytes());
        let secret = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            label(),
        ];
        let mut refusal = None;
        for curve in CURVES {
            let public = [
                Attribute::Token(true),
                Attribute::Private(false),
                Attribute::Verify(true),
                Attribute::EcParams(curve.to_vec()),
                label(),
            ];
            match session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &secret) {
                Ok((public, _)) => return public_key(place, &session, public),
                Err(e) => refusal = refusal.or(Some(e)),
            }
        }
        Err(place.error(format!("no Ed25519 key can be made: {}", told(refusal))))
    }

    fn sign_once(&self, open: &Open, bytes: &[u8]) -> Result<Signature, String> {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        let signature = open.session.sign(&mechanism, open.secret, bytes).map_err(|e| e.to_string())?;
        let length = signature.len();
        Ok(Signature(signature.try_into().map_err(|_| format!("a signature of {length} bytes"))?))
    }
}

impl Token for Pkcs11Token {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, bytes: &[u8]) -> Result<Signature, SignError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signature) = open.as_ref().and_then(|open| self.sign_once(open, bytes).ok()) {
            return Ok(signature);
        }
        // The token was pulled and put back, or its service restarted: the session is gone.
        *open = None;
        let anew = Open::new(&self.place, &self.context, &self.pin).map_err(|e| SignError(e.to_string()))?;
        let signature =
            self.sign_once(&anew, bytes).map_err(|e| SignError(self.place.error(e).to_string()))?;
        *open = Some(anew);
        Ok(signature)
    }
}

impl Open {
    fn new(place: &TokenPlace, context: &Pkcs11, pin: &AuthPin) -> Result<Self, KeyError> {
        let session = logged_in(place, context, pin, false)?;
        let secret = one(place, &session, ObjectClass::PRIVATE_KEY)?;
        Ok(Self { session, secret })
    }

    fn public_key(&self, place: &TokenPlace) -> Result<PublicKey, KeyError> {
        let public = one(place, &self.session, ObjectClass::PUBLIC_KEY)?;
        public_key(place, &self.session, public)
    }
}

fn pin_of(pin: &str) -> AuthPin {
    AuthPin::new(pin.to_owned().into())
}

fn told(error: Option<Error>) -> String {
    error.map_or_else(|| "no reason is given".into(), |e| e.to_string())
}

/// Loads the module; where another key of this process did so already, it is used as it is.
fn load(place: &TokenPlace) -> Result<Pkcs11, KeyError> {
    let context =
        Pkcs11::new(&place.module).map_err(|e| place.error(format!("the module cannot be loaded: {e}")))?;
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, Function::Initialize)) => Ok(context),
        Err(e) => Err(place.error(format!("the module does not start: {e}"))),
    }
}

fn logged_in(place: &TokenPlace, context: &Pkcs11, pin: &AuthPin, writes: bool) -> Result<Session, KeyError> {
    let slot = slot_of(place, context)?;
    let failed = |what: &str, e: Error| place.error(format!("{what}: {e}"));
    let mechanisms = context.get_mechanism_list(slot).map_err(|e| failed("its mechanisms", e))?;
    if !mechanisms.contains(&MechanismType::EDDSA) {
        return Err(place.error("this token knows no EdDSA (CKM_EDDSA)"));
    }
    let session = if writes { context.open_rw_session(slot) } else { context.open_ro_session(slot) };
    let session = session.map_err(|e| failed("no session", e))?;
    match session.login(UserType::User, Some(pin)) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
        Err(e) => Err(failed("the PIN is not accepted", e)),
    }
}

fn slot_of(place: &TokenPlace, context: &Pkcs11) -> Result<Slot, KeyError> {
    let failed = |e: Error| place.error(format!("its slots cannot be read: {e}"));
    let (mut found, mut labels) = (Vec::new(), Vec::new());
    for slot in context.get_slots_with_initialized_token().map_err(failed)? {
        let info = context.get_token_info(slot).map_err(failed)?;
        if info.label() == place.token {
            found.push(slot);
        }
        labels.push(format!("`{}`", info.label()));
    }
    match found.as_slice() {
        [slot] => Ok(*slot),
        [] => Err(place.error(format!("there is no such token; there are: {}", labels.join(", ")))),
        _ => Err(place.error("more than one token has this label")),
    }
}

fn find(place: &TokenPlace, session: &Session, class: ObjectClass) -> Result<Vec<ObjectHandle>, KeyError> {
    let label = Attribute::Label(place.key.clone().into_bytes());
    let template = [Attribute::Class(class), Attribute::KeyType(KeyType::EC_EDWARDS), label];
    session.find_objects(&template).map_err(|e| place.error(format!("its keys cannot be read: {e}")))
}

fn one(place: &TokenPlace, session: &Session, class: ObjectClass) -> Result<ObjectHandle, KeyError> {
    match find(place, session, class)?.as_slice() {
        [handle] => Ok(*handle),
        [] => Err(place.error(format!("there is no such Ed25519 key ({class})"))),
        _ => Err(place.error(format!("more than one key has this label ({class})"))),
    }
}

fn public_key(place: &TokenPlace, session: &Session, handle: ObjectHandle) -> Result<PublicKey, KeyError> {
    let attributes = session
        .get_attributes(handle, &[AttributeType::EcPoint])
        .map_err(|e| place.error(format!("its public key cannot be read: {e}")))?;
    let Some(Attribute::EcPoint(point)) = attributes.first() else {
        return Err(place.error("its public key has no point"));
    };
    let bytes = point.strip_prefix(&POINT_PREFIX).filter(|rest| rest.len() == 32).unwrap_or(point);
    let bytes =
        bytes.try_into().map_err(|_| place.error(format!("a public key of {} bytes", bytes.len())))?;
    Ok(PublicKey(bytes))
}
