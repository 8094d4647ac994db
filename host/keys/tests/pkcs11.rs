//! A key in SoftHSM2, the token in software of Debian's package `softhsm2`: made, found, signed
//! with, refused. Installed where it is not there and this is Debian with root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use moult_crypto::{NodeKey, Signer as _, check_possession, verify_statement};
use moult_keys::{KeyError, KeyFile, Kind, TokenPlace, Unlock, write_secret};
use moult_net::{BoxFuture, Class, Handler, NetConfig, NetLimits, Network, PeerEvent};
use moult_types::{
    AuthorityId, AuthorityIndex, ChainId, Digest, EpochNumber, PublicKey, Scope, Signature, Slot, Statement,
};

const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];
const INSIDE: &str = "MOULT_TEST_TOKEN_DIR";

fn main() {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return checks(Path::new(&dir));
    }
    let Some(module) = module() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (tokens, conf) = (dir.path().join("tokens"), dir.path().join("softhsm2.conf"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
        .unwrap();
    std::fs::write(dir.path().join("module"), module.to_str().unwrap()).unwrap();
    for token in ["first", "second"] {
        let args = ["--init-token", "--free", "--label", token, "--pin", "1234", "--so-pin", "5678"];
        let made = Command::new("softhsm2-util").args(args).env("SOFTHSM2_CONF", &conf).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    let inside = Command::new(std::env::current_exe().unwrap())
        .env("SOFTHSM2_CONF", &conf)
        .env(INSIDE, dir.path())
        .status()
        .unwrap();
    assert!(inside.success(), "the checks failed: {inside}");
    println!("a key in SoftHSM2: ok");
}

/// SoftHSM2's library; none on systems that this does not know how to install it on.
fn module() -> Option<PathBuf> {
    let found = || MODULES.iter().map(PathBuf::from).find(|path| path.exists());
    if found().is_none() && Path::new("/etc/debian_version").exists() {
        let apt = |args: &[&str]| {
            Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status()
        };
        let _ = apt(&["update", "-qq"]);
        let installed = apt(&["install", "-y", "-qq", "--no-install-recommends", "softhsm2"]);
        assert!(
            installed.is_ok_and(|status| status.success()),
            "as root: apt-get install -y --no-install-recommends softhsm2"
        );
    }
    let module = found();
    if module.is_none() {
        eprintln!("SKIPPED: SoftHSM2 is not at any of {MODULES:?}: install it (softhsm2, softhsm)");
    }
    module
}

fn checks(dir: &Path) {
    let module = PathBuf::from(std::fs::read_to_string(dir.join("module")).unwrap());
    let place =
        |token: &str, key: &str| TokenPlace { module: module.clone(), token: token.into(), key: key.into() };
    let unlock = |name: &str, pin: &str| {
        let file = dir.join(name);
        write_secret(&file, pin).unwrap();
        Unlock { file: Some(file), env: None }
    };
    let (pin, wrong) = (unlock("pin", "1234\n"), unlock("wrong", "4321"));
    let path = dir.join("node.key");

    refused("PIN is not accepted", KeyFile::new_in_token(&path, place("first", "node"), &wrong, None));
    // Tokens are listed in no order of their own.
    refused("no such token; there are: `", KeyFile::new_in_token(&path, place("third", "node"), &pin, None));
    refused("one line", KeyFile::new_in_token(&path, place("first", "a\nb"), &pin, None));
    let made = KeyFile::new_in_token(&path, place("first", "node"), &pin, None).unwrap();
    made.write().unwrap();
    refused("such a key already", KeyFile::new_in_token(&path, place("first", "node"), &pin, None));

    let file = KeyFile::read(&path).unwrap();
    assert_eq!((file.kind(), file.public_key()), (Kind::Token, made.public_key()));
    assert_eq!(file.authority(), AuthorityId::of(&file.public_key()));
    assert!(matches!(file.key_pair(), Err(KeyError::NotPlain(_))));
    refused("PIN is not accepted", file.unlock(&wrong));
    let key = file.unlock(&pin).unwrap();
    assert_eq!(key.public_key(), file.public_key());
    assert_eq!(sign(&key, 1), sign(&key, 1));
    let authority = AuthorityId([7; 32]);
    assert_eq!(check_possession(&key.public_key(), authority, &key.possession(authority).unwrap()), Ok(()));
    assert_eq!(*key.local_secret("a").unwrap(), *key.local_secret("a").unwrap());

    // Another key, in another token of the same module, at the same time; several threads.
    let other_path = dir.join("other.key");
    let other = KeyFile::new_in_token(&other_path, place("second", "node"), &pin, Some(authority)).unwrap();
    other.write().unwrap();
    assert_eq!(KeyFile::read(&other_path).unwrap().authority(), authority);
    let other = other.unlock(&pin).unwrap();
    assert_ne!(other.public_key(), key.public_key());
    std::thread::scope(|scope| {
        for n in 0..4 {
            let key = if n % 2 == 0 { &key } else { &other };
            scope.spawn(move || {
                for m in 0..50 {
                    sign(key, 100 * n + m);
                }
            });
        }
    });

    // What a network does with it: both ends of handshakes.
    handshakes(key.clone(), other.clone());

    // The file of one key, and the label of another.
    let text = std::fs::read_to_string(&path).unwrap();
    let swapped = text.replace(&key.public_key().to_string(), &other.public_key().to_string());
    std::fs::remove_file(&path).unwrap();
    write_secret(&path, &swapped).unwrap();
    refused("the key file says", KeyFile::read(&path).unwrap().unlock(&pin));

    // A token that is gone: the node has to stop, and the reason names it.
    std::fs::remove_dir_all(dir.join("tokens")).unwrap();
    std::fs::create_dir(dir.join("tokens")).unwrap();
    let signature = key.sign_statement(CHAIN, SCOPE, &statement(7));
    let reason = key.failure().expect("it cannot sign").to_string();
    assert_eq!(signature, Signature([0; 64]));
    assert!(reason.contains("token `first`, key `node`"), "{reason}");
    assert!(key.sign_handshake(b"x").is_err());
}

/// Two nodes with keys in tokens connect, and a frame comes from the key that signed.
fn handshakes(first: NodeKey, second: NodeKey) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let start = |keys: &NodeKey| {
            let (heard, frames) = tokio::sync::mpsc::unbounded_channel();
            let bind = SocketAddr::from(([127, 0, 0, 1], 0));
            let config = NetConfig { keys: keys.clone(), bind, limits: NetLimits::default() };
            (Network::start(config, Arc::new(Heard(heard))).unwrap(), frames)
        };
        let ((a, mut at_a), (b, mut at_b)) = (start(&first), start(&second));
        let address = |net: &Network| Some(net.local_addr().unwrap().to_string());
        a.set_peers(vec![(second.public_key(), address(&b))]);
        b.set_peers(vec![(first.public_key(), address(&a))]);
        let patience = Duration::from_secs(60);
        for (key, heard) in [(&second, &mut at_a), (&first, &mut at_b)] {
            let up = tokio::time::timeout(patience, heard.recv()).await.expect("it connects");
            assert_eq!(up, Some(key.public_key()));
        }
        tokio::join!(a.shutdown(), b.shutdown());
    });
}

/// Tells whose connection is up.
struct Heard(tokio::sync::mpsc::UnboundedSender<PublicKey>);

impl Handler for Heard {
    fn on_frame(&self, _: PublicKey, _: Class, _: bytes::Bytes) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn on_peer(&self, key: PublicKey, event: PeerEvent) {
        if matches!(event, PeerEvent::Up { .. }) {
            let _ = self.0.send(key);
        }
    }
}

const CHAIN: ChainId = ChainId([1; 32]);
const SCOPE: Scope = Scope::Number(EpochNumber(4));

fn statement(number: u64) -> Statement {
    let slot = Slot { kind: 1, a: number, b: 3 };
    Statement { author: AuthorityIndex(0), slot, digest: Digest([7; 32]) }
}

/// A signature that the host's one predicate takes.
fn sign(key: &NodeKey, number: u64) -> Signature {
    let signature = key.sign_statement(CHAIN, SCOPE, &statement(number));
    let public: PublicKey = key.public_key();
    assert_eq!(key.failure(), None);
    assert_eq!(verify_statement(&public, CHAIN, SCOPE, &statement(number), &signature), Ok(()));
    signature
}

fn refused<T: std::fmt::Debug>(why: &str, result: Result<T, KeyError>) {
    let told = result.expect_err(why).to_string();
    assert!(told.contains(why), "{told}");
}
